# SPDX-License-Identifier: Apache-2.0
"""From the module that Kbuild linked to one in livepatch's form.

That form is Documentation/livepatch/module-elf-format.rst. In: the model of the linked module, in which
borrowed symbols are undefined. Out: a model in which those that livepatch resolves are
`.klp.sym.OBJECT.NAME,POSITION` and their relocations stand apart in `.klp.rela.OBJECT.SECTION`, OBJECT being
vmlinux or the module whose code needs it; what the kernel would not load (debug information, BTF, comments)
is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kdiff.api import (
    KERNEL,
    Borrowed,
    How,
    KdiffError,
    Relocatable,
    Relocation,
    RelocationSection,
    Section,
    Symbol,
    Update,
)

SHN_LIVEPATCH = 0xFF20
SHF_RELA_LIVEPATCH = 0x00100000
SHF_ALLOC = 2
STT_FILE = 4
STB_LOCAL, STB_GLOBAL = 0, 1
NAME = re.compile(r"[A-Za-z0-9_.$]+")
"""What a name in kallsyms looks like; livepatch's own syntax takes no comma."""
KSYM_NAME_LEN = 512
"""livepatch reads names of up to 511 characters (klp_resolve_symbols)."""
MODULE = re.compile(r"[A-Za-z0-9_]+")
MODULE_NAME_LEN = 56
"""64 - sizeof(unsigned long) in include/linux/moduleparam.h; klp_resolve_symbols reads 55 characters."""


def livepatch_name(borrowed: Borrowed) -> str:
    """The name under which livepatch looks a symbol up."""
    return f".klp.sym.{borrowed.owner}.{borrowed.name},{borrowed.position}"


def by_position(borrowed: Iterable[Borrowed]) -> tuple[Borrowed, ...]:
    """Those that livepatch must resolve."""
    return tuple(each for each in borrowed if each.how is How.POSITION)


def variables(update: Update) -> tuple[Borrowed, ...]:
    """The variables that `runtime.c` sets, under the names that it has for them."""
    return tuple(
        replace(each.variable, symbol=f"kdiff_variable_{number}")
        for number, each in enumerate(update.initial)
    )


def looked_up(update: Update) -> tuple[Borrowed, ...]:
    """All that the module has livepatch resolve."""
    return by_position((*update.borrowed, *variables(update)))


def check_update(update: Update) -> None:
    """Raise KdiffError `emit.update` if the update is none that this emitter can write."""
    problems = [
        *_bad_names(update),
        *_bad_undefined(update),
        *_bad_successors(update),
    ]
    if not update.replacements:
        problems.append("nothing is replaced")
    if problems:
        raise KdiffError("emit.update", "; ".join(problems), place=f"update {update.id}")


def _bad_names(update: Update) -> Iterable[str]:
    names = [(each.name, each.position) for each in update.replacements]
    names += [(each.name, each.position) for each in looked_up(update)]
    for name, position in names:
        if not NAME.fullmatch(name) or len(name) >= KSYM_NAME_LEN or position < 0:
            yield f"livepatch cannot look up {name!r} at position {position}"
    known = {KERNEL, *(module.name for module in update.modules)}
    needed_by = {each.needed_by for each in looked_up(update)}
    for owner in sorted({*update.targets, *needed_by} - known):
        yield f"it is not known which build of module {owner} is meant"
    for module in update.modules:
        if not MODULE.fullmatch(module.name) or len(module.name) >= MODULE_NAME_LEN:
            yield f"livepatch cannot wait for a module called {module.name!r}"


def _bad_undefined(update: Update) -> Iterable[str]:
    wanted = {each.symbol for each in update.borrowed}
    undefined = {
        s.name for s in update.carried.symbols if s.section is None and s.reserved is None and s.name
    }
    for name in sorted(wanted ^ undefined):
        yield f"{name} is {'undefined but not borrowed' if name in undefined else 'borrowed but never used'}"


def _bad_successors(update: Update) -> Iterable[str]:
    defined = [s.name for s in update.carried.symbols if s.section is not None and s.binding == STB_GLOBAL]
    for each in update.replacements:
        if defined.count(each.symbol) != 1 or not NAME.fullmatch(each.symbol):
            yield f"the successor of {each.name} is {each.symbol!r}, which is not one global symbol"


def livepatch(linked: Relocatable, borrowed: Iterable[Borrowed]) -> Relocatable:
    """Convert a whole module."""
    loaded = strip(linked)
    wanted = {each.symbol: each for each in by_position(borrowed)}
    symbols = tuple(_resolved_late(symbol, wanted) for symbol in loaded.symbols)
    owners = {
        index: wanted[old.name].needed_by
        for index, (old, new) in enumerate(zip(loaded.symbols, symbols, strict=True))
        if new.reserved == SHN_LIVEPATCH
    }
    sections = tuple(_set_apart(section, owners) for section in loaded.sections)
    return replace(loaded, sections=sections, symbols=symbols)


def _resolved_late(symbol: Symbol, wanted: Mapping[str, Borrowed]) -> Symbol:
    if symbol.section is not None or symbol.reserved is not None or symbol.name not in wanted:
        return symbol
    return Symbol(livepatch_name(wanted[symbol.name]), None, binding=STB_GLOBAL, reserved=SHN_LIVEPATCH)


def _set_apart(section: Section, owners: Mapping[int, str]) -> Section:
    """Move the relocations of symbols that livepatch resolves into sections of their own, one an owner."""
    late: dict[str, list[Relocation]] = {}
    kept = []
    for each in section.relocations:
        if each.symbol in owners:
            late.setdefault(owners[each.symbol], []).append(each)
        else:
            kept.append(each)
    tables = tuple(
        RelocationSection(late_table(owner, section.name), SHF_RELA_LIVEPATCH | SHF_ALLOC, tuple(found))
        for owner, found in sorted(late.items())
    )
    if not tables:
        return section
    return replace(section, relocations=tuple(kept), more_relocations=(*section.more_relocations, *tables))


def late_table(owner: str, section: str) -> str:
    """The name of the table of relocations that livepatch applies when it knows an owner's symbols."""
    return f".klp.rela.{owner}.{section}"


def late_section(table: str) -> tuple[str, str]:
    """Owner and section of a table that is called so."""
    _, _, _, owner, section = table.split(".", 4)
    return owner, section


def strip(linked: Relocatable) -> Relocatable:
    """Leave out the sections that are not loaded, their symbols, and the names of source files."""
    kept = [i for i, section in enumerate(linked.sections) if section.flags & SHF_ALLOC]
    place = {old: new for new, old in enumerate(kept)}
    stay = [
        i
        for i, symbol in enumerate(linked.symbols)
        if symbol.type != STT_FILE and (symbol.section is None or symbol.section in place)
    ]
    index = {old: new for new, old in enumerate(stay)}
    index[-1] = -1
    try:
        sections = tuple(_renumbered(linked.sections[i], place, index) for i in kept)
    except KeyError as error:
        name = linked.symbols[error.args[0]].name
        raise KdiffError(
            "emit.module", f"loaded code refers to {name or 'a section'}, which is not loaded", place="module"
        ) from error
    symbols = tuple(
        replace(symbol, section=None if symbol.section is None else place[symbol.section])
        for symbol in (linked.symbols[i] for i in stay)
    )
    return replace(linked, sections=sections, symbols=symbols)


def _renumbered(section: Section, place: dict[int, int], index: dict[int, int]) -> Section:
    return replace(
        section,
        link=None if section.link is None else place.get(section.link),
        relocations=tuple(replace(each, symbol=index[each.symbol]) for each in section.relocations),
        more_relocations=tuple(
            replace(t, relocations=tuple(replace(each, symbol=index[each.symbol]) for each in t.relocations))
            for t in section.more_relocations
        ),
    )

# SPDX-License-Identifier: Apache-2.0
"""From the module that Kbuild linked to one in livepatch's form.

That form is Documentation/livepatch/module-elf-format.rst. In: the model of the linked module, in which
borrowed symbols are undefined. Out: a model in which those that livepatch resolves are
`.klp.sym.vmlinux.NAME,POSITION` and their relocations stand apart in `.klp.rela.vmlinux.SECTION`; what the
kernel would not load (debug information, BTF, comments) is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from kdiff.api import Borrowed, How, KdiffError, Relocatable, RelocationSection, Section, Symbol, Update

SHN_LIVEPATCH = 0xFF20
SHF_RELA_LIVEPATCH = 0x00100000
SHF_ALLOC = 2
STT_FILE = 4
STB_LOCAL, STB_GLOBAL = 0, 1
NAME = re.compile(r"[A-Za-z0-9_.$]+")
"""What a name in kallsyms looks like; livepatch's own syntax takes no comma."""
KSYM_NAME_LEN = 512
"""livepatch reads names of up to 511 characters (klp_resolve_symbols)."""


def livepatch_name(borrowed: Borrowed) -> str:
    """The name under which livepatch looks a symbol up."""
    return f".klp.sym.{borrowed.owner}.{borrowed.name},{borrowed.position}"


def by_position(borrowed: Iterable[Borrowed]) -> tuple[Borrowed, ...]:
    """Those that livepatch must resolve."""
    return tuple(each for each in borrowed if each.how is How.POSITION)


def check_update(update: Update) -> None:
    """Raise KdiffError `emit.update` if the update is none that this emitter can write."""
    problems = [
        *_bad_names(update),
        *_bad_undefined(update),
        *_bad_successors(update),
    ]
    if not update.replacements:
        problems.append("nothing is replaced")
    if update.target != "vmlinux":
        problems.append(f"the target is module {update.target}, not vmlinux")
    if problems:
        raise KdiffError("emit.update", "; ".join(problems), place=f"update {update.id}")


def _bad_names(update: Update) -> Iterable[str]:
    names = [(each.name, each.position) for each in update.replacements]
    names += [(each.name, each.position) for each in by_position(update.borrowed)]
    for name, position in names:
        if not NAME.fullmatch(name) or len(name) >= KSYM_NAME_LEN or position < 0:
            yield f"livepatch cannot look up {name!r} at position {position}"
    for each in by_position(update.borrowed):
        if each.owner != "vmlinux":
            yield f"{each.name} belongs to module {each.owner}, where livepatch would not look"


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
    names = {each.symbol: livepatch_name(each) for each in by_position(borrowed)}
    symbols = tuple(_resolved_late(symbol, names) for symbol in loaded.symbols)
    late = frozenset(i for i, symbol in enumerate(symbols) if symbol.reserved == SHN_LIVEPATCH)
    sections = tuple(_set_apart(section, late) for section in loaded.sections)
    return replace(loaded, sections=sections, symbols=symbols)


def _resolved_late(symbol: Symbol, names: dict[str, str]) -> Symbol:
    if symbol.section is not None or symbol.reserved is not None or symbol.name not in names:
        return symbol
    return Symbol(names[symbol.name], None, binding=STB_GLOBAL, reserved=SHN_LIVEPATCH)


def _set_apart(section: Section, late: frozenset[int]) -> Section:
    """Move the relocations of symbols that livepatch resolves into a section of its own."""
    moved = tuple(each for each in section.relocations if each.symbol in late)
    if not moved:
        return section
    kept = tuple(each for each in section.relocations if each.symbol not in late)
    table = RelocationSection(f".klp.rela.vmlinux.{section.name}", SHF_RELA_LIVEPATCH | SHF_ALLOC, moved)
    return replace(section, relocations=kept, more_relocations=(*section.more_relocations, table))


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

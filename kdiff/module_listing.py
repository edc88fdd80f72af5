# SPDX-License-Identifier: Apache-2.0
"""What kallsyms shows of a module, as its file tells; and where a kernel in use has the module's sections.

In: an object that is a module; the second also needs the lines of that kernel's own list. Out: rows of
(name, section, offset, letter); addresses of sections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kdiff.addressbook import BookEntry
from kdiff.elf.read import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    STB_LOCAL,
    STT_FILE,
    STT_SECTION,
    Object,
)
from kdiff.errors import KdiffError

BOOT = ".init"
"""How the names of sections begin that are gone once a module runs (kernel/module/main.c)."""
_UNLOADED = (".modinfo", "__versions")
"""Marked to be loaded, and not loaded (rewrite_section_headers, kernel/module/main.c)."""


class Row(NamedTuple):
    """A symbol of a module, in its section."""

    name: str
    section: int
    offset: int
    letter: str


def listing(obj: Object) -> Iterator[Row]:
    """What kallsyms shows of a module: named symbols of loaded sections, in the order of the symbol table.

    kernel/module/kallsyms.c, is_core_symbol() and module_get_kallsym() under CONFIG_KALLSYMS_ALL.
    """
    letters = [_letter(obj, index) for index in range(len(obj.sections))]
    columns = (obj.symbols[name].tolist() for name in ("section", "value", "type", "binding"))
    for index, (home, value, type_, binding) in enumerate(zip(*columns, strict=True)):
        if type_ in (STT_FILE, STT_SECTION) or not 0 < home < len(letters) or not letters[home]:
            continue
        name = obj.symbol_name(index)
        if name:
            yield Row(name, home, value, letters[home] if binding == STB_LOCAL else letters[home].upper())


def _letter(obj: Object, index: int) -> str:
    """What nm prints for local symbols of a section; empty where kallsyms leaves them out."""
    section, name = obj.sections[index], obj.section_name(index)
    if not section["flags"] & SHF_ALLOC or name.startswith(BOOT) or name in _UNLOADED:
        return ""
    if section["flags"] & SHF_EXECINSTR:
        return "t"
    if section["type"] == SHT_NOBITS:
        return "b"
    return "d" if section["flags"] & SHF_WRITE else "r"


def sections_in_use(obj: Object, entries: Sequence[BookEntry], owner: str) -> dict[int, int]:
    """Section -> address, of those that have symbols; `entries`: the kernel's lines of this module.

    KdiffError `module.other_build` unless they are those of the file, each section as the file has it.
    """
    rows = tuple(listing(obj))
    if [row.name for row in rows] != [entry.name for entry in entries]:
        raise _other_build(obj, owner, f"the kernel lists {len(entries)} symbols, the file has {len(rows)}")
    found: dict[int, int] = {}
    for row, entry in zip(rows, entries, strict=True):
        start = entry.address - row.offset
        if found.setdefault(row.section, start) != start:
            raise _other_build(obj, owner, f"{row.name} is elsewhere in {obj.section_name(row.section)}")
    return found


def _other_build(obj: Object, owner: str, why: str) -> KdiffError:
    return KdiffError(
        "module.other_build",
        f"module {owner}, which a live patch has changed, is loaded from another file than this: {why}",
        place=obj.path,
        remedy="let the modules of CONFDIR be those that the machine has loaded",
    )

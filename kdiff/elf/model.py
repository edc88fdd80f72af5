# SPDX-License-Identifier: Apache-2.0
"""An object that was read, as the model that can be changed and written again.

In: an `Object`. Out: a `Relocatable`; `write(model(obj))` has the same sections, symbols and relocations.
Symbol and string tables and the RELA sections themselves are not sections of the model, and a relocation
section whose name is not `.rela` + its section's stays apart in `more_relocations`.
"""

from __future__ import annotations

import struct

from kdiff.elf.read import (
    RESERVED,
    SHF_INFO_LINK,
    SHT_GROUP,
    SHT_REL,
    SHT_RELA,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    Object,
)
from kdiff.elf.write import (
    LAYOUTS,
    Relocatable,
    Relocation,
    RelocationSection,
    Section,
    Symbol,
)
from kdiff.errors import KdiffError


def model(obj: Object) -> Relocatable:
    """Make the model; KdiffError `elf.unsupported` for section groups and for REL records."""
    tables = _relocation_tables(obj)
    hidden = {0, obj.section_names, obj.symbol_names, obj.symtab, *(t for of in tables.values() for t in of)}
    types = obj.sections["type"].tolist()
    kept = [
        index
        for index, kind in enumerate(types)
        if index not in hidden and kind not in (SHT_SYMTAB, SHT_SYMTAB_SHNDX)
    ]
    place = {section: index for index, section in enumerate(kept)}
    return Relocatable(
        elf_class=obj.elf_class,
        byte_order=obj.byte_order,
        machine=obj.machine,
        flags=obj.flags,
        sections=tuple(_section(obj, index, place, tables.get(index, [])) for index in kept),
        symbols=tuple(_symbol(obj, index, place) for index in range(1, len(obj.symbols))),
    )


def nothing_like(obj: Object) -> Relocatable:
    """An object of the same machine that holds nothing."""
    return Relocatable(obj.elf_class, obj.byte_order, obj.machine, obj.flags, (), ())


def _relocation_tables(obj: Object) -> dict[int, list[int]]:
    """RELA sections by the section they change."""
    found: dict[int, list[int]] = {}
    for index, kind in enumerate(obj.sections["type"].tolist()):
        if kind in (SHT_GROUP, SHT_REL):
            what = "a section group" if kind == SHT_GROUP else "relocations without addends (SHT_REL)"
            raise KdiffError(
                "elf.unsupported",
                f"section {obj.section_name(index)} is {what}, which kdiff does not write",
                place=obj.path,
            )
        if kind == SHT_RELA:
            found.setdefault(int(obj.sections["info"][index]), []).append(index)
    return found


def _section(obj: Object, index: int, place: dict[int, int], tables: list[int]) -> Section:
    header = obj.sections[index]
    name = obj.section_name(index)
    own: tuple[Relocation, ...] = ()
    more = []
    for table in tables:
        relocations = _relocations(obj, table)
        if obj.section_name(table) == f".rela{name}" and not own and relocations:
            own = relocations
        else:
            flags = int(obj.sections["flags"][table]) & ~SHF_INFO_LINK
            more.append(RelocationSection(obj.section_name(table), flags, relocations))
    return Section(
        name=name,
        type=int(header["type"]),
        flags=int(header["flags"]),
        align=int(header["align"]),
        data=bytes(obj.contents(index)),
        size=int(header["size"]),
        entry_size=int(header["entsize"]),
        relocations=own,
        more_relocations=tuple(more),
        link=place.get(int(header["link"])) if header["link"] else None,
    )


def _relocations(obj: Object, table: int) -> tuple[Relocation, ...]:
    layout = LAYOUTS[obj.elf_class]
    record = struct.Struct(("<" if obj.byte_order == "little" else ">") + layout.rela)
    mask = (1 << layout.symbol_shift) - 1
    return tuple(
        Relocation(offset, info & mask, (info >> layout.symbol_shift) - 1, addend)
        for offset, info, addend in record.iter_unpack(obj.contents(table))
    )


def _symbol(obj: Object, index: int, place: dict[int, int]) -> Symbol:
    _, value, size, kind, binding, other, section = obj.symbols[index].tolist()
    if section and section < RESERVED and section not in place:
        raise KdiffError(
            "elf.unsupported",
            f"symbol {index} lies in {obj.section_name(section)}, a section without contents of its own",
            place=obj.path,
        )
    return Symbol(
        name=obj.symbol_name(index) if obj.symbols["name"][index] else "",
        section=place.get(section) if section < RESERVED else None,
        value=value,
        size=size,
        type=kind,
        binding=binding,
        other=other,
        reserved=section - RESERVED if section >= RESERVED else None,
    )

# SPDX-License-Identifier: Apache-2.0
"""What lief sees in a module or object: the oracle of both of kdiff's readers."""

from __future__ import annotations

import lief

from kdiff.elf.second import ModuleRelocation, ModuleSection

SHN_UNDEF, SHN_LIVEPATCH, STT_SECTION = 0, 0xFF20, 3
TYPE_BITS = (1 << 27) - 1
"""lief puts the machine above the number of a relocation type."""


class Seen:
    """One file. Addends that lie in the sections are left out, and lief takes no byte order but its own."""

    def __init__(self, data: bytes) -> None:
        parsed = lief.ELF.parse(data)
        assert parsed is not None
        self.machine = int(parsed.header.machine_type)
        self.sections = tuple(
            ModuleSection(
                str(each.name), each.virtual_address, each.offset, each.size, int(each.type), int(each.flags)
            )
            for each in parsed.sections
        )
        named = [each for each in parsed.symtab_symbols if each.name]
        self.undefined = tuple(str(each.name) for each in named if each.shndx == SHN_UNDEF)
        self.livepatch = tuple(str(each.name) for each in named if each.shndx == SHN_LIVEPATCH)
        self.relocations = tuple(map(_relocation, parsed.object_relocations))


def _relocation(each: lief.ELF.Relocation) -> ModuleRelocation:
    symbol, section = each.symbol, each.section
    assert section is not None
    name = str(symbol.name) if symbol is not None else ""
    if symbol is not None and not name and int(symbol.type) == STT_SECTION:
        assert symbol.section is not None
        name = str(symbol.section.name)
    addend = each.addend if each.is_rela else 0
    return ModuleRelocation(str(section.name), each.address, int(each.type) & TYPE_BITS, name, addend)

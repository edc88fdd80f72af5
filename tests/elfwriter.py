# SPDX-License-Identifier: Apache-2.0
"""Odd ELF objects for tests, in a few words.

    elf(
        Sec(".text.f", b"\\xe8\\0\\0\\0\\0", "ax", relocs=((1, 4, "printk", -4),)),
        Sym("f", ".text.f", size=5, type=FUNC),
    )

Relocations name their symbol; a name that no `Sym` has is a section (its section symbol is made), else an
undefined global symbol. Everything else is `kdiff.elf.write`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdiff.arch import ByteOrder
from kdiff.elf.write import (
    NO_SYMBOL,
    Relocatable,
    Relocation,
    RelocationSection,
    Section,
    Symbol,
    write,
)

PROGBITS, NOTE, NOBITS = 1, 7, 8
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION, FILE = 0, 1, 2, 3, 4
X86_64, AARCH64, PPC, S390 = 62, 183, 20, 22
ABS, COMMON, LIVEPATCH = 0xFFF1, 0xFFF2, 0xFF20
_FLAGS = {"w": 1, "a": 2, "x": 4, "M": 0x10, "S": 0x20, "L": 0x80}

Reloc = tuple[int, int, str, int]
"""(offset, type, symbol name or "", addend)"""


@dataclass(frozen=True)
class Sec:
    """A section; `flags` in readelf's letters, of w a x M S L. `more`: further relocation sections."""

    name: str
    data: bytes = b""
    flags: str = "a"
    align: int = 1
    type: int = PROGBITS
    size: int | None = None
    entry_size: int = 0
    relocs: tuple[Reloc, ...] = ()
    more: tuple[tuple[str, int, tuple[Reloc, ...]], ...] = ()
    link: str | None = None


@dataclass(frozen=True)
class Sym:
    """A symbol; `section` is a name, None (undefined), or a reserved index such as ABS."""

    name: str
    section: str | int | None = None
    value: int = 0
    size: int = 0
    type: int = NOTYPE
    binding: int = GLOBAL
    other: int = 0


def relocatable(
    *parts: Sec | Sym,
    machine: int = X86_64,
    elf_class: Literal[32, 64] = 64,
    byte_order: ByteOrder = "little",
    flags: int = 0,
) -> Relocatable:
    """The model of an object."""
    sections = [part for part in parts if isinstance(part, Sec)]
    places = {section.name: index for index, section in enumerate(sections)}
    symbols = [_symbol(part, places) for part in parts if isinstance(part, Sym)]
    names = {symbol.name: index for index, symbol in enumerate(symbols)}

    def index_of(name: str) -> int:
        if not name:
            return NO_SYMBOL
        if name not in names:
            names[name] = len(symbols)
            if name in places:
                symbols.append(Symbol("", places[name], type=SECTION))
            else:
                symbols.append(Symbol(name, None, binding=GLOBAL))
        return names[name]

    def records(relocs: tuple[Reloc, ...]) -> tuple[Relocation, ...]:
        return tuple(
            Relocation(offset, kind, index_of(name), addend) for offset, kind, name, addend in relocs
        )

    return Relocatable(
        elf_class,
        byte_order,
        machine,
        flags,
        tuple(
            Section(
                each.name,
                each.type,
                sum(_FLAGS[letter] for letter in each.flags),
                each.align,
                each.data,
                len(each.data) if each.size is None else each.size,
                each.entry_size,
                records(each.relocs),
                tuple(RelocationSection(name, flag, records(relocs)) for name, flag, relocs in each.more),
                None if each.link is None else places[each.link],
            )
            for each in sections
        ),
        tuple(symbols),
    )


def elf(
    *parts: Sec | Sym,
    machine: int = X86_64,
    elf_class: Literal[32, 64] = 64,
    byte_order: ByteOrder = "little",
    flags: int = 0,
) -> bytes:
    """The bytes of an object."""
    return write(
        relocatable(*parts, machine=machine, elf_class=elf_class, byte_order=byte_order, flags=flags)
    )


def _symbol(part: Sym, places: dict[str, int]) -> Symbol:
    index = places[part.section] if isinstance(part.section, str) else None
    reserved = part.section if isinstance(part.section, int) else None
    return Symbol(part.name, index, part.value, part.size, part.type, part.binding, part.other, reserved)

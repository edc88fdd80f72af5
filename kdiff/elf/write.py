# SPDX-License-Identifier: Apache-2.0
"""Relocatable ELF objects, written.

In: a `Relocatable`, the plain model of an ET_REL file. Out: its bytes, equal for equal models: the header,
contents in order of sections, symbol and string tables, section headers (System V gABI, "Object Files").
`kdiff.elf.model` is the way back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from kdiff.arch import ByteOrder
from kdiff.elf.read import (
    ET_REL,
    SHF_INFO_LINK,
    SHN_LORESERVE,
    SHN_XINDEX,
    SHT_NOBITS,
    SHT_REL,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    STB_LOCAL,
)
from kdiff.errors import KdiffError
from kdiff.values import dataclass

NO_SYMBOL = -1
"""A relocation without a symbol (ELF's null symbol): R_*_NONE, R_RISCV_RELAX."""


@dataclass(frozen=True, slots=True)
class Relocation:
    """One RELA record; `symbol` indexes `Relocatable.symbols` or is NO_SYMBOL."""

    offset: int
    type: int
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class RelocationSection:
    """A further RELA section of a section."""

    name: str
    flags: int
    relocations: tuple[Relocation, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One section with contents; `size` counts where there are none (SHT_NOBITS).

    `relocations` become RELA sections right behind it: `.rela` + name for those of `relocations`, and one for
    each of `more_relocations`, which names its section and the flags it wants besides SHF_INFO_LINK
    (the kernel's `.klp.rela.vmlinux.…` with SHF_RELA_LIVEPATCH | SHF_ALLOC).
    """

    name: str
    type: int
    flags: int
    align: int
    data: bytes
    size: int
    entry_size: int = 0
    relocations: tuple[Relocation, ...] = ()
    more_relocations: tuple[RelocationSection, ...] = ()
    link: int | None = None
    """Index in `Relocatable.sections` for sh_link, where a section's type asks for one (SHF_LINK_ORDER)."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol; `section` indexes `Relocatable.sections`, None is undefined.

    `reserved` overrides it with a reserved index (SHN_ABS 0xfff1, SHN_COMMON, SHN_LIVEPATCH 0xff20).
    """

    name: str
    section: int | None
    value: int = 0
    size: int = 0
    type: int = 0
    binding: int = 0
    other: int = 0
    reserved: int | None = None


@dataclass(frozen=True, slots=True)
class Relocatable:
    """A whole ET_REL file. Order of sections is kept; of symbols too, locals moved before globals.

    Without `explicit` addends lie in the fields, those of all `Relocation`s are 0, and tables are SHT_REL.
    """

    elf_class: Literal[32, 64]
    byte_order: ByteOrder
    machine: int
    flags: int
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    explicit: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """Record formats of one ELF class, for `struct`, without the byte order."""

    header: str
    section: str
    symbol: str
    rela: str
    symbol_shift: int
    word: int

    def symbol_fields(self, name: int, symbol: Symbol, index: int) -> tuple[int, ...]:
        """The record of a symbol in the order of `symbol`'s format."""
        info = symbol.binding << 4 | symbol.type & 0xF
        if self.word == 4:
            return name, symbol.value, symbol.size, info, symbol.other, index
        return name, info, symbol.other, index, symbol.value, symbol.size


LAYOUTS = {
    32: Layout("16sHHIIIIIHHHHHH", "IIIIIIIIII", "IIIBBH", "IIi", 8, 4),
    64: Layout("16sHHIQQQIHHHHHH", "IIQQQQIIQQ", "IBBHQQ", "QQq", 32, 8),
}


@dataclass(frozen=True, slots=True)
class _Header:
    """One section header, but for its offset in the file, and the bytes it describes."""

    name: str
    type: int
    flags: int
    size: int
    align: int
    entry_size: int
    data: bytes
    link: int = 0
    info: int = 0


_NULL = _Header("", 0, 0, 0, 0, 0, b"")
_PAGE = 4096
"""What is aligned to more is so in memory; its place in the file need not be."""


def write(relocatable: Relocatable) -> bytes:
    """Write an object; KdiffError `elf.model` if it contradicts itself or does not fit its ELF class."""
    layout = LAYOUTS[relocatable.elf_class]
    endian = "<" if relocatable.byte_order == "little" else ">"
    try:
        return _assemble(relocatable, layout, endian)
    except struct.error as error:
        raise _broken(f"a value does not fit ELF class {relocatable.elf_class}: {error}") from error


def _assemble(model: Relocatable, layout: Layout, endian: str) -> bytes:
    places = _places(model.sections)
    order, locals_ = _symbol_order(model.symbols)
    symtab = 1 + sum(1 + _tables_of(section) for section in model.sections)
    headers = [_NULL]
    for section, place in zip(model.sections, places, strict=True):
        headers.append(_contents(section, places))
        headers += _relocation_headers(section, place, symtab, order, layout, endian, model.explicit)
    headers += _symbol_headers(model, places, order, locals_, symtab, layout, endian)
    names = _Strings()
    name_offsets = [names.add(header.name) for header in headers]
    name_offsets.append(names.add(".shstrtab"))
    headers.append(_Header(".shstrtab", SHT_STRTAB, 0, len(names.data), 1, 0, bytes(names.data)))
    return _file(model, headers, name_offsets, layout, endian)


def _tables_of(section: Section) -> int:
    return bool(section.relocations) + len(section.more_relocations)


def _places(sections: Sequence[Section]) -> list[int]:
    """The index of each section in the file, after the null section and its predecessors' relocations."""
    places = []
    following = 1
    for section in sections:
        places.append(following)
        following += 1 + _tables_of(section)
    return places


def _symbol_order(symbols: Sequence[Symbol]) -> tuple[list[int], int]:
    """For each symbol its index in the file, locals first; and the index of the first other one."""
    locals_ = [i for i, symbol in enumerate(symbols) if symbol.binding == STB_LOCAL]
    others = [i for i, symbol in enumerate(symbols) if symbol.binding != STB_LOCAL]
    order = [0] * len(symbols)
    for index, symbol in enumerate((*locals_, *others), start=1):
        order[symbol] = index
    return order, len(locals_) + 1


def _contents(section: Section, places: Sequence[int]) -> _Header:
    stored = section.type != SHT_NOBITS
    if section.size != len(section.data) and (stored or section.data):
        raise _broken(f"section {section.name} has {len(section.data)} bytes but size {section.size}")
    link = 0
    if section.link is not None:
        if not 0 <= section.link < len(places):
            raise _broken(f"section {section.name} is linked to section {section.link}, which does not exist")
        link = places[section.link]
    return _Header(
        section.name, section.type, section.flags, section.size, section.align, section.entry_size,
        section.data, link,
    )  # fmt: skip


def _relocation_headers(
    section: Section,
    place: int,
    symtab: int,
    order: Sequence[int],
    layout: Layout,
    endian: str,
    explicit: bool,
) -> list[_Header]:
    tables = [(table.name, table.flags, table.relocations) for table in section.more_relocations]
    kind, width = (SHT_RELA, 3) if explicit else (SHT_REL, 2)
    if section.relocations:
        tables.insert(0, (f"{'.rela' if explicit else '.rel'}{section.name}", 0, section.relocations))
    record = struct.Struct(endian + layout.rela[:width])
    headers = []
    for name, flags, relocations in tables:
        if not explicit and any(each.addend for each in relocations):
            raise _broken(f"an addend in {name}, whose addends lie in the fields")
        data = b"".join(
            record.pack(*(each.offset, _info(each, section, order, layout), each.addend)[:width])
            for each in relocations
        )
        flags |= SHF_INFO_LINK
        headers.append(_Header(name, kind, flags, len(data), layout.word, record.size, data, symtab, place))
    return headers


def _info(relocation: Relocation, section: Section, order: Sequence[int], layout: Layout) -> int:
    if relocation.offset >= len(section.data) or not NO_SYMBOL <= relocation.symbol < len(order):
        raise _broken(
            f"the relocation at {section.name}+{relocation.offset:#x} of symbol {relocation.symbol}"
            " points outside of the object"
        )
    if not 0 <= relocation.type < 1 << layout.symbol_shift:
        raise _broken(f"relocation type {relocation.type} at {section.name}+{relocation.offset:#x}")
    symbol = 0 if relocation.symbol == NO_SYMBOL else order[relocation.symbol]
    return symbol << layout.symbol_shift | relocation.type


def _symbol_headers(
    model: Relocatable,
    places: Sequence[int],
    order: Sequence[int],
    locals_: int,
    symtab: int,
    layout: Layout,
    endian: str,
) -> list[_Header]:
    """`.symtab`, `.symtab_shndx` where section indices need it, `.strtab`."""
    record = struct.Struct(endian + layout.symbol)
    strings = _Strings()
    symbols = [bytes(record.size)]
    wide = [0]
    for _, symbol in sorted(zip(order, model.symbols, strict=True), key=lambda pair: pair[0]):
        index = _section_index(symbol, places)
        extended = symbol.reserved is None and index >= SHN_LORESERVE
        wide.append(index if extended else 0)
        index = SHN_XINDEX if extended else index
        symbols.append(record.pack(*layout.symbol_fields(strings.add(symbol.name), symbol, index)))
    table = b"".join(symbols)
    strtab = symtab + 1 + any(wide)
    headers = [
        _Header(".symtab", SHT_SYMTAB, 0, len(table), layout.word, record.size, table, strtab, locals_)
    ]
    if any(wide):
        data = struct.pack(f"{endian}{len(wide)}I", *wide)
        headers.append(_Header(".symtab_shndx", SHT_SYMTAB_SHNDX, 0, len(data), 4, 4, data, symtab))
    headers.append(_Header(".strtab", SHT_STRTAB, 0, len(strings.data), 1, 0, bytes(strings.data)))
    return headers


def _section_index(symbol: Symbol, places: Sequence[int]) -> int:
    if symbol.reserved is not None:
        if not SHN_LORESERVE <= symbol.reserved < SHN_XINDEX:
            raise _broken(f"symbol {symbol.name}: {symbol.reserved:#x} is no reserved section index")
        return symbol.reserved
    if symbol.section is None:
        return 0
    if not 0 <= symbol.section < len(places):
        raise _broken(f"symbol {symbol.name} lies in section {symbol.section}, which does not exist")
    return places[symbol.section]


def _file(
    model: Relocatable, headers: Sequence[_Header], names: Iterable[int], layout: Layout, endian: str
) -> bytes:
    header = struct.Struct(endian + layout.header)
    record = struct.Struct(endian + layout.section)
    output = bytearray(header.size)
    offsets = [0]
    for each in headers[1:]:
        output += bytes(-len(output) % min(max(each.align, 1), _PAGE))
        offsets.append(len(output))
        output += each.data
    output += bytes(-len(output) % layout.word)
    start, count, last = len(output), len(headers), len(headers) - 1
    null = replace(
        _NULL, size=count if count >= SHN_LORESERVE else 0, link=last if last >= SHN_LORESERVE else 0
    )
    for name, offset, each in zip(names, offsets, (null, *headers[1:]), strict=True):
        output += record.pack(
            name, each.type, each.flags, 0, offset, each.size, each.link, each.info, each.align,
            each.entry_size,
        )  # fmt: skip
    ident = b"\x7fELF" + bytes([layout.word // 4, 1 if endian == "<" else 2, 1])
    header.pack_into(
        output, 0, ident, ET_REL, model.machine, 1, 0, 0, start, model.flags, header.size, 0, 0, record.size,
        0 if count >= SHN_LORESERVE else count, SHN_XINDEX if last >= SHN_LORESERVE else last,
    )  # fmt: skip
    return bytes(output)


class _Strings:
    """A string table that grows; equal strings are stored once, in order of their first appearance."""

    def __init__(self) -> None:
        self.data = bytearray(1)
        self._offsets = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._offsets:
            raw = text.encode("utf-8", "surrogateescape")
            if 0 in raw:
                raise _broken(f"the name {text!r} contains a zero byte")
            self._offsets[text] = len(self.data)
            self.data += raw + b"\0"
        return self._offsets[text]


def _broken(message: str) -> KdiffError:
    return KdiffError("elf.model", message, place="object to be written")

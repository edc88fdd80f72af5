# SPDX-License-Identifier: Apache-2.0
"""The second reader: what a finished module or object says to somebody who did not make it.

In: the bytes of an ET_REL file. Out: a `ModuleDescription`. It shares no code with what reads and writes
objects otherwise (`kdiff.elf.read`, `kdiff.elf.write`) and works in another way: record after record, as the
kernel's module loader does (kernel/module/main.c), by the System V gABI, chapter "Object Files". What the
loader would stumble over is an error. Tests hold it against lief.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from types import MappingProxyType
from typing import NamedTuple

from kdiff.errors import KdiffError
from kdiff.values import dataclass

_ET_REL = 1
_NULL, _SYMTAB, _STRTAB, _RELA, _NOBITS, _REL, _SYMTAB_SHNDX = 0, 2, 3, 4, 8, 9, 18
_UNDEFINED, _RESERVED, _LIVEPATCH, _EXTENDED = 0, 0xFF00, 0xFF20, 0xFFFF
_STT_SECTION = 3


@dataclass(frozen=True, slots=True)
class ModuleSection:
    """One section header."""

    name: str
    address: int
    offset: int
    size: int
    type: int
    flags: int


@dataclass(frozen=True, slots=True)
class ModuleRelocation:
    """One relocation at `offset` of `section`, by number and name; a section symbol has its section's.

    `addend` is 0 where it is stored in the section (SHT_REL).
    """

    section: str
    offset: int
    type: int
    symbol: str
    addend: int


@dataclass(frozen=True, slots=True)
class ModuleDescription:
    """What a second reader sees in a .ko; everything in file order."""

    machine: int
    modinfo: Mapping[str, tuple[str, ...]]
    sections: tuple[ModuleSection, ...]
    undefined: tuple[str, ...]
    livepatch: tuple[str, ...]
    """Names of symbols with SHN_LIVEPATCH."""
    relocations: tuple[ModuleRelocation, ...]


class _Header(NamedTuple):
    """One section header, as it is stored."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


class _Symbol(NamedTuple):
    """`section` is negative where it is reserved."""

    name: str
    section: int


def describe_module(data: bytes, place: str = "") -> ModuleDescription:
    """Describe a module file; KdiffError `image.not_elf`, or `module.*` if it is none or is not sound."""
    if len(data) < 52 or data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise KdiffError("image.not_elf", "not an ELF file", place=place)
    file = _File(data, place, data[4] == 2, "<" if data[5] == 1 else ">")
    kind, machine, headers, names = file.headers()
    if kind != _ET_REL:
        raise KdiffError("module.type", f"ELF type {kind} is no module", place=place)
    text = file.strings(headers, names)
    sections = tuple(
        ModuleSection(file.name(text, row.name), row.address, row.offset, row.size, row.type, row.flags)
        for row in headers
    )
    tables = {
        index: tuple(file.symbols(headers, sections, index))
        for index, row in enumerate(headers)
        if row.type == _SYMTAB
    }
    named = [symbol for table in tables.values() for symbol in table if symbol.name]
    return ModuleDescription(
        machine=machine,
        modinfo=_modinfo(data, sections),
        sections=sections,
        undefined=tuple(each.name for each in named if each.section == _UNDEFINED),
        livepatch=tuple(each.name for each in named if each.section == -_LIVEPATCH),
        relocations=tuple(file.relocations(headers, sections, tables)),
    )


@dataclass(frozen=True, slots=True)
class _File:
    """`wide`: 64-bit; `endian`: as `struct` writes the byte order."""

    data: bytes
    place: str
    wide: bool
    endian: str

    def headers(self) -> tuple[int, int, tuple[_Header, ...], int]:
        """The file's type and machine, all section headers, and which section holds their names.

        The first section is null, and says what the ELF header has no room for.
        """
        header = self._record("16xHHIQQQIHHHHHH", "16xHHIIIIIHHHHHH")
        record = self._record("IIQQQQIIQQ", "IIIIIIIIII")
        if len(self.data) < header.size:
            raise self._cut_off()
        kind, machine, _, _, _, at, _, _, _, _, size, count, names = header.unpack_from(self.data)
        if kind != _ET_REL:
            return kind, machine, (), 0
        if size != record.size or not header.size <= at <= len(self.data) - size:
            raise self._cut_off()
        first = _Header(*record.unpack_from(self.data, at))
        count = count or first.size
        if first.type != _NULL or not count or at + count * size > len(self.data):
            raise self._cut_off()
        found = tuple(_Header(*row) for row in record.iter_unpack(self.data[at : at + count * size]))
        if any(each.offset + each.size > len(self.data) for each in found[1:] if each.type != _NOBITS):
            raise self._cut_off()
        return kind, machine, found, first.link if names == _EXTENDED else names

    def strings(self, headers: tuple[_Header, ...], index: int) -> bytes:
        """The table of strings in a section; it ends with a null byte."""
        table = headers[index] if index < len(headers) else None
        if table is None or table.type != _STRTAB:
            raise self._unsound(f"section {index} is no table of strings")
        text = self._contents(table)
        if text[-1:] != b"\0":
            raise self._unsound(f"the strings of section {index} do not end")
        return text

    def name(self, text: bytes, at: int) -> str:
        """The name at an offset of a table of strings."""
        if at >= len(text):
            raise self._unsound(f"a name lies at {at:#x} of {len(text):#x} bytes of strings")
        return text[at : text.index(b"\0", at)].decode("utf-8", "surrogateescape")

    def symbols(
        self, headers: tuple[_Header, ...], sections: tuple[ModuleSection, ...], index: int
    ) -> Iterator[_Symbol]:
        """The symbols of the table in a section; a section's own has the section's name."""
        text = self.strings(headers, headers[index].link)
        extended = next((e for e in headers if e.type == _SYMTAB_SHNDX and e.link == index), None)
        indices = self._rows(extended, self._record("I", "I")) if extended else iter(())
        for row in self._rows(headers[index], self._record("IBBHQQ", "IIIBBH")):
            at, info, section = (row[0], row[1], row[3]) if self.wide else (row[0], row[3], row[5])
            (far,) = next(indices, (len(sections),))
            if section == _EXTENDED:
                section = far
            elif section >= _RESERVED:
                section = -section
            name = self.name(text, at)
            if section >= len(sections):
                raise self._unsound(f"symbol {name} lies in section {section} of {len(sections)}")
            if info & 0xF == _STT_SECTION and not name and section > 0:
                name = sections[section].name
            yield _Symbol(name, section)

    def relocations(
        self,
        headers: tuple[_Header, ...],
        sections: tuple[ModuleSection, ...],
        tables: Mapping[int, tuple[_Symbol, ...]],
    ) -> Iterator[ModuleRelocation]:
        """All relocations; `tables`: the symbols in each section that holds some."""
        shift, mask = (32, 0xFFFFFFFF) if self.wide else (8, 0xFF)
        records = {_RELA: self._record("QQq", "IIi"), _REL: self._record("QQ", "II")}
        for index, table in enumerate(headers):
            if table.type not in records:
                continue
            if table.link not in tables or not 0 < table.info < len(sections):
                raise self._unsound(f"the relocations in section {index} have no section or no symbols")
            target, symbols = sections[table.info], tables[table.link]
            for offset, info, *addend in self._rows(table, records[table.type]):
                if info >> shift >= len(symbols) or offset > target.size:
                    raise self._unsound(f"the relocation at {target.name}+{offset:#x} leads nowhere")
                name = symbols[info >> shift].name
                yield ModuleRelocation(target.name, offset, info & mask, name, sum(addend))

    def _record(self, wide: str, narrow: str) -> Struct:
        return Struct(self.endian + (wide if self.wide else narrow))

    def _contents(self, section: _Header) -> bytes:
        return self.data[section.offset : section.offset + section.size]

    def _rows(self, table: _Header, record: Struct) -> Iterator[tuple[int, ...]]:
        if table.entry != record.size or table.size % record.size:
            what = f"{table.size} bytes in records of {table.entry}"
            raise self._unsound(f"the table at {table.offset:#x} has {what}, not of {record.size}")
        return record.iter_unpack(self._contents(table))

    def _cut_off(self) -> KdiffError:
        what = "the module's sections are missing or cut off"
        return KdiffError("module.truncated", what, place=self.place)

    def _unsound(self, what: str) -> KdiffError:
        return KdiffError("module.unsound", what, place=self.place)


def _modinfo(data: bytes, sections: tuple[ModuleSection, ...]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for section in sections:
        if section.name == ".modinfo":
            for line in data[section.offset : section.offset + section.size].split(b"\0"):
                key, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
                if equals:
                    found[key] = (*found.get(key, ()), value)
    return MappingProxyType(found)

# SPDX-License-Identifier: Apache-2.0
"""Stage 1: a relocatable ELF object as columns.

In: the bytes of an ET_REL file, 32 or 64 bit, either byte order, REL or RELA, any number of sections.
Out: an `Object`: sections and symbols as read-only structured arrays, relocations as columns, all bounds
checked, so that later stages index without asking. No third-party reader is used because none copes with more
than 65 279 section headers.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdiff.arch import ByteOrder
from kdiff.elf.checks import check_sections
from kdiff.elf.layout import LAYOUTS, SECTION, SYMBOL, Layout, identify, raw
from kdiff.elf.relocations import Relocations, read_relocations
from kdiff.elf.twins import differing, same_headers
from kdiff.errors import KdiffError
from kdiff.values import dataclass

Column = NDArray[Any]

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 7, 8, 9
SHT_GROUP, SHT_SYMTAB_SHNDX = 17, 18
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_MERGE, SHF_STRINGS = 1, 2, 4, 0x10, 0x20
SHF_INFO_LINK, SHF_COMPRESSED = 0x40, 0x800
SHN_LORESERVE, SHN_ABS, SHN_COMMON, SHN_XINDEX = 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 0, 1, 2, 3, 4
ET_REL = 1

RESERVED = 1 << 31
"""Added to a reserved section index (SHN_ABS ...), which may otherwise equal a real one."""

MAPPED = 1 << 20
"""Bytes of a file from which on it is mapped and not copied."""

LONGEST_NAME = 4096
"""Bytes: a kernel's symbols have 512 at most (KSYM_NAME_LEN), and sections are named after them."""


@dataclass(frozen=True, slots=True)
class Object:
    """One relocatable object. Index 0 of sections and symbols is ELF's null entry.

    `relocations` are those that change loaded sections, sorted by (section, offset), records of one place in
    file order; `relocation_bounds[i]:relocation_bounds[i+1]` are those of section i. Those of other sections
    are read when they are asked for (`records`): debugging information has many.
    """

    path: str
    data: memoryview
    elf_class: Literal[32, 64]
    byte_order: ByteOrder
    machine: int
    flags: int
    sections: Column
    symbols: Column
    relocations: Relocations
    relocation_bounds: Column
    symtab: int
    section_names: int
    symbol_names: int
    _known: dict[tuple[int, int], str] = field(default_factory=dict, repr=False, compare=False)
    """Names that were asked for, by table and offset."""
    _tables: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Where tables of strings begin and end in the file."""
    _rows: dict[int, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Headers that were asked for, by section."""
    _contents: dict[int, memoryview] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Contents that were asked for, by section."""
    _others: dict[int, Relocations] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Relocations of sections that are not loaded, of those that were asked for."""
    _lists: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def names_of_sections(self) -> list[str]:
        """The names of all sections, which are read at once."""
        found = self._lists.get("sections")
        if found is None:
            found = self._lists["sections"] = self._strings(self.section_names, self.sections["name"])
        return found

    def names_of_symbols(self) -> list[str]:
        """The names of all symbols, which are read at once; section symbols have none of their own."""
        found = self._lists.get("symbols")
        if found is None:
            table, offsets = self.symbol_names, self.symbols["name"]
            found = self._strings(table, offsets) if table else [""] * len(offsets)
            self._lists["symbols"] = found
        return found

    def whole(self) -> bytes | mmap.mmap:
        """The file, of which slices are bytes."""
        return self.data.obj if isinstance(self.data.obj, (bytes, mmap.mmap)) else bytes(self.data)

    def share_names(self, other: Object) -> None:
        """Take the names over that another object has in equal tables: two builds of a unit have most."""
        mine, yours = (
            (("sections", each.section_names, each.sections), ("symbols", each.symbol_names, each.symbols))
            for each in (self, other)
        )
        lists = other.names_of_sections(), other.names_of_symbols()
        for (kind, table, rows), (_, theirs, others), names in zip(mine, yours, lists, strict=True):
            same_texts = bytes(self.contents(table)) == bytes(other.contents(theirs))
            if same_texts and rows["name"].tobytes() == others["name"].tobytes():
                self._lists[kind] = names

    def section_name(self, index: int) -> str:
        known = self._lists.get("sections")
        if known is not None:
            return known[index]
        return self._string(self.section_names, int(self.sections["name"][index]))

    def symbol_name(self, index: int) -> str:
        """The symbol's name; a section symbol has its section's."""
        known = self._lists.get("symbols")
        if known is not None and known[index]:
            return known[index]
        name, _, _, kind, _, _, section = self.symbols[index].item()
        if kind == STT_SECTION and not name and section < len(self.sections):
            return self.section_name(section)
        return self._string(self.symbol_names, name)

    def records(self, index: int) -> Relocations:
        """The relocations of a section; KdiffError if they are not sound and the section is not loaded."""
        if self.row(index)[2] & SHF_ALLOC:
            return self.relocations.of(slice(*self.relocation_bounds[index : index + 2].tolist()))
        found = self._others.get(index)
        if found is None:
            wanted = np.zeros(len(self.sections), bool)
            wanted[index] = True
            word = ("<" if self.byte_order == "little" else ">") + LAYOUTS[self.elf_class].word
            count = len(self.symbols)
            found, _ = read_relocations(self.data, word, self.sections, self.symtab, count, self.path, wanted)
            found.freeze()
            self._others[index] = found
        return found

    def row(self, index: int) -> tuple[int, ...]:
        """The header of a section, in the order of `SECTION_COLUMNS`."""
        found = self._rows.get(index)
        if found is None:
            found = self._rows[index] = self.sections[index].item()
        return found

    def contents(self, index: int) -> memoryview:
        """The raw bytes of a section; empty for SHT_NOBITS."""
        found = self._contents.get(index)
        if found is None:
            _, kind, _, _, start, size, *_ = self.row(index)
            stop = start if kind == SHT_NOBITS else start + size
            found = self._contents[index] = self.data[start:stop]
        return found

    def _strings(self, table: int, offsets: Column) -> list[str]:
        """The strings at offsets of a table; KdiffError if one of them is not sound."""
        data = bytes(self.contents(table)) if table else b""
        starts = offsets.astype("i8")
        zeros = (np.frombuffer(data, "u1") == 0).nonzero()[0]
        which = zeros.searchsorted(starts)
        if not len(starts):
            return []
        if not len(zeros) or which.max() == len(zeros) or (zeros[which] - starts).max() > LONGEST_NAME:
            return [self._string(table, each) for each in starts.tolist()]
        text = data.decode("ascii" if data.isascii() else "latin-1")
        found = list(map(text.split("\0").__getitem__, which.tolist()))
        begins = np.zeros(len(zeros) + 1, "i8")
        begins[1:] = zeros + 1
        into = starts - begins[which]  # strings that end like others lie within those
        inner = into.nonzero()[0]
        for index, at in zip(inner.tolist(), into[inner].tolist(), strict=True):
            found[index] = found[index][at:]
        if not data.isascii():
            found = [each.encode("latin-1").decode("utf-8", "surrogateescape") for each in found]
        return found

    def _string(self, table: int, offset: int) -> str:
        found = self._known.get((table, offset))
        if found is None:
            found = self._known[table, offset] = self._read_string(table, offset)
        return found

    def _read_string(self, table: int, offset: int) -> str:
        if table not in self._tables:
            section = self.sections[table]
            self._tables[table] = int(section["offset"]), int(section["offset"] + section["size"])
        start, stop = self._tables[table]
        start += offset
        if table == 0 or not start < stop:
            if table and offset == 0:
                return ""
            raise KdiffError("elf.string", f"string offset {offset:#x} outside of its table", place=self.path)
        for most in (256, LONGEST_NAME):
            raw = bytes(self.data[start : min(stop, start + most)])
            end = raw.find(0)
            if end >= 0:
                break
        else:
            raise KdiffError("elf.string", f"string at {offset:#x} has no end", place=self.path)
        return raw[:end].decode("utf-8", "surrogateescape")


def read(path: Path, twin: Object | None = None) -> Object:
    """Read a file; KdiffError if it cannot be opened or is not a sound ET_REL object.

    `twin`: an object that may have the same columns, which both then share.
    """
    data = load(path)
    if not len(data):
        raise KdiffError("elf.truncated", "the file is empty", place=str(path))
    return read_bytes(data, str(path), twin)


def load(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file; KdiffError if it cannot be opened."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            return os.read(file, size) if size < MAPPED else mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
    except OSError as error:
        raise KdiffError("elf.unreadable", error.strerror or str(error), place=str(path)) from error


def read_bytes(data: bytes | mmap.mmap, path: str = "", twin: Object | None = None) -> Object:
    """Read an object that is in memory; `path` is for messages."""
    view = memoryview(data)
    elf_class, order = identify(view, path)
    layout = LAYOUTS[elf_class]
    endian = "<" if order == "little" else ">"
    header: Any = np.frombuffer(view, raw(layout, endian).header, 1)[0]
    if header["type"] != ET_REL:
        raise KdiffError(
            "elf.not_relocatable",
            f"ELF type {header['type']}, expected a relocatable object (ET_REL)",
            place=path,
        )
    if twin is not None and _same_headers(view, twin, header):
        sections, names, symtab = twin.sections, twin.section_names, twin.symtab
        other = differing(view, twin.data, sections).nonzero()[0]
    else:
        sections, names = _sections(view, layout, endian, header, path)
        symtab, twin, other = _only(sections, SHT_SYMTAB, path), None, np.zeros(0, "i8")
    kinds, loaded = sections["type"][other], sections["flags"] & SHF_ALLOC > 0
    if twin is not None and not np.count_nonzero((kinds == SHT_SYMTAB) | (kinds == SHT_SYMTAB_SHNDX)):
        symbols = twin.symbols
    else:
        symbols = _symbols(view, layout, endian, sections, symtab, path)
    tables = other[(kinds == SHT_RELA) | (kinds == SHT_REL)]
    if twin is not None and not np.count_nonzero(loaded[sections["info"][tables]]):
        relocations, bounds = twin.relocations, twin.relocation_bounds
    else:
        word, count = endian + layout.word, len(symbols)
        relocations, bounds = read_relocations(view, word, sections, symtab, count, path, loaded)
    relocations.freeze()
    for column in (sections, symbols, bounds):
        column.flags.writeable = False
    return Object(
        path=path,
        data=view,
        elf_class=elf_class,
        byte_order=order,
        machine=int(header["machine"]),
        flags=int(header["flags"]),
        sections=sections,
        symbols=symbols,
        relocations=relocations,
        relocation_bounds=bounds,
        symtab=symtab,
        section_names=names,
        symbol_names=int(sections["link"][symtab]) if symtab else 0,
    )


def _same_headers(view: memoryview, twin: Object, header: Any) -> bool:
    size = len(twin.sections) * int(header["shentsize"])
    return same_headers(view, twin.data, int(header["shoff"]), size)


def _sections(view: memoryview, layout: Layout, endian: str, header: Any, path: str) -> tuple[Column, int]:
    kind = raw(layout, endian).section
    start, count, names = int(header["shoff"]), int(header["shnum"]), int(header["shstrndx"])
    if start == 0 or header["shentsize"] != kind.itemsize or start + kind.itemsize > len(view):
        raise KdiffError("elf.truncated", "the section headers are missing or cut off", place=path)
    first = np.frombuffer(view, kind, 1, start)[0]
    if count == 0:
        count = int(first["size"])
    if names == SHN_XINDEX:
        names = int(first["link"])
    if count > (len(view) - start) // kind.itemsize:
        raise KdiffError("elf.truncated", f"{count} section headers do not fit the file", place=path)
    table = np.frombuffer(view, kind, count, start)
    whole = f"V{kind.itemsize}"  # numpy copies field by field, equal types too
    sections = table.view(whole).copy().view(kind) if kind == SECTION else table.astype(SECTION)
    sections[:1] = 0
    check_sections(sections, len(view), path)
    if names >= count or (names and sections["type"][names] != SHT_STRTAB):
        raise KdiffError("elf.names", f"section {names} is no table of section names", place=path)
    return sections, names


def _only(sections: Column, kind: int, path: str) -> int:
    found = (sections["type"] == kind).nonzero()[0]
    if len(found) > 1:
        raise KdiffError("elf.symtab", f"{len(found)} symbol tables, expected one", place=path)
    return int(found[0]) if len(found) else 0


def _symbols(
    view: memoryview, layout: Layout, endian: str, sections: Column, symtab: int, path: str
) -> Column:
    if not symtab:
        return np.zeros(1, SYMBOL)
    kind = raw(layout, endian).symbol
    section = sections[symtab]
    strings = int(section["link"])
    if section["size"] % kind.itemsize or strings >= len(sections) or sections["type"][strings] != SHT_STRTAB:
        raise KdiffError("elf.symtab", "the symbol table's size or string table is wrong", place=path)
    table = np.frombuffer(view, kind, int(section["size"]) // kind.itemsize, int(section["offset"]))
    symbols = np.zeros(max(len(table), 1), SYMBOL)
    if len(table) > 1:
        for column in ("name", "value", "size", "other"):
            symbols[column] = table[column]
        symbols["type"] = table["info"] & 0xF
        symbols["binding"] = table["info"] >> 4
        symbols["section"] = _section_indices(view, endian, sections, symtab, table["shndx"], path)
        symbols[0] = 0
    return symbols


def _section_indices(
    view: memoryview, endian: str, sections: Column, symtab: int, shndx: Column, path: str
) -> Column:
    indices = shndx.astype("u4")
    extended = shndx == SHN_XINDEX
    reserved = (shndx >= SHN_LORESERVE) & ~extended
    if np.count_nonzero(extended):
        tables = np.flatnonzero((sections["type"] == SHT_SYMTAB_SHNDX) & (sections["link"] == symtab))
        if len(tables) != 1 or sections["size"][tables[0]] // 4 < len(shndx):
            raise KdiffError("elf.xindex", "extended section indices without their table", place=path)
        wide = np.frombuffer(view, endian + "u4", len(shndx), int(sections["offset"][tables[0]]))
        indices[extended] = wide[extended]
    if np.count_nonzero((indices >= len(sections)) & ~reserved):
        raise KdiffError("elf.symtab", "a symbol names a section that does not exist", place=path)
    indices += reserved * np.uint32(RESERVED)
    return indices

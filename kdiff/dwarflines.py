# SPDX-License-Identifier: Apache-2.0
"""Which source line an instruction comes from: `.debug_line`, read with pyelftools.

In: an `Object` and its `Architecture`. Out: a `SourceLines`, empty where the object has no debug information.
In a relocatable object every section begins at 0, so addresses in its line table say nothing. Therefore all
sections are given addresses of their own here, and the relocations of the tables are stored with kdiff's own
rows, which know more architectures than the library does.
"""

from __future__ import annotations

import io
import posixpath
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from struct import error as StructError
from typing import Any

from elftools.common.exceptions import DWARFError, ELFError
from elftools.construct import ConstructError
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from kdiff.arch import Architecture
from kdiff.compound import records
from kdiff.elf.debug import uncompressed
from kdiff.elf.read import RESERVED, SHF_ALLOC, Object
from kdiff.errors import KdiffError

_NEEDED = (".debug_info", ".debug_abbrev", ".debug_line")
_HELPFUL = (".debug_str", ".debug_line_str", ".debug_str_offsets", ".debug_addr")
_STEP = 1 << 12
"""Between the addresses of two sections, so that the end of one is not the start of the next."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A place in the source, as the compiler wrote its name."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class SourceLines:
    """The line table of one object: for each section (index) offsets in order, and from there on the line."""

    sections: Mapping[int, tuple[tuple[int, ...], tuple[SourceLine | None, ...]]]

    def at(self, section: int, offset: int) -> SourceLine | None:
        """The line of the instruction at `offset` of a section."""
        offsets, found = self.sections.get(section, ((), ()))
        index = bisect_right(offsets, offset) - 1
        return found[index] if index >= 0 else None

    def within(self, section: int, start: int, size: int) -> Iterator[tuple[int, SourceLine]]:
        """(offset from `start`, line) of each row of the table for a part of a section."""
        for offset, line in zip(*self.sections.get(section, ((), ())), strict=True):
            if line is not None and start <= offset < start + size:
                yield offset - start, line


NONE = SourceLines({})
_BROKEN = (
    *(DWARFError, ELFError, ConstructError, KdiffError, StructError),
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, RecursionError),
)
"""What the readers raise over tables that make no sense."""


def source_lines(obj: Object, arch: Architecture) -> SourceLines:
    """Read the line table; what is broken in it is as good as missing: it only helps a person to read."""
    names = {obj.section_name(index): index for index in range(1, len(obj.sections))}
    if not all(name in names for name in _NEEDED):
        return NONE
    bases = _bases(obj)
    try:
        info = _dwarf(obj, arch, names, bases)
        rows = [row for unit in info.iter_CUs() for row in _rows(info, unit)]
    except _BROKEN:
        return NONE
    return _by_section(_shortened(rows), bases)


def _bases(obj: Object) -> dict[int, int]:
    """An address for each section that is loaded."""
    bases: dict[int, int] = {}
    at = _STEP
    for index, section in enumerate(obj.sections):
        if section["flags"] & SHF_ALLOC:
            bases[index] = at
            at += (int(section["size"]) // _STEP + 2) * _STEP
    return bases


def _dwarf(obj: Object, arch: Architecture, names: Mapping[str, int], bases: Mapping[int, int]) -> Any:
    sections = {}
    for name in (*_NEEDED, *_HELPFUL):
        if name in names:
            data = _relocated(obj, arch, names[name], bases)
            sections[name] = DebugSectionDescriptor(io.BytesIO(data), name, 0, len(data), 0)
    config = DwarfConfig(arch.byte_order == "little", arch.name, arch.elf_class // 8)
    fields = [name for name in signature(DWARFInfo).parameters if name.endswith("_sec")]
    return DWARFInfo(config, **{name: sections.get(f".{name.removesuffix('_sec')}") for name in fields})


def _relocated(obj: Object, arch: Architecture, section: int, bases: Mapping[int, int]) -> bytes:
    """A section's contents, unpacked, with its relocations stored."""
    data = bytearray(uncompressed(obj, section))
    low, high = obj.relocation_bounds[section : section + 2].tolist()
    rows = obj.symbols.tolist()

    def address(symbol: int) -> int:
        home = rows[symbol][6]
        return int(rows[symbol][1]) + (bases.get(home, 0) if home < RESERVED else 0)

    for record in records(obj, arch, obj.relocations[low:high].tolist()):
        howto, field = record.howto, slice(record.place, record.place + record.howto.size)
        raw = bytes(data[field])
        addend = howto.addend(raw, arch.byte_order) if record.implicit else record.addend
        value = address(record.symbol) + addend
        if record.minus is not None:
            value -= address(record.minus[0]) + record.minus[1]
        data[field] = howto.insert(raw, howto.value(value, record.place, arch.elf_class), arch.byte_order)
    return bytes(data)


_Row = tuple[int, SourceLine | None]


def _rows(info: Any, unit: Any) -> Iterator[_Row]:
    """(address, line from there on) in the order of the table; no line at the end of a sequence."""
    program = info.line_program_for_CU(unit)
    if program is None:
        return
    files = _Files(program)
    for entry in program.get_entries():
        state = entry.state
        if state is not None:
            line = None if state.end_sequence else SourceLine(files.name(state.file), int(state.line))
            yield int(state.address), line


class _Files:
    """The names of a line program's files, which DWARF 5 counts from 0 and its elders from 1."""

    def __init__(self, program: Any) -> None:
        header = program.header
        self._entries = header["file_entry"]
        self._first = 0 if header["version"] >= 5 else 1
        self._folders = [b""] * self._first + list(header["include_directory"] or ())
        self._known: dict[int, str] = {}

    def name(self, number: int) -> str:
        if number not in self._known:
            entry = self._entries[number - self._first]
            path = posixpath.join(self._folders[entry.dir_index], entry.name)
            self._known[number] = posixpath.normpath(path).decode("utf-8", "backslashreplace")
        return self._known[number]


def _shortened(rows: list[_Row]) -> list[_Row]:
    """Leave out the directory that all files have in common, which is that of one machine."""
    names = {line.file for _, line in rows if line is not None}
    absolute = {name for name in names if name.startswith("/")}
    root = posixpath.commonpath([posixpath.dirname(name) for name in absolute]) if absolute else ""
    short = {name: posixpath.relpath(name, root) if name in absolute else name for name in names}
    return [(at, line and replace(line, file=short[line.file])) for at, line in rows]


def _by_section(rows: list[_Row], bases: Mapping[int, int]) -> SourceLines:
    order = sorted(bases.items(), key=lambda each: each[1])
    starts = [start for _, start in order]
    found: dict[int, dict[int, SourceLine | None]] = {}
    for address, line in rows:
        at = bisect_right(starts, address) - 1
        if at < 0:
            continue
        section, start = order[at]
        offset = address - start
        lines = found.setdefault(section, {})
        if line is not None or offset not in lines:
            lines[offset] = line
    return SourceLines(
        {
            section: (tuple(sorted(lines)), tuple(lines[offset] for offset in sorted(lines)))
            for section, lines in found.items()
        }
    )

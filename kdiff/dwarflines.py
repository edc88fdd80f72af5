# SPDX-License-Identifier: Apache-2.0
"""Which source line an instruction comes from: `.debug_line`.

In: an `Object` and its `Architecture`. Out: a `SourceLines`, empty where the object has no debug information.
In a relocatable object every section begins at 0, so addresses in its line table say nothing. Therefore all
sections are given addresses of their own here, and the relocations of the table are stored as a linker does.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from kdiff.arch import Architecture
from kdiff.compound import records
from kdiff.elf.debug import uncompressed
from kdiff.elf.read import RESERVED, SHF_ALLOC, Object
from kdiff.errors import KdiffError
from kdiff.lineprogram import Row, lines
from kdiff.values import dataclass

_STEP = 1 << 12
"""Between the addresses of two sections, so that the end of one is not the start of the next."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A place in the source, as the compiler wrote its name."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class _Rows(NamedTuple):
    """The rows of one section in order: offsets, and from each on the file and line; a line of -1 is none."""

    offsets: list[int]
    files: list[int]
    lines: list[int]


@dataclass(frozen=True, slots=True)
class SourceLines:
    """The line table of one object, by section index."""

    sections: Mapping[int, _Rows]
    files: tuple[str, ...] = ()

    def at(self, section: int, offset: int) -> SourceLine | None:
        """The line of the instruction at `offset` of a section."""
        found = self.sections.get(section)
        index = -1 if found is None else bisect_right(found.offsets, offset) - 1
        return None if found is None or index < 0 else self._line(found, index)

    def within(self, section: int, start: int, size: int) -> Iterator[tuple[int, SourceLine]]:
        """(offset from `start`, line) of each row of the table for a part of a section."""
        found = self.sections.get(section, _NO_ROWS)
        first, last = (bisect_left(found.offsets, at) for at in (start, start + size))
        for index in range(first, last):
            line = self._line(found, index)
            if line is not None:
                yield found.offsets[index] - start, line

    def _line(self, rows: _Rows, index: int) -> SourceLine | None:
        line = rows.lines[index]
        return None if line < 0 else SourceLine(self.files[rows.files[index]], line)


_NO_ROWS = _Rows([], [], [])
NONE = SourceLines({})
_BROKEN = (KdiffError, ArithmeticError, LookupError, ValueError)
"""What is raised over tables that make no sense."""


def source_lines(obj: Object, arch: Architecture) -> SourceLines:
    """Read the line table; what is broken in it is as good as missing: it only helps a person to read."""
    names = {name: index for index, name in enumerate(obj.names_of_sections())}
    if ".debug_line" not in names:
        return NONE
    bases = _bases(obj)
    try:
        table, *strings = (
            _relocated(obj, arch, names[name], bases) if name in names else b""
            for name in (".debug_line", ".debug_str", ".debug_line_str")
        )
        found = lines(table, obj.byte_order, *strings)
        used = {file for _, file, line in found.rows if line >= 0}
        return SourceLines(_by_section(found.rows, bases), _shortened(found.files, used))
    except _BROKEN:
        return NONE


def _bases(obj: Object) -> dict[int, int]:
    """An address for each section that is loaded, ascending."""
    bases: dict[int, int] = {}
    at = _STEP
    for index in np.flatnonzero(obj.sections["flags"] & SHF_ALLOC).tolist():
        bases[index] = at
        at += (int(obj.sections["size"][index]) // _STEP + 2) * _STEP
    return bases


def _relocated(obj: Object, arch: Architecture, section: int, bases: Mapping[int, int]) -> bytes:
    """A section's contents, unpacked, with its relocations stored."""
    data = bytearray(uncompressed(obj, section))
    rows = obj.symbols.tolist()

    def address(symbol: int) -> int:
        home = rows[symbol][6]
        return int(rows[symbol][1]) + (bases.get(home, 0) if home < RESERVED else 0)

    for record in records(obj, arch, obj.records(section).rows()):
        howto, field = record.howto, slice(record.place, record.place + record.howto.size)
        raw = bytes(data[field])
        addend = howto.addend(raw, arch.byte_order) if record.implicit else record.addend
        value = address(record.symbol) + addend
        if record.minus is not None:
            value -= address(record.minus[0]) + record.minus[1]
        data[field] = howto.insert(raw, howto.value(value, record.place, arch.elf_class), arch.byte_order)
    return bytes(data)


def _shortened(files: list[str], used: set[int]) -> tuple[str, ...]:
    """Leave out the directory that all used files have in common, which is that of one machine."""
    absolute = {files[number] for number in used if files[number].startswith("/")}
    root = posixpath.commonpath([posixpath.dirname(name) for name in absolute]) if absolute else ""
    return tuple(posixpath.relpath(name, root) if name in absolute else name for name in files)


def _by_section(rows: list[Row], bases: Mapping[int, int]) -> dict[int, _Rows]:
    """Rows by section, one for each offset: the last one there that has a line, or else an end."""
    if not rows:
        return {}
    sections, starts = np.array(list(bases), "i8"), np.array(list(bases.values()), "i8")
    address, file, line = np.array(rows, "i8").T
    home = np.searchsorted(starts, address, side="right") - 1
    order = np.lexsort((np.where(line < 0, -1, np.arange(len(line))), address))
    last = np.append(address[order[1:]] != address[order[:-1]], True)
    order = order[last & (home[order] >= 0)]
    home = home[order]
    offset = address[order] - starts[home]
    cuts = np.flatnonzero(home[1:] != home[:-1]) + 1
    parts = zip(*(np.split(each[order], cuts) for each in (file, line)), np.split(offset, cuts), strict=True)
    return {
        int(sections[number]): _Rows(offsets.tolist(), files.tolist(), numbers.tolist())
        for number, (files, numbers, offsets) in zip(home[np.append(0, cuts)].tolist(), parts, strict=True)
    }

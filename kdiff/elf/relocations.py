# SPDX-License-Identifier: Apache-2.0
"""The relocations of an object as one column of records, REL and RELA alike.

In: the file, its sections and how many symbols it has. Out: `Relocations` in the order of sections and
offsets, checked; those of one place in the order of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdiff.elf.checks import check_relocations
from kdiff.errors import KdiffError

Column = NDArray[Any]

SHT_RELA, SHT_REL = 4, 9

AT_ONCE = 1 << 15
"""Relocations that are read in one step: their bytes stay in the processor's cache."""

COLUMNS = {"section": "u4", "offset": "u8", "type": "u4", "symbol": "u4", "addend": "i8", "implicit": "?"}
Raw = tuple[int, int, int, int, int, bool]
"""One record: a value of each column."""


class Relocations:
    """Records as columns, each in a piece: a kernel has a million, and most questions are about one column.

    `section`: the one whose contents the relocation changes. `implicit`: a REL record, addend in the field.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns

    @staticmethod
    def of_columns(*columns: Column) -> Relocations:
        """Records made of columns in the order of `COLUMNS`, of any type of integer."""
        pairs = zip(COLUMNS.items(), columns, strict=True)
        return Relocations({name: column.astype(kind) for (name, kind), column in pairs})

    @staticmethod
    def joined(parts: Sequence[Relocations]) -> Relocations:
        return Relocations({name: np.concatenate([each[name] for each in parts]) for name in COLUMNS})

    def __len__(self) -> int:
        return len(self._columns["section"])

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]

    def of(self, chosen: slice | Column) -> Relocations:
        """Some of the records: a range, or those of a column of numbers or of booleans."""
        return Relocations({name: column[chosen] for name, column in self._columns.items()})

    def rows(self) -> list[Raw]:
        """All records one by one."""
        return list(zip(*(column.tolist() for column in self._columns.values()), strict=True))

    def freeze(self) -> None:
        """Let nobody write to the columns any more."""
        for column in self._columns.values():
            column.flags.writeable = False

    def equals(self, other: Relocations) -> bool:
        return all(np.array_equal(self[name], other[name]) for name in COLUMNS)


def read_relocations(
    view: memoryview, word: str, sections: Column, symtab: int, symbols: int, path: str
) -> Relocations:
    """All relocations, sorted. `word`: byte order and size of an address, `<u8`; `symbols`: how many."""
    parts = [
        _records(view, word, sections, tables, kind, symtab, path)
        for kind in (SHT_RELA, SHT_REL)
        if len(tables := np.flatnonzero(sections["type"] == kind))
    ]
    if not parts:
        return Relocations.of_columns(*[np.zeros(0, kind) for kind in COLUMNS.values()])
    merged = Relocations.joined(parts) if len(parts) > 1 else parts[0]
    ordered = merged if _in_order(merged) else merged.of(np.lexsort((merged["offset"], merged["section"])))
    check_relocations(ordered["section"], ordered["offset"], ordered["symbol"], sections, symbols, path)
    return ordered


def _in_order(records: Relocations) -> bool:
    """Whether records are sorted by section and offset."""
    section, offset = records["section"], records["offset"]
    back = np.flatnonzero(offset[1:] < offset[:-1])
    return not np.any(section[1:] < section[:-1]) and bool(np.all(section[back] < section[back + 1]))


def bounds_of(section: Column, count: int) -> Column:
    """Where the records of each section begin, in a column that is in order; and where the last ones end."""
    ends = np.flatnonzero(section[1:] != section[:-1]) + 1
    ends = np.append(ends, len(section))[: len(section)]
    stops = np.zeros(count + 1, "i8")
    stops[section[ends - 1].astype("i8") + 1] = ends
    return np.maximum.accumulate(stops)


def _records(
    view: memoryview, word: str, sections: Column, tables: Column, kind: int, symtab: int,
    path: str,
) -> Relocations:  # fmt: skip
    """All records of one kind, table after table. `tables`: section indices."""
    size, narrow = int(word[2:]), word[1:] == "u4"
    width = 3 if kind == SHT_RELA else 2
    """Words of a record: offset, info, addend."""
    targets, sizes, starts = (sections[column][tables] for column in ("info", "size", "offset"))
    wrong = (sizes % (width * size) != 0) | (targets == 0) | (targets >= len(sections))
    wrong |= sections["link"][tables] != symtab
    if np.any(wrong):
        table = int(tables[np.argmax(wrong)])
        raise KdiffError("elf.relocations", f"relocation section {table} is malformed", place=path)
    if int(sizes.sum()) > len(view):
        raise KdiffError("elf.relocations", "relocation sections overlap", place=path)
    counts, stops = sizes.astype("i8") // (width * size), np.cumsum(sizes.astype("i8")) // (width * size)
    if np.any(starts % size):
        spans = zip(starts.tolist(), sizes.tolist(), strict=True)
        view = memoryview(b"".join([view[start : start + length] for start, length in spans]))
        starts = (stops - counts) * width * size
    words = np.frombuffer(view, word, len(view) // size)
    begins = starts.astype("i8") // size - width * (stops - counts)
    total = int(counts.sum())
    made = {name: np.empty(total, each) for name, each in COLUMNS.items() if name != "section"}
    made["implicit"].fill(kind == SHT_REL)
    if width == 2:
        made["addend"].fill(0)
    parts = [0, *(np.flatnonzero(np.diff(stops // AT_ONCE)) + 1).tolist(), len(counts)]
    for first, last in pairwise(parts):
        part = slice(int(stops[first] - counts[first]), int(stops[last - 1]))
        at = np.repeat(begins[first:last], counts[first:last])
        at += np.arange(width * part.start, width * part.stop, width)
        made["offset"][part], info = words[at], words[at + 1]
        made["type"][part], made["symbol"][part] = (info & 0xFF, info >> 8) if narrow else (
            info & 0xFFFFFFFF, info >> 32
        )  # fmt: skip
        if width == 3:
            made["addend"][part] = words[at + 2].astype(word[1:]).view(f"i{size}")
    return Relocations({"section": np.repeat(targets, counts), **made})

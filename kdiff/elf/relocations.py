# SPDX-License-Identifier: Apache-2.0
"""The relocations of an object as one column of records, REL and RELA alike.

In: the file, its sections and how many symbols it has. Out: `Relocations` in the order of sections and
offsets, checked; those of one place in the order of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_MOST_STRETCHES = 8
"""Pieces of a file that are read one by one: small tables lie apart if a tool has added sections."""
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
) -> tuple[Relocations, Column]:
    """All relocations, sorted, and where those of each section begin.

    `word`: byte order and size of an address, `<u8`; `symbols`: how many.
    """
    kinds, counts = sections["type"], np.zeros(len(sections), "i8")
    parts = [
        _records(view, word, sections, tables, kind, symtab, path, counts)
        for kind in (SHT_RELA, SHT_REL)
        if len(tables := np.flatnonzero(kinds == kind))
    ]
    bounds = np.zeros(len(sections) + 1, "i8")
    np.cumsum(counts, out=bounds[1:])
    if not parts:
        return Relocations.of_columns(*[np.zeros(0, kind) for kind in COLUMNS.values()]), bounds
    merged = Relocations.joined(parts) if len(parts) > 1 else parts[0]
    ordered = merged if _in_order(merged) else merged.of(_order(merged))
    check_relocations(ordered["offset"], ordered["symbol"], bounds, sections, symbols, path)
    return ordered, bounds


def _in_order(records: Relocations) -> bool:
    """Whether records are sorted by section and offset."""
    section, offset = records["section"], records["offset"]
    if (section[1:] < section[:-1]).any():
        return False
    back = (offset[1:] < offset[:-1]).nonzero()[0]
    return bool((section[back] < section[back + 1]).all())


def _order(records: Relocations) -> Column:
    """How to sort records by section and offset. Most are in order, which sorting by one key makes use of."""
    section, offset = records["section"], records["offset"]
    if not _fit_key(section, offset):
        return np.lexsort((offset, section))
    return np.argsort(section.astype("u8") << 40 | offset, kind="stable")


def _records(
    view: memoryview, word: str, sections: Column, tables: Column, kind: int, symtab: int,
    path: str, per_section: Column,
) -> Relocations:  # fmt: skip
    """All records of one kind, table after table. `tables`: section indices.

    How many there are is added to `per_section`.
    """
    size = int(word[2:])
    step = size * (3 if kind == SHT_RELA else 2)
    """Bytes of a record: offset, info, addend."""
    targets, sizes, starts, links = (sections[each][tables] for each in ("info", "size", "offset", "link"))
    wrong = (sizes % step != 0) | (targets == 0) | (targets >= len(sections)) | (links != symtab)
    if wrong.any():
        table = int(tables[np.argmax(wrong)])
        raise KdiffError("elf.relocations", f"relocation section {table} is malformed", place=path)
    if int(sizes.sum()) > len(view):
        raise KdiffError("elf.relocations", "relocation sections overlap", place=path)
    counts = (sizes // step).astype("i8")
    np.add.at(per_section, targets, counts)
    made = {name: np.empty(int(counts.sum()), each) for name, each in COLUMNS.items() if name != "section"}
    made["implicit"].fill(kind == SHT_REL)
    section, at = np.repeat(targets, counts), 0
    for raw in _stretches(view, starts.tolist(), sizes.tolist()):
        for begin in range(0, len(raw), step * AT_ONCE):
            words = np.frombuffer(raw[begin : begin + step * AT_ONCE], word).reshape(-1, step // size)
            if len(words) == len(section):
                words = _ordered(words, section)
            _take(words, word[0], {name: column[at : at + len(words)] for name, column in made.items()})
            at += len(words)
    return Relocations({"section": section, **made})


def _ordered(words: Column, section: Column) -> Column:
    """All records of a kind by offset in their sections, if those are in order: cheaper than by columns."""
    offset = words[:, 0]
    mixed = (offset[1:] < offset[:-1]) & (section[1:] == section[:-1])
    if not mixed.any() or (section[1:] < section[:-1]).any() or not _fit_key(section, offset):
        return words
    found: Column = words[np.argsort(section.astype("u8") << 40 | offset, kind="stable")]
    return found


def _fit_key(section: Column, offset: Column) -> bool:
    """Whether section and offset fit one number."""
    return not (int(section.max()) >> 23 or int(offset.max()) >> 40)


def _stretches(view: memoryview, starts: list[int], sizes: list[int]) -> list[memoryview]:
    """The bytes of all tables in a few pieces; they are joined where they do not lie side by side."""
    edges = [n for n in range(1, len(starts)) if starts[n] != starts[n - 1] + sizes[n - 1]]
    if len(edges) >= _MOST_STRETCHES:
        return [memoryview(b"".join([view[at : at + size] for at, size in zip(starts, sizes, strict=True)]))]
    spans = zip([0, *edges], [*edges, len(starts)], strict=True)
    return [view[starts[first] : starts[last - 1] + sizes[last - 1]] for first, last in spans]


def _take(words: Column, order: str, made: Mapping[str, Column]) -> None:
    """Read some records into their columns."""
    made["offset"][:] = words[:, 0]
    if words.itemsize == 4:
        made["type"][:], made["symbol"][:] = words[:, 1] & 0xFF, words[:, 1] >> 8
    else:
        halves, low = words.view(f"{order}u4"), 2 if order == "<" else 3
        made["type"][:], made["symbol"][:] = halves[:, low], halves[:, 5 - low]
    if words.shape[1] == 3:
        made["addend"][:] = words[:, 2].view(f"{order}i{words.itemsize}")
    else:
        made["addend"].fill(0)

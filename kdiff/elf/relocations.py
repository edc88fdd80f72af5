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
        if isinstance(chosen, slice):
            return Relocations({name: column[chosen] for name, column in self._columns.items()})
        numbers = chosen.nonzero()[0] if chosen.dtype == bool else chosen
        return Relocations({name: column.take(numbers) for name, column in self._columns.items()})

    def rows(self, chosen: slice = slice(None)) -> list[Raw]:
        """The records of a range one by one, or all."""
        return list(zip(*[column[chosen].tolist() for column in self._columns.values()], strict=True))

    def freeze(self) -> None:
        """Let nobody write to the columns any more."""
        for column in self._columns.values():
            column.flags.writeable = False

    def equals(self, other: Relocations) -> bool:
        return all(np.array_equal(self[name], other[name]) for name in COLUMNS)


def read_relocations(
    view: memoryview, word: str, sections: Column, symtab: int, symbols: int, path: str, wanted: Column
) -> tuple[Relocations, Column]:
    """The relocations of some sections, sorted, and where those of each section begin.

    `word`: byte order and size of an address, `<u8`; `symbols`: how many; `wanted`: by section, whether those
    that change it are. The tables of the others are checked, but not read.
    """
    kinds, counts = sections["type"], np.zeros(len(sections), "i8")
    parts = [
        _records(view, word, sections, tables, kind, symtab, path, counts, wanted)
        for kind in (SHT_RELA, SHT_REL)
        if len(tables := (kinds == kind).nonzero()[0])
    ]
    bounds = np.zeros(len(sections) + 1, "i8")
    counts.cumsum(out=bounds[1:])
    if not parts:
        return Relocations.of_columns(*[np.zeros(0, kind) for kind in COLUMNS.values()]), bounds
    found = Relocations.joined(parts) if len(parts) > 1 else parts[0]
    order = _order(found["section"], found["offset"])
    if order is not None:
        found = found.of(order)
    section, offset, symbol = (found[name] for name in ("section", "offset", "symbol"))
    check_relocations(section, offset, symbol, bounds, sections, symbols, path)
    return found, bounds


def _order(section: Column, offset: Column) -> Column | None:
    """How to sort records by section and offset, None if they are. Most are, which one key makes use of."""
    if not len(section):
        return None
    if int(section.max()) >> 23 or int(offset.max()) >> 40:
        return np.lexsort((offset, section))
    key = section.astype("u8") << 40 | offset
    return key.argsort(kind="stable") if np.count_nonzero(key[1:] < key[:-1]) else None


def _records(
    view: memoryview, word: str, sections: Column, tables: Column, kind: int, symtab: int,
    path: str, per_section: Column, wanted: Column,
) -> Relocations:  # fmt: skip
    """The records of one kind of wanted sections, table after table. `tables`: section indices.

    How many there are is added to `per_section`.
    """
    size = int(word[2:])
    step = size * (3 if kind == SHT_RELA else 2)
    """Bytes of a record: offset, info, addend."""
    targets, sizes, starts, links = (sections[each][tables] for each in ("info", "size", "offset", "link"))
    counts = (sizes // step).astype("i8")
    wrong = (counts * step != sizes) | (targets == 0) | (targets >= len(sections)) | (links != symtab)
    if np.count_nonzero(wrong):
        table = int(tables[np.argmax(wrong)])
        raise KdiffError("elf.relocations", f"relocation section {table} is malformed", place=path)
    if int(sizes.sum()) > len(view):
        raise KdiffError("elf.relocations", "relocation sections overlap", place=path)
    chosen = wanted.take(targets)
    targets, sizes, starts, counts = (each[chosen] for each in (targets, sizes, starts, counts))
    per_section += np.bincount(targets, counts, len(per_section)).astype("i8")
    section, at = targets.repeat(counts), 0
    made = {name: np.empty(len(section), each) for name, each in COLUMNS.items() if name != "section"}
    made["implicit"].fill(kind == SHT_REL)
    for stretch in _stretches(view, word, starts, sizes):
        rows = stretch.reshape(-1, step // size)
        for begin in range(0, len(rows), AT_ONCE):
            words = rows[begin : begin + AT_ONCE]
            _take(words, word[0], {name: column[at : at + len(words)] for name, column in made.items()})
            at += len(words)
    return Relocations({"section": section, **made})


def _stretches(view: memoryview, word: str, starts: Column, sizes: Column) -> list[Column]:
    """The words of all tables in a few pieces; they are joined where they do not lie side by side."""
    ends, size = starts + sizes, int(word[2:])
    edges = ((starts[1:] != ends[:-1]).nonzero()[0] + 1).tolist()
    if not len(starts):
        return []
    if len(edges) < _MOST_STRETCHES:
        spans = zip([0, *edges], [*edges, len(starts)], strict=True)
        return [np.frombuffer(view[starts[first] : ends[last - 1]], word) for first, last in spans]
    if np.count_nonzero(starts % size):
        parts = zip(starts.tolist(), ends.tolist(), strict=True)
        return [np.frombuffer(b"".join([view[start:end] for start, end in parts]), word)]
    counts = (sizes // size).astype("i8")
    ahead = counts.cumsum() - counts
    places = ((starts // size).astype("i8") - ahead).repeat(counts)
    places += np.arange(len(places))
    return [np.frombuffer(view[: len(view) // size * size], word).take(places)]


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

# SPDX-License-Identifier: Apache-2.0
"""The relocations of an object as one column of records, REL and RELA alike.

In: the file, its sections and how many symbols it has. Out: `RELOCATION` records in the order of sections and
offsets, checked; those of one place in the order of the file.
"""

from __future__ import annotations

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

RELOCATION = np.dtype(
    {
        "names": ("section", "offset", "type", "symbol", "addend", "implicit"),
        "formats": ("u4", "u8", "u4", "u4", "i8", "?"),
        "offsets": (16, 0, 20, 24, 8, 28),
        "itemsize": 32,
    }
)
"""`section`: the one whose contents the relocation changes. `implicit`: a REL record, addend in the field."""


def read_relocations(
    view: memoryview, word: str, sections: Column, symtab: int, symbols: int, path: str
) -> Column:
    """All relocations, sorted. `word`: byte order and size of an address, `<u8`; `symbols`: how many."""
    parts = [
        _records(view, word, sections, tables, kind, symtab, path)
        for kind in (SHT_RELA, SHT_REL)
        if len(tables := np.flatnonzero(sections["type"] == kind))
    ]
    if not parts:
        return np.zeros(0, RELOCATION)
    merged = np.concatenate(parts) if len(parts) > 1 else parts[0]
    ordered = merged if _in_order(merged) else merged[np.lexsort((merged["offset"], merged["section"]))]
    check_relocations(ordered, sections, symbols, path)
    return ordered


def _in_order(records: Column) -> bool:
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
) -> Column:  # fmt: skip
    """All records of one kind, table after table. `tables`: section indices."""
    order, narrow = word[0], word[1:] == "u4"
    halves = [("type", f"{order}u4"), ("symbol", f"{order}u4")]
    info = [("info", word)] if narrow else halves if order == "<" else halves[::-1]
    raw = np.dtype(
        [("offset", word), *info, *([("addend", word.replace("u", "i"))] if kind == SHT_RELA else [])]
    )
    headers = sections[tables]
    targets, sizes = headers["info"], headers["size"]
    wrong = (sizes % raw.itemsize != 0) | (targets == 0) | (targets >= len(sections))
    wrong |= headers["link"] != symtab
    if np.any(wrong):
        table = int(tables[np.argmax(wrong)])
        raise KdiffError("elf.relocations", f"relocation section {table} is malformed", place=path)
    if int(sizes.sum()) > len(view):
        raise KdiffError("elf.relocations", "relocation sections overlap", place=path)
    counts = sizes.astype("i8") // raw.itemsize
    records = np.empty(int(counts.sum()), RELOCATION)
    records["section"] = np.repeat(targets, counts)
    records["implicit"] = kind == SHT_REL
    stops = np.cumsum(counts)
    spans = list(zip(headers["offset"].tolist(), sizes.tolist(), strict=True))
    parts = [0, *(np.flatnonzero(np.diff(stops // AT_ONCE)) + 1).tolist(), len(spans)]
    for first, last in pairwise(parts):
        found = np.frombuffer(
            b"".join([view[start : start + size] for start, size in spans[first:last]]), raw
        )
        part = records[stops[first] - counts[first] : stops[last - 1]]
        part["offset"] = found["offset"]
        if narrow:
            part["type"], part["symbol"] = found["info"] & 0xFF, found["info"] >> 8
        else:
            part["type"], part["symbol"] = found["type"], found["symbol"]
        part["addend"] = found["addend"] if kind == SHT_RELA else 0
    return records

# SPDX-License-Identifier: Apache-2.0
"""References to the start of a function, which depend on its name only and not on what it does.

In: both sides of a comparison. Out: a `Starts`: which sections are one function that its names tell for sure,
where it begins, and which records reach that place exactly. However such a function changes, who calls it or
holds its address goes on as before: to him it is the same function.
"""

from __future__ import annotations

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import Column
from kdiff.sides import Side

_LONGEST_OPCODE = 2
"""Bytes in front of a branch's displacement that are looked at."""


class Starts:
    """`pre`, `post`: by section the offset at which its function begins, -1 where it is not a single one."""

    def __init__(self, pre: Side, post: Side, to_post: Column, to_pre: Column, same_names: Column) -> None:
        ours, theirs = _single(pre), _single(post)
        same = (to_post > 0) & same_names & (ours == theirs[to_post])
        self.pre: Column = np.where(same, ours, -1)
        self.post: Column = np.where(to_pre >= 0, self.pre[to_pre], -1)
        self._known: dict[tuple[bool, int], bool] = {}
        self._pre = pre

    def among(self, side: Side, records: Column) -> Column:
        """Those of the records that reach the start of such a function and nothing else."""
        starts = self.pre if side is self._pre else self.post
        some = records[starts[side.target[records]] >= 0].tolist()
        return np.array([each for each in some if self._reaches(side, each, starts)], "i8")

    def _reaches(self, side: Side, record: int, starts: Column) -> bool:
        key = side is self._pre, record
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _reaches(side, record, int(starts[side.target[record]]))
        return found


def _single(side: Side) -> Column:
    """By section: where the only function begins that it holds; -1 where that is not certain."""
    symbols, homes = side.obj.symbols, side.home
    count = len(side.obj.sections)
    named = side.named & ~side.label
    sized = np.flatnonzero(named & side.defined & (symbols["size"] > 0) & side.code[homes])
    sized = sized[~_ahead(side, sized)]
    values = symbols["value"][sized].astype("i8")
    start = np.full(count, -1, "i8")
    start[homes[sized]] = values
    often = np.bincount(side.symbol_ids[named])
    doubtful = (start[homes[sized]] != values) | (often[side.symbol_ids[sized]] > 1)
    start[homes[sized[doubtful]]] = -1
    start[side.fragment | side.pieces | side.is_table] = -1
    return start


def _ahead(side: Side, sized: Column) -> Column:
    """Which of these symbols name what lies in front of a function, and are named after it (`CodeAhead`)."""
    marks, names, homes = side.habits.ahead, side.symbol_names, side.home[sized]
    found = np.zeros(len(sized), bool)
    shared = np.flatnonzero(np.bincount(homes, minlength=len(side.obj.sections))[homes] > 1)
    values = side.obj.symbols["value"][sized].tolist()
    ends = (side.obj.symbols["value"] + side.obj.symbols["size"])[sized].tolist()
    rows = list(zip(shared.tolist(), homes[shared].tolist(), sized[shared].tolist(), strict=True))
    there = {(home, names[symbol]): values[at] for at, home, symbol in rows}
    for at, home, symbol in rows:
        name = names[symbol]
        found[at] = any(
            name.startswith(mark) and there.get((home, name[len(mark) :])) == ends[at] for mark in marks
        )
    return found


def _reaches(side: Side, record: int, start: int) -> bool:
    records = side.records
    section, offset = int(records.section[record]), int(records.offset[record])
    howto, row = side.arch.howtos.get(int(records.type[record])), side.rows.get(section)
    if howto is None or not howto.invertible or records.implicit[record]:
        return False
    if row is not None and (row.from_start or row.ahead or row.counts):
        return False
    share = 0
    if side.code[section]:
        share = -howto.size if howto.end_relative else howto.bias
        if howto.end_relative and not is_branch(side.arch, side.obj.contents(section), offset, howto.size):
            return False
    value = int(side.obj.symbols["value"][records.symbol[record]])
    return value + int(records.addend[record]) - share == start


def is_branch(arch: Architecture, data: memoryview, offset: int, size: int) -> bool:
    """Whether the field is the displacement of a branch, behind which its instruction ends."""
    for width in range(1, min(_LONGEST_OPCODE, offset) + 1):
        found = arch.branch(bytes(data[offset - width : offset + size]))
        if found is not None and (found.field_offset, found.length) == (width, width + size):
            return True
    return False

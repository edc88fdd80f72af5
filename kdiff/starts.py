# SPDX-License-Identifier: Apache-2.0
"""References to the start of a function, which depend on its name only and not on what it does.

In: both sides of a comparison. Out: a `Starts`: which sections are one function that its names tell for sure,
where it begins, and which records reach that place exactly. However such a function changes, who calls it or
holds its address goes on as before: to him it is the same function.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import Column
from kdiff.howtos import howtos_of
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
        self._known: dict[int, Column] = {}
        self._pre = pre

    def among(self, side: Side, records: Column) -> Column:
        """Those of the records that reach the start of such a function and nothing else."""
        number = 0 if side is self._pre else 1
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = _reaching(side, self.post if number else self.pre)
        some: Column = records[known[records] != _NOT]
        open_ = some[known[some] == _IF_BRANCH]
        if len(open_):
            known[open_] = _branches(side, open_)
            some = some[known[some] == _SURELY]
        return some


_NOT, _SURELY, _IF_BRANCH = 0, 1, 2


def _single(side: Side) -> Column:
    """By section: where the only function begins that it holds; -1 where that is not certain."""
    symbols, homes = side.stack.symbols, side.home
    count = len(side.stack.sections)
    named = side.named & ~side.label
    sized = (named & side.defined & (symbols["size"] > 0) & side.code[homes]).nonzero()[0]
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
    marks, name_of, homes = side.habits.ahead, side.symbol_name, side.home[sized]
    found = np.zeros(len(sized), bool)
    shared = (np.bincount(homes, minlength=len(side.stack.sections))[homes] > 1).nonzero()[0]
    values = side.stack.symbols["value"][sized].tolist()
    ends = (side.stack.symbols["value"] + side.stack.symbols["size"])[sized].tolist()
    rows = list(zip(shared.tolist(), homes[shared].tolist(), sized[shared].tolist(), strict=True))
    there = {(home, name_of(symbol)): values[at] for at, home, symbol in rows}
    for at, home, symbol in rows:
        name = name_of(symbol)
        found[at] = any(
            name.startswith(mark) and there.get((home, name[len(mark) :])) == ends[at] for mark in marks
        )
    return found


def _reaching(side: Side, starts: Column) -> Column:
    """By record: whether it reaches the start of such a function, or does so if its field is a branch's."""
    records, found = side.records, np.zeros(len(side.target), "u1")
    straight = np.ones(len(starts), bool)
    straight[[index for index, row in side.rows.items() if row.indirect]] = False
    some = (starts >= 0).take(side.target).nonzero()[0]
    some = some[straight.take(records.section.take(some)) & ~records.implicit.take(some)]
    howtos, code = howtos_of(side.arch), side.code.take(records.section.take(some))
    kind = howtos.number(records.type.take(some))
    value = side.stack.symbols["value"].astype("i8").take(records.symbol.take(some))
    place = value + records.addend.take(some) - howtos.share.take(kind) * code
    fits = howtos.invertible.take(kind) & (place == starts.take(side.target.take(some)))
    found[some[fits]] = np.where(code & howtos.end_relative.take(kind), _IF_BRANCH, _SURELY)[fits]
    return found


def _branches(side: Side, rows: Column) -> list[int]:
    """For each record, whether its field is a branch's."""
    records, sizes = side.records, howtos_of(side.arch).size
    places = (records.section[rows], records.offset[rows], sizes[records.type[rows]])
    return [
        _SURELY if is_branch(side.arch, side.stack.contents(section), offset, size) else _NOT
        for section, offset, size in zip(*(each.tolist() for each in places), strict=True)
    ]


def is_branch(arch: Architecture, data: memoryview, offset: int, size: int) -> bool:
    """Whether the field is the displacement of a branch, behind which its instruction ends."""
    stop = offset + size
    for width in range(1, min(_LONGEST_OPCODE, offset) + 1):
        if _is_displacement(arch, bytes(data[offset - width : stop]), width, width + size):
            return True
    return False


@lru_cache(maxsize=1 << 12)
def _is_displacement(arch: Architecture, code: bytes, field: int, length: int) -> bool:
    found = arch.branch(code)
    return found is not None and (found.field_offset, found.length) == (field, length)

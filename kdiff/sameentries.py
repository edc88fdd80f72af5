# SPDX-License-Identifier: Apache-2.0
"""Whether the table entries about atoms of two large objects say the same.

In: `Pairs`, which symbols are alike, and which atoms are the same so far. Out: fewer of them. Tables are laid
side by side, by the symbols that their entries name; whose an entry is, is asked only for those that then do
not plainly say the same.
"""

from __future__ import annotations

import numpy as np

from kdiff.atoms import Atoms
from kdiff.counterparts import Pairs
from kdiff.elf.read import Column
from kdiff.entries import Table
from kdiff.meaning import mean_the_same
from kdiff.reach import reach
from kdiff.rows import aligned, rows

NOBODY = (1 << 32) - 1
"""No number of a symbol."""
NONE = np.zeros(0, "i8")
Runs = list[tuple[int, int, int]]
"""Entries side by side: (place in pre, in post, how many)."""


def drop_different_entries(pairs: Pairs, partner: Column, sure: Column, equal: Column, same: Column) -> None:
    """Take from `same`, of pre atoms, those with entries that differ.

    `partner`: of pre symbols the post one, -1: none; `sure`: `NOBODY` where a record that names it may mean
    something else. `equal`: of pre atoms, whether they hold the same bytes.
    """
    work = _Entries(pairs, partner, sure, equal)
    for number, table in pairs.pre.tables.items():
        work.drop_different(same, table, pairs.post.tables.get(int(pairs.sections[number])))
    counterparts = set(pairs.sections[list(pairs.pre.tables)].tolist())
    for number, table in pairs.post.tables.items():
        if number not in counterparts and table.row.compared:
            _drop(same, work.to_pre[table.owner[table.owner >= 0]])


def doubtful(pairs: Pairs, sure: Column, one: slice, other: slice, apart: int) -> Column:
    """Which of as many records of both are not plainly the same; `apart`: what offsets differ by."""
    ours, theirs = pairs.pre.obj.relocations.of(one), pairs.post.obj.relocations.of(other)
    differ = theirs["offset"] - ours["offset"] != np.uint64(apart % (1 << 64))
    differ |= ours["type"] != theirs["type"]
    differ |= ours["addend"] != theirs["addend"]
    differ |= sure[pairs.pre.symbol[one]] != pairs.post.symbol[other]
    return np.flatnonzero(differ)


def _drop(same: Column, atoms: Column) -> None:
    same[atoms[atoms >= 0]] = False


class _Entries:
    def __init__(self, pairs: Pairs, partner: Column, sure: Column, equal: Column) -> None:
        self.pairs, self.pre, self.post = pairs, pairs.pre, pairs.post
        self.partner, self.sure, self.equal, self.to_pre = partner, sure, equal, pairs.to_pre
        self._known: dict[int, Runs] = {}

    def drop_different(self, same: Column, ours: Table, theirs: Table | None) -> None:
        """Compare one table."""
        if not ours.row.compared:
            return
        if theirs is None or theirs.row.entry_size != ours.row.entry_size:
            _drop(same, ours.owner)
            if theirs is not None:
                _drop(same, self.to_pre[theirs.owner[theirs.owner >= 0]])
            return
        asked = same & self._not_plain(ours, theirs)
        if asked.any():
            self._compare(same, asked, ours, theirs)

    def _compare(self, same: Column, asked: Column, ours: Table, theirs: Table) -> None:
        """Atom by atom."""
        tables = ours, theirs
        there = np.zeros(len(self.post.start), bool)
        counterparts = self.pairs.to_post[asked]
        there[counterparts[counterparts >= 0]] = True
        orders, listed, groups, speaking = [], [], [], []
        for side, table, part in zip((self.pre, self.post), tables, (asked, there), strict=True):
            entries = side.owned.about(part).get(table.section, NONE)
            owners = table.owners(entries)
            order = np.argsort(owners, kind="stable")
            orders.append(entries[order])
            groups.append(owners[order])
            low, high = table.spans(orders[-1])
            listed.append(table.records_of(orders[-1]))
            speaking.append(np.repeat(groups[-1], high - low))
        to_post = self.pairs.to_post
        alike, one, other, atoms = rows(groups[0], groups[1], to_post, asked)
        same &= alike
        mine, yours = (
            _contents(self.pre, ours)[orders[0][one]],
            _contents(self.post, theirs)[orders[1][other]],
        )
        for at, size in ours.row.ignored:
            mine[:, at : at + size] = yours[:, at : at + size] = 0
        same[atoms[np.any(mine != yours, axis=1)]] = False
        alike, one, other, atoms = rows(speaking[0], speaking[1], to_post, asked)
        same &= alike
        step = ours.row.entry_size
        before, after = reach(self.pre, listed[0][one]), reach(self.post, listed[1][other])
        differ = (before.offset % step != after.offset % step) | ~mean_the_same(
            self.pairs, self.equal, before, after
        )
        same[atoms[differ]] = False

    def _not_plain(self, ours: Table, theirs: Table) -> Column:
        """The pre atoms that have entries which do not plainly say the same, with the tables side by side."""
        step = ours.row.entry_size
        data = _contents(self.pre, ours), _contents(self.post, theirs)
        open_, open_there = np.ones(ours.count, bool), np.ones(theirs.count, bool)
        offsets = self.pre.obj.relocations["offset"], self.post.obj.relocations["offset"]
        one, other = [], []
        for i, j, count in self._runs(ours, theirs):
            low, high = _span(ours, i, count)
            begin, end = _span(theirs, j, count)
            if high - low != end - begin:
                continue
            apart = (j - i) * step
            asked = doubtful(self.pairs, self.sure, slice(low, high), slice(begin, end), apart)
            if np.any(offsets[1][begin + asked] != offsets[0][low + asked] + np.uint64(apart % (1 << 64))):
                continue
            differ = data[0][i : i + count] != data[1][j : j + count]
            for at, size in ours.row.ignored:
                differ[:, at : at + size] = False
            open_[i : i + count] = differ.any(axis=1) if differ.any() else False
            open_there[j : j + count] = False
            one.append(low + asked)
            other.append(begin + asked)
        mine, yours = np.concatenate([NONE, *one]), np.concatenate([NONE, *other])
        if len(mine):
            alike = mean_the_same(self.pairs, self.equal, reach(self.pre, mine), reach(self.post, yours))
            open_[ours.entry_of(mine[~alike])] = True
            open_there[theirs.entry_of(yours[~alike])] = True  # it may be about something else
        found = np.zeros(len(self.pre.start), bool)
        owners, others = ours.owners(np.flatnonzero(open_)), theirs.owners(np.flatnonzero(open_there))
        for atoms in (owners, self.to_pre[others[others >= 0]]):
            found[atoms[atoms >= 0]] = True
        return found

    def _runs(self, ours: Table, theirs: Table) -> Runs:
        """Entries of both that may be about the same atoms, side by side."""
        if ours.leader is not None and theirs.leader is not None:
            return self._runs(ours.leader, theirs.leader)
        if ours.section not in self._known:
            names = ours.names, theirs.names
            if ours.row.ahead or names[0] is None or names[1] is None:
                keys = np.where(ours.owner >= 0, self.pairs.to_post[ours.owner], -1), theirs.owner
            else:
                keys = self.partner[self.pre.symbol[names[0]]], self.post.symbol[names[1]].astype("i8")
            self._known[ours.section] = aligned(*keys)
        return self._known[ours.section]


def _span(table: Table, first: int, count: int) -> tuple[int, int]:
    """Where the records of entries begin and end, among those of the object."""
    low, high = table.spans(np.array([first, first + count - 1]))
    return int(low[0]), int(high[1])


def _contents(side: Atoms, table: Table) -> Column:
    step = table.row.entry_size
    data = bytes(side.obj.contents(table.section)).ljust(step * table.count, b"\0")
    return np.frombuffer(data, "u1")[: step * table.count].reshape(table.count, step)

# SPDX-License-Identifier: Apache-2.0
"""Which atoms of two large objects are the same thing, and which of them say the same: all of it in columns.

In: two `Atoms`. Out: a `Matched`. Two that are paired are equal if size, symbols, bytes and records are, and
the table entries about them. All of it is compared in place, in runs that lie side by side in both files;
only rows that differ there are looked at closely, and atoms whose rows do not lie side by side are looked up.
"""

from __future__ import annotations

import numpy as np

from kdiff.atoms import Atoms, Table
from kdiff.counterparts import pair, partners
from kdiff.elf.read import SHT_NOBITS, Column
from kdiff.meaning import mean_the_same
from kdiff.reach import reach, rows_of, sources
from kdiff.rows import aligned, rows, runs
from kdiff.values import dataclass

NOBODY = (1 << 32) - 1
"""No number of a symbol."""


@dataclass(frozen=True, slots=True)
class Matched:
    """`to_post`: post atom of each pre atom, `to_pre` the other way, -1: none. `same`: of pre atoms.

    `sections`: post section of each pre section.
    """

    to_post: Column
    to_pre: Column
    same: Column
    sections: Column


def match(pre: Atoms, post: Atoms) -> Matched:
    """Pair and compare the atoms of two objects."""
    return _Match(pre, post).result()


class _Match:
    def __init__(self, pre: Atoms, post: Atoms) -> None:
        self.pre, self.post = pre, post
        self.pairs = pair(pre, post)
        self.sections, self.to_post, self.to_pre = self.pairs.sections, self.pairs.to_post, self.pairs.to_pre
        self.partner = partners(self.pairs)

    def result(self) -> Matched:
        same = self._same_headers()
        self._drop_different_contents(same)
        self.equal = same.copy()
        self._drop_different_symbols(same)
        self.steady = self._steady()
        self.sure = self._sure()
        self._drop_different_records(same)
        for number, table in self.pre.tables.items():
            self._drop_different_entries(same, table, self.post.tables.get(int(self.sections[number])))
        counterparts = set(self.sections[list(self.pre.tables)].tolist())
        for number, table in self.post.tables.items():
            if number not in counterparts and table.row.compared:
                owners = self.to_pre[table.owner[table.owner >= 0]]
                same[owners[owners >= 0]] = False
        return Matched(self.to_post, self.to_pre, same, self.sections)

    # What is equal -----------------------------------------------------------------------------------

    def _same_headers(self) -> Column:
        pre, post = self.pre, self.post
        there = np.maximum(self.to_post, 0)
        same: Column = (self.to_post >= 0) & (pre.end - pre.start == post.end[there] - post.start[there])
        ours, theirs = pre.obj.sections, post.obj.sections
        alike = self.sections > 0
        for column in ("type", "flags", "entsize"):
            alike &= ours[column] == theirs[column][self.sections]
        alike &= (ours["align"] == theirs["align"][self.sections]) | (pre.count > 1)
        same &= alike[pre.section] & (self.sections[pre.section] == post.section[there])
        return same

    def _steady(self) -> Column:
        """Whether a section and its pair are the same atoms at the same places, with as many records."""
        pre, post = self.pre, self.post
        there = self.sections[pre.section]
        moved = self.to_post != post.first[there] + np.arange(len(pre.start)) - pre.first[pre.section]
        counterpart = np.maximum(self.to_post, 0)
        moved |= pre.start - pre.base[pre.section] != post.start[counterpart] - post.base[there]
        bounds = [side.obj.relocation_bounds[:-1] for side in (pre, post)]
        moved |= pre.begin - bounds[0][pre.section] != post.begin[counterpart] - bounds[1][there]
        steady: Column = (self.sections > 0) & (pre.count == post.count[self.sections])
        steady[pre.section[moved]] = False
        return steady

    def _sure(self) -> Column:
        """`partner`, but `NOBODY` where a record that names the symbol may mean something else."""
        pre = self.pre
        texts = pre.merged[pre.home] & ~self.equal[pre.first[pre.home]]
        wrong = (pre.home > 0) & (pre.is_table[pre.home] | texts)
        wrong |= (pre.home > 0) & pre.is_section & ~self.steady[pre.home]
        return np.where(wrong | (self.partner < 0), NOBODY, self.partner).astype("u4")

    def _drop_different_symbols(self, same: Column) -> None:
        pre, post = self.pre, self.post
        counted = [side.named & ~side.is_table[side.home] for side in (pre, post)]
        ours, theirs = (
            np.bincount(side.atom_of[each], minlength=len(side.start))
            for side, each in zip((pre, post), counted, strict=True)
        )
        open_ = ours != theirs[self.to_post]
        open_[pre.atom_of[counted[0] & (self.partner < 0)]] = True
        open_ &= same
        (ours, i), (theirs, j) = (
            _symbols_in_order(side, each & part[side.atom_of])
            for side, each, part in zip((pre, post), counted, (open_, self._there(open_)), strict=True)
        )
        equal, one, other, atoms = rows(ours, theirs, self.to_post, open_)
        same &= equal
        one, other = i[one], j[other]
        mine, yours = pre.obj.symbols[one], post.obj.symbols[other]
        differ = pre.symbol_ids[one] != post.symbol_ids[other]
        for column in ("size", "type", "binding", "other"):
            differ |= mine[column] != yours[column]
        differ |= self.pairs.apart(atoms, pre.position[one], post.position[other])
        same[atoms[differ]] = False

    def _there(self, part: Column) -> Column:
        """The counterparts of pre atoms."""
        found = np.zeros(len(self.post.start), bool)
        counterparts = self.to_post[part]
        found[counterparts[counterparts >= 0]] = True
        return found

    def _drop_different_contents(self, same: Column) -> None:
        pre, post = self.pre, self.post
        stored = same & (pre.obj.sections["type"][pre.section] != SHT_NOBITS) & ~pre.is_table[pre.section]
        atoms = np.flatnonzero(stored & (pre.end > pre.start))
        ours, theirs = pre.in_file(atoms), post.in_file(self.to_post[atoms])
        sizes = (pre.end - pre.start)[atoms]
        order = np.argsort(ours, kind="stable")
        for run in runs(theirs[order] - ours[order]):
            part = order[run]
            low, high = int(ours[part[0]]), int((ours[part] + sizes[part]).max())
            apart = int(theirs[part[0]]) - low
            different = _differences(pre, low, post, low + apart, high - low)
            if len(different):
                begin, end = ours[part] - low, ours[part] - low + sizes[part]
                hit = np.searchsorted(different, begin) < np.searchsorted(different, end)
                same[atoms[part[hit]]] = False

    def _drop_different_records(self, same: Column) -> None:
        """Side by side where sections are steady, else atom by atom."""
        pre, post = self.pre, self.post
        bounds, there = (side.obj.relocation_bounds for side in (pre, post))
        counts, others = np.diff(bounds), np.diff(there)[self.sections]
        plain = (self.sections > 0) & ~pre.is_table & ~post.is_table[self.sections]
        beside = plain & self.steady & (counts == others)
        listed = np.flatnonzero(beside & (counts > 0) & ~pre.dropped)
        one, other = [], []
        before = np.cumsum(counts[listed]) - counts[listed]
        steps = np.column_stack([there[self.sections[listed]] - bounds[listed], bounds[listed] - before])
        for run in runs(steps):
            first, last = int(listed[run.start]), int(listed[run.stop - 1])
            low, high = int(bounds[first]), int(bounds[last + 1])
            apart = int(steps[run.start][0])
            doubtful = self._doubtful(slice(low, high), slice(low + apart, high + apart), 0) + low
            one.append(doubtful)
            other.append(doubtful + apart)
        ours = np.concatenate(one) if one else np.zeros(0, "i8")
        theirs = np.concatenate(other) if other else ours
        atoms = sources(pre, ours)
        asked = same[atoms]
        ours, theirs, atoms = ours[asked], theirs[asked], atoms[asked]
        records = pre.obj.relocations["offset"][ours], post.obj.relocations["offset"][theirs]
        fits = (records[0] == records[1]) & mean_the_same(
            self.pairs, self.equal, reach(pre, ours), reach(post, theirs)
        )
        same[atoms[~fits]] = False
        self._drop_different_atoms(same, same & (plain & ~beside)[pre.section])

    def _drop_different_atoms(self, same: Column, asked: Column) -> None:
        """Hold the records of some atoms against those of their counterparts."""
        pre, post = self.pre, self.post
        listed = [
            each[~side.is_table[side.obj.relocations["section"][each]]]
            for side, each in ((pre, rows_of(pre, asked)), (post, rows_of(post, self._there(asked))))
        ]
        groups = [sources(side, each) for side, each in zip((pre, post), listed, strict=True)]
        equal, i, j, atoms = rows(groups[0], groups[1], self.to_post, asked)
        same &= equal
        mine, yours = reach(pre, listed[0][i]), reach(post, listed[1][j])
        places = pre.base[mine.into] + mine.offset, post.base[yours.into] + yours.offset
        differ = self.pairs.apart(atoms, *places) | ~mean_the_same(self.pairs, self.equal, mine, yours)
        same[atoms[differ]] = False

    def _doubtful(self, one: slice, other: slice, apart: int) -> Column:
        """Which of as many records of both are not plainly the same; `apart`: what offsets differ by."""
        ours, theirs = self.pre.obj.relocations.of(one), self.post.obj.relocations.of(other)
        differ = theirs["offset"] - ours["offset"] != np.uint64(apart % (1 << 64))
        differ |= ours["type"] != theirs["type"]
        differ |= ours["addend"] != theirs["addend"]
        differ |= self.sure[self.pre.symbol[one]] != self.post.symbol[other]
        return np.flatnonzero(differ)

    def _drop_different_entries(self, same: Column, ours: Table, theirs: Table | None) -> None:
        if not ours.row.compared:
            return
        if theirs is None or theirs.row.entry_size != ours.row.entry_size:
            same[ours.owner[ours.owner >= 0]] = False
            if theirs is not None:
                owners = self.to_pre[theirs.owner[theirs.owner >= 0]]
                same[owners[owners >= 0]] = False
            return
        asked = same & ~self._same_entries(ours, theirs)
        if not asked.any():
            return
        tables = ours, theirs
        parts = asked, self._there(asked)
        chosen = [
            np.flatnonzero((each.owner >= 0) & part[each.owner])
            for each, part in zip(tables, parts, strict=True)
        ]
        orders = [
            each[np.argsort(table.owner[each], kind="stable")]
            for each, table in zip(chosen, tables, strict=True)
        ]
        groups = [each.owner[order] for order, each in zip(orders, tables, strict=True)]
        equal, one, other, atoms = rows(groups[0], groups[1], self.to_post, asked)
        same &= equal
        mine, yours = _entries(self.pre, ours)[orders[0][one]], _entries(self.post, theirs)[orders[1][other]]
        for at, size in ours.row.ignored:
            mine[:, at : at + size] = yours[:, at : at + size] = 0
        same[atoms[np.any(mine != yours, axis=1)]] = False
        listed, groups = [], []
        for table, part in zip(tables, parts, strict=True):
            owner = table.owner[table.entry]
            order = np.flatnonzero((owner >= 0) & part[owner])
            order = order[np.argsort(owner[order], kind="stable")]
            groups.append(owner[order])
            listed.append(order + table.records.start)
        equal, one, other, atoms = rows(groups[0], groups[1], self.to_post, asked)
        same &= equal
        step = ours.row.entry_size
        before, after = reach(self.pre, listed[0][one]), reach(self.post, listed[1][other])
        differ = (before.offset % step != after.offset % step) | ~mean_the_same(
            self.pairs, self.equal, before, after
        )
        same[atoms[differ]] = False

    def _same_entries(self, ours: Table, theirs: Table) -> Column:
        """The atoms whose entries are plainly the same, by pre atom, found with both tables side by side."""
        pre, step = self.pre, ours.row.entry_size
        keys = np.where(ours.owner >= 0, self.to_post[ours.owner], -1), theirs.owner
        data = _entries(pre, ours), _entries(self.post, theirs)
        seen, bad = np.zeros(ours.count, bool), np.zeros(ours.count, bool)
        one, other, entries = [], [], []
        for i, j, count in aligned(*keys):
            low, high = np.searchsorted(ours.entry, (i, i + count)).tolist()
            begin, end = np.searchsorted(theirs.entry, (j, j + count)).tolist()
            mine, yours = ours.entry[low:high], theirs.entry[begin:end]
            if len(mine) != len(yours) or np.any(yours - mine != j - i):
                continue
            seen[i : i + count] = True
            differ = data[0][i : i + count] != data[1][j : j + count]
            for at, size in ours.row.ignored:
                differ[:, at : at + size] = False
            if differ.any():
                bad[i : i + count] |= differ.any(axis=1)
            low, begin = low + ours.records.start, begin + theirs.records.start
            size = len(mine)
            doubtful = self._doubtful(slice(low, low + size), slice(begin, begin + size), (j - i) * step)
            one.append(doubtful + low)
            other.append(doubtful + begin)
            entries.append(mine[doubtful])
        if one:
            before, after = reach(pre, np.concatenate(one)), reach(self.post, np.concatenate(other))
            differ = before.offset % step != after.offset % step
            differ |= ~mean_the_same(self.pairs, self.equal, before, after)
            bad[np.concatenate(entries)[differ]] = True
        owned = ours.owner >= 0
        have, met = (
            np.bincount(ours.owner[part], minlength=len(pre.start)) for part in (owned, owned & seen & ~bad)
        )
        want = np.bincount(theirs.owner[theirs.owner >= 0], minlength=len(self.post.start))
        found: Column = (have == met) & (have == want[self.to_post])
        return found


def _symbols_in_order(side: Atoms, chosen: Column) -> tuple[Column, Column]:
    """Atoms of some symbols, and the symbols, in the order of atoms."""
    symbols = np.flatnonzero(chosen)
    symbols = symbols[np.lexsort((side.symbol_ids[symbols], side.position[symbols]))]
    return side.atom_of[symbols], symbols


def _entries(side: Atoms, table: Table) -> Column:
    step = table.row.entry_size
    data = bytes(side.obj.contents(table.section)).ljust(step * table.count, b"\0")
    return np.frombuffer(data, "u1")[: step * table.count].reshape(table.count, step)


def _differences(pre: Atoms, ours: int, post: Atoms, theirs: int, size: int) -> Column:
    """Where `size` bytes of two files differ."""
    one, other = (np.frombuffer(s.obj.data, "u1", size, at) for s, at in ((pre, ours), (post, theirs)))
    words = size // 8 * 8
    if np.array_equal(one[:words].view("u8"), other[:words].view("u8")) and np.array_equal(
        one[words:], other[words:]
    ):
        return np.zeros(0, "i8")
    return np.flatnonzero(one != other)

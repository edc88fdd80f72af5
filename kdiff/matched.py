# SPDX-License-Identifier: Apache-2.0
"""Which atoms of two large objects are the same thing, and which of them say the same: all of it in columns.

In: two `Atoms`. Out: a `Matched`. Atoms are paired by section, unit (the STT_FILE symbol in front of a local
one) and name, never by what they hold. Two that are paired are equal if size, symbols, bytes and records are,
and the table entries about them. Contents are compared in runs of pairs that lie equally far apart in both
files; a record means the same if it reaches paired atoms at one distance, or equal strings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdiff.atoms import OPERAND, Atoms, Table
from kdiff.elf.read import SHT_NOBITS, STB_LOCAL, STT_FILE, STT_NOTYPE, Column
from kdiff.rows import joined, packed, rows, runs, told_apart


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
        self.sections = self._pair_sections()
        self.to_post = self._pair_atoms()
        self._pair_pieces()
        self.to_pre = np.full(len(post.start), -1, "i8")
        paired = np.flatnonzero(self.to_post >= 0)
        self.to_pre[self.to_post[paired]] = paired

    def result(self) -> Matched:
        same = self._same_headers()
        self._drop_different_contents(same)
        self.equal = same.copy()
        self._drop_different_symbols(same)
        self._drop_different_records(same)
        for number, table in self.pre.tables.items():
            self._drop_different_entries(same, table, self.post.tables.get(int(self.sections[number])))
        counterparts = set(self.sections[list(self.pre.tables)].tolist())
        for number, table in self.post.tables.items():
            if number not in counterparts and table.row.compared:
                owners = self.to_pre[table.owner[table.owner >= 0]]
                same[owners[owners >= 0]] = False
        return Matched(self.to_post, self.to_pre, same, self.sections)

    # Pairs -------------------------------------------------------------------------------------------

    def _pair_sections(self) -> Column:
        """By name; those of one name in their order."""
        found = np.zeros(len(self.pre.loaded), "i8")
        ours, theirs = (np.flatnonzero(side.loaded) for side in (self.pre, self.post))
        keys = (self.pre.section_ids[ours], self.post.section_ids[theirs])
        one, other = joined(*(told_apart(each) for each in packed(*([each] for each in keys))))
        found[ours[one]] = theirs[other]
        return found

    def _pair_atoms(self) -> Column:
        pre, post = self.pre, self.post
        found = np.full(len(pre.start), -1, "i8")
        back = np.zeros(len(post.loaded), "i8")
        paired = np.flatnonzero(self.sections)
        back[self.sections[paired]] = paired
        ours, theirs = (np.bincount(side.section, minlength=len(side.loaded)) for side in (pre, post))
        alone = (ours == 1) & (theirs[self.sections] == 1) & (self.sections > 0)
        first = np.searchsorted(post.section, self.sections[pre.section])
        single = alone[pre.section]
        found[single] = first[single]
        shared = np.flatnonzero(~single & (self.sections[pre.section] > 0))
        others = np.flatnonzero(~alone[back[post.section]] & (back[post.section] > 0))
        units = _units(pre, post)
        columns = [
            [home[atoms], *(each[atoms] for each in _identity(side, unit))]
            for side, atoms, home, unit in (
                (pre, shared, pre.section, units[0]), (post, others, back[post.section], units[1])
            )
        ]  # fmt: skip
        one, other = joined(*(told_apart(each) for each in packed(*columns)))
        found[shared[one]] = others[other]
        return found

    def _pair_pieces(self) -> None:
        """Pair the code that only entries need by the entries."""
        pieces = [side.pieces[side.section] for side in (self.pre, self.post)]
        self.to_post[pieces[0]] = -1
        if not pieces[0].any():
            return
        one, other, atoms = self._plain_records(self.to_post >= 0, pieces)[1:]
        beside = ~self._apart(atoms, self.pre.at[one], self.post.at[other])
        found = [(one[beside], other[beside])]
        for number, table in self.pre.tables.items():
            counterpart = self.post.tables.get(int(self.sections[number]))
            if counterpart is not None and counterpart.row.entry_size == table.row.entry_size:
                found.append(self._entry_records(table, counterpart)[1:3])
        for ours, theirs in found:
            mine, yours = self.pre.low[ours], self.post.low[theirs]
            fit = (mine >= 0) & (yours >= 0) & pieces[0][mine] & pieces[1][yours]
            self.to_post[mine[fit][::-1]] = yours[fit][::-1]
        paired = np.flatnonzero(pieces[0] & (self.to_post >= 0))
        _, first = np.unique(self.to_post[paired], return_index=True)
        kept = np.zeros(len(paired), bool)
        kept[first] = True
        self.to_post[paired[~kept]] = -1

    # What is equal -----------------------------------------------------------------------------------

    def _same_headers(self) -> Column:
        pre, post = self.pre, self.post
        there = np.maximum(self.to_post, 0)
        same: Column = (self.to_post >= 0) & (pre.end - pre.start == post.end[there] - post.start[there])
        ours, theirs = pre.obj.sections[pre.section], post.obj.sections[post.section[there]]
        for column in ("type", "flags", "entsize"):
            same &= ours[column] == theirs[column]
        counts = np.bincount(pre.section, minlength=len(pre.loaded))
        same &= (ours["align"] == theirs["align"]) | (counts[pre.section] > 1)
        return same

    def _drop_different_symbols(self, same: Column) -> None:
        listed = [_symbols_in_order(side) for side in (self.pre, self.post)]
        (ours, i), (theirs, j) = listed
        equal, one, other, atoms = rows(ours, theirs, self.to_post, same)
        same &= equal
        one, other = i[one], j[other]
        mine, yours = self.pre.obj.symbols[one], self.post.obj.symbols[other]
        differ = self.pre.symbol_ids[one] != self.post.symbol_ids[other]
        for column in ("size", "type", "binding", "other"):
            differ |= mine[column] != yours[column]
        differ |= self._apart(atoms, self.pre.position[one], self.post.position[other])
        same[atoms[differ]] = False

    def _drop_different_contents(self, same: Column) -> None:
        pre, post = self.pre, self.post
        stored = same & (pre.obj.sections["type"][pre.section] != SHT_NOBITS) & ~pre.is_table[pre.section]
        atoms = np.flatnonzero(stored & (pre.end > pre.start))
        ours, theirs = pre.in_file(pre.start[atoms]), post.in_file(post.start[self.to_post[atoms]])
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
        equal, one, other, atoms = self._plain_records(same)
        same &= equal
        differ = self._apart(atoms, self.pre.at[one], self.post.at[other])
        differ |= ~self._mean_the_same(one, other)
        same[atoms[differ]] = False

    def _drop_different_entries(self, same: Column, ours: Table, theirs: Table | None) -> None:
        if not ours.row.compared:
            return
        if theirs is None or theirs.row.entry_size != ours.row.entry_size:
            same[ours.owner[ours.owner >= 0]] = False
            if theirs is not None:
                owners = self.to_pre[theirs.owner[theirs.owner >= 0]]
                same[owners[owners >= 0]] = False
            return
        orders = [np.argsort(each.owner, kind="stable") for each in (ours, theirs)]
        orders = [o[each.owner[o] >= 0] for o, each in zip(orders, (ours, theirs), strict=True)]
        groups = [each.owner[o] for o, each in zip(orders, (ours, theirs), strict=True)]
        equal, one, other, atoms = rows(groups[0], groups[1], self.to_post, same)
        same &= equal
        mine, yours = _entries(self.pre, ours)[orders[0][one]], _entries(self.post, theirs)[orders[1][other]]
        for at, size in ours.row.ignored:
            mine[:, at : at + size] = yours[:, at : at + size] = 0
        same[atoms[np.any(mine != yours, axis=1)]] = False
        equal, one, other, atoms = self._entry_records(ours, theirs)
        same &= equal
        step = ours.row.entry_size
        offsets = self.pre.records["offset"][one] % step, self.post.records["offset"][other] % step
        differ = (offsets[0] != offsets[1]) | ~self._mean_the_same(one, other)
        same[atoms[differ]] = False

    def _entry_records(self, ours: Table, theirs: Table) -> tuple[Column, Column, Column, Column]:
        """`rows` for the records of two tables, by the owners of their entries."""
        orders, groups = [], []
        for table in (ours, theirs):
            owner = table.owner[table.entry]
            order = np.argsort(owner, kind="stable")
            order = order[owner[order] >= 0]
            groups.append(owner[order])
            orders.append(order + table.records.start)
        equal, one, other, atoms = rows(groups[0], groups[1], self.to_post, self.to_post >= 0)
        return equal, orders[0][one], orders[1][other], atoms

    def _plain_records(
        self, wanted: Column, reached: list[Column] | None = None
    ) -> tuple[Column, Column, Column, Column]:
        """`rows` for the records of all atoms, or for those that may reach certain atoms of either object."""
        plain = [np.flatnonzero(~side.is_table[side.into]) for side in (self.pre, self.post)]
        if reached is not None:
            plain = [
                each[(side.low[each] >= 0) & part[side.low[each]]]
                for side, each, part in zip((self.pre, self.post), plain, reached, strict=True)
            ]
        groups = [side.source[each] for side, each in zip((self.pre, self.post), plain, strict=True)]
        equal, one, other, atoms = rows(groups[0], groups[1], self.to_post, wanted)
        return equal, plain[0][one], plain[1][other], atoms

    # Records -----------------------------------------------------------------------------------------

    def _apart(self, atoms: Column, ours: Column, theirs: Column) -> Column:
        """Whether places are not equally far behind the starts of their atoms, given by pre atoms."""
        starts = self.pre.start[atoms], self.post.start[self.to_post[atoms]]
        differ: Column = ours - starts[0] != theirs - starts[1]
        return differ

    def _mean_the_same(self, one: Column, other: Column) -> Column:
        """Whether records `one` of the pre and `other` of the post object mean the same."""
        pre, post = self.pre, self.post
        mine, yours = pre.symbol[one], post.symbol[other]
        whole = pre.whole[one]
        same: Column = (pre.kind[one] == post.kind[other]) & (whole == post.whole[other])
        ways, there = (np.ascontiguousarray(side.obj.symbols["other"]) for side in (pre, post))
        same &= ways[mine] == there[yours]
        inside = pre.defined[one] & post.defined[other]
        same &= whole | (pre.addend[one] == post.addend[other])
        outside = np.flatnonzero(~pre.defined[one] & ~post.defined[other] & ~whole)
        ours, theirs = mine[outside], yours[outside]
        equal = pre.symbol_ids[ours] == post.symbol_ids[theirs]
        equal &= pre.obj.symbols["section"][ours] == post.obj.symbols["section"][theirs]
        reached = self._same_place(pre.low[one], post.low[other], pre.target[one], post.target[other])
        again = np.flatnonzero(pre.unsure[one] & inside)
        i, j = one[again], other[again]
        reached[again] &= post.unsure[j] & self._same_place(
            pre.high[i], post.high[j], pre.target[i] + OPERAND, post.target[j] + OPERAND
        )
        low = np.maximum(pre.low[one], 0)
        merged = np.flatnonzero(inside & pre.merged[pre.section[low]])
        reached[merged] = self._same_text(one[merged], other[merged])
        tables = np.flatnonzero(inside & pre.is_table[pre.section[low]])
        reached[tables] = self._same_entry(one[tables], other[tables])
        reached &= inside
        reached[outside] = equal
        same &= reached
        return same

    def _same_place(self, ours: Column, theirs: Column, here: Column, there: Column) -> Column:
        atoms = np.maximum(ours, 0)
        same: Column = (ours >= 0) & (self.to_post[atoms] == theirs) & (theirs >= 0)
        same &= ~self._apart(atoms, here, there)
        return same

    def _same_entry(self, one: Column, other: Column) -> Column:
        """Whether records reach the same entry of a table: by its owner, and its rank among that one's."""
        same = np.zeros(len(one), bool)
        homes = self.pre.section[self.pre.low[one]], self.post.section[np.maximum(self.post.low[other], 0)]
        for number, table in self.pre.tables.items():
            there = self.post.tables.get(int(self.sections[number]))
            mine = np.flatnonzero((homes[0] == number) & (homes[1] == self.sections[number]))
            if there is None or there.row.entry_size != table.row.entry_size or not len(mine):
                continue
            owner, rank, within = self.pre.entry_at(table, one[mine])
            owner_there, rank_there, within_there = self.post.entry_at(there, other[mine])
            same[mine] = (owner >= 0) & (self.to_post[owner] == owner_there) & (rank == rank_there)
            same[mine] &= within == within_there
        return same

    def _same_text(self, one: Column, other: Column) -> Column:
        """Whether records reach equal strings, or equal constants of a section of such."""
        pre, post = self.pre, self.post
        homes = pre.section[pre.low[one]], post.section[np.maximum(post.low[other], 0)]
        same: Column = (self.sections[homes[0]] == homes[1]) & (pre.unsure[one] == post.unsure[other])
        ours, theirs = pre.target[one] - pre.base[homes[0]], post.target[other] - post.base[homes[1]]
        sizes = (
            pre.obj.sections["size"].astype("i8")[homes[0]],
            post.obj.sections["size"].astype("i8")[homes[1]],
        )
        same &= (ours >= 0) & (theirs >= 0) & (ours < sizes[0]) & (theirs < sizes[1])
        easy = self.equal[pre.low[one]] & (self.to_post[pre.low[one]] == post.low[other]) & (ours == theirs)
        chosen = np.flatnonzero(same & ~easy)
        chosen = chosen[np.lexsort((ours[chosen], homes[0][chosen]))]
        apart = np.column_stack([homes[0][chosen], theirs[chosen] - ours[chosen]])
        for run in runs(apart):
            part = chosen[run]
            home = int(homes[0][part[0]]), int(homes[1][part[0]])
            same[part] = self._same_run(
                home, ours[part], int(theirs[part[0]] - ours[part[0]]), pre.unsure[one[part]]
            )
        return same

    def _same_run(self, home: tuple[int, int], begin: Column, apart: int, unsure: Column) -> Column:
        """Whether the texts at `begin` of a section equal those that are `apart` from them in the other."""
        pre, post = (
            np.frombuffer(s.obj.contents(h), "u1") for s, h in zip((self.pre, self.post), home, strict=True)
        )
        step = int(self.pre.obj.sections["entsize"][home[0]])
        furthest = begin + np.where(unsure, OPERAND, 0)
        begin = begin - begin % step
        if apart % step:
            return np.zeros(len(begin), bool)
        low, high = int(begin[0]), min(len(pre), len(post) - apart)
        ours, theirs = pre[low:high], post[low + apart : high + apart]
        furthest = furthest - low
        if self.pre.strings[home[0]]:
            ends = np.flatnonzero(ours[: int(furthest.max()) + 1] == 0)
            rest = np.flatnonzero(ours[int(furthest.max()) :][:4096] == 0)
            ends = np.append(ends, rest[:1] + int(furthest.max()))
            last = np.searchsorted(ends, furthest)
            stop = (
                np.where(
                    last < len(ends), ends[np.minimum(last, len(ends) - 1)] if len(ends) else 0, len(ours)
                )
                + 1
            )
        else:
            stop = furthest // step * step + step
        most = min(int(stop.max()), len(ours))
        different = np.flatnonzero(ours[:most] != theirs[:most])
        whole: Column = (np.searchsorted(different, begin - low) == np.searchsorted(different, stop)) & (
            stop <= len(ours)
        )
        return whole


def _symbols_in_order(side: Atoms) -> tuple[Column, Column]:
    """Atoms of all symbols that count, and the symbols, in the order of atoms."""
    symbols = np.flatnonzero(side.named & ~side.is_table[side.home])
    symbols = symbols[np.lexsort((side.symbol_ids[symbols], side.position[symbols]))]
    return side.atom(side.position[symbols]), symbols


def _identity(side: Atoms, units: Column) -> tuple[Column, Column]:
    """For each atom the unit and the name of the symbol at its start; -1 and 0 where there is none."""
    symbols = np.flatnonzero(side.named)
    place = side.position[symbols]
    atoms = side.atom(place)
    first = side.start[atoms] == place
    symbols, atoms = symbols[first], atoms[first]
    rows = side.obj.symbols[symbols]
    rank = (
        (rows["size"] == 0).astype("i8") * 4
        + (rows["binding"] == STB_LOCAL) * 2
        + (rows["type"] == STT_NOTYPE)
    )
    order = np.lexsort((side.symbol_ids[symbols], rank, atoms))
    symbols, atoms, rows = symbols[order], atoms[order], rows[order]
    _, first = np.unique(atoms, return_index=True)
    unit, name = np.full(len(side.start), -1, "i8"), np.zeros(len(side.start), "i8")
    local = rows["binding"][first] == STB_LOCAL
    unit[atoms[first]] = np.where(local, units[symbols[first]], -1)
    name[atoms[first]] = side.symbol_ids[symbols[first]] + 1
    return unit, name


def _units(pre: Atoms, post: Atoms) -> tuple[Column, Column]:
    """The unit of each symbol, by the STT_FILE symbol in front of it: units of one name by their order."""
    marks = [np.flatnonzero(side.obj.symbols["type"] == STT_FILE) for side in (pre, post)]
    keys = packed(*([side.symbol_ids[each]] for side, each in zip((pre, post), marks, strict=True)))
    ours, theirs = (told_apart(each) for each in keys)
    numbers = np.unique(np.concatenate((ours, theirs)))
    found = []
    for side, mark, key in zip((pre, post), marks, (ours, theirs), strict=True):
        unit = np.append(np.searchsorted(numbers, key), -1)
        found.append(unit[np.searchsorted(mark, np.arange(len(side.obj.symbols)), "right") - 1])
    return found[0], found[1]


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

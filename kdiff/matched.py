# SPDX-License-Identifier: Apache-2.0
"""Which atoms of two large objects are the same thing, and which of them say the same: all of it in columns.

In: two `Atoms`. Out: a `Matched`. Two that are paired are equal if size, symbols, bytes and records are, and
the table entries about them. All of it is compared in place, in runs that lie side by side in both files;
only rows that differ there are looked at closely, and atoms whose rows do not lie side by side are looked up.
"""

from __future__ import annotations

import numpy as np

from kdiff.atoms import Atoms
from kdiff.counterparts import pair, partners
from kdiff.elf.read import SHT_NOBITS, Column
from kdiff.meaning import mean_the_same
from kdiff.reach import reach, rows_of, sources
from kdiff.rows import rows, runs
from kdiff.sameentries import NOBODY, doubtful, drop_different_entries
from kdiff.values import dataclass


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
        drop_different_entries(self.pairs, self.partner, self.sure, self.equal, same)
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
            asked = (
                doubtful(self.pairs, self.sure, slice(low, high), slice(low + apart, high + apart), 0) + low
            )
            one.append(asked)
            other.append(asked + apart)
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


def _symbols_in_order(side: Atoms, chosen: Column) -> tuple[Column, Column]:
    """Atoms of some symbols, and the symbols, in the order of atoms."""
    symbols = np.flatnonzero(chosen)
    symbols = symbols[np.lexsort((side.symbol_ids[symbols], side.position[symbols]))]
    return side.atom_of[symbols], symbols


def _differences(pre: Atoms, ours: int, post: Atoms, theirs: int, size: int) -> Column:
    """Where `size` bytes of two files differ."""
    one, other = (np.frombuffer(s.obj.data, "u1", size, at) for s, at in ((pre, ours), (post, theirs)))
    words = size // 8 * 8
    if np.array_equal(one[:words].view("u8"), other[:words].view("u8")) and np.array_equal(
        one[words:], other[words:]
    ):
        return np.zeros(0, "i8")
    return np.flatnonzero(one != other)

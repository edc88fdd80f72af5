# SPDX-License-Identifier: Apache-2.0
"""Which sections, atoms and symbols of two large objects are the same thing.

In: two `Atoms`. Out: `Pairs`. Atoms are paired by section, unit (the STT_FILE symbol in front of a local one)
and name, never by what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdiff.atoms import Atoms
from kdiff.elf.read import STB_LOCAL, STT_FILE, STT_NOTYPE, Column
from kdiff.reach import reach, rows_to, sources
from kdiff.rows import aligned, packed, paired, rows
from kdiff.values import dataclass

MIX = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)))
"""Large odd numbers, so that rows of several columns seldom have one sum by accident."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """`sections`: post section of each pre section, 0: none. `to_post`: of atoms, -1: none."""

    pre: Atoms
    post: Atoms
    sections: Column
    to_post: Column

    def apart(self, atoms: Column, ours: Column, theirs: Column) -> Column:
        """Whether places are not equally far behind the starts of their atoms, given by pre atoms."""
        starts = self.pre.start[atoms], self.post.start[self.to_post[atoms]]
        differ: Column = ours - starts[0] != theirs - starts[1]
        return differ

    def same_place(self, ours: Column, theirs: Column, here: Column, there: Column) -> Column:
        """Whether targets lie in paired atoms, equally far behind their starts."""
        atoms = np.maximum(ours, 0)
        same: Column = (ours >= 0) & (self.to_post[atoms] == theirs) & (theirs >= 0)
        same &= ~self.apart(atoms, here, there)
        return same

    @property
    def back(self) -> Column:
        """The pre section of each post section, 0: none."""
        return _reversed(self.sections, len(self.post.loaded), 0)

    @property
    def to_pre(self) -> Column:
        """The pre atom of each post atom, -1: none."""
        return _reversed(self.to_post, len(self.post.start), -1)


def pair(pre: Atoms, post: Atoms) -> Pairs:
    """Pair the sections and atoms of two objects."""
    sections = _sections(pre, post)
    found = Pairs(pre, post, sections, _atoms(pre, post, sections))
    _pair_pieces(found)
    return found


def _reversed(there: Column, count: int, none: int) -> Column:
    """The way back, where `there` is greater than `none`."""
    found = np.full(count, none, "i8")
    known = np.flatnonzero(there > none)
    found[there[known]] = known
    return found


def _sections(pre: Atoms, post: Atoms) -> Column:
    """By name; those of one name in their order."""
    found = np.zeros(len(pre.loaded), "i8")
    ours, theirs = (np.flatnonzero(side.loaded) for side in (pre, post))
    one, other = paired(pre.section_ids[ours], post.section_ids[theirs])
    found[ours[one]] = theirs[other]
    return found


def _atoms(pre: Atoms, post: Atoms, sections: Column) -> Column:
    back = _reversed(sections, len(post.loaded), 0)
    found = np.full(len(pre.start), -1, "i8")
    alone = (pre.count == 1) & (post.count[sections] == 1) & (sections > 0)
    shared = (sections > 0) & ~alone, (back > 0) & ~alone[back]
    single = alone[pre.section]
    found[single] = post.first[sections[pre.section[single]]]
    ours, theirs = (
        np.flatnonzero(part[side.section]) for part, side in zip(shared, (pre, post), strict=True)
    )
    symbols = [
        np.flatnonzero(side.named & part[side.home]) for part, side in zip(shared, (pre, post), strict=True)
    ]
    units = _units(pre, post, symbols)
    columns = [
        [home[atoms], *(each[atoms] for each in _identity(side, listed, unit))]
        for side, atoms, home, listed, unit in (
            (pre, ours, pre.section, symbols[0], units[0]),
            (post, theirs, back[post.section], symbols[1], units[1]),
        )
    ]
    for one, other in _equal_rows(*columns):
        found[ours[one]] = theirs[other]
    return found


def _equal_rows(ours: list[Column], theirs: list[Column]) -> Iterator[tuple[Column, Column]]:
    """Positions of rows of three columns that are equal: first those side by side, then the rest."""
    left = np.ones(len(ours[0]), bool), np.ones(len(theirs[0]), bool)
    keys = [
        np.add.reduce([column.astype("u8") * factor for column, factor in zip(each, MIX, strict=True)])
        for each in (ours, theirs)
    ]
    for i, j, count in aligned(keys[0], keys[1]):
        same = np.ones(count, bool)
        for mine, yours in zip(ours, theirs, strict=True):
            same &= mine[i : i + count] == yours[j : j + count]
        one, other = np.flatnonzero(same) + i, np.flatnonzero(same) + j
        left[0][one] = left[1][other] = False
        yield one, other
    rest = [np.flatnonzero(each) for each in left]
    columns = ([each[part] for each in side] for side, part in zip((ours, theirs), rest, strict=True))
    one, other = paired(*packed(*columns))
    yield rest[0][one], rest[1][other]


def _pair_pieces(pairs: Pairs) -> None:
    """Pair the code that only entries need by the entries: changes `to_post`."""
    sides, to_post = (pairs.pre, pairs.post), pairs.to_post
    pieces = [side.pieces[side.section] for side in sides]
    to_post[pieces[0]] = -1
    if not pieces[0].any():
        return
    reached = [reach(side, rows_to(side, part)) for side, part in zip(sides, pieces, strict=True)]
    reached = [
        each[np.flatnonzero((each.low >= 0) & part[each.low])]
        for each, part in zip(reached, pieces, strict=True)
    ]
    places = [side.base[each.into] + each.offset for side, each in zip(sides, reached, strict=True)]
    groups = [sources(side, each.rows) for side, each in zip(sides, reached, strict=True)]
    paired_already = to_post >= 0
    plain = [np.flatnonzero(~side.is_table[each.into]) for side, each in zip(sides, reached, strict=True)]
    _, one, other, atoms = rows(groups[0][plain[0]], groups[1][plain[1]], to_post, paired_already)
    one, other = plain[0][one], plain[1][other]
    beside = ~pairs.apart(atoms, places[0][one], places[1][other])
    found = [(one[beside], other[beside])]
    for number, table in pairs.pre.tables.items():
        counterpart = pairs.post.tables.get(int(pairs.sections[number]))
        if counterpart is not None and counterpart.row.entry_size == table.row.entry_size:
            listed = []
            for each, group, home in zip(reached, groups, (number, counterpart.section), strict=True):
                order = np.flatnonzero((each.into == home) & (group >= 0))
                listed.append(order[np.argsort(group[order], kind="stable")])
            _, one, other, _ = rows(groups[0][listed[0]], groups[1][listed[1]], to_post, paired_already)
            found.append((listed[0][one], listed[1][other]))
    for ours, theirs in found:
        to_post[reached[0].low[ours][::-1]] = reached[1].low[theirs][::-1]
    known = np.flatnonzero(pieces[0] & (to_post >= 0))
    _, first = np.unique(to_post[known], return_index=True)
    kept = np.zeros(len(known), bool)
    kept[first] = True
    to_post[known[~kept]] = -1


def partners(pairs: Pairs) -> Column:
    """For each pre symbol the post one that is alike in all respects, -1: none was found with ease.

    The two tables are laid side by side: linkers write symbols in the order in which units have them.
    """
    pre, post = pairs.pre, pairs.post
    back = pairs.back
    there = np.where(back > 0, back, np.arange(len(post.loaded)) + len(pre.loaded))
    there[0] = 0
    keys = pre.home << 42 | pre.symbol_ids, there[post.home] << 42 | post.symbol_ids
    found = np.full(len(pre.home), -1, "i8")
    for i, j, count in aligned(*keys):
        found[i : i + count] = np.arange(j, j + count)
    known = np.flatnonzero(found >= 0)
    ours, theirs = pre.obj.symbols, post.obj.symbols
    differ = np.zeros(len(known), bool)
    for column in ("size", "type", "binding", "other", "value"):
        differ |= ours[column][known] != theirs[column][found[known]]
    elsewhere = pre.home[known] == 0
    differ |= elsewhere & (ours["section"][known] != theirs["section"][found[known]])
    placed = np.flatnonzero(~elsewhere & ~pre.is_section[known])
    symbols = known[placed]
    differ[placed] |= ~pairs.same_place(
        pre.atom_of[symbols], post.atom_of[found[symbols]],
        pre.position[symbols], post.position[found[symbols]],
    )  # fmt: skip
    found[known[differ]] = -1
    return found


def _identity(side: Atoms, symbols: Column, units: Column) -> tuple[Column, Column]:
    """For each atom the unit and the name of the symbol at its start, of those given; -1 and 0: none."""
    atoms = side.atom_of[symbols]
    first = side.start[atoms] == side.position[symbols]
    symbols, atoms, units = symbols[first], atoms[first], units[first]
    binding = side.obj.symbols["binding"][symbols]
    lone = np.bincount(atoms, minlength=len(side.start))[atoms] == 1
    several = np.flatnonzero(~lone)
    if len(several):
        few = side.obj.symbols[symbols[several]]
        rank = (
            (few["size"] == 0).astype("i8") * 4
            + (few["binding"] == STB_LOCAL) * 2
            + (few["type"] == STT_NOTYPE)
        )
        order = several[np.lexsort((side.symbol_ids[symbols[several]], rank, atoms[several]))]
        best = order[np.append(True, atoms[order][1:] != atoms[order][:-1])]
        lone[best] = True
    symbols, atoms, units, local = symbols[lone], atoms[lone], units[lone], binding[lone] == STB_LOCAL
    unit, name = np.full(len(side.start), -1, "i8"), np.zeros(len(side.start), "i8")
    unit[atoms] = np.where(local, units, -1)
    name[atoms] = side.symbol_ids[symbols] + 1
    return unit, name


def _units(pre: Atoms, post: Atoms, symbols: list[Column]) -> tuple[Column, Column]:
    """The unit of each symbol, by the STT_FILE symbol in front of it: units of one name by their order."""
    marks = [np.flatnonzero(side.obj.symbols["type"] == STT_FILE) for side in (pre, post)]
    one, other = paired(*(side.symbol_ids[each] for side, each in zip((pre, post), marks, strict=True)))
    numbers = np.arange(len(marks[0]) + 1), np.arange(len(marks[1]) + 1) + len(marks[0])
    numbers[1][other] = one
    for each in numbers:
        each[-1] = -1
    ours, theirs = (
        number[np.searchsorted(mark, each, "right") - 1]
        for number, mark, each in zip(numbers, marks, symbols, strict=True)
    )
    return ours, theirs

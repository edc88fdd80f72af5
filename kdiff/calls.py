# SPDX-License-Identifier: Apache-2.0
"""References to the start of a function, which depend on its name only: `kdiff.starts` for large objects.

In: two `Atoms` and which of them are the same thing. Out: a `Calls`: which records reach the start of a
function that its name tells for sure, and nothing else. Only what is asked about is looked at.
"""

from __future__ import annotations

import numpy as np

from kdiff.atoms import Atoms
from kdiff.elf.read import STT_FILE, Column
from kdiff.habits import Habits
from kdiff.howtos import howtos_of
from kdiff.matched import Matched
from kdiff.naming import is_fragment
from kdiff.reach import Reach
from kdiff.starts import is_branch

WIDTH = 2
"""Bytes in front of a branch's displacement that tell it."""


class Calls:
    def __init__(self, pre: Atoms, post: Atoms, matched: Matched, habits: Habits) -> None:
        self._sides, self._habits = (pre, post), habits
        self._there = matched.to_post, matched.to_pre
        self._firm = tuple(np.full(len(side.start), -1, "i1") for side in self._sides)
        """By atom, whether it is a function that its name tells; -1: not asked yet."""

    def among(self, number: int, part: Column, to: Reach) -> Column:
        """Which records lead to the start of such a function of `part` and nowhere else."""
        side = self._sides[number]
        firm = self._told(number, part)
        found: Column = (to.low >= 0) & firm[to.low]
        rows = np.flatnonzero(found)
        howtos, into = howtos_of(side.arch), to.into[rows]
        kind = howtos.number(to.kind[rows])
        code = side.code[into]
        place = side.position[to.symbol[rows]] + to.addend[rows] - np.where(code, howtos.share[kind], 0)
        fits = howtos.invertible[kind] & (place == side.start[to.low[rows]]) & ~_odd(side)[into]
        open_ = np.flatnonzero(fits & code & howtos.end_relative[kind])
        fits[open_] = _branches(side, into[open_], to.offset[rows[open_]], howtos.size[kind[open_]])
        found[rows] = fits
        return found

    def _told(self, number: int, part: Column) -> Column:
        known, there = self._firm[number], self._there[number]
        asked = np.flatnonzero(part & (known < 0))
        if len(asked):
            known[asked] = 0
            asked = asked[there[asked] >= 0]
            others = there[asked]
            ours = _names(self._sides[number], asked, self._habits)
            theirs = _names(self._sides[1 - number], others, self._habits)
            for atom, other in zip(asked.tolist(), others.tolist(), strict=True):
                told = atom in ours and ours[atom] == theirs.get(other)
                known[atom] = self._firm[1 - number][other] = told
        result: Column = (known > 0) & part
        return result


def _odd(side: Atoms) -> Column:
    """Tables whose fields do not simply name what lies where they point to."""
    found = np.zeros(len(side.loaded), bool)
    found[[index for index, row in side.rows.items() if row.indirect]] = True
    return found


def _names(side: Atoms, atoms: Column, habits: Habits) -> dict[int, str]:
    """The names of those atoms that are the only function of their section, called what nothing else is."""
    homes = side.section[atoms]
    atoms = atoms[(side.code & ~side.pieces & (side.count <= 2))[homes]]
    atoms = atoms[atoms == (side.first + side.count - 1)[side.section[atoms]]]
    wanted = np.zeros(len(side.start), bool)
    wanted[atoms] = wanted[side.first[side.section[atoms]]] = True
    symbols = np.flatnonzero(side.named & wanted[side.atom_of])
    places = side.atom_of[symbols]
    alone = np.bincount(places, minlength=len(side.start))[places] == 1
    sized = side.obj.symbols["size"][symbols] > 0
    symbols = symbols[alone & sized & (side.position[symbols] == side.start[places])]
    ids = side.symbol_ids[symbols]
    ids.sort()
    every = side.symbol_ids[~side.is_section & (side.obj.symbols["type"] != STT_FILE)]
    at = np.minimum(np.searchsorted(ids, every), max(len(ids) - 1, 0))
    often = np.bincount(at[ids[at] == every], minlength=len(ids)) if len(ids) else ids
    unique = frozenset(ids[often == 1].tolist())
    named = {
        int(side.atom_of[symbol]): (side.obj.symbol_name(symbol), int(side.symbol_ids[symbol]) in unique)
        for symbol in symbols.tolist()
    }
    found = {}
    for atom in atoms.tolist():
        name, sole = named.get(atom, ("", False))
        first = int(side.first[side.section[atom]])
        ahead = first == atom or any(named.get(first, ("",))[0] == mark + name for mark in habits.ahead)
        if sole and ahead and not is_fragment(name):
            found[atom] = name
    return found


def _branches(side: Atoms, into: Column, offset: Column, size: Column) -> Column:
    """Whether fields are the displacements of branches; what is equal around them is asked once."""
    at = side.obj.sections["offset"][into].astype("i8") + offset
    data = np.frombuffer(side.obj.data, "u1")
    key = np.minimum(offset, WIDTH) << 3 | size
    for step in range(-WIDTH, 4):
        key = key << 8 | data[np.minimum(at + step, len(data) - 1)]
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    told = [
        is_branch(side.arch, side.obj.contents(int(into[each])), int(offset[each]), int(size[each]))
        for each in first.tolist()
    ]
    return np.array(told, bool)[which]

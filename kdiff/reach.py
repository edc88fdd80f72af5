# SPDX-License-Identifier: Apache-2.0
"""Where records come from and what they reach, for those rows that somebody asks about.

In: `Atoms` and rows of `Object.relocations`. Out: columns with a row for each of them. A whole kernel has a
million records, and an answer seldom needs a thousandth of them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from kdiff.elf.read import Column
from kdiff.values import dataclass

if TYPE_CHECKING:
    from kdiff.atoms import Atoms

OPERAND = 4
"""The most bytes of an instruction behind a field that counts from the instruction's end."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What records say, a row each. `into`: the section they change; `home`: that of their symbol, 0: none.

    `whole`: the symbol is a section's. `target`: a position, -1 outside of the object. `unsure`: the target
    may be up to `OPERAND` bytes further, which only decoding tells.
    """

    rows: Column
    into: Column
    offset: Column
    symbol: Column
    kind: Column
    addend: Column
    home: Column
    defined: Column
    whole: Column
    target: Column
    unsure: Column


@dataclass(frozen=True, slots=True)
class Reach(Targets):
    """The same, with the atoms that a record may point to, -1: none."""

    low: Column
    high: Column

    def __getitem__(self, chosen: Column) -> Reach:
        """Some of the rows."""
        return Reach(*[getattr(self, each.name)[chosen] for each in fields(self)])


def targets(side: Atoms, rows: Column) -> Targets:
    """Where records point to."""
    records = side.obj.relocations
    into, symbol = records["section"][rows].astype("i8"), side.symbol[rows].astype("i8")
    offset, addend = records["offset"][rows].astype("i8"), records["addend"][rows]
    kind = records["type"][rows]
    howtos, known = side.howtos, side.howtos.number(kind)
    home = side.home[symbol]
    defined, whole = home > 0, side.is_section[symbol]
    share = howtos.size[known] * (howtos.end_relative[known] & side.code[into])
    target = side.position[symbol] + np.where(whole, addend + share, 0)
    steps = side.from_start[into]
    if steps.any():
        counted = (steps > 0) & howtos.pc_relative[known]
        target -= np.where(counted, offset % np.maximum(steps, 1), 0)
    unsure = whole & defined & (share > 0) & ~(side.pieces[home] & ~side.pieces[into])
    target = np.where(defined, target, -1)
    return Targets(rows, into, offset, symbol, kind, addend, home, defined, whole, target, unsure)


def reach(side: Atoms, rows: Column) -> Reach:
    """Where records point to, and which atoms lie there. Places in front of a section are its first atom."""
    to = targets(side, rows)
    low = np.where(to.defined, side.atom_in(to.home, to.target), -1)
    high = low.copy()
    unsure = np.flatnonzero(to.unsure)
    high[unsure] = side.atom_in(to.home[unsure], to.target[unsure] + OPERAND)
    return Reach(*[*(getattr(to, each.name) for each in fields(to)), low, high])


def rows_to(side: Atoms, part: Column) -> Column:
    """The records that may reach an atom of `part`, in order, without those that are never read."""
    touched = np.zeros(len(side.loaded), bool)
    touched[side.section[part]] = True
    named = (side.home > 0) & np.where(side.is_section, touched[side.home], part[side.atom_of])
    rows = np.flatnonzero(named[side.symbol])
    found: Column = rows[(side.loaded & ~side.dropped)[side.obj.relocations["section"][rows]]]
    return found


def rows_of(side: Atoms, part: Column) -> Column:
    """The records of all atoms of `part` and of the entries about them, in order."""
    plain = np.flatnonzero(part & ~side.is_table[side.section])
    found = [ranges(side.begin[plain], side.stop[plain])]
    found += [side.tables[home].records_of(entries) for home, entries in side.owned.about(part).items()]
    return np.sort(np.concatenate(found))


def rows_without_owner(side: Atoms) -> Column:
    """The records of all entries that are about no code."""
    found = [np.zeros(0, "i8")]
    found += [side.tables[home].records_of(entries) for home, entries in side.owned.orphans.items()]
    return np.sort(np.concatenate(found))


def sources(side: Atoms, rows: Column) -> Column:
    """The atom that each record is in, or that its entry is about, -1: none. Rows are in order."""
    records = side.obj.relocations
    into = records["section"][rows].astype("i8")
    found = side.atom_in(into, side.base[into] + records["offset"][rows].astype("i8"))
    for table in side.tables.values():
        low, high = np.searchsorted(rows, (table.records.start, table.records.stop)).tolist()
        if high > low:
            found[low:high] = table.owners(table.entry_of(rows[low:high]))
    return found


def ranges(starts: Column, stops: Column) -> Column:
    """All numbers from each start to its stop."""
    counts = stops - starts
    before = np.cumsum(counts) - counts
    found: Column = np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
    return found

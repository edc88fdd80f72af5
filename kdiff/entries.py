# SPDX-License-Identifier: Apache-2.0
"""Tables of a large object, and the atoms that entries are about, for those entries that are asked about.

In: `Atoms` without its tables. Out: a `Table` each. A kernel has a million entries, and all but a few are
found to be the same without knowing whose they are.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdiff.elf.read import Column
from kdiff.kernel import SpecialSection
from kdiff.reach import ranges, targets
from kdiff.tables import rows_in

if TYPE_CHECKING:
    from kdiff.atoms import Atoms


class Table:
    """A table whose entries go where the code goes that they are about.

    `records`: the range of its records. `leader`: the parallel table whose entries own those of this one.
    """

    def __init__(
        self, side: Atoms, section: int, row: SpecialSection, count: int, leader: Table | None
    ) -> None:
        bounds = side.obj.relocation_bounds
        self.section, self.row, self.count, self.leader = section, row, count, leader
        self.records = slice(int(bounds[section]), int(bounds[section + 1]))
        self._side = side
        self._offset = side.obj.relocations["offset"][self.records]

    def entry_of(self, rows: Column) -> Column:
        """The entries of records of this table, which are given as rows of the object."""
        found: Column = self._offset[rows - self.records.start].astype("i8") // self.row.entry_size
        return found

    def records_of(self, entries: Column) -> Column:
        """The records of some entries, by row of the object."""
        return ranges(*self.spans(entries))

    def spans(self, entries: Column) -> tuple[Column, Column]:
        """Where the records of each entry begin and end, among those of the object."""
        step = self.row.entry_size
        low, high = (np.searchsorted(self._offset, (entries + n).astype("u8") * step) for n in (0, 1))
        return low + self.records.start, high + self.records.start

    def owners(self, entries: Column) -> Column:
        """The atom that each entry is about, -1: none."""
        if self.leader is not None:
            return self.leader.owners(entries)
        found = np.full(len(entries), -1, "i8")
        if self.row.owner is None or not len(self._offset):
            return found
        wanted = entries.astype("u8") * self.row.entry_size + np.uint64(self.row.owner)
        rows = np.minimum(np.searchsorted(self._offset, wanted), len(self._offset) - 1)
        there = np.flatnonzero(self._offset[rows] == wanted)
        found[there] = self._named_by(rows[there] + self.records.start)
        return found

    @cached_property
    def owner(self) -> Column:
        """Of all entries."""
        return self.owners(np.arange(self.count))

    @cached_property
    def rank(self) -> Column:
        """Which one each entry is of those about one atom."""
        order = np.argsort(self.owner, kind="stable")
        found = np.empty(self.count, "i8")
        ordered = self.owner[order]
        found[order] = np.arange(self.count) - np.searchsorted(ordered, ordered)
        return found

    @cached_property
    def names(self) -> slice | Column | None:
        """Of each entry the row of the record that names what it is about; None: not all have one."""
        if self.row.owner is None or not len(self._offset):
            return None
        wanted = np.arange(self.count, dtype="u8") * self.row.entry_size + np.uint64(self.row.owner)
        if np.array_equal(self._offset, wanted):
            return self.records
        rows = np.minimum(np.searchsorted(self._offset, wanted), len(self._offset) - 1)
        return rows + self.records.start if np.array_equal(self._offset[rows], wanted) else None

    def _named_by(self, rows: Column) -> Column:
        """The atoms that records name as the owners of their entries, -1: none of this object's."""
        side, row = self._side, self.row
        symbols = side.symbol[rows]
        atoms: Column = side.lone[symbols]
        asked = np.arange(len(atoms)) if row.ahead else np.flatnonzero(atoms < 0)
        asked = asked[side.home[symbols[asked]] > 0]
        target = targets(side, rows[asked]).target
        atoms[asked] = side.atom_in(side.home[symbols[asked]], target)
        if row.ahead:
            atoms[asked] += (target >= side.tail[atoms[asked]]) & (atoms[asked] + 1 < len(side.start))
        return atoms


class Owned:
    """The entries of all tables, by the symbols that name what they are about."""

    def __init__(self, side: Atoms) -> None:
        self._side = side
        parts = [np.zeros(0, "i8")]
        self._begins = {}
        for table in side.tables.values():
            if table.leader is None and table.names is not None:
                self._begins[table.section] = sum(map(len, parts))
                parts.append(side.symbol[table.names])
        self._symbols = np.concatenate(parts)

    def about(self, part: Column) -> dict[int, Column]:
        """The entries about atoms of `part`, by table, in order; only those tables that have any."""
        side = self._side
        atoms = np.flatnonzero(part)
        touched = np.zeros(len(side.loaded), bool)
        touched[side.section[atoms]] = touched[side.section[np.maximum(atoms - 1, 0)]] = True
        found = self._named(touched[side.home])
        for section, entries in found.items():
            table = side.tables[section]
            if table.leader is not None:
                found[section] = found[table.leader.section]
                continue
            owners = table.owners(entries)
            found[section] = entries[(owners >= 0) & part[owners]]
        return {section: entries for section, entries in found.items() if len(entries)}

    @cached_property
    def orphans(self) -> dict[int, Column]:
        """The entries that are about no atom, as above."""
        found = self._named(self._side.home == 0)
        for section, entries in found.items():
            found[section] = entries[self._side.tables[section].owners(entries) < 0]
        return {section: entries for section, entries in found.items() if len(entries)}

    def _named(self, chosen: Column) -> dict[int, Column]:
        """Of all tables the entries that one of some symbols may name."""
        found: dict[int, Column] = {}
        hits = np.flatnonzero(chosen[self._symbols])
        for section, table in self._side.tables.items():
            if table.leader is not None:
                entries = found.get(table.leader.section, hits[:0])
            elif section in self._begins:
                begin = self._begins[section]
                low, high = np.searchsorted(hits, (begin, begin + table.count)).tolist()
                entries = hits[low:high] - begin
            else:
                entries = np.arange(table.count)
            if len(entries):
                found[section] = entries
        return found


def tables(side: Atoms) -> dict[int, Table]:
    """All tables of an object whose entries may have owners, by section."""
    found: dict[int, Table] = {}
    leaders: dict[str, Table] = {}
    for index, row in sorted(side.rows.items(), key=lambda each: bool(each[1].parallel)):
        size = int(side.size[index])
        if not side.is_table[index] or not size:
            continue
        count = rows_in(size, row.entry_size, row.least)
        leader = leaders.get(row.parallel)
        if leader is not None and leader.count != count:
            leader = None
        found[index] = leaders[side.obj.section_name(index)] = Table(side, index, row, count, leader)
    return found

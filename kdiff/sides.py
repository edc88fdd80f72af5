# SPDX-License-Identifier: Apache-2.0
"""One object's columns for the search of what two objects have in common (`kdiff.alike`).

In: an `Object`, its architecture, rows and habits, and the `Names` of both objects. Out: a `Side`: names as
numbers, the section that each symbol and each record reaches, tables with the owners of their entries, and
classes of sections by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_MERGE,
    SHF_STRINGS,
    SHF_WRITE,
    SHT_GROUP,
    SHT_NOTE,
    STB_LOCAL,
    STT_FILE,
    STT_SECTION,
    Column,
    Object,
)
from kdiff.habits import Habits
from kdiff.kernel import Keep, SpecialSection
from kdiff.naming import is_fragment, is_made_unique, is_numbered, stem
from kdiff.structures import declared_sizes
from kdiff.tables import piece_sections, rows_in, tables_of
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose entries go where the code goes that they are about.

    `owners`: the section of the code of each entry, 0 where it is none of this object's. `records`: those of
    the table, among the records of its side; `entries`: of which entry each of them is.
    """

    section: int
    row: SpecialSection
    owners: Column
    records: slice
    entries: Column

    @property
    def step(self) -> int:
        return self.row.entry_size


class Records(NamedTuple):
    """The records of loaded sections, by column, in the order of their sections."""

    section: Column
    offset: Column
    type: Column
    symbol: Column
    addend: Column
    implicit: Column


class Names:
    """The names of two objects as numbers, and what the names of sections and data mean."""

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._known: dict[str, int] = {}
        self._sections: dict[str, tuple[bool, bool, bool]] = {}
        self._data: dict[str, tuple[bool, bool]] = {}

    def numbers(self, names: list[str]) -> Column:
        known = self._known
        return np.array([known.setdefault(name, len(known)) for name in names], "i8")

    def section(self, name: str) -> tuple[bool, bool, bool]:
        """Whether what lies in such a section is made anew, is a static with a number, is constant."""
        found = self._sections.get(name)
        if found is None:
            remade = self._habits.remade("", name) is not None
            found = self._sections[name] = remade, is_numbered(name), self._habits.is_constant(name)
        return found

    def datum(self, name: str) -> tuple[bool, bool]:
        """Whether such a local datum is a static with a number, and whether it is made anew."""
        found = self._data.get(name)
        if found is None:
            plain = "." not in name and not is_made_unique(name)
            remade = self._habits.remade(name if plain else stem(name), "") is not None
            found = self._data[name] = not plain and is_numbered(name), remade
        return found


_PLAIN = (False, False, False)


class Side:
    """One object's columns."""

    def __init__(
        self, obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits,
        names: Names,
    ) -> None:  # fmt: skip
        self.obj, self.arch, self.habits = obj, arch, habits
        count = len(obj.sections)
        flags, kinds = obj.sections["flags"], obj.sections["type"]
        self.loaded = (flags & SHF_ALLOC > 0) & (kinds != SHT_GROUP) & (kinds != SHT_NOTE)
        self.loaded[0] = False
        self.code = flags & SHF_EXECINSTR > 0
        self.strings = self.loaded & (flags & (SHF_MERGE | SHF_STRINGS) == SHF_MERGE | SHF_STRINGS)
        self.strings &= obj.sections["entsize"] == 1
        self.names, self.symbol_names = obj.names_of_sections(), obj.names_of_symbols()
        self.section_ids, self.symbol_ids = names.numbers(self.names), names.numbers(self.symbol_names)
        self.label = np.array([name[:2] == ".L" for name in self.symbol_names], bool)
        kinds, homes = obj.symbols["type"], obj.symbols["section"].astype("i8")
        self.named = (kinds != STT_SECTION) & (kinds != STT_FILE)
        self.home = np.where(homes < count, homes, 0)
        self.defined = self.loaded[self.home]
        self.records = _records(obj, self.loaded)
        self.target = self.home[self.records.symbol]
        self.rows = tables_of(obj, arch, special, declared_sizes(obj, arch))
        self.source = self.records.section.copy()
        """Who says what a record says: its section, or that of the owner of its entry."""
        self.tables = self._tables()
        self.is_table = np.zeros(count, bool)
        self.is_table[list(self.tables)] = True
        self.piece_sections = piece_sections(obj, special)
        self.pieces = np.zeros(count, bool)
        self.pieces[list(self.piece_sections)] = True
        self.fragment = np.zeros(count, bool)
        self.remade, self.numbered, along = self._by_name(names)
        self.follows = self._followers() | self.remade | along

    def _by_name(self, names: Names) -> tuple[Column, Column, Column]:
        """Sections of data made anew, of statics with numbers, and of constants and parts of functions."""
        remade, numbered, constant = (np.zeros(len(self.obj.sections), bool) for _ in range(3))
        for index in np.flatnonzero(self.loaded & ~self.code & ~self.is_table).tolist():
            found = names.section(self.names[index])
            if found != _PLAIN:
                remade[index], numbered[index], constant[index] = found
        local = self.named & self.defined & ~self.label & (self.obj.symbols["binding"] == STB_LOCAL)
        code, texts = self.code[self.home], self.symbol_names
        for index in np.flatnonzero(self.named & self.defined & code).tolist():
            if is_fragment(texts[index]):
                self.fragment[self.home[index]] = True
        for index in np.flatnonzero(local & ~code & ~self.is_table[self.home]).tolist():
            of_number, anew = names.datum(texts[index])
            if of_number or anew:
                home = self.home[index]
                numbered[home] |= of_number
                remade[home] |= anew
        return remade, (numbered | remade) & ~self.strings, constant | self.fragment

    def _followers(self) -> Column:
        """Sections that go where the code goes that refers to them: constants, payload of entries, pools."""
        follows: Column = self.loaded & ~self.code & (self.obj.sections["flags"] & SHF_WRITE == 0)
        follows |= self.pieces & self.loaded
        follows[list(self.rows)] = self.loaded[list(self.rows)]
        if self.arch.pools:
            pools = [index for index, name in enumerate(self.names) if name in self.arch.pools]
            follows[pools] = self.loaded[pools]
        return follows

    def _tables(self) -> dict[int, Table]:
        found: dict[int, Table] = {}
        by_name: dict[str, Column] = {}
        bounds = np.searchsorted(self.records.section, np.arange(len(self.obj.sections) + 1)).tolist()
        sizes = self.obj.sections["size"].tolist()
        for index, row in sorted(self.rows.items(), key=lambda each: bool(each[1].parallel)):
            if row.keep is not Keep.OWNER or not row.entry_size or not sizes[index]:
                continue
            count = rows_in(sizes[index], row.entry_size, row.least)
            records = slice(bounds[index], bounds[index + 1])
            offsets = self.records.offset[records]
            entries = offsets // row.entry_size
            owners = by_name.get(row.parallel)
            if owners is None or len(owners) != count:
                owners = np.zeros(count, "i8")
                if row.owner is not None:
                    naming = offsets - entries * row.entry_size == row.owner
                    # of several records of one place the first adds
                    owners[entries[naming][::-1]] = self.target[records][naming][::-1]
            by_name[self.names[index]] = owners
            self.source[records] = owners[entries]
            found[index] = Table(index, row, owners, records, entries)
        return found


def paired(pre: Side, post: Side) -> tuple[Column, Column]:
    """Post section of each pre section and the other way; 0 and -1 where a name is missing or not unique."""
    names = int(max(pre.section_ids.max(), post.section_ids.max())) + 1
    ours, theirs = _by_number(pre, names), _by_number(post, names)
    both = np.flatnonzero((ours > 0) & (theirs > 0))
    to_post = np.zeros(len(pre.obj.sections), "i8")
    to_pre = np.full(len(post.obj.sections), -1, "i8")
    to_post[ours[both]], to_pre[theirs[both]] = theirs[both], ours[both]
    return to_post, to_pre


def _by_number(side: Side, names: int) -> Column:
    """The loaded section of each name; 0 where there is none, or several."""
    loaded = np.flatnonzero(side.loaded)
    found = np.zeros(names, "i8")
    found[side.section_ids[loaded]] = loaded
    found[np.bincount(side.section_ids[loaded], minlength=names) > 1] = 0
    return found


def _records(obj: Object, loaded: Column) -> Records:
    records = obj.relocations
    chosen = loaded[records["section"]]
    if not chosen.all():
        records = records.of(chosen)
    section, offset, kind, symbol, addend = (
        records[name].astype("i8") for name in ("section", "offset", "type", "symbol", "addend")
    )
    return Records(section, offset, kind, symbol, addend, records["implicit"])

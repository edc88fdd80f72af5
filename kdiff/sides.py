# SPDX-License-Identifier: Apache-2.0
"""One object's columns for the search of what two objects have in common (`kdiff.alike`).

In: an `Object`, its architecture, rows and habits. Out: a `Side`: names as numbers, the section that each
symbol and each record reaches, tables with the owners of their entries, and classes of sections by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
from kdiff.naming import is_fragment, is_numbered, stem
from kdiff.structures import declared_sizes
from kdiff.tables import piece_sections, rows_in, tables_of


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose entries go where the code goes that they are about.

    `owners`: the section of the code of each entry, 0 where it is none of this object's.
    """

    section: int
    row: SpecialSection
    owners: Column

    @property
    def step(self) -> int:
        return self.row.entry_size


class Side:
    """One object's columns."""

    def __init__(
        self, obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits,
        names: dict[bytes, int],
    ) -> None:  # fmt: skip
        self.obj, self.arch = obj, arch
        count = len(obj.sections)
        flags, kinds = obj.sections["flags"], obj.sections["type"]
        self.loaded = (flags & SHF_ALLOC > 0) & (kinds != SHT_GROUP) & (kinds != SHT_NOTE)
        self.loaded[0] = False
        self.code = flags & SHF_EXECINSTR > 0
        self.strings = self.loaded & (flags & (SHF_MERGE | SHF_STRINGS) == SHF_MERGE | SHF_STRINGS)
        self.strings &= obj.sections["entsize"] == 1
        self.names = _names(obj, obj.section_names, obj.sections["name"])
        self.section_ids = _ids(self.names, names)
        self.symbol_names = _names(obj, obj.symbol_names, obj.symbols["name"]) if obj.symbol_names else [b""]
        self.symbol_ids = _ids(self.symbol_names, names)
        self.label = np.array([name.startswith(b".L") for name in self.symbol_names], bool)
        symbols = obj.symbols
        self.home = np.where(symbols["section"] < count, symbols["section"], 0).astype("i8")
        self.defined = (self.home > 0) & self.loaded[self.home]
        self.rows = tables_of(obj, arch, special, declared_sizes(obj, arch))
        self.tables = _tables(obj, self.rows)
        self.is_table = np.zeros(count, bool)
        self.is_table[list(self.tables)] = True
        records = obj.relocations
        self.records = records[self.loaded[records["section"]]]
        self.target = self.home[self.records["symbol"]]
        self.pieces = np.zeros(count, bool)
        self.pieces[list(piece_sections(obj, special))] = True
        self.remade, self.numbered, along = self._by_name(habits)
        self.follows = self._followers() | self.remade | along

    def _by_name(self, habits: Habits) -> tuple[Column, Column, Column]:
        """Sections of data made anew, of statics with numbers, and of constants and parts of functions."""
        remade, numbered, constant, fragments = (np.zeros(len(self.obj.sections), bool) for _ in range(4))
        for index in np.flatnonzero(self.loaded & ~self.code & ~self.is_table).tolist():
            section = self.names[index].decode("utf-8", "surrogateescape")
            remade[index] = habits.remade("", section) is not None
            constant[index] = habits.is_constant(section)
            numbered[index] = is_numbered(section)
        named = self.defined & ~np.isin(self.obj.symbols["type"], (STT_SECTION, STT_FILE))
        for index in np.flatnonzero(
            named & ~self.label & (self.obj.symbols["binding"] == STB_LOCAL)
        ).tolist():
            name, home = self.symbol_names[index].decode("utf-8", "surrogateescape"), self.home[index]
            if self.code[home]:
                fragments[home] |= is_fragment(name)
            elif not self.is_table[home]:
                numbered[home] |= is_numbered(name)
                remade[home] |= habits.remade(stem(name), "") is not None
        return remade, (numbered | remade) & ~self.strings, constant | fragments

    def _followers(self) -> Column:
        """Sections that go where the code goes that refers to them: constants, payload of entries, pools."""
        pools = frozenset(name.encode() for name in self.arch.pools)
        follows: Column = self.loaded & ~self.code & (self.obj.sections["flags"] & SHF_WRITE == 0)
        for index in np.flatnonzero(self.loaded & ~follows).tolist():
            follows[index] = self.pieces[index] or index in self.rows or self.names[index] in pools
        return follows


def _tables(obj: Object, rows: Mapping[int, SpecialSection]) -> dict[int, Table]:
    found: dict[int, Table] = {}
    by_name: dict[str, Column] = {}
    for index, row in sorted(rows.items(), key=lambda each: bool(each[1].parallel)):
        if row.keep is not Keep.OWNER or not row.entry_size or not obj.sections["size"][index]:
            continue
        count = rows_in(int(obj.sections["size"][index]), row.entry_size, row.least)
        owners = _owners(obj, index, row, count)
        beside = by_name.get(row.parallel)
        if beside is not None and len(beside) == count:
            owners = beside
        by_name[obj.section_name(index)] = owners
        found[index] = Table(index, row, owners)
    return found


def _owners(obj: Object, section: int, row: SpecialSection, count: int) -> Column:
    owners = np.zeros(count, "i8")
    if row.owner is None:
        return owners
    low, high = obj.relocation_bounds[section], obj.relocation_bounds[section + 1]
    records = obj.relocations[low:high]
    offsets = records["offset"].astype("i8")
    naming = offsets % row.entry_size == row.owner
    homes = obj.symbols["section"][records["symbol"][naming]].astype("i8")
    homes = np.where(homes < len(obj.sections), homes, 0)
    owners[offsets[naming][::-1] // row.entry_size] = homes[
        ::-1
    ]  # of several records of one place the first adds
    return owners


def _names(obj: Object, table: int, offsets: Column) -> list[bytes]:
    """The strings at offsets of a string table; b"" for those that are not sound."""
    section = obj.sections[table]
    data = bytes(obj.data[int(section["offset"]) : int(section["offset"] + section["size"])])
    found: list[bytes] = []
    for start in offsets.tolist():
        end = data.find(b"\0", start)
        found.append(data[start:end] if end >= 0 else b"")
    return found


def _ids(names: list[bytes], known: dict[bytes, int]) -> Column:
    return np.array([known.setdefault(name, len(known)) for name in names], "i8")

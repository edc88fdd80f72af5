# SPDX-License-Identifier: Apache-2.0
"""One object's columns for the search of what two objects have in common (`kdiff.alike`).

In: an `Object`, its architecture, rows and habits, and the `Names` of both objects. Out: a `Side`: names as
numbers, the section that each symbol and each record reaches, tables with the owners of their entries, and
classes of sections by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.debug import has_types
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
from kdiff.naming import FRAGMENT, LABEL, UNIQUE, example, is_made_unique, is_numbered, stem
from kdiff.sectionrows import Rows
from kdiff.structures import declared_sizes
from kdiff.tables import rows_in, tables_among
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose entries go where the code goes that they are about.

    `owners`: the section of the code of each entry, 0 where it is none of this object's; their `place` among
    those of its side. `records`: those of the table, among the records of its side; `entries`: of which entry
    each of them is.
    """

    section: int
    row: SpecialSection
    owners: Column
    place: slice
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


Reaching = tuple[Records, Column, Column]


class Names:
    """The names of two objects as numbers, and what the names of sections and data mean.

    Most of them are in both, so what a name means is asked once.
    """

    def __init__(self, pre: Object, post: Object, rows: Rows, habits: Habits) -> None:
        post.share_names(pre)
        self.rows, self._habits = rows, habits
        self._sections = _Told(lambda name: _section(habits, name))
        self._data = _Told(lambda name: _datum(habits, example(name)))
        objects = pre, post
        self.section_ids = _numbers(*(each.names_of_sections() for each in objects))
        self.symbol_ids = _numbers(*(each.names_of_symbols() for each in objects))

    def sections(self, names: list[str], chosen: Column) -> Column:
        """By name of a section, of those that are chosen: what its data are, in bits."""
        heads = (UNIQUE, LABEL, *self._habits.remade_families, *self._habits.constant_families)
        return self._sections.of(
            names,
            chosen,
            lambda numbers: [n for n in numbers if not names[n][-1:].isalpha() or names[n].startswith(heads)],
        )

    def data(self, names: list[str], chosen: Column) -> Column:
        """The same by name of a local datum."""
        remade = self._habits.remade_names
        return self._data.of(
            names,
            chosen,
            lambda numbers: [
                n for n in numbers if "." in names[n] or names[n] in remade or names[n].startswith(UNIQUE)
            ],
        )


REMADE, NUMBERED, CONSTANT = 1, 2, 4
"""Made anew, a static with a number, constant."""


@lru_cache(maxsize=1 << 12)
def _section(habits: Habits, name: str) -> int:
    remade = name.startswith(habits.remade_families)
    return REMADE * remade | NUMBERED * is_numbered(name) | CONSTANT * habits.is_constant(name)


@lru_cache(maxsize=1 << 12)
def _datum(habits: Habits, name: str) -> int:
    if "." not in name and not is_made_unique(name):
        return REMADE * (name in habits.remade_names)
    return REMADE * (habits.remade(stem(name), "") is not None) | NUMBERED * is_numbered(name)


class _Told:
    """What was told of names, in bits; what both objects ask is told once."""

    def __init__(self, tell: Callable[[str], int]) -> None:
        self._tell = tell
        self._last: tuple[list[str], Column, Column] = [], np.zeros(0), np.zeros(0)

    def of(self, names: list[str], chosen: Column, some: Callable[[list[int]], list[int]]) -> Column:
        """By name: the bits of those that are chosen; `some` of them alone may have any."""
        if names is not self._last[0] or not np.array_equal(chosen, self._last[1]):
            found, special = np.zeros(len(names), "u1"), some(chosen.tolist())
            found[special] = [self._tell(names[each]) for each in special]
            self._last = names, chosen, found
        return self._last[2].copy()


def _numbers(ours: list[str], theirs: list[str]) -> tuple[Column, Column]:
    """A number for each name, the same for the same name."""
    number, count, more = dict[str, int]().setdefault, len(ours), len(theirs)
    found = np.fromiter(map(number, ours, range(count)), "i8", count)
    if theirs is ours:
        return found, found
    return found, np.fromiter(map(number, theirs, range(count, count + more)), "i8", more)


class Sections(NamedTuple):
    """What headers and names of sections tell.

    `special`: those whose names may have a row. `pieces`: those that hold code for table entries only.
    """

    loaded: Column
    code: Column
    strings: Column
    pieces: Column
    special: list[int]
    piece_sections: frozenset[int]

    @staticmethod
    def of(obj: Object, names: list[str], rows: Rows) -> Sections:
        flags, kinds = obj.sections["flags"].copy(), obj.sections["type"].copy()
        allocated = flags & SHF_ALLOC > 0
        loaded = allocated & (kinds != SHT_GROUP) & (kinds != SHT_NOTE)
        loaded[0] = False
        strings = loaded & (flags & (SHF_MERGE | SHF_STRINGS) == SHF_MERGE | SHF_STRINGS)
        strings &= obj.sections["entsize"] == 1
        special = rows.among(names, allocated.nonzero()[0].tolist())
        piece_sections = frozenset([index for index in special if index and rows.is_piece(names[index])])
        pieces = np.zeros(len(flags), bool)
        pieces[list(piece_sections)] = True
        return Sections(loaded, flags & SHF_EXECINSTR > 0, strings, pieces, special, piece_sections)


class Symbols(NamedTuple):
    """Which symbols have a name, and where they are.

    `home`: the section, 0 where it is none of this object's. `defined`: in a loaded one.
    """

    named: Column
    home: Column
    defined: Column

    @staticmethod
    def of(obj: Object, loaded: Column) -> Symbols:
        kinds, homes = obj.symbols["type"], obj.symbols["section"].astype("i8")
        home = np.where(homes < len(loaded), homes, 0)
        return Symbols((kinds != STT_SECTION) & (kinds != STT_FILE), home, loaded[home])


class Listed(NamedTuple):
    """The rows of sections, and the tables among them.

    `owners`: by entry, of all tables, the section of the code that it is about. `source`: who says what a
    record says, its section or that of the owner of its entry.
    """

    rows: dict[int, SpecialSection]
    tables: dict[int, Table]
    is_table: Column
    owners: Column
    source: Column


class Kinds(NamedTuple):
    """What sections hold by the names of it: parts of functions, data made anew, statics with numbers.

    `follows`: those that go where the code goes that refers to them.
    """

    fragment: Column
    remade: Column
    numbered: Column
    follows: Column


class Side:
    """One object's columns. What both objects tell alike is taken from the side of its `twin`."""

    def __init__(
        self, obj: Object, arch: Architecture, names: Names, habits: Habits, number: int,
        twin: Side | None = None,
    ) -> None:  # fmt: skip
        self.obj, self.arch, self.habits = obj, arch, habits
        self.names, self.symbol_names = obj.names_of_sections(), obj.names_of_symbols()
        self.section_ids, self.symbol_ids = names.section_ids[number], names.symbol_ids[number]
        if twin is not None and not (
            self.section_ids is twin.section_ids
            and _equal(obj.sections, twin.obj.sections, ("type", "flags", "entsize"))
        ):
            twin = None
        self.sections: Sections = Sections.of(obj, self.names, names.rows) if twin is None else twin.sections
        self.loaded, self.code, self.strings, self.pieces, _, self.piece_sections = self.sections
        if twin is not None and not _equal(obj.symbols, twin.obj.symbols, ("type", "binding", "section")):
            twin = None
        self.symbols: Symbols = Symbols.of(obj, self.loaded) if twin is None else twin.symbols
        self.named, self.home, self.defined = self.symbols
        if twin is not None and obj.relocations is twin.obj.relocations:
            self.reaching: Reaching = twin.reaching
        else:
            self.reaching = _reaching(obj, self.loaded, self.home)
        self.records, self.bounds, self.target = self.reaching
        listed = None if twin is None or not self._lists_same(twin) else twin.listed
        self.listed: Listed = self._listed(names.rows) if listed is None else listed
        self.rows, self.tables, self.is_table, self.owners, self.source = self.listed
        if twin is not None and not (
            self.symbol_ids is twin.symbol_ids and self.tables.keys() == twin.tables.keys()
        ):
            twin = None
        self.label: Column = _labels(obj) if twin is None else twin.label
        self.kinds: Kinds = self._kinds(names) if twin is None else twin.kinds
        self.fragment, self.remade, self.numbered, self.follows = self.kinds

    def _lists_same(self, twin: Side) -> bool:
        """Whether all is the same that decides the layouts of tables and the owners of their entries."""
        ours, theirs = self.obj, twin.obj
        if has_types(ours) or has_types(theirs) or self.bounds.tobytes() != twin.bounds.tobytes():
            return False
        among = np.zeros(len(self.loaded), bool)
        among[self.sections.special] = True
        if not (
            _equal(ours.sections, theirs.sections, ("size",), among)
            and _equal(ours.symbols, theirs.symbols, ("size",), among[self.home])
        ):
            return False
        at = among.take(self.records.section).nonzero()[0]
        columns = zip(self.records[1:4], twin.records[1:4], strict=True)  # offset, type, symbol
        return self.records is twin.records or all(
            mine.take(at).tobytes() == yours.take(at).tobytes() for mine, yours in columns
        )

    def _rows(self, rows: Rows) -> dict[int, SpecialSection]:
        found = ((index, rows.row(self.names[index])) for index in self.sections.special)
        known = {index: row for index, row in found if row is not None}
        return tables_among(known, self.obj, self.arch, rows, declared_sizes(self.obj, self.arch))

    def _kinds(self, names: Names) -> Kinds:
        data = ~self.code & ~self.is_table
        told = names.sections(self.names, (self.loaded & data).nonzero()[0])
        inside, texts = self.named & self.defined, self.symbol_names
        functions = (inside & self.code[self.home]).nonzero()[0].tolist()
        fragment = np.zeros(len(self.loaded), bool)
        fragment[self.home[[index for index in functions if FRAGMENT in texts[index]]]] = True
        local = inside & ~self.label & (self.obj.symbols["binding"] == STB_LOCAL)
        statics = names.data(texts, (local & data[self.home]).nonzero()[0])
        for index in statics.nonzero()[0].tolist():
            told[self.home[index]] |= statics[index]
        remade = told & REMADE > 0
        numbered = (told & (NUMBERED | REMADE) > 0) & ~self.strings
        follows = self._followers() | remade | (told & CONSTANT > 0) | fragment
        return Kinds(fragment, remade, numbered, follows)

    def _followers(self) -> Column:
        """Sections that go where the code goes that refers to them: constants, payload of entries, pools."""
        follows: Column = self.loaded & ~self.code & (self.obj.sections["flags"] & SHF_WRITE == 0)
        follows |= self.pieces & self.loaded
        follows[list(self.rows)] = self.loaded[list(self.rows)]
        if self.arch.pools:
            pools = [index for index, name in enumerate(self.names) if name in self.arch.pools]
            follows[pools] = self.loaded[pools]
        return follows

    def _listed(self, known: Rows) -> Listed:
        """The tables whose entries have owners; the records of all of them are looked at together."""
        sizes, every = self.obj.sections["size"], self._rows(known)
        rows = {
            index: row
            for index, row in sorted(every.items(), key=lambda each: bool(each[1].parallel))
            if row.keep is Keep.OWNER and row.entry_size and sizes[index]
        }
        count = len(sizes)
        step, naming, base = np.zeros(count, "i8"), np.full(count, -1, "i8"), np.zeros(count, "i8")
        total, places, place_of = 0, dict[str, tuple[int, int]](), dict[int, tuple[int, int]]()
        """By name and number of a table: where its owners are kept among those of all, and how many."""
        for index, row in rows.items():
            many = rows_in(int(sizes[index]), row.entry_size, row.least)
            place = places.get(row.parallel)
            if place is None or place[1] != many:
                place, total = (total, many), total + many
                naming[index] = -1 if row.owner is None else row.owner
            places[self.names[index]] = place_of[index] = place
            step[index], base[index] = row.entry_size, place[0]
        owners, source = np.zeros(total, "i8"), self.records.section.copy()
        chosen = step.take(self.records.section).nonzero()[0]
        section, offset = self.records.section.take(chosen), self.records.offset.take(chosen)
        entry = offset // (size := step.take(section))
        slot = base.take(section) + entry
        named = (offset - entry * size == naming.take(section)).nonzero()[0][::-1]
        owners[slot[named]] = self.target[chosen[named]]  # of several records of one place the first adds
        source[chosen] = owners.take(slot)
        found, at = {}, 0
        for index in sorted(rows):
            first, last = self.bounds[index : index + 2].tolist()
            at, entries = at + last - first, entry[at : at + last - first]
            within = slice(place_of[index][0], sum(place_of[index]))
            found[index] = Table(index, rows[index], owners[within], within, slice(first, last), entries)
        is_table = np.zeros(count, bool)
        is_table[list(rows)] = True
        return Listed(every, {index: found[index] for index in rows}, is_table, owners, source)


def _equal(ours: Column, theirs: Column, names: tuple[str, ...], among: Column | None = None) -> bool:
    """Whether rows are equal in some of their columns; all rows, or those `among` them."""
    chosen = slice(None) if among is None else among
    return ours is theirs or all(
        ours[name][chosen].tobytes() == theirs[name][chosen].tobytes() for name in names
    )


def _labels(obj: Object) -> Column:
    """Which symbols are labels of the compiler, which mean nothing."""
    text = np.frombuffer(bytes(obj.contents(obj.symbol_names)) + b"\0\0", "u1")
    at = np.minimum(obj.symbols["name"], len(text) - 2)
    found: Column = (text[at] == ord(LABEL[0])) & (text[at + 1] == ord(LABEL[1]))
    return found


def paired(pre: Side, post: Side) -> tuple[Column, Column]:
    """Post section of each pre section and the other way; 0 and -1 where a name is missing or not unique."""
    names = int(max(pre.section_ids.max(), post.section_ids.max())) + 1
    ours, theirs = _by_number(pre, names), _by_number(post, names)
    both = ((ours > 0) & (theirs > 0)).nonzero()[0]
    to_post = np.zeros(len(pre.obj.sections), "i8")
    to_pre = np.full(len(post.obj.sections), -1, "i8")
    to_post[ours[both]], to_pre[theirs[both]] = theirs[both], ours[both]
    return to_post, to_pre


def _by_number(side: Side, names: int) -> Column:
    """The loaded section of each name; 0 where there is none, or several."""
    loaded = side.loaded.nonzero()[0]
    found = np.zeros(names, "i8")
    found[side.section_ids[loaded]] = loaded
    found[np.bincount(side.section_ids[loaded], minlength=names) > 1] = 0
    return found


def _reaching(obj: Object, loaded: Column, home: Column) -> Reaching:
    """The records of loaded sections, where those of each section begin, and the section each reaches."""
    records, bounds = obj.relocations, obj.relocation_bounds
    counts = bounds[1:] - bounds[:-1]
    if np.count_nonzero(counts[~loaded]):
        records = records.of(loaded.take(records["section"]))
        bounds = np.zeros(len(bounds), "i8")
        (counts * loaded).cumsum(out=bounds[1:])
    section, symbol = records["section"].astype("i8"), records["symbol"].astype("i8")
    columns = records["offset"].view("i8"), records["type"], symbol, records["addend"], records["implicit"]
    return Records(section, *columns), bounds, home.take(symbol)

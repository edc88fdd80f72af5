# SPDX-License-Identifier: Apache-2.0
"""The columns of one side for the search of what objects have in common (`kdiff.alike`).

In: a `Stack` of pre or of post objects, their architecture and habits, and the `Names` of both sides. Out:
a `Side`: names as numbers, the section that each symbol and each record reaches, tables with the owners of
their entries, and classes of sections by name.
"""

from __future__ import annotations

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
from kdiff.elf.stack import Records, Stack
from kdiff.habits import Habits
from kdiff.kernel import Keep, SpecialSection
from kdiff.naming import LABEL
from kdiff.sidenames import CONSTANT, NUMBERED, PIECE, REMADE, ROW, Names
from kdiff.structures import declared_sizes
from kdiff.tables import rows_in, tables_among


class Table(NamedTuple):
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


class Sections(NamedTuple):
    """What headers and names of sections tell.

    `pieces`: those that hold code for table entries only. `special`: those whose names may have a row.
    """

    loaded: Column
    code: Column
    strings: Column
    pieces: Column
    special: Column

    @staticmethod
    def of(stack: Stack, ids: Column, names: Names) -> Sections:
        flags, kinds = stack.sections["flags"].copy(), stack.sections["type"].copy()
        allocated = flags & SHF_ALLOC > 0
        loaded = allocated & (kinds != SHT_GROUP) & (kinds != SHT_NOTE)
        loaded[stack.first_section[:-1]] = False
        strings = loaded & (flags & (SHF_MERGE | SHF_STRINGS) == SHF_MERGE | SHF_STRINGS)
        strings &= stack.sections["entsize"] == 1
        chosen = allocated.nonzero()[0]
        told, pieces = names.special_of(ids.take(chosen)), np.zeros(len(flags), bool)
        pieces[chosen] = told & PIECE > 0
        pieces[stack.first_section[:-1]] = False
        return Sections(loaded, flags & SHF_EXECINSTR > 0, strings, pieces, chosen[told & ROW > 0])


class Symbols(NamedTuple):
    """Which symbols have a name, and where they are.

    `home`: the section, 0 where it is none of this object's. `defined`: in a loaded one.
    """

    named: Column
    home: Column
    defined: Column

    @staticmethod
    def of(stack: Stack, loaded: Column) -> Symbols:
        kinds, homes = stack.symbols["type"], stack.symbols["section"].astype("i8")
        home = np.where(homes < len(loaded), homes, 0)
        return Symbols((kinds != STT_SECTION) & (kinds != STT_FILE), home, loaded[home])


class Listed(NamedTuple):
    """The tables among the sections that have rows.

    `owners`: by entry, of all tables, the section of the code that it is about. `source`: who says what a
    record says, its section or that of the owner of its entry.
    """

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
    """The columns of the objects on one side. What a pair shares is taken from the side of its `twin`."""

    def __init__(
        self, stack: Stack, arch: Architecture, names: Names, habits: Habits, number: int,
        twin: Side | None = None,
    ) -> None:  # fmt: skip
        self.stack, self.arch, self.habits, self.names = stack, arch, habits, names
        self.section_ids, self.symbol_ids = names.section_ids[number], names.symbol_ids[number]
        self.sections = Sections.of(stack, self.section_ids, names)
        self.loaded, self.code, self.strings, self.pieces, _ = self.sections
        self.symbols = Symbols.of(stack, self.loaded)
        self.named, self.home, self.defined = self.symbols
        self.records, self.bounds, self.target = _reaching(stack, self.loaded, self.home)
        self.rows_of = self._rows(twin)
        self.rows = {
            first + index: row
            for first, rows in zip(stack.first_section, self.rows_of, strict=False)
            for index, row in rows.items()
        }
        self.tables, self.is_table, self.owners, self.source = self._listed()
        self.label = _labels(stack)
        self.kinds = self._kinds()
        self.fragment, self.remade, self.numbered, self.follows = self.kinds

    def section_name(self, index: int) -> str:
        return self.names.sections[int(self.section_ids[index])]

    def symbol_name(self, index: int) -> str:
        """The symbol's own name."""
        return self.names.symbols[int(self.symbol_ids[index])]

    def _rows(self, twin: Side | None) -> list[dict[int, SpecialSection]]:
        """The rows of each object's sections, by their numbers in that object."""
        found, special, row = list[dict[int, SpecialSection]](), self.sections.special, self.names.rows.row
        names = list(map(self.names.sections.__getitem__, self.section_ids.take(special).tolist()))
        for number, (obj, first, part) in enumerate(self.stack.parts(special)):
            if twin is not None and _shares_columns(obj, twin.stack.objects[number]):
                found.append(twin.rows_of[number])
                continue
            named = zip((special[part] - first).tolist(), map(row, names[part]), strict=True)
            known = {index: each for index, each in named if each is not None}
            found.append(tables_among(known, obj, self.arch, self.names.rows, declared_sizes(obj, self.arch)))
        return found

    def _kinds(self) -> Kinds:
        data, told = ~self.code & ~self.is_table, np.zeros(len(self.loaded), "u1")
        chosen = (self.loaded & data).nonzero()[0]
        told[chosen] = self.names.data_of(self.section_ids.take(chosen))
        inside = self.named & self.defined
        functions = (inside & self.code.take(self.home)).nonzero()[0]
        parts = self.names.fragments(self.symbol_ids.take(functions)).nonzero()[0]
        fragment = np.zeros(len(self.loaded), bool)
        fragment[self.home.take(functions.take(parts))] = True
        local = inside & ~self.label & (self.stack.symbols["binding"] == STB_LOCAL)
        statics = (local & data.take(self.home)).nonzero()[0]
        np.bitwise_or.at(told, self.home.take(statics), self.names.datum_of(self.symbol_ids.take(statics)))
        remade = told & REMADE > 0
        numbered = (told & (NUMBERED | REMADE) > 0) & ~self.strings
        follows = self._followers() | remade | (told & CONSTANT > 0) | fragment
        return Kinds(fragment, remade, numbered, follows)

    def _followers(self) -> Column:
        """Sections that go where the code goes that refers to them: constants, payload of entries, pools."""
        follows: Column = self.loaded & ~self.code & (self.stack.sections["flags"] & SHF_WRITE == 0)
        follows |= self.pieces & self.loaded
        follows[list(self.rows)] = self.loaded[list(self.rows)]
        if self.arch.pools:
            named = enumerate(map(self.names.sections.__getitem__, self.section_ids.tolist()))
            pools = [index for index, name in named if name in self.arch.pools]
            follows[pools] = self.loaded[pools]
        return follows

    def _listed(self) -> Listed:
        """The tables whose entries have owners; the records of all of them are looked at together."""
        count, total, sizes = len(self.loaded), 0, self.stack.sections["size"]
        step, naming, base = np.zeros(count, "i8"), np.full(count, -1, "i8"), np.zeros(count, "i8")
        rows, within = list[tuple[int, SpecialSection]](), list[slice]()
        for first, every in zip(self.stack.first_section, self.rows_of, strict=False):
            places = dict[str, slice]()
            """By name of a table: its part of `owners`."""
            owned = [
                (first + index, row)
                for index, row in every.items()
                if row.keep is Keep.OWNER and row.entry_size
            ]
            for index, row in sorted(owned, key=_is_beside):
                size, place = int(sizes[index]), places.get(row.parallel)
                if not size:
                    continue
                many = rows_in(size, row.entry_size, row.least)
                if place is None or place.stop - place.start != many:
                    place, total = slice(total, total + many), total + many
                    naming[index] = -1 if row.owner is None else row.owner
                places[self.section_name(index)] = place
                step[index], base[index] = row.entry_size, place.start
                rows.append((index, row))
                within.append(place)
        owners, source = np.zeros(total, "i8"), self.records.section.copy()
        chosen = step.take(self.records.section).nonzero()[0]
        section, offset = self.records.section.take(chosen), self.records.offset.take(chosen)
        steps = step.take(section)
        entry = offset // steps
        slot = base.take(section) + entry
        named = (offset - entry * steps == naming.take(section)).nonzero()[0][::-1]
        # of several records of one place the first adds
        owners[slot.take(named)] = self.target.take(chosen.take(named))
        source[chosen] = owners.take(slot)
        numbers = np.array([index for index, _ in rows], "i8")
        firsts, lasts = self.bounds.take(numbers), self.bounds.take(numbers + 1)
        ats = chosen.searchsorted(firsts)
        spans = zip(firsts.tolist(), lasts.tolist(), ats.tolist(), strict=True)
        found = {
            index: Table(index, row, owners[place], place, slice(first, last), entry[at : at + last - first])
            for (index, row), place, (first, last, at) in zip(rows, within, spans, strict=True)
        }
        is_table = np.zeros(count, bool)
        is_table[numbers] = True
        return Listed(found, is_table, owners, source)


def _is_beside(each: tuple[int, SpecialSection]) -> bool:
    return bool(each[1].parallel)


def _shares_columns(obj: Object, twin: Object) -> bool:
    """Whether two objects have one set of headers, symbols and records, and say nothing else of tables."""
    return (
        obj.sections is twin.sections
        and obj.symbols is twin.symbols
        and obj.relocations is twin.relocations
        and not (has_types(obj) or has_types(twin))
    )


def _labels(stack: Stack) -> Column:
    """Which symbols are labels of the compiler, which mean nothing."""
    texts = [bytes(each.contents(each.symbol_names)) for each in stack.objects]
    counts, at = [len(each.symbols) for each in stack.objects], stack.symbols["name"].astype("i8")
    at = np.minimum(at, np.array(list(map(len, texts))).repeat(counts))
    text = np.frombuffer(b"\0\0".join((*texts, b"")), "u1")
    at += (np.cumsum([0, *(len(each) + 2 for each in texts[:-1])])).repeat(counts)
    found: Column = (text.take(at) == ord(LABEL[0])) & (text.take(at + 1) == ord(LABEL[1]))
    return found


def paired(pre: Side, post: Side) -> tuple[Column, Column]:
    """Post section of each pre section and the other way; 0 and -1 where a name is missing or not unique."""
    names = int(max(pre.section_ids.max(), post.section_ids.max())) + 1
    ours, theirs = _by_number(pre, names), _by_number(post, names)
    both = ((ours > 0) & (theirs > 0)).nonzero()[0]
    to_post = np.zeros(len(pre.stack.sections), "i8")
    to_pre = np.full(len(post.stack.sections), -1, "i8")
    to_post[ours[both]], to_pre[theirs[both]] = theirs[both], ours[both]
    return to_post, to_pre


def _by_number(side: Side, names: int) -> Column:
    """The loaded section of each name; 0 where there is none, or several."""
    loaded = side.loaded.nonzero()[0]
    found = np.zeros(names, "i8")
    found[side.section_ids[loaded]] = loaded
    found[np.bincount(side.section_ids[loaded], minlength=names) > 1] = 0
    return found


def _reaching(stack: Stack, loaded: Column, home: Column) -> tuple[Records, Column, Column]:
    """The records of loaded sections, where those of each section begin, and the section each reaches."""
    records, bounds = stack.records, stack.bounds
    counts = bounds[1:] - bounds[:-1]
    if np.count_nonzero(counts[~loaded]):
        chosen = loaded.take(records.section).nonzero()[0]
        records = Records(*(column.take(chosen) for column in records))
        bounds = np.zeros(len(bounds), "i8")
        (counts * loaded).cumsum(out=bounds[1:])
    return records, bounds, home.take(records.symbol)

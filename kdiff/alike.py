# SPDX-License-Identifier: Apache-2.0
"""Stage 1, continued: what two objects have in common, so that graphs are made of the rest only.

In: two `Object`s of one architecture. Out: an `Alike`: a `Scope` for either object, which says what becomes
nodes and references of a graph, and the pairs of equal sections that both graphs still name. A change of one
function leaves nearly all of an object alike, and all of that is compared here in columns.

Two sections are alike if they have one name, which no other section has, equal headers, bytes and symbols,
relocations that mean the same, and table entries that say the same. Where any of that is in doubt, a section
is not alike, and the later stages look at it node by node; so it is with everything that depends on
what is not alike, and with static data whose number in the name proves nothing, unless code that is alike
refers to it. Payload of table entries is compared, but which piece is which only the entries tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import (
    SHT_NOBITS,
    STT_FILE,
    STT_SECTION,
    Column,
    Object,
)
from kdiff.habits import Habits
from kdiff.kernel import SpecialSection
from kdiff.sides import Side, Table


@dataclass(frozen=True, slots=True)
class Scope:
    """What of an object becomes a graph. All columns are boolean, by section.

    `nodes`: sections that are cut into nodes. `references`: those whose relocations become references.
    `entries`: for tables, which of their entries become nodes. `tables`: the rows of all of the object's.
    """

    nodes: Column
    references: Column
    entries: Mapping[int, Column]
    tables: Mapping[int, SpecialSection]


@dataclass(frozen=True, slots=True)
class Alike:
    """`sections`: pre section -> post section, of those that are the same thing in both graphs."""

    pre: Scope
    post: Scope
    sections: Mapping[int, int]


def alike(
    pre: Object, post: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits
) -> Alike:
    """Compare two objects by columns."""
    names: dict[bytes, int] = {}
    one, other = (Side(obj, arch, special, habits, names) for obj in (pre, post))
    work = _Comparison(one, other)
    return work.result()


_NONE = -1


class _Comparison:
    """The search for what is alike. Sections of either object are named by those of the pre object."""

    def __init__(self, pre: Side, post: Side) -> None:
        self.pre, self.post = pre, post
        self.to_post, self.to_pre = _pairs(pre, post)
        self.same_bytes = self._same_headers()
        self.same_bytes[self.same_bytes] = list(self._same_contents(np.flatnonzero(self.same_bytes)))
        self.same_symbols = self._same_symbols()
        self.strings: dict[bytes, int] = {}
        self.meaning = self._meaning(pre, np.arange(len(pre.obj.sections))), self._meaning(post, self.to_pre)

    def result(self) -> Alike:
        found: Column = self.same_bytes & self.same_symbols & self._same_relocations()
        found = self._same_entries(found)
        used = self._used(found)
        found &= used | ~self._numbered()
        kept = self._kept(~found & self.pre.loaded, ~self._in_post(found) & self.post.loaded)
        paired = np.flatnonzero((found | used) & (self.to_post > 0) & ~self.pre.pieces)
        anchors = dict(zip(paired.tolist(), self.to_post[paired].tolist(), strict=True))
        reached = self._shared(
            *(self._reached(*each) for each in zip((self.pre, self.post), kept, strict=True))
        )
        return Alike(
            self._scope(self.pre, kept[0], reached[0]), self._scope(self.post, kept[1], reached[1]), anchors
        )

    # Sections ----------------------------------------------------------------------------------------

    def _same_headers(self) -> Column:
        ours, theirs = self.pre.obj.sections, self.post.obj.sections[self.to_post]
        same = (self.to_post > 0) & ~self.pre.is_table
        for column in ("type", "flags", "size", "align", "entsize"):
            same &= ours[column] == theirs[column]
        return same

    def _same_contents(self, sections: Column) -> Iterator[bool]:
        for index in sections.tolist():
            ours, theirs = self.pre.obj, self.post.obj
            if ours.sections["type"][index] == SHT_NOBITS:
                yield True
            else:
                yield bytes(ours.contents(index)) == bytes(theirs.contents(int(self.to_post[index])))

    def _same_symbols(self) -> Column:
        """Whether equal symbols stand at equal places; strings have none that mean anything."""
        ours = self._symbol_rows(self.pre, np.arange(len(self.pre.obj.sections)))
        theirs = self._symbol_rows(self.post, self.to_pre)
        same: Column = _aligned(ours, theirs, len(self.pre.obj.sections)) | self.pre.strings
        return same

    def _symbol_rows(self, side: Side, own: Column) -> tuple[Column, Column]:
        symbols = side.obj.symbols
        wanted = side.defined & ~np.isin(symbols["type"], (STT_SECTION, STT_FILE)) & ~side.strings[side.home]
        wanted &= ~side.label
        wanted &= own[side.home] >= 0
        rows = np.stack(
            [own[side.home], symbols["value"].astype("i8"), symbols["size"].astype("i8"),
             symbols["type"].astype("i8") << 16 | symbols["binding"].astype("i8") << 8 | symbols["other"],
             side.symbol_ids],
            axis=1,
        )[wanted]  # fmt: skip
        rows = rows[np.lexsort(rows.T[::-1])]
        return rows[:, 0], rows

    # Relocations -------------------------------------------------------------------------------------

    def _meaning(self, side: Side, own: Column) -> Column:
        """What each record says, without how its object happens to number things."""
        records, symbol = side.records, side.obj.symbols[side.records["symbol"]]
        inside = side.defined[records["symbol"]]
        home = own[side.target]
        at = symbol["value"].astype("i8") + records["addend"]
        whole = symbol["type"] == STT_SECTION
        what = np.where(inside, home, -2 - side.symbol_ids[records["symbol"]])
        where = at.copy()
        way = np.where(inside, whole.astype("i8") | symbol["other"].astype("i8") << 8, symbol["section"])
        doubt = inside & ((home < 0) | ~self.same_symbols[np.maximum(home, 0)])
        for index in np.flatnonzero(inside & side.strings[side.target]).tolist():
            section, offset = int(side.target[index]), int(at[index])
            if self._is_same_string_section(side, section):
                doubt[index] = False
                continue
            howto = side.arch.howtos.get(int(records["type"][index]))
            exact = howto is not None and not howto.end_relative and not howto.bias and not howto.labelled
            data = side.obj.contents(section)
            if exact and not records["implicit"][index] and 0 <= offset < len(data):
                text = bytes(data[offset : offset + 4096]).partition(b"\0")
                doubt[index] = not text[1]
                what[index], where[index] = -1, self.strings.setdefault(text[0], len(self.strings))
                way[index] = 0
            else:
                doubt[index] = True
        what[doubt] = _NONE
        where[doubt] = -1 if side is self.pre else -2
        columns: Column = np.stack([records["type"].astype("i8"), what, where, way, doubt], axis=1)
        return columns

    def _is_same_string_section(self, side: Side, section: int) -> bool:
        own = section if side is self.pre else int(self.to_pre[section])
        return own >= 0 and bool(self.same_bytes[own])

    def _same_relocations(self) -> Column:
        ours, theirs = (
            (own, np.column_stack([own, side.records["offset"].astype("i8"), meaning]))
            for side, own, meaning in (
                (self.pre, self.pre.records["section"].astype("i8"), self.meaning[0]),
                (self.post, self.to_pre[self.post.records["section"]], self.meaning[1]),
            )
        )
        order = np.argsort(theirs[0], kind="stable")
        found = theirs[0][order], theirs[1][order]
        paired = found[0] >= 0
        return _aligned(ours, (found[0][paired], found[1][paired]), len(self.pre.obj.sections))

    def _numbered(self) -> Column:
        numbers: Column = self.pre.numbered | self.post.numbered[self.to_post]
        return numbers

    def _used(self, found: Column) -> Column:
        """Numbered sections that code which is alike refers to, whose pair is therefore no guess."""
        numbered, used = self._numbered(), np.zeros(len(found), bool)
        while True:
            firm = found & (used | ~numbered)
            grown = used.copy()
            grown[self.pre.target[firm[self.pre.records["section"]]]] = True
            grown &= numbered & self.same_symbols & (self.to_post > 0)
            if np.array_equal(grown, used):
                return used
            used = grown

    # Tables ------------------------------------------------------------------------------------------

    def _same_entries(self, found: Column) -> Column:
        """Sections whose entries say the same; those of a table without a counterpart say something else."""
        ours, theirs = _by_name(self.pre), _by_name(self.post)
        same: Column = found.copy()
        for name in sorted(ours.keys() | theirs.keys()):
            mine, yours = ours.get(name, []), theirs.get(name, [])
            if len(mine) == len(yours) == 1 and mine[0].step == yours[0].step:
                same &= self._same_rows(mine[0], yours[0], same)
            else:
                same &= ~self._owners(mine, np.arange(len(found))) & ~self._owners(yours, self.to_pre)
        return same

    def _same_rows(self, before: Table, after: Table, found: Column) -> Column:
        identity = np.arange(len(found))
        ours = self._entry_rows(self.pre, before, identity, self.meaning[0], found)
        theirs = self._entry_rows(self.post, after, self.to_pre, self.meaning[1], found)
        return _aligned(ours[0], theirs[0], len(found)) & _aligned(ours[1], theirs[1], len(found))

    def _owners(self, tables: Iterable[Table], own: Column) -> Column:
        """The sections that entries of these tables are about."""
        marked = np.zeros(len(self.pre.obj.sections), bool)
        for table in tables:
            homes = own[table.owners]
            marked[homes[homes > 0]] = True
        return marked

    def _entry_rows(
        self, side: Side, table: Table, own: Column, meaning: Column, found: Column
    ) -> tuple[tuple[Column, Column], tuple[Column, Column]]:
        """Per owner that is alike so far: (owner, bytes of each entry), (owner, records of each entry)."""
        owner = own[table.owners]
        wanted = (owner > 0) & found[np.maximum(owner, 0)]
        order = np.flatnonzero(wanted)[np.argsort(owner[wanted], kind="stable")]
        data = np.frombuffer(
            bytes(side.obj.contents(table.section)).ljust(table.step * len(owner), b"\0"), "u1"
        )
        rows = data[: table.step * len(owner)].reshape(len(owner), table.step)[order].copy()
        for at, size in table.row.ignored:
            rows[:, at : at + size] = 0
        records = np.flatnonzero(side.records["section"] == table.section)
        offsets = side.records["offset"][records].astype("i8")
        index = offsets // table.step
        rank = np.full(len(owner), -1, "i8")
        rank[order] = np.arange(len(order))
        chosen = rank[index] >= 0
        records, index, offsets = records[chosen], index[chosen], offsets[chosen]
        by_entry = np.lexsort((offsets, rank[index]))
        records, index, offsets = records[by_entry], index[by_entry], offsets[by_entry]
        said = np.column_stack([owner[index], offsets % table.step, meaning[records]])
        return (owner[order], rows), (owner[index], said)

    # What depends on the rest ------------------------------------------------------------------------

    def _in_post(self, found: Column) -> Column:
        marked = np.zeros(len(self.post.obj.sections), bool)
        marked[self.to_post[found & (self.to_post > 0)]] = True
        found_there: Column = marked & self.post.loaded
        return found_there

    def _kept(self, pre: Column, post: Column) -> tuple[Column, Column]:
        """What must become nodes with references: all that differs, who refers to it, what goes along."""
        both = self._shared(pre & ~self.pre.is_table, post & ~self.post.is_table)
        dirty = self._grown(both, lambda side, part: self._referring(side, part) & side.follows)
        referrers = (
            part | self._referring(side, part)
            for side, part in zip((self.pre, self.post), dirty, strict=True)
        )
        return self._grown(self._shared(*referrers), self._followed)

    def _grown(
        self, both: tuple[Column, Column], grow: Callable[[Side, Column], Column]
    ) -> tuple[Column, Column]:
        """Add in both objects until nothing is added."""
        while True:
            more = (part | grow(side, part) for side, part in zip((self.pre, self.post), both, strict=True))
            wider = self._shared(*more)
            if all(np.array_equal(*each) for each in zip(both, wider, strict=True)):
                return both
            both = wider

    def _shared(self, pre: Column, post: Column) -> tuple[Column, Column]:
        """The same sections in either object, where both have them."""
        ours: Column = pre | (self._in_pre(post) & self.pre.loaded & ~self.pre.is_table)
        theirs: Column = post | (self._in_post(ours) & ~self.post.is_table)
        return ours, theirs

    def _in_pre(self, kept: Column) -> Column:
        marked = np.zeros(len(self.pre.obj.sections), bool)
        homes = self.to_pre[kept]
        marked[homes[homes > 0]] = True
        return marked

    def _referring(self, side: Side, targets: Column) -> Column:
        """Who refers to these sections, by itself or by entries; strings are compared by what they say."""
        marked = np.zeros(len(targets), bool)
        chosen = (targets & ~side.strings)[side.target] & (side.target > 0)
        marked[side.records["section"][chosen]] = True
        for table in side.tables.values():
            if marked[table.section]:
                entries = side.records["offset"][chosen & (side.records["section"] == table.section)]
                marked[table.owners[entries.astype("i8") // table.step]] = True
        marked[0] = False
        marked &= ~side.is_table
        return marked

    def _followed(self, side: Side, kept: Column) -> Column:
        """What goes along with these sections, or with the entries that they own."""
        return self._reached(side, kept) & side.follows

    def _speaking(self, side: Side, kept: Column) -> Column:
        """The records of these sections, and of the entries that they own."""
        chosen: Column = kept[side.records["section"]]
        for table in side.tables.values():
            if table.step:
                records = np.flatnonzero(side.records["section"] == table.section)
                entry = side.records["offset"][records].astype("i8") // table.step
                chosen[records] = kept[table.owners[entry]]
        return chosen

    def _reached(self, side: Side, kept: Column) -> Column:
        """What these sections, or the entries that they own, refer to."""
        marked = np.zeros(len(kept), bool)
        marked[side.target[self._speaking(side, kept)]] = True
        marked &= side.loaded & ~side.is_table
        return marked

    def _scope(self, side: Side, kept: Column, reached: Column) -> Scope:
        references = kept & side.loaded
        entries: dict[int, Column] = {}
        for table in side.tables.values():
            if table.step:
                entries[table.section] = kept[table.owners] | (table.owners == 0)
                references[table.section] = bool(entries[table.section].any())
        return Scope(references | reached, references, entries, side.rows)


def _by_name(side: Side) -> dict[bytes, list[Table]]:
    """The tables whose entries are compared."""
    found: dict[bytes, list[Table]] = {}
    for table in side.tables.values():
        if table.row.compared:
            found.setdefault(side.names[table.section], []).append(table)
    return found


def _pairs(pre: Side, post: Side) -> tuple[Column, Column]:
    """Post section of each pre section and the other way; 0 and -1 where a name is missing or not unique."""
    to_post = np.zeros(len(pre.obj.sections), "i8")
    to_pre = np.full(len(post.obj.sections), _NONE, "i8")
    ours, theirs = _unique(pre), _unique(post)
    for name, section in ours.items():
        other = theirs.get(name)
        if other is not None:
            to_post[section], to_pre[other] = other, section
    return to_post, to_pre


def _unique(side: Side) -> dict[int, int]:
    loaded = np.flatnonzero(side.loaded)
    names, first, counts = np.unique(side.section_ids[loaded], return_index=True, return_counts=True)
    once = counts == 1
    return dict(zip(names[once].tolist(), loaded[first[once]].tolist(), strict=True))


def _aligned(ours: tuple[Column, Column], theirs: tuple[Column, Column], count: int) -> Column:
    """For each of `count` sections whether its rows are equal; rows are grouped by section, in order."""
    before, after = (np.bincount(each[0], minlength=count) for each in (ours, theirs))
    same: Column = before == after
    mine, yours = ours[1][same[ours[0]]], theirs[1][same[theirs[0]]]
    different = ours[0][same[ours[0]]][np.any(mine != yours, axis=1)]
    same[different] = False
    return same

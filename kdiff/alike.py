# SPDX-License-Identifier: Apache-2.0
"""Stage 1, continued: what two objects have in common, so that graphs are made of the rest only.

In: the pre and the post objects of one architecture, as two `Stack`s. Out: an `Alike` for each pair: a
`Scope` for either object, which says what becomes nodes and references of a graph, and the pairs of equal
sections that both graphs still name. A change of one function leaves nearly all of an object alike, and all
of that is compared here in columns, of all pairs at once.

Two sections are alike if they have one name, which no other section has, equal headers, bytes and symbols,
relocations that mean the same, and table entries that say the same. Where any of that is in doubt, a section
is not alike, and the later stages look at it node by node; so it is with everything that depends on
what is not alike, and with static data whose number in the name proves nothing, unless code that is alike
refers to it. Payload of table entries is compared, but which piece is which only the entries tell.

Who only calls a function that differs depends on nothing of it, if its name tells which function it is. What
nobody reads, neither the kernel nor its module loader, is left out altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kdiff.alike_tables import Told, same_entries
from kdiff.arch import Architecture
from kdiff.elf.read import SHT_NOBITS, STT_SECTION, Column
from kdiff.elf.stack import Stack
from kdiff.habits import Habits
from kdiff.kernel import Keep, SpecialSection
from kdiff.rows import Grouped
from kdiff.sectionrows import Rows
from kdiff.sidenames import Names
from kdiff.sides import Side, paired
from kdiff.starts import Starts
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """What of an object becomes a graph. All columns are boolean, by section.

    `nodes`: sections that are cut into nodes. `references`: those whose relocations become references.
    `entries`: for tables, which of their entries become nodes. `tables`: the rows of all of the object's;
    `pieces`: its sections that hold code for table entries only, None if nobody looked. `strings`: sections
    of strings, each of which becomes a node when a reference reaches it.
    """

    nodes: Column
    references: Column
    entries: Mapping[int, Column]
    tables: Mapping[int, SpecialSection]
    pieces: frozenset[int] | None = None
    strings: Column | None = None


@dataclass(frozen=True, slots=True)
class Alike:
    """`sections`: pre section -> post section, of those that are the same thing in both graphs."""

    pre: Scope
    post: Scope
    sections: Mapping[int, int]


def alike(pre: Stack, post: Stack, arch: Architecture, rows: Rows, habits: Habits) -> list[Alike]:
    """Compare pairs of objects by columns, all pairs at once."""
    names = Names(pre, post, rows, habits)
    before = Side(pre, arch, names, habits, 0)
    return _Comparison(before, Side(post, arch, names, habits, 1, before)).result()


_NONE = -1
_WAY = 32
"""Bits for the way in which a record names something, below the number of what it names."""


class _Comparison:
    """The search for what is alike. Sections of either object are named by those of the pre object."""

    def __init__(self, pre: Side, post: Side) -> None:
        self.pre, self.post = pre, post
        self.count = len(pre.stack.sections)
        self.identity = np.arange(self.count)
        self.to_post, self.to_pre = paired(pre, post)
        self.same_bytes = self._same_contents(self._same_headers())
        self.same_names, self.same_symbols = self._same_symbols()
        self.starts = Starts(pre, post, self.to_post, self.to_pre, self.same_names)
        self.texts: dict[bytes, int] = {}
        self.depending: dict[tuple[bool, bytes], Column] = {}
        self.meaning = self._meaning(pre, self.identity), self._meaning(post, self.to_pre)
        self.same_records = self._same_records()
        self.numbered: Column = pre.numbered | post.numbered[self.to_post]

    def result(self) -> list[Alike]:
        found = self.same_bytes & self.same_symbols & self.same_records
        found = same_entries(
            Told(self.pre, self.identity, self.meaning[0]), Told(self.post, self.to_pre, self.meaning[1]),
            self.same_records, found,
        )  # fmt: skip
        used = self._used(found)
        found &= used | ~self.numbered
        kept = self._kept(~found & self.pre.loaded, ~self._in_post(found) & self.post.loaded)
        paired = ((found | used) & (self.to_post > 0) & ~self.pre.pieces).nonzero()[0]
        there, starts = self.to_post.take(paired), self.post.stack.first_section
        read = self._read_tables(*kept)
        reached = self._shared(*map(_reached, (self.pre, self.post), kept, read))
        scopes = map(self._scopes, (self.pre, self.post), kept, reached, read)
        anchors = [
            dict(zip((paired[part] - at).tolist(), (there[part] - to).tolist(), strict=True))
            for (_, at, part), to in zip(self.pre.stack.parts(paired), starts, strict=False)
        ]
        return list(map(Alike, *scopes, anchors))

    # Sections ----------------------------------------------------------------------------------------

    def _same_headers(self) -> Column:
        ours, theirs = self.pre.stack.sections, self.post.stack.sections
        same = (self.to_post > 0) & ~self.pre.is_table
        for column in ("type", "flags", "size", "align", "entsize"):
            same &= ours[column] == theirs[column][self.to_post]
        return same

    def _same_contents(self, same: Column) -> Column:
        """Those of the sections with equal headers whose bytes are equal, too."""
        ours, theirs = self.pre.stack, self.post.stack
        chosen = (same & (ours.sections["type"] != SHT_NOBITS)).nonzero()[0]
        spans = list(zip(
            ours.sections["offset"].take(chosen).tolist(),
            theirs.sections["offset"].take(self.to_post.take(chosen)).tolist(),
            ours.sections["size"].take(chosen).tolist(),
            strict=True,
        ))  # fmt: skip
        equal: list[bool] = []
        for (obj, _, part), twin in zip(ours.parts(chosen), theirs.objects, strict=True):
            one, other = obj.whole(), twin.whole()
            equal += [one[at : at + size] == other[to : to + size] for at, to, size in spans[part]]
        same[chosen] = equal
        return same

    def _same_symbols(self) -> tuple[Column, Column]:
        """Whether equal names stand at equal places, and have equal sizes; those of strings mean nothing."""
        ours, theirs = self._symbols(self.pre, self.identity), self._symbols(self.post, self.to_pre)
        if len(ours.group) == len(theirs.group):
            moved = ours.group != theirs.group
            for mine, yours in zip(ours.columns[:-1], theirs.columns[:-1], strict=True):
                moved |= mine != yours
            if np.count_nonzero(moved) <= len(moved) >> 3:  # the same symbols in the same order
                sized = moved | (ours.columns[-1] != theirs.columns[-1])
                return self._without(ours, theirs, moved), self._without(ours, theirs, sized)
        ours, theirs = ours.sorted(), theirs.sorted()
        before, after = (Grouped(each.group, each.columns[:-1]) for each in (ours, theirs))
        names, symbols = before.same(after, self.count), ours.same(theirs, self.count)
        return names | self.pre.strings, symbols | self.pre.strings

    def _without(self, ours: Grouped, theirs: Grouped, differ: Column) -> Column:
        """All sections but those of rows that differ."""
        same: Column = np.ones(self.count, bool)
        same[ours.group[differ]] = False
        same[theirs.group[differ]] = False
        same |= self.pre.strings
        return same

    def _symbols(self, side: Side, own: Column) -> Grouped:
        symbols, section = side.stack.symbols, own[side.home]
        wanted = side.defined & side.named & ~side.label & ~side.strings[side.home] & (section >= 0)
        kind = symbols["type"].astype("i8") << 16 | symbols["binding"].astype("i8") << 8 | symbols["other"]
        columns = symbols["value"].astype("i8"), kind, side.symbol_ids, symbols["size"].astype("i8")
        return Grouped(section, columns).of(wanted)

    # Relocations -------------------------------------------------------------------------------------

    def _meaning(self, side: Side, own: Column) -> tuple[Column, ...]:
        """What each record says, without how its object numbers things: type, what in which way, where."""
        symbols, records, index = side.stack.symbols, side.records, side.records.symbol
        home, inside = own[side.home], side.defined
        text = inside & side.strings[side.home]
        doubtful = inside & ~text & ((home < 0) | ~self.same_symbols[home])
        text &= (home < 0) | ~self.same_bytes[home]
        whole = (symbols["type"] == STT_SECTION) | symbols["other"].astype("i8") << 8
        named = np.where(inside, home, -2 - side.symbol_ids) << _WAY
        what = (named | np.where(inside, whole, symbols["section"])).take(index)
        where = symbols["value"].astype("i8").take(index) + records.addend
        doubt = doubtful.take(index)
        for number in text.take(index).nonzero()[0].tolist() if np.count_nonzero(text) else ():
            string = self._string(side, number, int(where[number]))
            doubt[number] = string < 0
            what[number], where[number] = _NONE << _WAY, string
        unsure = doubt.nonzero()[0]
        if len(unsure):
            doubt[self.starts.among(side, unsure)] = False
            what[doubt], where[doubt] = _NONE << _WAY, -1 if side is self.pre else -2
        return records.type, what, where

    def _string(self, side: Side, number: int, offset: int) -> int:
        """A number for the string that a record reaches, equal for equal ones; -1 where that is in doubt."""
        howto = side.arch.howtos.get(int(side.records.type[number]))
        if howto is None or howto.end_relative or howto.bias or howto.labelled:
            return _NONE
        data = side.stack.contents(int(side.target[number]))
        if side.records.implicit[number] or not 0 <= offset < len(data):
            return _NONE
        text, end, _ = bytes(data[offset : offset + 4096]).partition(b"\0")
        return self.texts.setdefault(text, len(self.texts)) if end else _NONE

    def _same_records(self) -> Column:
        ours = Grouped(self.pre.records.section, (self.pre.records.offset, *self.meaning[0]))
        homes = self.to_pre.take(self.post.records.section)
        theirs = Grouped(homes, (self.post.records.offset, *self.meaning[1]))
        return ours.same(theirs.in_groups(), self.count)

    def _used(self, found: Column) -> Column:
        """Numbered sections that code which is alike refers to, whose pair is therefore no guess."""
        used = np.zeros(self.count, bool)
        fitting = self.numbered & self.same_symbols & (self.to_post > 0)
        if not np.count_nonzero(fitting):
            return used
        chosen = fitting.take(self.pre.target).nonzero()[0]
        chosen = chosen[found.take(self.pre.records.section.take(chosen))]
        sources, targets = self.pre.records.section.take(chosen), self.pre.target.take(chosen)
        while True:
            firm = used | ~self.numbered
            grown = used.copy()
            grown[targets[firm.take(sources)]] = True
            if grown.tobytes() == used.tobytes():
                return used
            used = grown

    # What depends on the rest ------------------------------------------------------------------------

    def _in_post(self, found: Column) -> Column:
        marked = np.zeros(len(self.post.stack.sections), bool)
        marked[self.to_post[found & (self.to_post > 0)]] = True
        found_there: Column = marked & self.post.loaded
        return found_there

    def _kept(self, pre: Column, post: Column) -> tuple[Column, Column]:
        """What must become nodes with references: all that differs, who depends on it, what goes along."""
        both = self._shared(pre & ~_left_out(self.pre), post & ~_left_out(self.post))
        dirty = self._grown(both, lambda side, part: self._depending(side, part) & side.follows)
        depending = (
            part | self._depending(side, part)
            for side, part in zip((self.pre, self.post), dirty, strict=True)
        )
        return self._grown(self._shared(*depending), _followed)

    def _grown(
        self, both: tuple[Column, Column], grow: Callable[[Side, Column], Column]
    ) -> tuple[Column, Column]:
        """Add in both objects until nothing is added."""
        while True:
            more = (part | grow(side, part) for side, part in zip((self.pre, self.post), both, strict=True))
            wider = self._shared(*more)
            if all(one.tobytes() == other.tobytes() for one, other in zip(both, wider, strict=True)):
                return both
            both = wider

    def _shared(self, pre: Column, post: Column) -> tuple[Column, Column]:
        """The same sections in either object, where both have them."""
        ours: Column = pre | (self._in_pre(post) & self.pre.loaded & ~self.pre.is_table)
        theirs: Column = post | (self._in_post(ours) & ~self.post.is_table)
        return ours, theirs

    def _in_pre(self, kept: Column) -> Column:
        marked = np.zeros(self.count, bool)
        homes = self.to_pre[kept]
        marked[homes[homes > 0]] = True
        return marked

    def _depending(self, side: Side, targets: Column) -> Column:
        """Who refers to these sections, but for calls of functions; strings are compared by what they say."""
        key = side is self.pre, targets.tobytes()
        if key not in self.depending:
            self.depending[key] = self._referring(side, targets)
        return self.depending[key]

    def _referring(self, side: Side, targets: Column) -> Column:
        marked = np.zeros(len(targets), bool)
        chosen = (targets & ~side.strings).take(side.target).nonzero()[0]
        calls = self.starts.among(side, chosen)
        if len(calls):
            harmless = np.zeros(len(side.target), bool)
            harmless[calls] = True
            chosen = chosen[~harmless[chosen]]
        marked[side.source.take(chosen)] = True
        marked[0] = False
        marked &= ~side.is_table
        return marked

    def _read_tables(self, pre: Column, post: Column) -> tuple[Column, Column]:
        """Tables that kept code of either object refers to: all of their entries become nodes."""
        ours, theirs = (_direct(side, kept) for side, kept in ((self.pre, pre), (self.post, post)))
        paired = (self.to_post > 0).nonzero()[0]
        both = ours[paired] | theirs[self.to_post[paired]]
        ours[paired] = theirs[self.to_post[paired]] = both
        return ours, theirs

    def _scopes(self, side: Side, kept: Column, reached: Column, read: Column) -> list[Scope]:
        """The scope of each object."""
        references = kept & side.loaded
        wanted = kept.take(side.owners) | (side.owners == 0)
        entries = {
            index: np.ones(len(table.owners), bool) if read[index] else wanted[table.place]
            for index, table in side.tables.items()
        }
        for index, chosen in entries.items():
            references[index] = np.count_nonzero(chosen) > 0
        nodes, named = references | reached, self.to_post > 0 if side is self.pre else self.to_pre > 0
        strings = nodes & named & side.strings & ~side.pieces & (side.stack.sections["type"] != SHT_NOBITS)
        strings[list(side.rows)] = False
        nodes &= ~strings
        found, every = [], np.arange(len(nodes))
        for (_, first, part), rows in zip(side.stack.parts(every), side.rows_of, strict=True):
            own = {index: entries[index + first] for index in rows if index + first in entries}
            pieces = frozenset(side.pieces[part].nonzero()[0].tolist())
            found.append(Scope(nodes[part], references[part], own, rows, pieces, strings[part]))
        return found


def _reached(side: Side, kept: Column, read: Column | None = None) -> Column:
    """What these sections refer to, or entries that they own, or any entry of tables that are `read`."""
    marked = np.zeros(len(kept), bool)
    speaking = kept.take(side.source)
    if read is not None and np.count_nonzero(read):
        speaking |= read.take(side.records.section)
    marked[side.target.take(speaking.nonzero()[0])] = True
    marked[side.is_table | ~side.loaded] = False
    return marked


def _direct(side: Side, kept: Column) -> Column:
    """The tables that these sections themselves refer to."""
    marked = np.zeros(len(kept), bool)
    marked[side.target.take(kept.take(side.records.section).nonzero()[0])] = True
    marked[~side.is_table] = False
    return marked


def _followed(side: Side, kept: Column) -> Column:
    """What goes along with these sections, or with the entries that they own."""
    return _reached(side, kept) & side.follows


def _left_out(side: Side) -> Column:
    """Tables, whose entries follow their owners, and what nobody reads."""
    left: Column = side.is_table.copy()
    left[[index for index, row in side.rows.items() if row.keep is Keep.NEVER and not row.compared]] = True
    return left

# SPDX-License-Identifier: Apache-2.0
"""A large object as columns of atoms, so that no Python object is made for each section, symbol or record.

In: an `Object` and what plugins know. Out: an `Atoms`. All loaded sections are laid behind each other in one
space of positions, with gaps; an *atom* is what lies between two cuts of it: the start of a section, or of a
sized symbol that is in no other. Strings, and tables whose entries have an owner, are one atom a section. A
record's source is the atom it is in; that of a table entry's record is the atom the entry is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import (
    LONGEST_NAME,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_MERGE,
    SHF_STRINGS,
    SHT_GROUP,
    SHT_NOTE,
    STB_LOCAL,
    STT_FILE,
    STT_NOTYPE,
    STT_SECTION,
    Column,
    Object,
)
from kdiff.kernel import Keep, SpecialSection
from kdiff.tables import rows_in, tables_of

GAP = 64
"""Between sections: more than an instruction may add to the address of what it refers to."""
OPERAND = 4
"""The most bytes of an instruction behind a field that counts from the instruction's end."""


class Names:
    """Numbers for names, the same in both objects: of the first one's names their offsets in its table.

    Equal numbers are equal names. Linkers write each name once and in one order, so that two tables are equal
    but for what is new; only between the first and the last difference is a name looked at by itself.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[Column, Column]] = {}
        self._new: dict[bytes, int] = {}

    def column(self, kind: str, obj: Object, table: int, offsets: Column) -> Column:
        """The number of each string at `offsets` of a table; `kind` tells the tables of an object apart."""
        if not table:
            return np.zeros(len(offsets), "i8")
        text, offsets = np.frombuffer(obj.contents(table), "u1"), offsets.astype("i8")
        if kind not in self._first:
            self._first[kind] = text, offsets
            return offsets
        before, known = self._first[kind]
        head, rest = _alike(before, text)
        found = np.where(offsets < head, offsets, offsets - (len(text) - len(before)))
        middle = np.flatnonzero((offsets >= head) & (offsets < len(text) - rest))
        if len(middle):
            theirs = np.unique(known[(known >= head) & (known < len(before) - rest)])
            named = {_string(before, each): each for each in theirs[::-1].tolist()}
            here, which = np.unique(offsets[middle], return_inverse=True)
            found[middle] = np.array([self._number(_string(text, each), named) for each in here.tolist()])[
                which
            ]
        return found

    def _number(self, name: bytes, known: Mapping[bytes, int]) -> int:
        found = known.get(name)
        return found if found is not None else self._new.setdefault(name, (1 << 40) + len(self._new))


def _alike(ours: Column, theirs: Column) -> tuple[int, int]:
    """How many bytes at the start of two string tables, and how many at the end, are equal whole strings."""
    size = min(len(ours), len(theirs))
    different = ours[:size] != theirs[:size]
    head = int(different.argmax()) if different.any() else size
    ends = np.flatnonzero(ours[:head] == 0)
    head = int(ends[-1]) + 1 if len(ends) else 0
    different = ours[len(ours) - size :][::-1] != theirs[len(theirs) - size :][::-1]
    rest = int(different.argmax()) if different.any() else size
    return head, min(rest, size - head)


def _string(text: Column, offset: int) -> bytes:
    for most in (256, LONGEST_NAME):
        raw = text[offset : offset + most].tobytes()
        if b"\0" in raw:
            return raw.partition(b"\0")[0]
    return raw


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose entries go where the code goes that they are about.

    `records`: the range of its records; `entry`: of each of them; `owner`: the atom of each entry, -1: none.
    """

    section: int
    row: SpecialSection
    count: int
    records: slice
    entry: Column
    owner: Column


class Atoms:
    """One object in columns. Positions are of the space that all loaded sections share."""

    def __init__(
        self, obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], names: Names
    ) -> None:
        self.obj, self.arch = obj, arch
        self._locals: tuple[Column, Column] | None = None
        sections, symbols = obj.sections, obj.symbols
        flags = sections["flags"]
        self.loaded = (flags & SHF_ALLOC > 0) & ~np.isin(sections["type"], (SHT_GROUP, SHT_NOTE))
        self.loaded[0] = False
        self.section_ids = names.column("section", obj, obj.section_names, sections["name"])
        self.symbol_ids = names.column("symbol", obj, obj.symbol_names, symbols["name"])
        spaces = np.where(self.loaded, sections["size"].astype("i8") // GAP * GAP + 2 * GAP, 0)
        self.base = np.cumsum(spaces) - spaces + GAP
        texts = flags & SHF_STRINGS > 0
        self.merged = self.loaded & (flags & SHF_MERGE > 0) & (sections["entsize"] > 0)
        self.merged &= ~texts | (sections["entsize"] == 1)  # wide characters are compared as a whole
        self.strings = self.merged & texts
        self.code = flags & SHF_EXECINSTR > 0
        home = np.where(symbols["section"] < len(sections), symbols["section"], 0).astype("i8")
        self.home = np.where(self.loaded[home], home, 0)
        self.position = np.where(self.home > 0, self.base[self.home] + symbols["value"].astype("i8"), -1)
        self.is_section = symbols["type"] == STT_SECTION
        self._read_records()
        families = {each for row in special.values() for each in row.pieces}
        listed = _named_like(obj, self.loaded, {*special, *families})
        self.rows = tables_of(obj, arch, special, names=listed)
        self.pieces = np.zeros(len(sections), bool)
        begins = tuple(each[:-1] for each in families if each.endswith("*"))
        self.pieces[[i for i, n in listed.items() if n in families or (begins and n.startswith(begins))]] = (
            True
        )
        self.is_table = np.zeros(len(sections), bool)
        self.is_table[[i for i, row in self.rows.items() if row.keep is Keep.OWNER and row.entry_size]] = True
        self.dropped = np.zeros(len(sections), bool)
        self.dropped[[i for i, row in self.rows.items() if row.keep is Keep.NEVER and not row.compared]] = (
            True
        )
        self._count_from_starts()
        self._cut()
        self.tables = self._tables()
        self._name_sources()

    # Records -----------------------------------------------------------------------------------------

    def _read_records(self) -> None:
        """Columns of all records of loaded sections: where they are and where they point to."""
        every = self.obj.relocations
        chosen = self.loaded[every["section"]]
        self.records = every if chosen.all() else every[chosen]
        section = self.into = self.records["section"].astype("i8")
        symbol = self.symbol = self.records["symbol"].astype("i8")
        kind, self.addend = np.ascontiguousarray(self.records["type"]), self.records["addend"].astype("i8")
        self.kind = kind
        self.at = self.base[section] + self.records["offset"].astype("i8")
        most = int(kind.max(initial=0))
        howtos = {number: self.arch.howtos.get(number) for number in _numbers(kind, most)}
        self.relative = np.zeros(most + 1, bool)
        share = np.zeros(len(self.relative), "i8")
        for number, howto in howtos.items():
            if howto is not None:
                self.relative[number], share[number] = howto.pc_relative, howto.size * howto.end_relative
        self.defined = self.home[symbol] > 0
        self.whole = self.is_section[symbol]
        share = np.where(self.code[section], share[kind], 0)
        target = self.position[symbol] + np.where(self.whole, self.addend + share, 0)
        self.target = np.where(self.defined, target, -1)
        self.unsure = self.whole & self.defined & (share > 0)
        """Whose target is up to `OPERAND` bytes further, which only decoding tells."""

    def _count_from_starts(self) -> None:
        """Free the targets of the share of tables whose addresses count from the start of an entry."""
        bounds = np.searchsorted(self.into, np.arange(len(self.loaded) + 1))
        for index, row in self.rows.items():
            if row.from_start and row.entry_size:
                mine = slice(int(bounds[index]), int(bounds[index + 1]))
                share = self.records["offset"][mine].astype("i8") % row.entry_size
                counted = self.defined[mine] & self.relative[self.kind[mine]]
                self.target[mine] -= np.where(counted, share, 0)

    # Atoms -------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        symbols = self.obj.symbols
        whole = self.is_table | self.strings | self.merged | self.pieces
        named = (self.home > 0) & ~np.isin(symbols["type"], (STT_SECTION, STT_FILE)) & ~self._labels()
        self.named = named & ~self.merged[self.home]
        sized = np.flatnonzero(named & (symbols["size"] > 0) & ~whole[self.home])
        sized = sized[np.lexsort((-symbols["size"][sized].astype("i8"), self.position[sized]))]
        starts = self.position[sized]
        ends = starts + symbols["size"][sized].astype("i8")
        limits = (self.base + self.obj.sections["size"].astype("i8"))[self.home[sized]]
        before = np.maximum.accumulate(np.concatenate(([0], np.minimum(ends, limits))))[:-1]
        top = starts >= before
        used = np.zeros(len(self.loaded), bool)
        used[self.home] = True
        sections = np.flatnonzero(self.loaded & ((self.obj.sections["size"] > 0) | used))
        steps = [self.base[sections], starts[top], *self._pieces(), *self._entries()]
        self.start = np.unique(np.concatenate(steps))
        self.section = np.searchsorted(self.base[sections], self.start, "right") - 1
        self.section = sections[self.section]
        stop = (self.base + self.obj.sections["size"].astype("i8"))[self.section]
        self.end = np.minimum(np.append(self.start[1:], stop[-1:]), stop)
        named_end = np.zeros(len(self.start), "i8")
        named_end[self.atom(starts[top])] = ends[top]
        self.tail = np.where(named_end > 0, named_end, self.end)
        """Where padding or nameless code begins."""

    def _labels(self) -> Column:
        """Symbols of the assembler's own, and those that only tell code from data."""
        symbols, obj = self.obj.symbols, self.obj
        text = np.frombuffer(obj.contents(obj.symbol_names), "u1") if obj.symbol_names else np.zeros(2, "u1")
        first = np.minimum(symbols["name"].astype("i8"), max(len(text) - 2, 0))
        labels: Column = (text[first] == ord(".")) & (text[first + 1] == ord("L"))
        prefixes = self.arch.mapping_symbols
        if prefixes:
            plain = (symbols["type"] == STT_NOTYPE) & (symbols["binding"] == STB_LOCAL)
            for index in np.flatnonzero(plain & ~labels).tolist():
                labels[index] = self.obj.symbol_name(index).startswith(prefixes)
        return labels

    def _pieces(self) -> list[Column]:
        """Where table entries, and branches of code, point into sections that hold code for them only."""
        if not self.pieces.any():
            return []
        chosen = self.defined & self.pieces[self.home[self.symbol]]
        chosen &= ~self.pieces[self.into] & (self.unsure | ~self.code[self.into])
        self.unsure &= ~chosen
        found = self.target[chosen]
        homes = self.home[self.symbol[chosen]]
        sound = found < self.base[homes] + self.obj.sections["size"][homes].astype("i8")
        return [found[sound & (found >= self.base[homes])]]

    def _entries(self) -> list[Column]:
        """Entries that go by themselves: those of tables without owners."""
        return [
            self.base[index] + np.arange(0, int(self.obj.sections["size"][index]), row.entry_size)
            for index, row in self.rows.items()
            if row.keep is not Keep.OWNER and row.entry_size and self.obj.sections["size"][index]
        ]

    def atom(self, position: Column) -> Column:
        """The atom at each position; that in front of it for places in gaps, -1 for positions below 0."""
        return np.searchsorted(self.start, position, "right") - 1

    def local_names(self, atoms: Column) -> Iterator[list[str]]:
        """For each atom the names of the local symbols in it."""
        if self._locals is None:
            symbols = np.flatnonzero(self.named & (self.obj.symbols["binding"] == STB_LOCAL))
            symbols = symbols[np.argsort(self.position[symbols], kind="stable")]
            self._locals = symbols, self.position[symbols]
        symbols, places = self._locals
        low = np.searchsorted(places, self.start[atoms])
        high = np.searchsorted(places, np.maximum(self.end[atoms], self.start[atoms] + 1))
        for first, last in zip(low.tolist(), high.tolist(), strict=True):
            yield [self.obj.symbol_name(each) for each in symbols[first:last].tolist()]

    def in_file(self, position: Column) -> Column:
        """Offsets in the file of positions at which an atom starts."""
        home = self.section[self.atom(position)]
        found: Column = position - self.base[home] + self.obj.sections["offset"][home].astype("i8")
        return found

    # Tables ------------------------------------------------------------------------------------------

    def _tables(self) -> dict[int, Table]:
        found: dict[int, Table] = {}
        leaders: dict[str, Table] = {}
        bounds = np.searchsorted(self.into, np.arange(len(self.loaded) + 1))
        for index, row in sorted(self.rows.items(), key=lambda each: bool(each[1].parallel)):
            size = int(self.obj.sections["size"][index])
            if not self.is_table[index] or not size:
                continue
            count = rows_in(size, row.entry_size, row.least)
            records = slice(int(bounds[index]), int(bounds[index + 1]))
            offset = self.records["offset"][records].astype("i8")
            leader = leaders.get(row.parallel)
            if leader is not None and leader.count == count:
                owner = leader.owner
            else:
                owner = self._owners(row, count, records, offset)
            found[index] = Table(index, row, count, records, offset // row.entry_size, owner)
            leaders[self.obj.section_name(index)] = found[index]
        return found

    def entry_at(self, table: Table, records: Column) -> tuple[Column, Column, Column]:
        """The entries that records reach: owner, rank among that one's entries, offset in the entry."""
        order = np.argsort(table.owner, kind="stable")
        rank = np.empty(table.count, "i8")
        ordered = table.owner[order]
        rank[order] = np.arange(table.count) - np.searchsorted(ordered, ordered)
        place = np.maximum(self.target[records] - self.base[table.section], 0)
        entry = np.minimum(place // table.row.entry_size, table.count - 1)
        return table.owner[entry], rank[entry], place - entry * table.row.entry_size

    def _owners(self, row: SpecialSection, count: int, records: slice, offset: Column) -> Column:
        owner = np.full(count, -1, "i8")
        if row.owner is None:
            return owner
        naming = (offset % row.entry_size == row.owner) & self.defined[records]
        target = self.target[records][naming]
        atoms = self.atom(target)
        if row.ahead:
            atoms = np.where(target >= self.tail[atoms], np.minimum(atoms + 1, len(self.start) - 1), atoms)
        owner[offset[naming][::-1] // row.entry_size] = atoms[::-1]
        return owner

    def _name_sources(self) -> None:
        self.source = self.atom(self.at)
        for table in self.tables.values():
            self.source[table.records] = table.owner[table.entry]
        self.low = self._reached(self.target, slice(None))
        self.high = self.low.copy()
        """The atoms that a record may point to."""
        unsure = np.flatnonzero(self.unsure)
        self.high[unsure] = self._reached(self.target[unsure] + OPERAND, unsure)

    def _reached(self, target: Column, records: Column | slice) -> Column:
        """The atoms at targets; places in front of the symbol's section are its first one."""
        homes = self.home[self.symbol[records]]
        counts = np.bincount(self.section, minlength=len(self.loaded))
        found: Column = np.searchsorted(self.section, np.arange(len(counts)))[homes]
        several = np.flatnonzero(counts[homes] > 1)
        found[several] = self.atom(np.maximum(target[several], self.base[homes[several]]))
        return np.where(self.defined[records], found, -1)


def _numbers(column: Column, most: int) -> list[int]:
    """The numbers that occur."""
    if most > 1 << 16:
        found: list[int] = np.unique(column).tolist()
        return found
    listed: list[int] = np.flatnonzero(np.bincount(column, minlength=1)).tolist()
    return listed


def _named_like(obj: Object, wanted: Column, names: Iterable[str]) -> dict[int, str]:
    """The names of those sections that begin as one of `names` does, whatever follows."""
    text = np.frombuffer(bytes(obj.contents(obj.section_names)) + bytes(4), "u1")
    heads = [each.encode()[:4] for each in names]
    least = min(map(len, heads), default=0)
    offsets = obj.sections["name"].astype("i8")
    head = np.zeros(len(offsets), "i8")
    for at in range(least):
        head = head << 8 | text[np.minimum(offsets + at, len(text) - 1)]
    chosen = wanted & np.isin(head, [int.from_bytes(each[:least], "big") for each in heads])
    return {index: obj.section_name(index) for index in np.flatnonzero(chosen).tolist()}

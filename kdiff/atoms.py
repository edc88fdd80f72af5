# SPDX-License-Identifier: Apache-2.0
"""A large object as columns of atoms, so that no Python object is made for each section, symbol or record.

In: an `Object` and what plugins know. Out: an `Atoms`. All loaded sections are laid behind each other in one
space of positions, with gaps; an *atom* is what lies between two cuts of it: the start of a section, or of a
sized symbol that is in no other. Strings, and tables whose entries have an owner, are one atom a section. A
record's source is the atom it is in; that of a table entry's record is the atom the entry is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

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
from kdiff.entries import Owned, Table, tables
from kdiff.howtos import howtos_of
from kdiff.kernel import Keep, SpecialSection
from kdiff.reach import targets
from kdiff.rows import distinct
from kdiff.tables import tables_of

LARGEST = 28
"""Bits of the size of a symbol; a larger one counts as this large where order is concerned."""
MANY = 32
"""Atoms of one section that are looked up together, and not with those of all sections."""
GAP = 64
"""Between sections: more than an instruction may add to the address of what it refers to."""


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
            theirs = distinct(known[(known >= head) & (known < len(before) - rest)])
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
        self.size = sections["size"].astype("i8")
        spaces = np.where(self.loaded, self.size // GAP * GAP + 2 * GAP, 0)
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
        self.symbol = obj.relocations["symbol"].astype("i8")
        """Of each record, in the type that numpy looks up with."""
        self.howtos = howtos_of(arch)
        families = {each for row in special.values() for each in row.pieces}
        listed = _named_like(obj, self.loaded, {*special, *families})
        self.rows = tables_of(obj, arch, special, names=listed)
        begins = tuple(each[:-1] for each in families if each.endswith("*"))
        self.pieces = self._marked(
            i for i, n in listed.items() if n in families or (begins and n.startswith(begins))
        )
        rows = self.rows.items()
        self.is_table = self._marked(i for i, row in rows if row.keep is Keep.OWNER and row.entry_size)
        self.dropped = self._marked(i for i, row in rows if row.keep is Keep.NEVER and not row.compared)
        self.from_start = np.zeros(len(sections), "i8")
        """By section, the size of entries whose addresses count from the start of an entry; 0 for others."""
        for index, row in rows:
            self.from_start[index] = row.entry_size if row.from_start else 0
        self._cut()
        self._find_records()
        self.tables = tables(self)
        self.owned = Owned(self)

    def _marked(self, sections: Iterable[int]) -> Column:
        found = np.zeros(len(self.loaded), bool)
        found[list(sections)] = True
        return found

    # Atoms -------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        symbols = self.obj.symbols
        whole = self.is_table | self.merged | self.pieces
        named = (self.home > 0) & ~np.isin(symbols["type"], (STT_SECTION, STT_FILE)) & ~self._labels()
        self.named = named & ~self.merged[self.home]
        sized = np.flatnonzero(named & (symbols["size"] > 0) & ~whole[self.home])
        starts, ends = self._tops(sized)
        used = np.zeros(len(self.loaded), bool)
        used[self.home] = True
        sections = np.flatnonzero(self.loaded & ((self.size > 0) | used))
        steps = [self.base[sections], starts, *self._pieces(), *self._entries()]
        self.start = distinct(np.concatenate(steps))
        self.section = sections[np.searchsorted(self.base[sections], self.start, "right") - 1]
        stop = (self.base + self.size)[self.section]
        self.end = np.minimum(np.append(self.start[1:], stop[-1:]), stop)
        self.count = np.bincount(self.section, minlength=len(self.loaded))
        self.first = np.cumsum(self.count) - self.count
        self.second = np.full(len(self.loaded), np.iinfo("i8").max)
        """By section, where its second atom begins: most have one, or padding in front of it."""
        two = np.flatnonzero(self.count > 1)
        self.second[two] = self.start[self.first[two] + 1]
        self.lone = np.where((self.home > 0) & (self.count[self.home] == 1), self.first[self.home], -1)
        """By symbol, the only atom of its section; -1 if that has several, or if it lies elsewhere."""
        self.atom_of = self.lone.copy()
        """By symbol, -1 for one that lies elsewhere."""
        several = np.flatnonzero((self.lone < 0) & (self.home > 0))
        self.atom_of[several] = self.atom_in(self.home[several], self.position[several])
        self.tail = self.end.copy()
        """Where padding or nameless code begins."""
        self.tail[self.atom(starts)] = ends

    def _tops(self, sized: Column) -> tuple[Column, Column]:
        """Where those of the symbols begin and end that are in no other."""
        sizes, homes = self.obj.symbols["size"].astype("i8"), self.home[sized]
        lone = np.bincount(homes, minlength=len(self.loaded))[homes] == 1
        several = sized[~lone]
        longest_first = (1 << LARGEST) - 1 - np.minimum(sizes[several], (1 << LARGEST) - 1)
        several = several[np.argsort(self.position[several] << LARGEST | longest_first)]
        starts = self.position[several]
        limits = (self.base + self.size)[self.home[several]]
        ends = np.minimum(starts + sizes[several], limits)
        top = starts >= np.maximum.accumulate(np.concatenate(([0], ends)))[:-1]
        one = sized[lone]
        return (
            np.concatenate((self.position[one], starts[top])),
            np.concatenate((self.position[one] + sizes[one], (starts + sizes[several])[top])),
        )

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
        rows = np.flatnonzero((self.pieces[self.home] & (self.home > 0))[self.symbol])
        into = self.obj.relocations["section"][rows]
        to = targets(self, rows[self.loaded[into] & ~self.pieces[into]])
        chosen = ~self.code[to.into] | (to.whole & self.howtos.end_relative[self.howtos.number(to.kind)])
        found, homes = to.target[chosen], to.home[chosen]
        sound = (found >= self.base[homes]) & (found < self.base[homes] + self.size[homes])
        return [found[sound]]

    def _entries(self) -> list[Column]:
        """Entries that go by themselves: those of tables without owners."""
        return [
            self.base[index] + np.arange(0, int(self.size[index]), row.entry_size)
            for index, row in self.rows.items()
            if row.keep is not Keep.OWNER and row.entry_size and self.size[index]
        ]

    def atom(self, position: Column) -> Column:
        """The atom at each position; that in front of it for places in gaps, -1 for positions below 0."""
        return np.searchsorted(self.start, position, "right") - 1

    def atom_in(self, home: Column, position: Column) -> Column:
        """The atom of a section at each position; its first one in front of it, its last one behind."""
        found: Column = self.first[home]
        found += position >= self.second[home]
        several = np.flatnonzero((self.count > 2)[home])
        if len(several):
            found[several] = self.atom(self.within(home[several], position[several]))
        return found

    def within(self, home: Column, position: Column) -> Column:
        """Positions brought back to the bounds of their sections: code may name places far outside."""
        return np.clip(position, self.base[home], self.base[home] + self.size[home])

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

    def in_file(self, atoms: Column) -> Column:
        """Offsets in the file of the starts of atoms."""
        home = self.section[atoms]
        found: Column = self.start[atoms] - self.base[home] + self.obj.sections["offset"][home].astype("i8")
        return found

    # Records and tables ------------------------------------------------------------------------------

    def _find_records(self) -> None:
        """Of each atom the rows of its records, of which tables have none here: `begin` and `stop`."""
        bounds = self.obj.relocation_bounds
        self.begin, self.stop = bounds[self.section], bounds[self.section + 1]
        later = np.flatnonzero(self.start > self.base[self.section])
        self.begin[later] = self._first_at(later)
        same = later[self.section[later] == self.section[later - 1]]
        self.stop[same - 1] = self.begin[same]

    def _first_at(self, atoms: Column) -> Column:
        """The first record of the atom's section that is not in front of it, looked up by halving."""
        offset = self.obj.relocations["offset"]
        low, high = self.begin[atoms], self.stop[atoms]
        wanted = (self.start[atoms] - self.base[self.section[atoms]]).astype("u8")
        open_ = np.flatnonzero(low < high)
        open_ = open_[offset[low[open_]] < wanted[open_]]
        homes = self.section[atoms[open_]]
        many = np.bincount(homes, minlength=len(self.loaded)) >= MANY
        for home in np.flatnonzero(many).tolist():
            part = open_[slice(*np.searchsorted(homes, (home, home + 1)).tolist())]
            first, last = int(low[part[0]]), int(high[part[0]])
            low[part] = first + np.searchsorted(offset[first:last], wanted[part])
        open_ = open_[~many[homes]]
        while len(open_):
            middle = (low[open_] + high[open_]) // 2
            before = offset[middle] < wanted[open_]
            low[open_[before]] = middle[before] + 1
            high[open_[~before]] = middle[~before]
            open_ = open_[low[open_] < high[open_]]
        return low

    def entry_at(self, table: Table, target: Column) -> tuple[Column, Column, Column]:
        """The entries at positions: owner, rank among that one's entries, offset in the entry."""
        place = np.maximum(target - self.base[table.section], 0)
        entry = np.minimum(place // table.row.entry_size, table.count - 1)
        return table.owner[entry], table.rank[entry], place - entry * table.row.entry_size


def _named_like(obj: Object, wanted: Column, names: Iterable[str]) -> dict[int, str]:
    """The names of those sections that begin as one of `names` does, whatever follows."""
    text = np.frombuffer(obj.contents(obj.section_names) or b"\0", "u1")
    heads = [each.encode()[:4] for each in names]
    least = min(map(len, heads), default=0)
    offsets = obj.sections["name"].astype("i8")
    head = np.zeros(len(offsets), "i8")
    for at in range(least):
        head = head << 8 | text[np.minimum(offsets + at, len(text) - 1)]
    listed = np.array(sorted({int.from_bytes(each[:least], "big") for each in heads}), "i8")
    if not len(listed):
        return {}
    chosen = wanted & (listed[np.minimum(np.searchsorted(listed, head), len(listed) - 1)] == head)
    return {index: obj.section_name(index) for index in np.flatnonzero(chosen).tolist()}

# SPDX-License-Identifier: Apache-2.0
"""A small object made of ranges of a large one.

In: `Atoms` and which of them are kept. Out: an `Object` as if read from a file of its own, and the section
that each atom went into. Ranges that lie side by side stay together. Of tables there are the entries about
atoms that are kept, of strings those that are referred to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kdiff.atoms import Atoms
from kdiff.elf.layout import SECTION, SYMBOL
from kdiff.elf.read import SHT_NOBITS, SHT_STRTAB, STT_SECTION, Column, Object
from kdiff.elf.relocations import Relocations
from kdiff.reach import OPERAND, Reach, reach, rows_of, rows_without_owner
from kdiff.rows import distinct
from kdiff.values import dataclass

NONE = np.zeros(0, "i8")


@dataclass(frozen=True, slots=True)
class Part:
    """By atom: `kept` speak, they and the entries about them have their records; `atoms` are there.

    `whole`: by section, those of code that are not cut.
    """

    kept: Column
    atoms: Column
    whole: Column


@dataclass(frozen=True, slots=True)
class Cutout:
    """`places`: of each atom that is kept, its section and offset in the small object."""

    obj: Object
    places: Mapping[int, tuple[int, int]]


def cut_out(side: Atoms, part: Part) -> Cutout:
    """Make the small object."""
    said = reach(side, _speaking(side, part))
    ranges = _ranges(side, part, said)
    text = _Text()
    sections = _sections(side, ranges, text)
    symbols, renumbered = _symbols(side, part, ranges, said, text)
    records = _records(side, ranges, said, renumbered)
    obj = _assembled(side, ranges, sections, symbols, records, text)
    atoms = np.flatnonzero(part.atoms)
    where = ranges.of(side.start[atoms])
    sections_of = ranges.section[where].tolist()
    offsets = (side.start[atoms] - ranges.low[where] + ranges.offset[where]).tolist()
    return Cutout(obj, dict(zip(atoms.tolist(), zip(sections_of, offsets, strict=True), strict=True)))


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Columns: what is taken, in order, and where it goes. `section`: of the small object, from 1."""

    low: Column
    high: Column
    section: Column
    offset: Column

    def of(self, position: Column) -> Column:
        """The range that a position is in, or behind which it is."""
        return np.maximum(np.searchsorted(self.low, position, "right") - 1, 0)


class _Text:
    """A string table that grows."""

    def __init__(self) -> None:
        self.data = bytearray(1)
        self._known = {"": 0}

    def add(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = len(self.data)
            self.data += name.encode("utf-8", "surrogateescape") + b"\0"
        return self._known[name]


def _speaking(side: Atoms, part: Part) -> Column:
    """The records that come along. Entries that are about no code do, always."""
    about = rows_of(side, part.kept)
    about = about[~side.dropped[side.obj.relocations["section"][about]]]
    return np.sort(np.concatenate((about, rows_without_owner(side))))


# What is taken ---------------------------------------------------------------------------------------


def _ranges(side: Atoms, part: Part, said: Reach) -> _Ranges:
    plain = np.flatnonzero(part.atoms)
    joined = np.zeros(len(side.start), bool)
    """Atoms from which something may point to the next: the two stay side by side."""
    two = said.high != said.low
    joined[said.low[two]] = True
    joined |= part.whole[side.section]
    follow = np.append(False, (plain[1:] == plain[:-1] + 1) & joined[plain[:-1]])[: len(plain)]
    follow &= side.section[plain] == side.section[np.maximum(plain - 1, 0)]
    groups = np.cumsum(~follow)
    parts = [np.column_stack([side.start[plain], side.end[plain], groups])]
    count = int(groups.max(initial=0))
    for taken in (*_taken_entries(side, part), *_taken_texts(side, said)):
        count += 1
        parts.append(np.column_stack([taken, np.full(len(taken), count)]))
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    new = np.append(True, rows[1:, 2] != rows[:-1, 2])[: len(rows)]
    section = np.cumsum(new)
    sizes = rows[:, 1] - rows[:, 0]
    before = np.cumsum(sizes) - sizes
    offset = before - before[np.flatnonzero(new)][section - 1] if len(rows) else before
    return _Ranges(rows[:, 0], rows[:, 1], section, offset)


def _taken_entries(side: Atoms, part: Part) -> list[Column]:
    found = []
    lists = side.owned.orphans, side.owned.about(part.kept)
    for section, table in side.tables.items():
        entries = distinct(np.concatenate([each[section] for each in lists if section in each] or [NONE]))
        if len(entries):
            low = side.base[table.section] + entries * table.row.entry_size
            end = side.base[table.section] + int(side.obj.sections["size"][table.section])
            found.append(np.column_stack([low, np.minimum(low + table.row.entry_size, end)]))
    return found


def _taken_texts(side: Atoms, said: Reach) -> list[Column]:
    """The strings and constants that are referred to, each once."""
    found = []
    chosen = np.flatnonzero(said.defined & side.merged[said.home])
    for home in distinct(said.home[chosen]).tolist():
        records = chosen[said.home[chosen] == home]
        begin = said.target[records] - side.base[home]
        places = distinct(np.concatenate((begin, (begin + OPERAND)[said.unsure[records]])))
        data = np.frombuffer(side.obj.contents(home), "u1")
        places = np.maximum(places[places < len(data)], 0)
        step = int(side.obj.sections["entsize"][home])
        if side.strings[home]:
            ends = np.append(np.flatnonzero(data == 0) + 1, len(data))
            which = distinct(np.searchsorted(ends, places, "right"))
            rows = np.column_stack([np.append(0, ends)[which], ends[which]])
        else:
            starts = distinct(places // step) * step
            rows = np.column_stack([starts, np.minimum(starts + step, len(data))])
        if len(rows):
            found.append(rows + side.base[home])
    return found


# Columns of the small object -------------------------------------------------------------------------


def _sections(side: Atoms, ranges: _Ranges, text: _Text) -> Column:
    count = int(ranges.section.max(initial=0))
    made = np.zeros(count + 2, SECTION)
    first = np.flatnonzero(np.append(True, ranges.section[1:] != ranges.section[:-1])[: len(ranges.section)])
    homes = side.section[side.atom(ranges.low[first])]
    made[1 : count + 1] = side.obj.sections[homes]
    inside = ranges.low[first] - side.base[homes]
    inside[side.is_table[homes] | side.merged[homes]] = 0
    align = np.maximum(side.obj.sections["align"][homes].astype("i8"), 1)
    made["align"][1 : count + 1] = np.where(inside > 0, np.minimum(inside & -inside, align), align)
    made["size"][1 : count + 1] = np.bincount(ranges.section, ranges.high - ranges.low, count + 1)[1:]
    made["name"][1 : count + 1] = [text.add(side.obj.section_name(each)) for each in homes.tolist()]
    return made


def _symbols(side: Atoms, part: Part, ranges: _Ranges, said: Reach, text: _Text) -> tuple[Column, Column]:
    """Symbols, and the new number of each old one. Those of sections come first, numbered as these are."""
    count = int(ranges.section.max(initial=0))
    wanted = (side.home > 0) & part.atoms[side.atom_of]
    wanted[said.symbol[~said.whole]] = True
    wanted &= ~side.is_section & (np.arange(len(wanted)) > 0)
    chosen = np.flatnonzero(wanted)
    made = np.zeros(count + 1 + len(chosen), SYMBOL)
    made["section"][1 : count + 1] = np.arange(1, count + 1)
    made["type"][1 : count + 1] = STT_SECTION
    made[count + 1 :] = side.obj.symbols[chosen]
    made["name"][count + 1 :] = [text.add(side.obj.symbol_name(each)) for each in chosen.tolist()]
    inside = np.flatnonzero(side.home[chosen] > 0)
    where = ranges.of(side.position[chosen[inside]])
    made["section"][count + 1 + inside] = ranges.section[where]
    made["value"][count + 1 + inside] = (
        side.position[chosen[inside]] - ranges.low[where] + ranges.offset[where]
    )
    elsewhere = (side.home[chosen] == 0) & (made["section"][count + 1 :] < len(side.loaded))
    made["section"][count + 1 :][elsewhere] = 0
    renumbered = np.zeros(len(wanted), "i8")
    renumbered[chosen] = np.arange(len(chosen)) + count + 1
    return made, renumbered


def _records(side: Atoms, ranges: _Ranges, said: Reach, renumbered: Column) -> Relocations:
    at = side.base[said.into] + said.offset
    where = ranges.of(at)
    section, offset = ranges.section[where], at - ranges.low[where] + ranges.offset[where]
    symbol, addend = renumbered[said.symbol], said.addend.copy()
    whole = np.flatnonzero(said.whole & said.defined)
    bases = side.base[said.home[whole]]
    where = ranges.of(side.within(said.home[whole], said.target[whole]))
    symbol[whole] = ranges.section[where]
    addend[whole] += ranges.offset[where] - (ranges.low[where] - bases)
    made = Relocations.of_columns(section, offset, said.kind, symbol, addend, np.zeros(len(at), bool))
    return made.of(np.argsort(section << 32 | offset, kind="stable"))


def _assembled(
    side: Atoms, ranges: _Ranges, sections: Column, symbols: Column, records: Relocations, text: _Text
) -> Object:
    homes = side.section[side.atom(ranges.low)]
    begins = side.obj.sections["offset"][homes].astype("i8") + ranges.low - side.base[homes]
    stored = side.obj.sections["type"][homes] != SHT_NOBITS
    spans = zip(begins[stored].tolist(), (ranges.high - ranges.low)[stored].tolist(), strict=True)
    data = b"".join(side.obj.data[begin : begin + size] for begin, size in spans)
    sizes = np.where(sections["type"] == SHT_NOBITS, 0, sections["size"]).astype("i8")
    sections["offset"] = np.cumsum(sizes) - sizes
    for column in ("addr", "link", "info"):
        sections[column] = 0
    strings = len(sections) - 1
    sections["type"][strings], sections["size"][strings] = SHT_STRTAB, len(text.data)
    sections["offset"][strings] = len(data)
    bounds = np.searchsorted(records["section"], np.arange(len(sections) + 1))
    records.freeze()
    for each in (sections, symbols, bounds):
        each.flags.writeable = False
    return replace(
        side.obj, data=memoryview(data + text.data), sections=sections, symbols=symbols, relocations=records,
        relocation_bounds=bounds, symtab=0, section_names=strings, symbol_names=strings, _known={},
    )  # fmt: skip

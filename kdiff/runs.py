# SPDX-License-Identifier: Apache-2.0
"""Entries of a table that lie side by side and are about one piece of code: one piece themselves.

Unwinders have an entry for every few instructions, and nobody asks for a single one. In: a `Stack`, tables
whose rows say so (`SpecialSection.runs`), and where code begins. Out: ranges of entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdiff.elf.read import RESERVED, STT_SECTION, Column
from kdiff.elf.stack import Stack
from kdiff.kernel import SpecialSection

_SECTION = 40
"""Bits of an offset in a section, below its index."""
Table = tuple[int, SpecialSection, Column | None]
"""Its section, its row, and which of its entries are chosen, None for all."""


def starts_of(sections: Column, offsets: Column) -> Column:
    """Where pieces begin, as one ascending column; so do sections."""
    first = sections << _SECTION
    return np.sort(np.concatenate((first, first | offsets)))


def bounds_of_runs(stack: Stack, tables: Sequence[Table], starts: Column) -> list[Column]:
    """For each table whether a run begins at each of its entries, of those that are chosen."""
    begins, numbers, places = list[Column](), list[Column](), list[Column]()
    for section, row, chosen in tables:
        step = row.entry_size or 1
        count = -(-int(stack.sections["size"][section]) // step)
        every = np.arange(count) if chosen is None else chosen.nonzero()[0]
        begins.append(np.ones(count, bool))
        numbers.append(every if row.entry_size and row.owner is not None else every[:0])
        places.append(numbers[-1] * step + (section << _SECTION | (row.owner or 0)))
    place = np.concatenate(places)
    named, records = _at(stack, place)
    symbol, added = stack.records.symbol.take(records), stack.records.addend.take(records)
    implicit = stack.records.implicit.take(records)
    homes, value, kind = (stack.symbols[name].take(symbol) for name in ("section", "value", "type"))
    homes, at = homes.astype("i8"), value.astype("i8")
    at += np.where(kind == STT_SECTION, added, 0)
    sound = (homes > 0) & (homes < RESERVED) & (at >= 0) & (at >> _SECTION == 0) & ~implicit
    owner = np.full(len(place), -1, "i8")
    owner[named] = np.where(sound, starts.searchsorted(homes << _SECTION | at, "right"), -1)
    first = np.append(True, (owner[1:] != owner[:-1]) | (owner[1:] < 0))
    done = 0
    for own, number in zip(begins, numbers, strict=True):
        own[number] = first[done : done + len(number)]
        own[number[:1]] = True
        done += len(number)
    return begins


def _at(stack: Stack, places: Column) -> tuple[Column, Column]:
    """Which places have a record, and that record: of several the first, as that one adds."""
    records = stack.records
    keys = records.section << _SECTION | records.offset
    found = keys.searchsorted(places)
    if not len(keys):
        return found[:0], found[:0]
    there = (keys.take(found, mode="clip") == places).nonzero()[0]
    return there, found.take(there)


def alone(begins: Column, number: int) -> None:
    """Make an entry a run by itself, because it has a name of its own in one of the tables."""
    begins[number : number + 2] = True


def runs(begins: Column, chosen: Column | None) -> list[tuple[int, int]]:
    """The first entry of each run and the one behind its last, of the entries that are chosen."""
    numbers = np.arange(len(begins)) if chosen is None else chosen.nonzero()[0]
    first = begins[numbers]
    first[1:] |= numbers[1:] != numbers[:-1] + 1
    first[:1] = True
    heads = first.nonzero()[0]
    if not len(numbers):
        return []
    tails = [*(numbers[heads[1:] - 1] + 1).tolist(), int(numbers[-1]) + 1]
    return list(zip(numbers[heads].tolist(), tails, strict=True))

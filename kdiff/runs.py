# SPDX-License-Identifier: Apache-2.0
"""Entries of a table that lie side by side and are about one piece of code: one piece themselves.

Unwinders have an entry for every few instructions, and nobody asks for a single one. In: an `Object`, a table
whose row says so (`SpecialSection.runs`), and where code begins. Out: ranges of entries.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kdiff.elf.read import RESERVED, STT_SECTION, Column, Object
from kdiff.kernel import SpecialSection

_SECTION = 40
"""Bits of an offset in a section, below its index."""


def starts_of(places: Iterable[tuple[int, int]]) -> Column:
    """Where pieces begin, from (section, offset), as one ascending column."""
    keys = {section << _SECTION | offset for section, offset in places}
    keys |= {key >> _SECTION << _SECTION for key in keys}
    return np.array(sorted(keys), "i8")


def bounds_of_runs(
    obj: Object, table: int, row: SpecialSection, starts: Column, chosen: Column | None = None
) -> Column:
    """Whether a run begins at each entry of a table, if it is among those that are `chosen`."""
    step = row.entry_size or 1
    count = -(-int(obj.sections["size"][table]) // step)
    begins = np.ones(count, bool)
    numbers = np.arange(count) if chosen is None else chosen.nonzero()[0]
    if row.owner is None or not row.entry_size or not len(numbers):
        return begins
    owner, (named, records) = np.full(len(numbers), -1, "i8"), _at(obj, table, numbers * step + row.owner)
    symbol, added, implicit = (
        obj.relocations[name].take(records) for name in ("symbol", "addend", "implicit")
    )
    homes, value, kind = (obj.symbols[name].take(symbol) for name in ("section", "value", "type"))
    homes, at = homes.astype("i8"), value.astype("i8")
    at += np.where(kind == STT_SECTION, added, 0)
    sound = (homes > 0) & (homes < RESERVED) & (at >= 0) & (at >> _SECTION == 0) & ~implicit
    owner[named] = np.where(sound, starts.searchsorted(homes << _SECTION | at, "right"), -1)
    begins[numbers[1:]] = (owner[1:] != owner[:-1]) | (owner[1:] < 0)
    return begins


def _at(obj: Object, table: int, places: Column) -> tuple[Column, Column]:
    """Which places of a table have a record, and that record: of several the first, as that one adds."""
    first, last = obj.relocation_bounds[table : table + 2].tolist()
    offset = obj.relocations["offset"][first:last].view("i8")
    found = offset.searchsorted(places)
    if first == last:
        return found[:0], found[:0]
    there = (offset.take(found, mode="clip") == places).nonzero()[0]
    return there, found.take(there) + first


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

# SPDX-License-Identifier: Apache-2.0
"""Several objects as one: columns of many rows cost little more than columns of few.

In: `Object`s. Out: a `Stack`, in which sections, symbols and records of one object lie behind those of the
object before, and are numbered on. Nothing leads from one to another: what is defined in no section is in the
null section of the first, as in an object by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence, Sized
from typing import NamedTuple

import numpy as np

from kdiff.elf.read import RESERVED, Column, Object
from kdiff.values import dataclass


class Records(NamedTuple):
    """Relocations by column, in the order of their sections; what numbers something is signed."""

    section: Column
    offset: Column
    type: Column
    symbol: Column
    addend: Column
    implicit: Column


@dataclass(frozen=True, slots=True)
class Stack:
    """`first_section`, `first_symbol`: of each object, and last how many there are in all.

    `bounds`: where the records of each section begin, and their end. The other columns are an `Object`'s.
    """

    objects: tuple[Object, ...]
    first_section: list[int]
    first_symbol: list[int]
    sections: Column
    symbols: Column
    records: Records
    bounds: Column

    @staticmethod
    def of(objects: Sequence[Object]) -> Stack:
        """One or more objects behind each other."""
        sections = _firsts([each.sections for each in objects])
        symbols = _firsts([each.symbols for each in objects])
        records = _firsts([each.relocations for each in objects])
        starts = [each.relocation_bounds[:-1] for each in objects]
        return Stack(
            tuple(objects),
            sections.tolist(),
            symbols.tolist(),
            joined([each.sections for each in objects]),
            _symbols(objects, sections, symbols),
            _records(objects, sections, symbols),
            np.append(_numbered_on(starts, records), records[-1]),
        )

    def number(self, section: int) -> int:
        """Which object a section is of."""
        return bisect_right(self.first_section, section) - 1

    def contents(self, section: int) -> memoryview:
        """The raw bytes of a section; empty for SHT_NOBITS."""
        number = self.number(section)
        return self.objects[number].contents(section - self.first_section[number])

    def parts(self, numbers: Column) -> Iterator[tuple[Object, int, slice]]:
        """Of ascending numbers of sections: each object, its first section, and which of them are its own."""
        cuts = numbers.searchsorted(self.first_section).tolist()
        for number, obj in enumerate(self.objects):
            yield obj, self.first_section[number], slice(*cuts[number : number + 2])


def joined(columns: Sequence[Column]) -> Column:
    """Columns of one type behind each other."""
    if len(columns) == 1:
        return columns[0]
    kind = columns[0].dtype
    if kind.names is None:
        return np.concatenate(columns)
    return np.concatenate([each.view(f"V{kind.itemsize}") for each in columns]).view(kind)  # not by fields


def _firsts(columns: Sequence[Sized]) -> Column:
    """The place of the first row of each, and their number."""
    return np.cumsum([0, *map(len, columns)])


def _numbered_on(columns: Sequence[Column], firsts: Column) -> Column:
    """Columns of numbers behind each other; `firsts`: what is added to those of each."""
    found: Column = np.concatenate(columns, dtype="i8", casting="unsafe")
    if len(columns) > 1:
        found += firsts[:-1].repeat(list(map(len, columns)))
    return found


def _symbols(objects: Sequence[Object], sections: Column, symbols: Column) -> Column:
    found = joined([each.symbols for each in objects])
    if len(objects) > 1:
        home = found["section"]
        inside = (home - np.uint32(1) < RESERVED - 1).nonzero()[0]
        home[inside] += sections[:-1].astype(home.dtype).repeat(np.diff(symbols)).take(inside)
    return found


def _records(objects: Sequence[Object], sections: Column, symbols: Column) -> Records:
    columns = [each.relocations for each in objects]
    return Records(
        _numbered_on([each["section"] for each in columns], sections),
        joined([each["offset"] for each in columns]).view("i8"),
        joined([each["type"] for each in columns]),
        _numbered_on([each["symbol"] for each in columns], symbols),
        joined([each["addend"] for each in columns]),
        joined([each["implicit"] for each in columns]),
    )

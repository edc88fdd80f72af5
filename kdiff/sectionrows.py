# SPDX-License-Identifier: Apache-2.0
"""Which row of the plugins' table a section has, by its name.

In: the rows of special sections. Out: a `Rows`, which is kept for all pairs of a batch: it also remembers the
layouts of small tables (`kdiff.tables`), most of which recur.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from kdiff.kernel import SpecialSection
from kdiff.naming import longest

_MOST_KEPT = 1 << 12
"""Answers that are kept of one kind."""
Key = TypeVar("Key")
Value = TypeVar("Value")


def row_of(name: str, special: Mapping[str, SpecialSection]) -> SpecialSection | None:
    """The table row for a section name: its own, or that of the longest prefix row."""
    return Rows(special).row(name)


class Rows:
    """The rows of a kernel by the names of sections, and the layouts that were found for them.

    `layouts`: by what decided them. What one object of a pair or of a batch has told need not be found out
    again for the others.
    """

    def __init__(self, special: Mapping[str, SpecialSection]) -> None:
        self.special = special
        families = tuple([key for key, row in special.items() if row.prefix])
        self._family = longest(families).match
        self._pieces = frozenset([name for row in special.values() for name in row.pieces])
        self._piece_families = tuple([name[:-1] for name in self._pieces if name.endswith("*")])
        self._width = min(map(len, (*families, *self._piece_families)), default=1)
        self._heads = frozenset([name[: self._width] for name in (*special, *self._pieces)])
        self._known: dict[str, SpecialSection | None] = {}
        self.layouts: dict[tuple[object, ...], SpecialSection] = {}

    def row(self, name: str) -> SpecialSection | None:
        if name in self._known:
            return self._known[name]
        row = self.special.get(name)
        if row is None:
            family = self._family(name)
            row = None if family is None else self.special[family[0]]
        found = None if row is None or row.code else row
        keep(self._known, name, found)
        return found

    def among(self, names: list[str], chosen: Iterable[int]) -> list[int]:
        """Those of the numbers whose names may have a row or be pieces: no others begin as these do."""
        width, heads = self._width, self._heads
        return [each for each in chosen if names[each][:width] in heads]

    def is_piece(self, name: str) -> bool:
        """Whether a section of that name holds code for table entries only (`SpecialSection.pieces`)."""
        return name in self._pieces or name.startswith(self._piece_families)


def keep(known: dict[Key, Value], key: Key, value: Value) -> None:
    """Keep an answer; all are forgotten where there are too many."""
    if len(known) >= _MOST_KEPT:
        known.clear()
    known[key] = value

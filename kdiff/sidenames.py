# SPDX-License-Identifier: Apache-2.0
"""The names of sections and symbols as numbers, and what the names of sections and data mean.

In: pairs of objects, as two `Stack`s, and the rows and habits of their kernel. Out: `Names`. Most names are
in both objects of a pair, so what one means is asked once, and only of those names that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np

from kdiff.elf.read import Column
from kdiff.elf.stack import Stack, joined
from kdiff.habits import Habits
from kdiff.naming import FRAGMENT, LABEL, UNIQUE, example, is_made_unique, is_numbered, stem
from kdiff.sectionrows import Rows

REMADE, NUMBERED, CONSTANT = 1, 2, 4
"""Made anew, a static with a number, constant."""
ROW, PIECE = 1, 2
"""A section that may have a row, one that holds code for table entries only."""


class Names:
    """`section_ids`, `symbol_ids`: a column for either side.

    A name has one number in both objects of a pair, and another one in other pairs.
    """

    def __init__(self, pre: Stack, post: Stack, rows: Rows, habits: Habits) -> None:
        pairs = list(zip(pre.objects, post.objects, strict=True))
        for before, after in pairs:
            after.share_names(before)
        self.rows = rows
        self.sections, self.section_ids = _numbered(
            (before.names_of_sections(), after.names_of_sections()) for before, after in pairs
        )
        self.symbols, self.symbol_ids = _numbered(
            (before.names_of_symbols(), after.names_of_symbols()) for before, after in pairs
        )
        heads = (UNIQUE, LABEL, *habits.remade_families, *habits.constant_families)
        remade = habits.remade_names
        self.special_of = _Told(
            self.sections, rows.among, lambda name: ROW | PIECE * rows.is_piece(name)
        ).of  # fmt: skip
        """By section: `ROW`, `PIECE`."""
        self.data_of = _Told(
            self.sections,
            lambda names, chosen: [
                n for n in chosen if not names[n][-1:].isalpha() or names[n].startswith(heads)
            ],
            lambda name: _section(habits, name),
        ).of
        """By section of data: `REMADE`, `NUMBERED`, `CONSTANT`."""
        self.datum_of = _Told(
            self.symbols,
            lambda names, chosen: [
                n for n in chosen if "." in names[n] or names[n] in remade or names[n].startswith(UNIQUE)
            ],
            lambda name: _datum(habits, example(name)),
        ).of
        """The same by symbol of a local datum."""
        self.fragments = _Told(
            self.symbols, lambda names, chosen: [n for n in chosen if FRAGMENT in names[n]], lambda name: 1
        ).of
        """By symbol of a function: 1 for a part of another."""


def _numbered(pairs: Iterable[tuple[list[str], list[str]]]) -> tuple[list[str], tuple[Column, Column]]:
    """All names, and the number of each of those on either side: where the pair has it first."""
    every: list[str] = []
    ours, theirs = list[Column](), list[Column]()
    for mine, yours in pairs:
        number, first = dict[str, int]().setdefault, len(every)
        every += mine
        ours.append(np.fromiter(map(number, mine, range(first, len(every))), "i8", len(mine)))
        if yours is mine:
            theirs.append(ours[-1])
            continue
        first = len(every)
        every += yours
        theirs.append(np.fromiter(map(number, yours, range(first, len(every))), "i8", len(yours)))
    return every, (joined(ours), joined(theirs))


_UNASKED = 255


class _Told:
    """What is told of names, in bits. `some`: those of them that may have any."""

    def __init__(
        self, names: list[str], some: Callable[[list[str], list[int]], list[int]], tell: Callable[[str], int]
    ) -> None:
        self._names, self._some, self._tell = names, some, tell
        self._bits = np.full(len(names), _UNASKED, "u1")

    def of(self, numbers: Column) -> Column:
        """The bits of each name."""
        found = self._bits.take(numbers)
        new = numbers[found == _UNASKED]
        if len(new):
            self._bits[new] = 0
            some = self._some(self._names, new.tolist())
            self._bits[some] = [self._tell(self._names[each]) for each in some]
            found = self._bits.take(numbers)
        return found


@lru_cache(maxsize=1 << 12)
def _section(habits: Habits, name: str) -> int:
    remade = name.startswith(habits.remade_families)
    return REMADE * remade | NUMBERED * is_numbered(name) | CONSTANT * habits.is_constant(name)


@lru_cache(maxsize=1 << 12)
def _datum(habits: Habits, name: str) -> int:
    if "." not in name and not is_made_unique(name):
        return REMADE * (name in habits.remade_names)
    return REMADE * (habits.remade(stem(name), "") is not None) | NUMBERED * is_numbered(name)

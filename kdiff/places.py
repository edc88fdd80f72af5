# SPDX-License-Identifier: Apache-2.0
"""Where records lead to (stage 2), for many at a time: the nodes of all objects of a `Stack` as columns.

In: a `Stack` and the `Lookup` of each of its objects. Out: `Places`, in which the nodes of one object lie
behind those of the object before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdiff.elf.read import STT_SECTION, Column
from kdiff.elf.stack import Stack
from kdiff.lookup import Lookup

_PLACE = 40
"""Bits of an offset in a section."""


class Places:
    """`first`: by section, its first node, -1 for none. `starts`, `sizes`, `keys`, `owner`: by node.

    `keys`: the places where nodes begin. `owner`: the object of each. `first_node`: of each object, and their
    number.
    """

    def __init__(self, stack: Stack, lookups: Sequence[Lookup]) -> None:
        self.stack, self.lookups = stack, lookups
        self.nodes = [node for each in lookups for node in each.nodes]
        counts = [len(each.nodes) for each in lookups]
        self.first_node = np.cumsum([0, *counts])
        self.owner = np.arange(len(lookups)).repeat(counts)
        self.starts = np.array([node.start for node in self.nodes], "i8")
        self.sizes = np.array([node.size for node in self.nodes], "i8")
        sections = self._sections = np.array([node.section for node in self.nodes], "i8")
        sections += np.array(stack.first_section).take(self.owner)
        heads = np.append(True, sections[1:] != sections[:-1])[: len(sections)].nonzero()[0]
        self.first = np.full(len(stack.sections), -1, "i8")
        self.first[sections.take(heads)] = heads
        self.keys = self.key(sections, self.starts)
        self._strings = np.concatenate([each.strings for each in lookups])

    def section(self, node: int) -> int:
        """The section of a node, by its number in the stack."""
        return int(self._sections[node])

    def key(self, section: Column, offset: Column) -> Column:
        """Places in sections that have nodes as numbers, which are in the order of the nodes."""
        return self.first.take(section) << _PLACE | offset

    def reached(self, owner: Column, symbols: Column, addends: Column) -> tuple[Column, Column]:
        """What symbols and addends mean: nodes by their numbers in their own object, and offsets in them.

        `owner`: the object of each.
        """
        every = self.stack.symbols
        home, kind, value = (every[name].take(symbols) for name in ("section", "type", "value"))
        home = home.astype("i8") * (home < len(self.first))
        within = value.astype("i8")
        place = np.where(kind == STT_SECTION, within + addends, within)
        place = np.minimum(np.maximum(place, 0), (1 << _PLACE) - 1)
        first = self.first.take(home)
        target = np.maximum(self.keys.searchsorted(self.key(home, place), "right") - 1, first)
        elsewhere = first < 0
        strings = (elsewhere & self._strings.take(home)).nonzero()[0]
        elsewhere[strings] = False
        other = elsewhere.nonzero()[0]
        target[other], whole = 0, within + addends
        inner = whole - self.starts.take(target)
        target -= self.first_node.take(owner)
        target[other] = self._elsewhere(*(each.take(other) for each in (owner, symbols, home)))
        inner[other] = addends.take(other)
        rows = (each.take(strings).tolist() for each in (owner, home, place, whole))
        for at, number, section, begin, offset in zip(strings.tolist(), *rows, strict=True):
            section -= self.stack.first_section[number]
            target[at], inner[at] = self.lookups[number].string(section, begin, offset)
        return target, inner

    def _elsewhere(self, owner: Column, symbols: Column, home: Column) -> list[int]:
        """The nodes of symbols that are in no section that has nodes."""
        first_section, first_symbol = self.stack.first_section, self.stack.first_symbol
        binding = self.stack.symbols["binding"].take(symbols)
        rows = zip(*(each.tolist() for each in (owner, symbols, binding, home)), strict=True)
        return [
            self.lookups[number].elsewhere(
                symbol - first_symbol[number], bound, section and section - first_section[number]
            )
            for number, symbol, bound, section in rows
        ]

# SPDX-License-Identifier: Apache-2.0
"""Where a record leads to (stage 2): the node at a place, the node of a symbol, those of other units.

In: an `Object` and its nodes. Out: a `Lookup`, which collects further nodes while a graph is made: those of
other units, and strings that are reached.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from kdiff.elf.read import RESERVED, STB_LOCAL, STB_WEAK, STT_FUNC, STT_SECTION, Column, Object
from kdiff.habits import Habits
from kdiff.labels import Labels
from kdiff.nodes import Node
from kdiff.owners import stands_alone
from kdiff.split import Kind, Piece

_PLACE = 40
"""Bits of an offset in a section."""


class _Rows(dict[int, tuple[int, ...]]):
    """The rows of an object's symbols, of those that are asked for."""

    def __init__(self, obj: Object) -> None:
        self._symbols = obj.symbols

    def __missing__(self, index: int) -> tuple[int, ...]:
        row: tuple[int, ...] = self._symbols[index].item()
        self[index] = row
        return row


class Lookup:
    """Finds the node for (section, offset) and for symbols, while a graph is made.

    `strings`: sections whose strings become nodes when they are reached; `node` makes them.
    """

    def __init__(
        self, obj: Object, nodes: list[Node], labels: Labels, habits: Habits, strings: Column | None,
        node: Callable[[Piece], Node],
    ) -> None:  # fmt: skip
        self.obj, self.marks, self._node = obj, habits.ahead, node
        self._strings = np.zeros(len(obj.sections), bool) if strings is None else strings
        self._string_at: dict[tuple[int, int], int] = {}
        self.symbols = _Rows(obj)
        self.further: list[Node] = []
        """Nodes that are made when something reaches them: of other units, and strings."""
        self._by_name: dict[str, int] = {}
        self._outside: dict[int, int] = {}
        self.nodes = nodes
        self._others = {
            (section, each.start): each.other
            for section, found in labels.items()
            for each in found
            if each.other and each.type == STT_FUNC
        }
        sections = np.array([node.section for node in nodes], "i8")
        heads = np.append(True, sections[1:] != sections[:-1])[: len(nodes)].nonzero()[0]
        self.starts = np.array([node.start for node in nodes], "i8")
        self.sizes = np.array([node.size for node in nodes], "i8")
        self.first = np.full(len(obj.sections), -1, "i8")
        self.first[sections[heads]] = heads
        self.keys = self.key(sections, self.starts)
        spans = zip(heads.tolist(), [*heads[1:].tolist(), len(nodes)], strict=False)
        self._sections = dict(zip(sections[heads].tolist(), spans, strict=False))
        self._starts: list[int] = self.starts.tolist()
        self.inner = self._inner(labels)

    def at(self, section: int, offset: int) -> Node | None:
        """The node that holds `offset`, or ends there, or begins behind it (in a section's padding)."""
        first, stop = self._sections.get(section, (0, 0))
        return self.nodes[self._holds(offset, first, stop)] if first < stop else None

    def _holds(self, offset: int, first: int, stop: int) -> int:
        """Which of some nodes of one section holds an offset."""
        return max(bisect_right(self._starts, offset, first, stop) - 1, first)

    def key(self, section: Column, offset: Column) -> Column:
        """Places in sections that have nodes as numbers, which are in the order of the nodes."""
        return self.first.take(section) << _PLACE | offset

    def reached(self, symbol: int, addend: int) -> tuple[int, int]:
        """What a symbol and an addend mean: a node and an offset in it."""
        _, value, _, kind, _, _, section = self.symbols[symbol]
        first, stop = self._sections.get(section, (0, 0))
        if first == stop and section < RESERVED and self._strings[section]:
            return self._string(section, value + addend if kind == STT_SECTION else value, value + addend)
        if first == stop:
            return self._elsewhere(symbol), addend
        target = self._holds(value + addend if kind == STT_SECTION else value, first, stop)
        return target, value + addend - self._starts[target]

    def all_reached(self, symbols: Column, addends: Column) -> tuple[Column, Column]:
        """The same for many at a time: which nodes, and offsets in them."""
        home, kind, value = (self.obj.symbols[name].take(symbols) for name in ("section", "type", "value"))
        home = home * (home < len(self.first))
        within = value.astype("i8")
        place = np.where(kind == STT_SECTION, within + addends, within)
        place = np.minimum(np.maximum(place, 0), (1 << _PLACE) - 1)
        first = self.first.take(home)
        target = np.maximum(self.keys.searchsorted(self.key(home, place), "right") - 1, first)
        elsewhere = first < 0
        strings = (elsewhere & self._strings.take(home)).nonzero()[0].tolist()
        elsewhere[strings] = False
        other = elsewhere.nonzero()[0]
        target[other] = 0
        inner = within + addends - self.starts.take(target)
        target[other] = [self._elsewhere(symbol) for symbol in symbols.take(other).tolist()]
        inner[other] = addends.take(other)
        for at in strings:
            target[at], inner[at] = self._string(int(home[at]), int(place[at]), int(within[at] + addends[at]))
        return target, inner

    def _string(self, section: int, place: int, offset: int) -> tuple[int, int]:
        """The node of the string that holds a place of its section, and where in that an offset lies."""
        data = bytes(self.obj.contents(section))
        start = data.rfind(b"\0", 0, min(max(place, 0), len(data) - 1)) + 1
        number = self._string_at.get((section, start))
        if number is None:
            number = self._string_at[section, start] = len(self.nodes) + len(self.further)
            stop = data.find(b"\0", start) + 1 or len(data)
            self.further.append(
                self._node(Piece(section, start, stop - start, Kind.STRING))._replace(id=number)
            )
        return number, offset - start

    def extern(self, name: str, weak: bool = False) -> int:
        if name not in self._by_name:
            number = self._by_name[name] = len(self.nodes) + len(self.further)
            self.further.append(Node(number, name, Kind.EXTERN, names=(name,), local=False, weak=weak))
        return self._by_name[name]

    def _elsewhere(self, symbol: int) -> int:
        """The node of a symbol of another unit, or of a section that has no nodes."""
        known = self._outside.get(symbol)
        if known is None:
            name, (*_, binding, _, section) = self.obj.symbol_name(symbol), self.symbols[symbol]
            if 0 < section < RESERVED:
                name, binding = f"{self.obj.section_name(section)}:{name}", STB_LOCAL
            known = self._outside[symbol] = self.extern(name, binding == STB_WEAK)
        return known

    def entered(self, entry: Callable[[int], int], symbol: int, target: int, addend: int) -> tuple[int, int]:
        """Tell what a call adds to reach a function's local entry from its addend: (addend, entry).

        Assemblers write either the function's symbol, or its section's with the entry in the addend.
        """
        _, _, _, kind, _, other, _ = self.symbols[symbol]
        if kind != STT_SECTION or target >= len(self.nodes):
            return addend, entry(other)
        return self.way_in(entry, self.nodes[target], addend)

    def way_in(self, entry: Callable[[int], int], node: Node, addend: int) -> tuple[int, int]:
        """The same for a place in a node."""
        way = entry(self._others.get((node.section, node.start), 0))
        return (0, way) if way and addend == way else (addend, 0)

    def is_shared(self, node: Node) -> bool:
        """Whether a section has several nodes, other than what lies in front of its function."""
        return not stands_alone(self.obj, self.nodes[slice(*self._sections[node.section])], node, self.marks)

    def _inner(self, labels: Labels) -> dict[int, tuple[tuple[int, str], ...]]:
        found: dict[int, list[tuple[int, str]]] = {}
        for section, inside in labels.items():
            for each in inside:
                node = self.at(section, each.start) if each.start else None
                if node is not None and each.start > node.start:
                    found.setdefault(node.id, []).append((each.start - node.start, each.name))
        return {node: tuple(sorted(names)) for node, names in found.items()}

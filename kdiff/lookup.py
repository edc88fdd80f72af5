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

    `strings`: sections whose strings become nodes when they are reached; `node` makes them, of their numbers.
    """

    def __init__(
        self, obj: Object, nodes: list[Node], labels: Labels, habits: Habits, strings: Column | None,
        node: Callable[[int, Piece], Node],
    ) -> None:  # fmt: skip
        self.obj, self.marks, self._node = obj, habits.ahead, node
        self.strings = np.zeros(len(obj.sections), bool) if strings is None else strings
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
        self._starts = [node.start for node in nodes]
        heads = [at for at, node in enumerate(nodes) if not at or node.section != nodes[at - 1].section]
        self._sections = {
            nodes[first].section: (first, stop)
            for first, stop in zip(heads, [*heads[1:], len(nodes)], strict=False)
        }
        self.inner = self._inner(labels)

    def at(self, section: int, offset: int) -> Node | None:
        """The node that holds `offset`, or ends there, or begins behind it (in a section's padding)."""
        first, stop = self._sections.get(section, (0, 0))
        return self.nodes[self._holds(offset, first, stop)] if first < stop else None

    def _holds(self, offset: int, first: int, stop: int) -> int:
        """Which of some nodes of one section holds an offset."""
        return max(bisect_right(self._starts, offset, first, stop) - 1, first)

    def reached(self, symbol: int, addend: int) -> tuple[int, int]:
        """What a symbol and an addend mean: a node and an offset in it."""
        _, value, _, kind, binding, _, section = self.symbols[symbol]
        first, stop = self._sections.get(section, (0, 0))
        if first == stop and section < RESERVED and self.strings[section]:
            return self.string(section, value + addend if kind == STT_SECTION else value, value + addend)
        if first == stop:
            return self.elsewhere(symbol, binding, section), addend
        target = self._holds(value + addend if kind == STT_SECTION else value, first, stop)
        return target, value + addend - self._starts[target]

    def string(self, section: int, place: int, offset: int) -> tuple[int, int]:
        """The node of the string that holds a place of its section, and where in that an offset lies."""
        data = bytes(self.obj.contents(section))
        start = data.rfind(b"\0", 0, min(max(place, 0), len(data) - 1)) + 1
        number = self._string_at.get((section, start))
        if number is None:
            number = self._string_at[section, start] = len(self.nodes) + len(self.further)
            stop = data.find(b"\0", start) + 1 or len(data)
            self.further.append(self._node(number, Piece(section, start, stop - start, Kind.STRING)))
        return number, offset - start

    def extern(self, name: str, weak: bool = False) -> int:
        if name not in self._by_name:
            number = self._by_name[name] = len(self.nodes) + len(self.further)
            self.further.append(Node(number, name, Kind.EXTERN, names=(name,), local=False, weak=weak))
        return self._by_name[name]

    def elsewhere(self, symbol: int, binding: int, section: int) -> int:
        """The node of a symbol of another unit, or of a section that has no nodes."""
        known = self._outside.get(symbol)
        if known is None:
            name = self.obj.symbol_name(symbol)
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

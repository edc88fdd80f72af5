# SPDX-License-Identifier: Apache-2.0
"""Where a record leads to (stage 2): the node at a place, the node of a symbol, those of other units.

In: an `Object` and its nodes. Out: a `Lookup`, which collects the nodes of other units while a graph is made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from kdiff.elf.read import RESERVED, STB_WEAK, STT_FUNC, STT_SECTION, Object
from kdiff.elf.relocations import Raw
from kdiff.habits import Habits
from kdiff.labels import Labels
from kdiff.nodes import Node
from kdiff.owners import stands_alone
from kdiff.split import Kind


class _Rows(dict[int, tuple[int, ...]]):
    """The rows of an object's symbols, of those that are asked for."""

    def __init__(self, obj: Object) -> None:
        self._symbols = obj.symbols

    def __missing__(self, index: int) -> tuple[int, ...]:
        row: tuple[int, ...] = self._symbols[index].item()
        self[index] = row
        return row


class Lookup:
    """Finds the node for (section, offset) and for symbols; collects externs while the graph is built."""

    def __init__(self, obj: Object, nodes: list[Node], labels: Labels, habits: Habits) -> None:
        self.obj, self.marks = obj, habits.ahead
        self.symbols = _Rows(obj)
        self.externs: list[Node] = []
        self._first_extern = len(nodes)
        self._by_name: dict[str, int] = {}
        self._undefined: dict[int, int] = {}
        self._reached: dict[int, tuple[int, int]] = {}
        self._bounds: list[int] = obj.relocation_bounds.tolist()
        self.nodes = nodes
        self._others = {
            (section, each.start): each.other
            for section, found in labels.items()
            for each in found
            if each.other and each.type == STT_FUNC
        }
        self._sections: dict[int, tuple[list[int], list[Node]]] = {}
        for node in nodes:
            starts, found = self._sections.setdefault(node.section, ([], []))
            starts.append(node.start)
            found.append(node)
        self.inner = self._inner(labels)

    def at(self, section: int, offset: int) -> Node | None:
        """The node that holds `offset`, or ends there, or begins behind it (in a section's padding)."""
        found = self._sections.get(section)
        if found is None:
            return None
        starts, nodes = found
        return nodes[(bisect_right(starts, offset) or 1) - 1]

    def reached(self, symbol: int, addend: int) -> tuple[int, int]:
        """What a symbol and an addend mean: a node and an offset in it."""
        known = self._reached.get(symbol)
        if known is None:
            known = self._reached[symbol] = self._way(symbol)
        target, base = known
        if target >= 0:
            return target, base + addend
        starts, nodes = self._sections[-target]
        node = nodes[(bisect_right(starts, base + addend) or 1) - 1]
        return node.id, base + addend - node.start

    def _way(self, symbol: int) -> tuple[int, int]:
        """A node and what to add to an addend; -section where the node depends on the addend."""
        _, value, _, kind, _, _, section = self.symbols[symbol]
        if section == 0 or section >= RESERVED:
            return self.undefined(symbol), 0
        starts, nodes = self._sections.get(section, ((), ()))
        if not nodes:
            return self.extern(f"{self.obj.section_name(section)}:{self.obj.symbol_name(symbol)}"), 0
        if kind == STT_SECTION and len(nodes) > 1:
            return -section, value
        node = nodes[(bisect_right(starts, value) or 1) - 1]
        return node.id, value - node.start

    def rows(self, section: int) -> list[Raw]:
        """A section's records, from its first node to the end of the last one."""
        nodes = self._sections[section][1]
        first, last = self._bounds[section], self._bounds[section + 1]
        if first < last and nodes[-1].row >= 0:
            ends = np.array((nodes[0].start, nodes[-1].start + nodes[-1].size), "u8")
            first, last = (first + self.obj.relocations["offset"][first:last].searchsorted(ends)).tolist()
        return self.obj.relocations.rows(slice(first, last)) if first < last else []

    def extern(self, name: str, weak: bool = False) -> int:
        if name not in self._by_name:
            number = self._by_name[name] = self._first_extern + len(self.externs)
            self.externs.append(Node(number, name, Kind.EXTERN, names=(name,), local=False, weak=weak))
        return self._by_name[name]

    def undefined(self, symbol: int) -> int:
        """The node of a symbol of another unit."""
        if symbol not in self._undefined:
            name, binding = self.obj.symbol_name(symbol), self.symbols[symbol][4]
            self._undefined[symbol] = self.extern(name, binding == STB_WEAK)
        return self._undefined[symbol]

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
        return not stands_alone(self.obj, self._sections[node.section][1], node, self.marks)

    def _inner(self, labels: Labels) -> dict[int, tuple[tuple[int, str], ...]]:
        found: dict[int, list[tuple[int, str]]] = {}
        for section, inside in labels.items():
            for each in inside:
                node = self.at(section, each.start)
                if node is not None and each.start > node.start:
                    found.setdefault(node.id, []).append((each.start - node.start, each.name))
        return {node: tuple(sorted(names)) for node, names in found.items()}

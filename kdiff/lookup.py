# SPDX-License-Identifier: Apache-2.0
"""Where a record leads to (stage 2): the node at a place, the node of a symbol, those of other units.

In: an `Object` and its nodes. Out: a `Lookup`, which collects the nodes of other units while a graph is made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from kdiff.arch import Architecture
from kdiff.elf.read import STB_WEAK, STT_FUNC, STT_SECTION, Object
from kdiff.elf.relocations import Raw
from kdiff.habits import Habits
from kdiff.nodes import Node
from kdiff.owners import stands_alone
from kdiff.split import Kind, is_mapping


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

    def __init__(self, obj: Object, arch: Architecture, nodes: list[Node], habits: Habits) -> None:
        self.obj, self.arch, self.marks = obj, arch, habits.ahead
        self.symbols = _Rows(obj)
        self.externs: list[Node] = []
        self._first_extern = len(nodes)
        self._by_name: dict[str, int] = {}
        self._undefined: dict[int, int] = {}
        self.nodes = nodes
        entered = np.flatnonzero((obj.symbols["other"] > 0) & (obj.symbols["type"] == STT_FUNC)).tolist()
        self._others = {(row[6], row[1]): row[5] for row in map(self.symbols.__getitem__, entered)}
        self._sections: dict[int, tuple[list[int], list[Node]]] = {}
        for node in nodes:
            starts, found = self._sections.setdefault(node.section, ([], []))
            starts.append(node.start)
            found.append(node)
        self.inner = self._inner_symbols()

    def at(self, section: int, offset: int) -> Node | None:
        """The node that holds `offset`, or ends there, or begins behind it (in a section's padding)."""
        starts, found = self._sections.get(section, ([], []))
        index = bisect_right(starts, offset) - 1
        return found[max(index, 0)] if found else None

    def rows(self, section: int) -> list[Raw]:
        """A section's records, from its first node to the end of the last one."""
        records, nodes = self.obj.records(section), self._sections[section][1]
        start, stop = nodes[0].start, nodes[-1].start + nodes[-1].size
        if nodes[-1].row >= 0:
            records = records.of(slice(*np.searchsorted(records["offset"], (start, stop)).tolist()))
        return records.rows()

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

    def _inner_symbols(self) -> dict[int, tuple[tuple[int, str], ...]]:
        found: dict[int, list[tuple[int, str]]] = {}
        homes = self.obj.symbols["section"]
        cut = np.zeros(len(self.obj.sections), bool)
        cut[list(self._sections)] = True
        chosen = np.flatnonzero((homes < len(cut)) & (self.obj.symbols["type"] != STT_SECTION))
        chosen = chosen[cut[homes[chosen]]]
        places = zip(
            chosen.tolist(), homes[chosen].tolist(), self.obj.symbols["value"][chosen].tolist(), strict=True
        )
        for index, section, value in places:
            node = self.at(section, value)
            if node is not None and value > node.start and not is_mapping(self.obj, self.arch, index):
                found.setdefault(node.id, []).append((value - node.start, self.obj.symbol_name(index)))
        return {node: tuple(sorted(names)) for node, names in found.items()}

# SPDX-License-Identifier: Apache-2.0
"""Which of several equal functions is the one of this unit? The one that lies beside its neighbour.

A compiler writes a unit's functions in one order, whether or not each gets a section of its own, and a
linker keeps together what comes from one section of one unit. So what lies between the function in front of
this one and the one behind it is this one, up to padding. Beside one neighbour alone may also lie a copy at
the edge of another unit, where the kernel's own unit has none: that counts only if an assembler has filled
the gap, with no-ops that no linker fills with. Between sections, and so between units, the linker fills.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from kdiff.graph import Node, SectionGraph
from kdiff.memory import MemorySource
from kdiff.split import Kind, only_nops
from kdiff.verdict import Match

_WIDEST = 64
"""Bytes: functions are aligned to a cache line at most."""


class Neighbours:
    """The functions of one graph in the order in which they are laid out."""

    def __init__(self, graph: SectionGraph, memory: MemorySource) -> None:
        self.graph, self.memory = graph, memory
        self._behind = followers(graph)
        self._before = {b: a for a, b in self._behind.items()}

    def choose(
        self, node: Node, found: Iterable[Match], matches: Mapping[int, Match]
    ) -> tuple[Match, Node] | None:
        """The one match of `node` that lies beside a neighbour, and that neighbour; else None."""
        before, behind = (matches.get(row.get(node.id, -1)) for row in (self._before, self._behind))
        beside = before if before is not None else behind
        if beside is None:
            return None
        alone = before is None or behind is None
        fitting = [
            each
            for each in found
            if (before is None or self._adjoin(before, each, alone))
            and (behind is None or self._adjoin(each, behind, alone))
        ]
        return (fitting[0], self.graph.nodes[beside.node]) if len(fitting) == 1 else None

    def _adjoin(self, first: Match, second: Match, in_one_section: bool) -> bool:
        """Whether nothing but padding lies between two functions, of one section if that must be."""
        start, stop = first.address + first.size, second.address
        if not 0 <= stop - start < _WIDEST:
            return False
        between = self.memory.read(start, stop - start)
        if between is None or not only_nops(self.graph.arch, between):
            return False
        return not in_one_section or self._is_by_assembler(between)

    def _is_by_assembler(self, gap: bytes) -> bool:
        """Whether bytes are there that no linker would fill with; nobody knows where it fills with no-ops."""
        fill = self.graph.arch.padding
        return bool(fill) and not fill.issuperset(gap)


def followers(graph: SectionGraph) -> dict[int, int]:
    """The function that the compiler writes behind each, where functions get no sections of their own."""
    rows: dict[str, list[int]] = {}
    for node in graph.nodes:
        if node.kind is Kind.FUNCTION and node.size:
            rows.setdefault(_family(node), []).append(node.id)
    return {a: b for row in rows.values() for a, b in pairwise(row)}


def _family(node: Node) -> str:
    """The section that a function is in where functions get none of their own: `.text.unlikely`, `.text`."""
    own = (end for name in node.names for end in (f".{name}", f".{name.replace('.cold', '')}"))
    return next((node.section_name.removesuffix(each) for each in own if node.section_name.endswith(each)),
                node.section_name)  # fmt: skip

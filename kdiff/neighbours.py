# SPDX-License-Identifier: Apache-2.0
"""Which of several equal functions is the one of this unit? The one that lies beside its neighbour.

A compiler writes a unit's functions in one order, whether or not each gets a section of its own, and a linker
keeps together what comes from one section of one unit. So what lies behind the function in front of this one
is this one, up to padding. Nothing but what matched by itself counts as a neighbour, and neighbours on both
sides must agree.
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
        rows: dict[str, list[int]] = {}
        for node in graph.nodes:
            if node.kind is Kind.FUNCTION and node.size:
                rows.setdefault(_family(node), []).append(node.id)
        self._before = {b: a for row in rows.values() for a, b in pairwise(row)}
        self._behind = {a: b for b, a in self._before.items()}

    def choose(
        self, node: Node, found: Iterable[Match], matches: Mapping[int, Match]
    ) -> tuple[Match, Node] | None:
        """The one match of `node` that lies beside a neighbour, and that neighbour; else None."""
        before, behind = (matches.get(row.get(node.id, -1)) for row in (self._before, self._behind))
        beside = before if before is not None else behind
        if beside is None:
            return None
        fitting = [
            each
            for each in found
            if (before is None or self._adjoin(before, each))
            and (behind is None or self._adjoin(each, behind))
        ]
        return (fitting[0], self.graph.nodes[beside.node]) if len(fitting) == 1 else None

    def _adjoin(self, first: Match, second: Match) -> bool:
        """Whether nothing but padding lies between two functions."""
        start, stop = first.address + first.size, second.address
        if not 0 <= stop - start < _WIDEST:
            return False
        between = self.memory.read(start, stop - start)
        return between is not None and only_nops(self.graph.arch, between)


def _family(node: Node) -> str:
    """The section that a function is in where functions get none of their own: `.text.unlikely`, `.text`."""
    own = (end for name in node.names for end in (f".{name}", f".{name.replace('.cold', '')}"))
    return next((node.section_name.removesuffix(each) for each in own if node.section_name.endswith(each)),
                node.section_name)  # fmt: skip

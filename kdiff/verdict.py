# SPDX-License-Identifier: Apache-2.0
"""What run-pre matching returns about one node at one address: a `Match` that teaches, or a `Mismatch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from kdiff.graph import SectionGraph
from kdiff.kernel import Part, Site
from kdiff.values import dataclass


class Fact(NamedTuple):
    """The run bytes at `place` say that `offset` bytes into `node` (or symbol `name`) lies at `address`.

    In the object that place is pre offset `at` of node `within`.
    """

    node: int | None
    name: str
    offset: int
    address: int
    place: int
    within: int
    at: int

    def source(self, graph: SectionGraph) -> str:
        """The place in the object, for messages."""
        return graph.where(graph.nodes[self.within], self.at)


@dataclass(frozen=True, slots=True)
class Allowed:
    """In a match's parts: the bytes of a site, which may have any of its forms."""

    site: Site
    size: int


RunPart: TypeAlias = Part | Allowed


class Match(NamedTuple):
    """A node found at `address`: its `size` run bytes are what `laid_out` makes parts of, in order.

    `moved` maps pre offsets of instructions to run offsets where the layout differs, else it is empty.
    """

    node: int
    address: int
    size: int
    laid_out: Callable[[], tuple[RunPart, ...]]
    facts: tuple[Fact, ...]
    moved: tuple[tuple[int, int], ...] = ()

    @property
    def parts(self) -> tuple[RunPart, ...]:
        """The run bytes in order; made when asked for, which is for few nodes."""
        return self.laid_out()

    def run_offset(self, offset: int) -> int | None:
        """Where a pre offset lies in the run copy; None if nothing there was matched."""
        if not self.moved:
            return offset
        return dict(self.moved).get(offset)


class Mismatch(NamedTuple):
    """A node that is not at `address`: first difference at pre offset `offset`, run offset `run_offset`."""

    node: int
    address: int
    offset: int
    run_offset: int
    reason: str

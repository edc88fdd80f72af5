# SPDX-License-Identifier: Apache-2.0
"""What run-pre matching returns about one node at one address: a `Match` that teaches, or a `Mismatch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kdiff.kernel import Part, Site


class Fact(NamedTuple):
    """The run bytes at `place` say that `offset` bytes into `node` (or symbol `name`) lies at `address`.

    `source` is that place in the object, for messages.
    """

    node: int | None
    name: str
    offset: int
    address: int
    place: int
    source: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """In a match's parts: the bytes of a site, which may have any of its forms."""

    site: Site
    size: int


RunPart: TypeAlias = Part | Allowed


@dataclass(frozen=True, slots=True)
class Match:
    """A node found at `address`. `parts` are the run bytes in order, `size` bytes together.

    `moved` maps pre offsets of instructions to run offsets where the layout differs, else it is empty.
    """

    node: int
    address: int
    size: int
    parts: tuple[RunPart, ...]
    facts: tuple[Fact, ...]
    moved: tuple[tuple[int, int], ...] = ()

    def run_offset(self, offset: int) -> int | None:
        """Where a pre offset lies in the run copy; None if nothing there was matched."""
        if not self.moved:
            return offset
        return dict(self.moved).get(offset)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A node that is not at `address`: first difference at pre offset `offset`, run offset `run_offset`."""

    node: int
    address: int
    offset: int
    run_offset: int
    reason: str

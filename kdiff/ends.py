# SPDX-License-Identifier: Apache-2.0
"""Does a function of run memory end where the pre function does?

In: a match. Out: the same, or a `Mismatch`. Equal contents prove nothing if run goes on behind them: where a
callee is `noreturn` in one source and not in the other, one function is the beginning of the other. So only
padding may lie between the end of a match and the next symbol of kallsyms, or code that has no symbol there:
what this unit has next, or, behind the last function of a unit, what begins anew. A weak definition that
lost is such code: it stays in the kernel, and its name is another's. Once a kernel runs, such code may itself
begin with no-ops where it called a tracer, so where the padding ends is tried out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property, lru_cache

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.graph import Node, SectionGraph
from kdiff.habits import Standing
from kdiff.lead import lead
from kdiff.memory import MemorySource
from kdiff.neighbours import followers
from kdiff.split import Kind, only_nops
from kdiff.verdict import Match, Mismatch

_WIDEST = 64
"""Bytes: code is aligned to a cache line at most, so what goes on goes on within that."""
_ALIGNED = 16
_PAGE = 4096
Compare = Callable[[Node, int], Match | Mismatch]
"""Compare the contents of a node with what lies at an address."""


class Ends:
    """Asks what lies behind the functions of one graph."""

    def __init__(
        self, graph: SectionGraph, memory: MemorySource, book: AddressBook, owner: str, compare: Compare
    ) -> None:
        self.graph, self.memory, self.book, self.owner = graph, memory, book, owner
        self._compare = compare
        self._padding: dict[bytes, bool] = {b"": True}

    def checked(self, node: Node, match: Match) -> Match | Mismatch:
        """The match itself if it takes in all of the function that lies there."""
        if node.standing in (Standing.BOOT, Standing.EXIT):
            return match  # not aligned, and nobody replaces it
        stop = match.address + match.size
        following = _next_at(self.book, stop)
        gap = _WIDEST if following is None else following - stop
        owners = {self.owner, *(entry.owner for entry in self.book.at(match.address))}
        if gap > _WIDEST and owners != {KERNEL}:
            return match  # sections of a module follow each other, and some of them have no symbols
        behind = self._readable(stop, min(gap, _WIDEST))
        ahead = self._ahead_of(following)
        if self._is_padding(behind) or (0 < ahead <= gap and self._is_padding(behind[: gap - ahead])):
            return match
        if self._is_without_symbol(node, stop, behind):
            return match
        return Mismatch(
            node.id, match.address, node.size, match.size, "run goes on where the function must end"
        )

    def _readable(self, address: int, size: int) -> bytes:
        """What is there, up to the end of the page if nothing follows."""
        found = self.memory.read(address, size)
        if found is None:
            found = self.memory.read(address, min(size, -address % _PAGE))
        return found or b""

    def _is_padding(self, data: bytes) -> bool:
        """No-ops, what linkers fill gaps of code with, and zeros at the end."""
        known = self._padding.get(data)
        if known is None:
            known = self._padding[data] = any(
                only_nops(self.graph.arch, each) for each in (data, data.rstrip(b"\0"))
            )
        return known

    def _is_without_symbol(self, node: Node, stop: int, behind: bytes) -> bool:
        """Whether code there is what the unit has next; behind its last function: whether it begins anew."""
        gaps = [size for size in range(len(behind) + 1) if self._is_padding(behind[:size])]
        follower = self._followers.get(node.id)
        if follower is None:
            return gaps[-1] > 0 or stop % _ALIGNED == 0
        behind_it = self.graph.nodes[follower]
        ahead = {0, lead(self.graph, behind_it)}
        places = (stop + gap + more for gap in gaps for more in ahead)
        return any(isinstance(self._compare(behind_it, place), Match) for place in places)

    def _ahead_of(self, address: int | None) -> int:
        """How much in front of the symbol there may belong to it; nothing if that has a symbol of its own."""
        if address is None:
            return 0
        names = [entry.name for entry in self.book.at(address)]
        own = any(name.startswith(mark) for name in names for mark in self.graph.habits.ahead)
        return 0 if own else self._longest_lead

    @cached_property
    def _followers(self) -> dict[int, int]:
        return followers(self.graph)

    @cached_property
    def _longest_lead(self) -> int:
        """What functions of this unit have in front of them, so other functions may have as well."""
        functions = (node for node in self.graph.nodes if node.kind is Kind.FUNCTION)
        return max((lead(self.graph, node) for node in functions), default=0)


def _next_at(book: AddressBook, address: int) -> int | None:
    """The first listed address that is not below this one."""
    listed = _listed(book)
    at = bisect_left(listed, address)
    return listed[at] if at < len(listed) else None


@lru_cache(maxsize=2)
def _listed(book: AddressBook) -> list[int]:
    """All addresses of a book, ascending; units by the hundred ask the same one."""
    return sorted(set(book.addresses))

# SPDX-License-Identifier: Apache-2.0
"""Whether a node may lie at an address though it does not match there.

In: a mismatch. Out: whether it may come from something else than other code. If so, another candidate that
matches is not the only one. That holds of memory that cannot be read, of a function that ends elsewhere, of
names that compilers number, and in a kernel in use of sites that hold no allowed form and of code that a
probe or a tracer has written over. What differs besides must fit: bytes, fields, layout, all that is known.
"""

from __future__ import annotations

from collections.abc import Callable

from kdiff.fields import Reader, Spot
from kdiff.graph import Node
from kdiff.intruders import intruder
from kdiff.kernel import Site
from kdiff.naming import is_made_unique, origin
from kdiff.runpre import Matcher
from kdiff.split import Kind
from kdiff.verdict import Allowed, Fact, Match, Mismatch, RunPart


class Doubts:
    """Looks a second time at addresses where nodes of one graph do not match."""

    def __init__(self, matcher: Matcher, agrees: Callable[[Match], bool]) -> None:
        """`agrees`: whether a match contradicts nothing that is known by now."""
        self._matcher, self._agrees = matcher, agrees
        self._lenient = _LenientMatcher(matcher)
        self._tried: dict[tuple[int, int], Match | Mismatch] = {}

    def may_be(self, node: Node, mismatch: Mismatch) -> bool:
        """Whether `node` may lie where it does not match."""
        key = node.id, mismatch.address
        if key not in self._tried:
            self._tried[key] = self._lenient.match(node, mismatch.address)
        found = self._tried[key]
        if isinstance(found, Match):
            return self._agrees(found)
        matcher = self._matcher
        if matcher.memory.read(mismatch.address, max(node.size, 1)) is None:
            return True
        if matcher.memory.pristine or node.kind is not Kind.FUNCTION:
            return False
        asked = matcher.graph, matcher.sites(node), matcher.memory, matcher.reader.book
        return any(any(intruder(*asked, each)) for each in (mismatch, found))


class _LenientMatcher(Matcher):
    """Takes what is doubtful for a match, and does not ask where a function ends."""

    def __init__(self, strict: Matcher) -> None:
        reader = strict.reader
        super().__init__(
            strict.graph, strict.all_sites, strict.memory, reader.book, reader.owner, strict.redirects
        )
        self.reader = _LenientReader(strict.graph, strict.memory, reader.book, reader.owner, strict.redirects)

    def match(self, node: Node, address: int) -> Match | Mismatch:
        return self._contents(node, address)


class _LenientReader(Reader):
    """Lets a site hold anything once a kernel runs, and a numbered name be anywhere."""

    def site(self, spot: Spot, site: Site, run: bytes, parts: list[RunPart], facts: list[Fact]) -> str:
        problem = super().site(spot, site, run, parts, facts)
        if not problem or self.memory.pristine:
            return problem
        parts.append(Allowed(site, site.size))
        return ""

    def _places(self, node: Node) -> frozenset[int] | None:
        if any(is_made_unique(name) or origin(name) != name for name in node.names):
            return None
        return super()._places(node)

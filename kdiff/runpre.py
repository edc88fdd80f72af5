# SPDX-License-Identifier: Apache-2.0
"""Stage 7: is this pre node what lies at this address in run memory?

In: one node, one candidate address, the memory and its address book. Out: a `Match` with every value the
run bytes taught, or a `Mismatch` with the place and the reason. Nothing is masked out: each run byte equals
its pre byte, or belongs to a field whose value becomes a `Fact`, or to a site whose rewrite has a form that
fits (kdiff.fields), or to a branch or no-op that the linker's layout made shorter or longer (kdiff.relaid).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from kdiff.addressbook import AddressBook
from kdiff.ends import Ends
from kdiff.fields import Reader, Spot, field_of
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.habits import Standing
from kdiff.kernel import Literal, Site
from kdiff.memory import MemorySource
from kdiff.readonly import ReadOnly
from kdiff.redirected import NOTHING
from kdiff.relaid import Walk
from kdiff.split import Kind
from kdiff.verdict import Allowed, Fact, Match, Mismatch, RunPart


class _Span(NamedTuple):
    """A field or a site of a node: what its bytes from `offset` to `stop` are.

    `allowed`: the addresses at which the field's target may start; None: anywhere, or what is a site asks.
    """

    offset: int
    stop: int
    item: Site | Reference
    allowed: frozenset[int] | None


class Matcher:
    """Compares nodes of one graph with one memory."""

    def __init__(
        self,
        graph: SectionGraph,
        sites: Mapping[int, tuple[Site, ...]],
        memory: MemorySource,
        book: AddressBook,
        owner: str = "vmlinux",
        redirects: Mapping[int, int] = NOTHING,
    ) -> None:
        self.graph, self.memory, self.redirects = graph, memory, redirects
        self.reader = Reader(graph, memory, book, owner, redirects)
        self.read_only = ReadOnly(graph.habits, memory, book, graph.arch.byte_order)
        self.ends = Ends(graph, memory, book, owner, self._contents)
        self.all_sites = sites
        self._known: dict[int, tuple[bytes, list[_Span]]] = {}

    def sites(self, node: Node) -> tuple[Site, ...]:
        """Where a node may differ."""
        return self.all_sites.get(node.id, ())

    def match(self, node: Node, address: int) -> Match | Mismatch:
        """Compare a node with the memory at an address; a function must also end where the node does.

        Nor may it be one that the kernel has under another name only: equal code is not the same function.
        """
        if node.kind is not Kind.FUNCTION or self.graph.is_piece(node):
            return self._contents(node, address)
        other = self.reader.known_otherwise(node, address)
        if other:
            return Mismatch(node.id, address, 0, 0, f"kallsyms lists {other} here, and {node.name} nowhere")
        found = self._contents(node, address)
        return self.ends.checked(node, found) if isinstance(found, Match) else found

    def _contents(self, node: Node, address: int) -> Match | Mismatch:
        """Compare contents; code by instruction where the layout differs."""
        if self._is_told_by_contents(node) and not self.read_only.holds(address, node.size):
            return Mismatch(node.id, address, 0, 0, "the kernel may write to the memory at this address")
        run = self.memory.read(address, node.size)
        same: Match | Mismatch = Mismatch(node.id, address, 0, 0, "no memory at this address")
        if run is not None:
            same = self._same_layout(node, address, run)
        if isinstance(same, Match) or node.kind is not Kind.FUNCTION or self.graph.is_piece(node):
            return same
        walked = Walk(self.reader, self.sites(node), node, address).walk()
        if isinstance(walked, Match) or walked.offset > same.offset:
            return walked
        return same

    def _is_told_by_contents(self, node: Node) -> bool:
        """Whether nothing but its contents says that a constant is one: kallsyms lists it nowhere.

        What is freed after boot is not read-only, and is there only where nothing has run yet.
        """
        if node.kind not in (Kind.STRING, Kind.CONSTANT):
            return False
        if node.standing is not Standing.ORDINARY and self.memory.pristine:
            return False
        return node.section_name not in self.graph.arch.pools and not self.reader.is_listed(node)

    def references(self, node: Node, address: int) -> Match | Mismatch:
        """Compare only the references of writable data whose initial value is still in memory."""
        run = self.memory.read(address, node.size)
        if run is None:
            return Mismatch(node.id, address, 0, 0, "no memory at this address")
        facts: list[Fact] = []
        pre = self.graph.contents(node)
        for reference in self.graph.references[node.id]:
            field = run[reference.offset : reference.offset + reference.howto.size]
            spot = Spot(node, reference.offset, address + reference.offset, address)
            problem = self.reader.learn(spot, field_of(self.graph, pre, reference), field, facts)
            if problem:
                return Mismatch(node.id, address, reference.offset, reference.offset, problem)
        return Match(node.id, address, node.size, tuple, tuple(facts))

    def _same_layout(self, node: Node, address: int, run: bytes) -> Match | Mismatch:
        """Compare byte for byte, which is how nearly all nodes match."""
        pre, spans = self._of(node)
        facts: list[Fact] = []
        position = 0
        for offset, stop, item, allowed in spans:
            if pre[position:offset] != run[position:offset]:
                return _unequal(node, address, pre, run, position, offset)
            if isinstance(item, Reference) and item.howto.plain and item.howto.invertible:
                problem = self.reader.field(node, address, item, allowed, run[offset:stop], facts)
            else:
                spot = Spot(node, offset, address + offset, address)
                problem = self._learn(spot, item, pre, run[offset:stop], facts)
            if problem:
                return Mismatch(node.id, address, offset, offset, problem)
            position = stop
        if pre[position:] != run[position:]:
            return _unequal(node, address, pre, run, position, len(pre))
        return Match(node.id, address, node.size, partial(self._parts, node, pre), tuple(facts))

    def _learn(self, spot: Spot, item: Site | Reference, pre: bytes, run: bytes, facts: list[Fact]) -> str:
        """Read a field or a site; return a reason if it must not be so."""
        if isinstance(item, Site):
            return self.reader.site(spot, item, run, [], facts)
        return self.reader.learn(spot, field_of(self.graph, pre, item), run, facts)

    def _parts(self, node: Node, pre: bytes) -> tuple[RunPart, ...]:
        """The run bytes of a node whose layout is the pre layout: outside of its spans the pre bytes."""
        parts: list[RunPart] = []
        position = 0
        for offset, stop, item, _ in self._spans(node, self.sites(node)):
            if offset > position:
                parts.append(Literal(pre[position:offset]))
            parts.append(
                Allowed(item, item.size) if isinstance(item, Site) else field_of(self.graph, pre, item)
            )
            position = stop
        if len(pre) > position:
            parts.append(Literal(pre[position:]))
        return tuple(parts)

    def _of(self, node: Node) -> tuple[bytes, list[_Span]]:
        """A node's bytes and spans; a name like `__func__.1` has candidates by the hundred.

        Where nothing has run yet nothing has been rewritten: what is at a site is compared like all else.
        """
        found = self._known.get(node.id)
        if found is None:
            pre = self.graph.contents(node)
            sites = () if self.memory.pristine else self.sites(node)
            found = self._known[node.id] = pre, self._spans(node, sites)
        return found

    def _spans(self, node: Node, sites: tuple[Site, ...]) -> list[_Span]:
        """Sites and the references outside of sites, by offset; at one offset the site comes first."""
        ranges: list[tuple[int, int, Site | Reference]] = [(site.offset, site.size, site) for site in sites]
        ranges += [(each.offset, each.howto.size, each) for each in self.graph.references[node.id]]
        if sites:
            ranges.sort(key=lambda item: (item[0], isinstance(item[2], Reference)))
        spans: list[_Span] = []
        position = 0
        for offset, size, item in ranges:
            if offset < position:
                continue
            allowed = None if isinstance(item, Site) else self.reader.where(item.target, item.addend)
            position = offset + size
            spans.append(_Span(offset, position, item, allowed))
        return spans


def _unequal(node: Node, address: int, pre: bytes, run: bytes, start: int, stop: int) -> Mismatch:
    at = next(i for i in range(start, stop) if pre[i] != run[i])
    return Mismatch(node.id, address, at, at, f"pre has {pre[at]:#04x}, run has {run[at]:#04x}")

# SPDX-License-Identifier: Apache-2.0
"""Where run memory may differ from the pre bytes, collected from the special sections' rows.

In: a graph. Out: for each node its `Site`s, ordered, none overlapping. Sites that overlap (an alternative
around a paravirtual call) are merged: each form of one is completed by the pre bytes of the rest, in which
runs of no-ops may have any shape.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping

from kdiff.arch import Architecture
from kdiff.errors import KdiffError
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.kernel import EntryView, Field, Form, Literal, Pad, Part, Place, Site
from kdiff.split import Kind
from kdiff.values import dataclass


def sites(graph: SectionGraph) -> Mapping[int, tuple[Site, ...]]:
    """Ask every entry's row what it permits, and merge what overlaps, for each node when it is asked for."""
    found: dict[int, list[View]] = {}
    for entry in graph.nodes:
        if entry.table is None or entry.table.sites is None:
            continue
        owner = graph.owners.get(entry.id)
        if owner is not None and graph.nodes[owner].kind is Kind.FUNCTION:
            found.setdefault(owner, []).append(View(graph, entry, entry.table.sites))
    rewritten = {row.name: row.sites for row in graph.special.values() if row.code and row.sites is not None}
    named = {name: node for node in graph.nodes if node.kind is Kind.FUNCTION for name in node.names}
    for node in graph.nodes if rewritten else ():
        if node.kind is Kind.FUNCTION and node.section_name in rewritten:
            found.setdefault(node.id, []).append(View(graph, node, rewritten[node.section_name]))
    for row in graph.habits.rewritten_ahead:
        for name in named:
            if name.startswith(row.name):
                asked = ((name, row.sites), (name.removeprefix(row.name), row.behind))
                for each, permits in asked:
                    if each in named and permits is not None:
                        found.setdefault(named[each].id, []).append(View(graph, named[each], permits))
    return _Sites(graph, found)


_LONGEST = 16
"""Bytes: no architecture has longer instructions."""


@dataclass(frozen=True, slots=True)
class View:
    """An entry as rows see it (`kdiff.kernel.EntryView`), and the row's function that is to see it."""

    graph: SectionGraph
    entry: Node
    permits: Callable[[EntryView], Iterable[Site]]

    @property
    def architecture(self) -> Architecture:
        return self.graph.arch

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def section(self) -> str:
        return self.entry.section_name

    @property
    def data(self) -> bytes:
        return self.graph.contents(self.entry)

    def place(self, offset: int) -> Place | None:
        for reference in self.graph.references[self.entry.id]:
            if reference.offset == offset:
                return _place(self.graph, reference)
        return None

    def code(self, place: Place, size: int) -> bytes:
        node = self._node(place)
        if place.offset < 0 or place.offset + size > node.size:
            raise KdiffError(
                "sites.outside", f"an entry names {size} bytes at {place.offset:#x} of {node.label}",
                place=self.graph.where(self.entry),
            )  # fmt: skip
        return self.graph.contents(node)[place.offset : place.offset + size]

    def parts(self, place: Place, size: int) -> Form:
        self.code(place, size)
        return parts(self.graph, self._node(place), place.offset, place.offset + size)

    def next_instruction(self, place: Place) -> int:
        node = self._node(place)
        size = self._relocated_branch(node, place.offset)
        if size:
            return size
        found = self.graph.code(node)
        index = bisect_right([each.offset for each in found], place.offset) - 1
        if index < 0 or found[index].offset != place.offset:
            raise KdiffError(
                "sites.instruction", f"no instruction begins at {place.offset:#x} of {node.label}",
                place=self.graph.where(self.entry),
            )  # fmt: skip
        return found[index].size

    def _relocated_branch(self, node: Node, offset: int) -> int:
        """The length of the branch at an offset whose displacement has a relocation; 0 for anything else."""
        branch = self.graph.arch.branch(self.graph.contents(node)[offset : offset + _LONGEST])
        if branch is None:
            return 0
        at = offset + branch.field_offset
        found = self.graph.references_within(node, at, at + 1)
        return branch.length if found and found[0].branch else 0

    def _node(self, place: Place) -> Node:
        if place.node is None or self.graph.nodes[place.node].kind is Kind.EXTERN:
            raise KdiffError(
                "sites.extern", f"an entry names {place.name}, which is not in this object",
                place=self.graph.where(self.entry),
            )  # fmt: skip
        return self.graph.nodes[place.node]


class _Sites(Mapping[int, tuple[Site, ...]]):
    """Node id -> its sites, computed when they are first asked for: most nodes hold what was compiled."""

    def __init__(self, graph: SectionGraph, views: Mapping[int, list[View]]) -> None:
        self._graph, self._views = graph, views
        self._known: dict[int, tuple[Site, ...]] = {}

    def __getitem__(self, node: int) -> tuple[Site, ...]:
        if node not in self._known:
            listed = [site for view in self._views[node] for site in view.permits(view)]
            self._known[node] = _merged(self._graph, self._graph.nodes[node], listed)
        return self._known[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def _place(graph: SectionGraph, reference: Reference) -> Place:
    return Place(reference.target, graph.nodes[reference.target].name, reference.addend)


def parts(graph: SectionGraph, node: Node, start: int, stop: int, *, loose_nops: bool = False) -> Form:
    """The pre bytes of a range as literals and fields; with `loose_nops`, one-byte no-ops become pads."""
    data = graph.contents(node)
    fields = {each.offset: each for each in graph.references_within(node, start, stop)}
    nops = _one_byte_nops(graph, node) if loose_nops else frozenset()
    result: list[Part] = []
    position = start
    while position < stop:
        reference = fields.get(position)
        if reference is not None:
            end = position + reference.howto.size
            field = Field(
                reference.howto, _place(graph, reference), reference.insn_addend, data[position:end]
            )
            result.append(field)
        elif position in nops:
            end = next(at for at in range(position, stop + 1) if at == stop or at not in nops)
            result.append(Pad(end - position))
        else:
            end = next(at for at in range(position + 1, stop + 1) if at == stop or at in fields or at in nops)
            result.append(Literal(data[position:end]))
        position = end
    return tuple(result)


def _one_byte_nops(graph: SectionGraph, node: Node) -> frozenset[int]:
    data = graph.contents(node)
    single = min(graph.arch.nops, key=len)
    return frozenset(
        each.offset
        for each in graph.code(node)
        if each.size == len(single) and data.startswith(single, each.offset)
    )


def _merged(graph: SectionGraph, node: Node, listed: list[Site]) -> tuple[Site, ...]:
    groups: list[list[Site]] = []
    end = -1
    for site in sorted(listed, key=lambda each: (each.offset, each.size)):
        if site.offset < end:
            groups[-1].append(site)
        else:
            groups.append([site])
        end = max(end, site.offset + site.size)
    return tuple(_one(graph, node, group) for group in groups)


def _one(graph: SectionGraph, node: Node, group: list[Site]) -> Site:
    if len(group) == 1:
        return group[0]
    start = min(site.offset for site in group)
    stop = max(site.offset + site.size for site in group)
    forms: list[Form] = []
    for site in group:
        before = parts(graph, node, start, site.offset, loose_nops=True)
        after = parts(graph, node, site.offset + site.size, stop, loose_nops=True)
        forms += [before + form + after for form in site.forms]
    names = "+".join(dict.fromkeys(site.rewrite for site in group))
    return Site(start, stop - start, names, tuple(dict.fromkeys(forms)))

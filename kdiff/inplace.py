# SPDX-License-Identifier: Apache-2.0
"""Constants that must get their new contents where they lie.

In: two graphs, their pairing, and the constants that differ by themselves. Out: an `InPlace` for each that
the kernel goes on using whatever functions are replaced: other units know it by name, or data or code that
stays holds its address. A new copy in the update would not reach those. One that only replaceable functions
refer to is no such case: it is carried with them.

A constant has no item if writing to it could not be right or would not be enough: another size or place, a
pairing that is not sure, a weak definition (another one may have won), memory that is freed or not read-only,
mergeable sections (the linker lets several users share equal contents), sections of unknown meaning (tables
that are read once), no name of its own.

Variables have a value of their own in a running kernel, but not in a module that is not loaded yet: for those
there are `initial_values`, by the same rules, of plain bytes only. None of them may have to do with a table
about code: the kernel takes what is at a jump label for what the key's first value says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

from kdiff.correlate import Pairing
from kdiff.elf.read import SHF_MERGE
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.habits import Standing
from kdiff.kernel import Keep
from kdiff.split import Kind
from kdiff.values import dataclass

Equivalent = Callable[[Reference, Reference], bool]


@dataclass(frozen=True, slots=True)
class Write:
    """`size` bytes at `offset`: plain ones, or the field of a reference."""

    offset: int
    size: int
    old: bytes | Reference
    new: bytes | Reference


@dataclass(frozen=True, slots=True)
class InPlace:
    """A constant, or a variable, to write to.

    `holder` is the pre node because of which it stays in use, itself if global.
    """

    pre: int
    post: int
    holder: int
    writes: tuple[Write, ...]


def in_place(
    pre: SectionGraph,
    post: SectionGraph,
    pairing: Pairing,
    differing: Iterable[int],
    equivalent: Equivalent,
) -> tuple[InPlace, ...]:
    """The items for `differing`: post ids of nodes whose own bytes or references differ, but nothing else."""
    both = _writable(pre, post, pairing, differing, Kind.CONSTANT)
    held = _holders(pre) if both else {}
    found = []
    for one, other in both:
        writes = _writes(pre, post, one, other, equivalent) if one.id in held else ()
        if writes:
            found.append(InPlace(one.id, other.id, held[one.id], writes))
    return tuple(found)


def initial_values(
    pre: SectionGraph,
    post: SectionGraph,
    pairing: Pairing,
    differing: Iterable[int],
    equivalent: Equivalent,
) -> tuple[InPlace, ...]:
    """The items for variables among `differing`, which a module could start with."""
    both = _writable(pre, post, pairing, differing, Kind.DATA)
    listed, listed_later = (_listed(pre), _listed(post)) if both else (frozenset(), frozenset())
    found = []
    for one, other in both:
        writes = _writes(pre, post, one, other, equivalent)
        plain = all(isinstance(each.old, bytes) and isinstance(each.new, bytes) for each in writes)
        if writes and plain and one.id not in listed and other.id not in listed_later:
            found.append(InPlace(one.id, other.id, one.id, writes))
    return tuple(found)


def _listed(graph: SectionGraph) -> frozenset[int]:
    """What table entries refer to that belong to code."""
    return frozenset(
        reference.target
        for node in graph.nodes
        if node.table is not None and node.table.keep is Keep.OWNER
        for reference in graph.references[node.id]
    )


def _writable(
    pre: SectionGraph, post: SectionGraph, pairing: Pairing, differing: Iterable[int], kind: Kind
) -> list[tuple[Node, Node]]:
    """The pairs of a kind, in order, that could get their contents where they lie."""
    pairs = [pairing.by_post[index] for index in sorted(differing)]
    both = [(pre.nodes[pair.pre], post.nodes[pair.post]) for pair in pairs if pair.sure]
    return [
        (one, other)
        for one, other in both
        if _may(pre, one, kind) and _may(post, other, kind) and _fits(one, other)
    ]


def _fits(one: Node, other: Node) -> bool:
    return (one.size, one.align) == (other.size, other.align)


def _may(graph: SectionGraph, node: Node, kind: Kind) -> bool:
    merged = int(graph.obj.sections["flags"][node.section]) & SHF_MERGE
    plain = node.kind is kind and node.table is None and node.remade is None and not merged
    plain = plain and graph.habits.known(node.section_name)
    return plain and bool(node.names) and not node.weak and node.standing is Standing.ORDINARY


def _holders(graph: SectionGraph) -> Mapping[int, int]:
    """For each constant that stays in use: what holds it, through other constants where need be."""
    held: dict[int, int] = {}
    for root in graph.nodes:
        if not _stays(root):
            continue
        waiting = [root.id] if _is_constant(root) else [each.target for each in graph.references[root.id]]
        while waiting:
            index = waiting.pop()
            if index not in held and _is_constant(graph.nodes[index]):
                held[index] = root.id
                waiting += [reference.target for reference in graph.references[index]]
    return held


def _is_constant(node: Node) -> bool:
    return node.kind is Kind.CONSTANT and node.table is None


def _stays(node: Node) -> bool:
    """Whether what a node refers to is in use whatever is replaced.

    Code that ran at boot has handed addresses on: to registers of devices, files, protocols. The kernel's own
    tables stay, even where an update brings entries of its own.
    """
    if node.table is not None:
        return node.table.compared
    if node.kind is Kind.FUNCTION:
        return node.standing in (Standing.BOOT, Standing.EXIT)
    return (node.kind is Kind.DATA and node.remade is None) or (node.kind is Kind.CONSTANT and not node.local)


def _writes(
    pre: SectionGraph, post: SectionGraph, one: Node, other: Node, equivalent: Equivalent
) -> tuple[Write, ...]:
    """What differs, by offset; nothing where fields of the two overlap without being the same."""
    ours = {(each.offset, each.howto.size): each for each in pre.references[one.id]}
    theirs = {(each.offset, each.howto.size): each for each in post.references[other.id]}
    places = sorted(ours.keys() | theirs.keys())
    if any(at + size > following for (at, size), (following, _) in pairwise(places)):
        return ()
    if len(ours) != len(pre.references[one.id]) or len(theirs) != len(post.references[other.id]):
        return ()
    if not all(_is_whole(each) for each in (*ours.values(), *theirs.values())):
        return ()
    before, after = pre.contents(one), post.contents(other)
    found = []
    for place in places:
        mine, yours = ours.get(place), theirs.get(place)
        if not _same(mine, yours, equivalent):
            at, stop = place[0], sum(place)
            found.append(Write(*place, mine or before[at:stop], yours or after[at:stop]))
    fields = {byte for at, size in places for byte in range(at, at + size)}
    for start, stop in _runs(at for at in range(one.size) if at not in fields and before[at] != after[at]):
        found.append(Write(start, stop - start, before[start:stop], after[start:stop]))
    return tuple(sorted(found, key=lambda each: each.offset))


def _is_whole(reference: Reference) -> bool:
    """Whether a field has all bits of its bytes."""
    return reference.howto.mask == (1 << (8 * reference.howto.size)) - 1


def _same(mine: Reference | None, yours: Reference | None, equivalent: Equivalent) -> bool:
    if mine is None or yours is None:
        return False
    return mine.howto.shape == yours.howto.shape and equivalent(mine, yours)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges (start, stop)."""
    start = stop = -1
    for number in numbers:
        if number != stop:
            if start >= 0:
                yield start, stop
            start = number
        stop = number + 1
    if start >= 0:
        yield start, stop

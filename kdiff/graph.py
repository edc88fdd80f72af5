# SPDX-License-Identifier: Apache-2.0
"""Stage 2: an object as a graph.

In: an `Object`, its `Architecture`, the rows of special sections. Out: a `SectionGraph`. Its nodes are
the pieces of all allocated sections plus one node for each symbol of another unit; its edges are the
relocations, freed of how symbols happen to be written: a reference names the node it reaches and the
offset in that node, and what the instruction's encoding adds is kept apart (`insn_addend`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from typing import cast

import numpy as np

from kdiff.alike import Scope
from kdiff.arch import Architecture
from kdiff.elf.read import (
    STB_LOCAL,
    STB_WEAK,
    Object,
)
from kdiff.elf.stack import Stack
from kdiff.habits import NO_HABITS, Habits, RemadeData, Standing
from kdiff.insn import Instruction, decoded
from kdiff.kernel import SpecialSection
from kdiff.labels import Labels, labels_in
from kdiff.lookup import Lookup
from kdiff.naming import stem
from kdiff.nodes import Node as Node
from kdiff.nodes import Reference as Reference
from kdiff.owners import follows, owners_of, tails_of
from kdiff.places import Places
from kdiff.references import references_of
from kdiff.split import Kind, Piece, pieces_in, sections_in, split
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class SectionGraph:
    """All nodes and references of one object. `entries[n]` are the table entries node n owns, in order."""

    obj: Object
    arch: Architecture
    special: Mapping[str, SpecialSection]
    nodes: tuple[Node, ...]
    references: tuple[tuple[Reference, ...], ...]
    entries: Mapping[int, tuple[int, ...]]
    owners: Mapping[int, int]
    """Owner of a table entry."""
    inner: Mapping[int, tuple[tuple[int, str], ...]]
    """Symbols inside a node (offset > 0): (offset, name)."""
    pieces: frozenset[str]
    """Names of the sections that hold code for table entries only (`SpecialSection.pieces`)."""
    habits: Habits = NO_HABITS
    tails: frozenset[int] = frozenset()
    """Code without a name behind the functions of a section, which others of its nodes or tables refer to."""

    def is_piece(self, node: Node) -> bool:
        """Whether a node is only a part of others, or a table entry's payload, never called by itself."""
        return node.section_name in self.pieces or node.id in self.tails

    def is_pool_word(self, node: Node) -> bool:
        """Whether a node is an address that the compiler keeps for code to load; not that of another such."""
        if node.kind is not Kind.CONSTANT or node.names or node.section_name not in self.arch.pools:
            return False
        targets = (self.nodes[each.target] for each in self.references[node.id])
        return all(each.section_name not in self.arch.pools for each in targets)

    def contents(self, node: Node) -> bytes:
        """The node's raw bytes; zeros for SHT_NOBITS."""
        part = slice(node.start, node.start + node.size)
        raw = bytes(self.obj.contents(node.section)[part]) if node.section else b""
        return raw or bytes(node.size)

    def where(self, node: Node, offset: int | None = None) -> str:
        """A place for messages: `tcp_ipv4.o: .text.tcp_v4_rcv+0x1c`."""
        name = node.section_name or node.label
        at = "" if offset is None else f"+{node.start + offset:#x}"
        return f"{self.obj.path}: {name}{at}" if self.obj.path else f"{name}{at}"

    def has_copies(self, node: Node) -> bool:
        """Whether a node is nothing but its contents, which a linked kernel may hold in several places."""
        unnamed = node.kind is Kind.CONSTANT and not node.names and not self.references[node.id]
        return node.kind is Kind.STRING or unnamed

    def code(self, node: Node) -> tuple[Instruction, ...]:
        """The instructions of a function node."""
        return decoded(self.arch, self.contents(node))

    def references_within(self, node: Node, start: int, stop: int) -> tuple[Reference, ...]:
        """Those of a node's references whose fields begin in a range of it."""
        found = self.references[node.id]
        first = bisect_left(found, start, key=_offset)
        return found[first : bisect_left(found, stop, first, key=_offset)]

    def leads_to(self, source: int) -> Iterator[int]:
        """The nodes that a node refers to, and its entries that travel with it."""
        for reference in self.references[source]:
            yield reference.target
            if reference.minus is not None:
                yield reference.minus[0]
        yield from (entry for entry in self.entries.get(source, ()) if follows(self.nodes[entry]))

    def closure(self, sources: Iterable[int], within: set[int]) -> set[int]:
        """All nodes that `sources` reach through nodes of `within` only, the sources included."""
        found = set(sources)
        waiting = list(found)
        while waiting:
            new = within.intersection(self.leads_to(waiting.pop())) - found
            found |= new
            waiting += new
        return found


_offset = attrgetter("offset")


def build(
    obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits = NO_HABITS,
    scope: Scope | None = None,
) -> SectionGraph:  # fmt: skip
    """Make the graph of an object, or of a part of it; KdiffError for relocations kdiff does not know."""
    (found,) = build_each(Stack.of([obj]), arch, special, habits, None if scope is None else [scope])
    return found


def build_each(
    stack: Stack, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits = NO_HABITS,
    scopes: Sequence[Scope] | None = None,
) -> list[SectionGraph]:  # fmt: skip
    """The graphs of several objects, or of a part of each, made together."""
    parts: Sequence[Scope | None] = scopes or [None] * len(stack.objects)
    labels = labels_in(stack, arch, [*map(sections_in, stack.objects, parts)])
    pieces = split(stack, arch, special, parts, habits.ahead, labels)
    lookups = [_lookup(*each, habits) for each in zip(stack.objects, pieces, labels, parts, strict=True)]
    speaking = None if scopes is None else np.concatenate([each.references for each in scopes])
    found = references_of(Places(stack, lookups), arch, speaking)
    return [
        _graph(arch, special, habits, scope, lookup, references)
        for scope, lookup, references in zip(parts, lookups, found, strict=True)
    ]


def _lookup(obj: Object, pieces: list[Piece], labels: Labels, scope: Scope | None, habits: Habits) -> Lookup:
    """All nodes of an object but those that only references tell of."""
    nodes, strings = _unique(_nodes(obj, habits, pieces)), None if scope is None else scope.strings
    return Lookup(
        obj, nodes, labels, habits, strings, lambda number, piece: next(_nodes(obj, habits, (piece,), number))
    )


def _graph(
    arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits, scope: Scope | None,
    lookup: Lookup, references: list[tuple[Reference, ...]],
) -> SectionGraph:  # fmt: skip
    obj, nodes = lookup.obj, [*lookup.nodes, *lookup.further]
    references += [()] * len(lookup.further)
    owners = owners_of(nodes, references)
    entries: dict[int, list[int]] = {}
    for entry, owner in owners.items():
        entries.setdefault(owner, []).append(entry)
    owned = {owner: tuple(found) for owner, found in entries.items()}
    return SectionGraph(
        obj, arch, special, tuple(nodes), tuple(references), owned, owners, lookup.inner,
        frozenset(map(obj.section_name, pieces_in(obj, special, scope))), habits, tails_of(nodes, references),
    )  # fmt: skip


def _nodes(obj: Object, habits: Habits, pieces: Iterable[Piece], first: int = 0) -> Iterator[Node]:
    name, current, aligned = "", 0, 1
    names: tuple[str, ...]
    standing, constant, remade = Standing.ORDINARY, False, None
    for index, (section, start, size, kind, labels, table, row) in enumerate(pieces, first):
        if section != current:
            current, name = section, obj.section_name(section)
            aligned = max(obj.row(section)[8], 1)
            standing, constant, remade = _meaning(habits, name)
        names, local, weak = (), True, False
        if len(labels) == 1:
            _, _, _, binding, _, only = labels[0]
            names, local, weak = (only,) if only else (), binding == STB_LOCAL, binding == STB_WEAK
        elif labels:
            names = tuple(dict.fromkeys([each.name for each in labels if each.name]))
            bindings = {each.binding for each in labels}
            local, weak = bindings == {STB_LOCAL}, STB_WEAK in bindings
        label = names[0] if names else f"{name}+{start:#x}" if start or row >= 0 else name
        own = None
        if kind is not Kind.FUNCTION and table is None:
            own = habits.remade(stem(names[0]), name) if names else remade
        if constant and kind is Kind.DATA:
            kind = Kind.CONSTANT
        yield _node((
            index, label, kind, section, name,
            start, size, min(aligned, start & -start or aligned), names, local, weak,
            table, row, standing, own,
        ))  # fmt: skip


_node = cast(Callable[[tuple[object, ...]], Node], partial(tuple.__new__, Node))
"""Node._make, which looks again at how many fields there are."""


@lru_cache(maxsize=1 << 12)
def _meaning(habits: Habits, section: str) -> tuple[Standing, bool, RemadeData | None]:
    """What a section's name says of what lies in it."""
    return habits.standing(section), habits.is_constant(section), habits.remade("", section)


def _unique(nodes: Iterable[Node]) -> list[Node]:
    """Tell nodes of one label apart by their place."""
    nodes = list(nodes)
    seen = Counter([node.label for node in nodes])
    if len(seen) == len(nodes):
        return nodes
    return [
        n if seen[n.label] == 1 else n._replace(label=f"{n.label}@{n.section_name}+{n.start:#x}")
        for n in nodes
    ]

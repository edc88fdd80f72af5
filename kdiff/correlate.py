# SPDX-License-Identifier: Apache-2.0
"""Stage 3: which post node is which pre node.

In: two graphs. Out: a `Pairing`, one to one. Names that mean something pair first; compilers number the
rest (`count.3`, `__UNIQUE_ID_ddebug512.8`), so those are paired by who refers to them: two nodes that
paired functions reach through corresponding references are the same thing. Strings and unnamed constants
have no identity but their contents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

from kdiff.aligned import told_apart
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.kernel import Keep
from kdiff.moved import moved_statics
from kdiff.naming import is_made_unique, is_numbered, is_part, stem
from kdiff.pairs import Wishes
from kdiff.split import Kind
from kdiff.values import dataclass

NOTHING: Mapping[int, int] = MappingProxyType({})
_section_name = attrgetter("section_name")


class Pair(NamedTuple):
    """One correlation; `how` is one of the passes below, `sure` false where several nodes would fit.

    `alternatives`: the other pre nodes that fit, where it is not sure.
    """

    pre: int
    post: int
    how: str
    sure: bool = True
    alternatives: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairing:
    """All pairs, by either end."""

    by_pre: Mapping[int, Pair]
    by_post: Mapping[int, Pair]

    def to_post(self, pre: int) -> int | None:
        pair = self.by_pre.get(pre)
        return None if pair is None else pair.post

    def to_pre(self, post: int) -> int | None:
        pair = self.by_post.get(post)
        return None if pair is None else pair.pre


def is_static_local(node: Node) -> bool:
    """Whether the node's name carries a compiler's number, so that an equal name proves nothing."""
    return bool(node.local and node.kind is not Kind.FUNCTION and is_numbered(node.name))


def correlate(
    pre: SectionGraph,
    post: SectionGraph,
    wishes: Wishes | None = None,
    same: Mapping[int, int] = NOTHING,
    places: Mapping[tuple[int, int], tuple[int, int]] = MappingProxyType({}),
) -> Pairing:
    """Pair the nodes of two graphs; what the author pinned first, what is forbidden never.

    `same`: sections known to be the same, pre -> post (`Alike.sections`). `places`: (section, offset) where
    nodes begin that are the same thing (`Narrowed.places`).
    """
    work = _Work(pre, post, wishes or Wishes())
    work.pair_at(places)
    work.pair_within(same)
    work.pair_unique("name", lambda n: (n.kind is Kind.EXTERN, n.name) if not n.local else None)
    work.pair_unique("name", _local_key)
    work.pair_unique("name of another binding", _defined_key)
    work.pair_by_any_name()
    work.pair_in_order("content", lambda g, n: g.contents(n) if n.kind is Kind.STRING else None)
    work.pair_in_order("content", _constant_key)
    work.pair_by_targets()
    work.pair_unique("section", lambda n: None if post.is_pool_word(n) else _section_key(n))
    work.pair_in_order("row", _ownerless_key, rows=True)
    for _ in range(2):
        work.follow_references()
        work.pair_entries()
        work.pair_by_targets()
    work.follow_references()
    work.pair_moved()
    work.pair_kept()
    return Pairing(work.by_pre, work.by_post)


def _local_key(node: Node) -> Hashable | None:
    if not node.name or not node.local or is_static_local(node) or node.table is not None:
        return None
    return (node.kind is Kind.FUNCTION, node.name)


def _defined_key(node: Node) -> Hashable | None:
    """A definition may have become static, or global."""
    if not node.name or node.kind is Kind.EXTERN or is_static_local(node) or node.table is not None:
        return None
    return (node.kind is Kind.FUNCTION, node.name)


def _constant_key(graph: SectionGraph, node: Node) -> Hashable | None:
    if node.kind is not Kind.CONSTANT or node.names or graph.references[node.id]:
        return None
    return graph.contents(node)


def _section_key(node: Node) -> Hashable | None:
    if node.names or node.table is not None or node.kind in (Kind.STRING, Kind.EXTERN) or node.remade:
        return None
    return (node.kind, node.section_name)


def _ownerless_key(graph: SectionGraph, node: Node) -> Hashable | None:
    """Entries without an owner that no code refers to have nothing but their place in the table."""
    if node.table is None or node.id in graph.owners:
        return None
    if node.table.keep is Keep.REFERENCED and not node.table.opaque:
        return None
    return node.section_name


class _Work:
    """The pairs found so far, while the passes run."""

    def __init__(self, pre: SectionGraph, post: SectionGraph, wishes: Wishes) -> None:
        self.pre, self.post = pre, post
        self._forbidden = wishes.forbidden
        self.by_pre: dict[int, Pair] = {}
        self.by_post: dict[int, Pair] = {}
        self._fresh: deque[Pair] = deque()
        self._settled: set[int] = set()
        """Pre nodes all of whose references lead to nodes that are paired; pairs are never taken back."""
        self._named = [
            [node for node in graph.nodes if node.table is None or node.names] for graph in (pre, post)
        ]
        """Nodes of either graph that may be open, but for table entries without a name."""
        for one, other in wishes.pinned.items():
            self.add(one, other, "pinned")

    def add(self, pre: int, post: int, how: str, others: tuple[int, ...] = ()) -> None:
        """Make a pair, if both are free and nobody forbids it; `others` would have fitted as well."""
        if pre in self.by_pre or post in self.by_post or (pre, post) in self._forbidden:
            return
        pair = Pair(pre, post, how, not others, others)
        self.by_pre[pre] = self.by_post[post] = pair
        self._fresh.append(pair)

    def pair_within(self, same: Mapping[int, int]) -> None:
        """Pair what stands at the same place of sections that are known to be the same."""
        there = {(node.section, node.start): node for node in self.post.nodes if node.section}
        for node in self.pre.nodes:
            partner = there.get((same.get(node.section, 0), node.start)) if node.section else None
            if partner is not None and partner.kind is node.kind:
                self.add(node.id, partner.id, "section alike")

    def pair_at(self, places: Mapping[tuple[int, int], tuple[int, int]]) -> None:
        """Pair what begins at places that are known to be the same."""
        there = {(node.section, node.start): node for node in self.post.nodes if node.section and places}
        for node in self.pre.nodes if places else ():
            partner = there.get(places.get((node.section, node.start), (0, 0)))
            if node.section and partner is not None and partner.kind is node.kind:
                self.add(node.id, partner.id, "unit and name")

    def pair_unique(self, how: str, key: Callable[[Node], Hashable | None]) -> None:
        """Pair nodes whose key exists once on either side."""
        ours, theirs = (_group(self._open(g, seen), key) for g, seen in self._sides())
        for value, nodes in ours.items():
            partners = theirs.get(value, [])
            if len(nodes) == len(partners) == 1:
                self.add(nodes[0].id, partners[0].id, how)

    def pair_kept(self) -> None:
        """Pair statics that nothing refers to, such as pointers that macros declare to keep functions alive.

        No code can tell such variables apart, so a wrong pair would do no harm.
        """
        used = {id(g): {each.target for found in g.references for each in found} for g, _ in self._sides()}

        def key(graph: SectionGraph, node: Node) -> Hashable | None:
            if node.table is not None or node.id in used[id(graph)]:
                return None
            if is_made_unique(node.name):
                return node.kind, stem(node.name)
            return (node.kind, stem(node.name), graph.contents(node)) if is_static_local(node) else None

        self.pair_in_order("name without its number", key)

    def pair_by_any_name(self) -> None:
        """Pair definitions with several names by any of them: which one is preferred may change."""
        ours, theirs = (_by_names(g.nodes, seen) for g, seen in self._sides())
        for key, nodes in ours.items():
            partners = theirs.get(key, [])
            if len(nodes) == len(partners) == 1:
                self.add(nodes[0].id, partners[0].id, "name")

    def pair_in_order(
        self, how: str, key: Callable[[SectionGraph, Node], Hashable | None], rows: bool = False
    ) -> None:
        """Pair nodes of equal key, with `rows` also nameless entries, in order: they have no identity."""
        ours, theirs = (
            _group(_without(g.nodes, seen) if rows else self._open(g, seen), partial(key, g))
            for g, seen in self._sides()
        )
        for value, nodes in ours.items():
            for node, partner in zip(nodes, theirs.get(value, []), strict=False):
                self.add(node.id, partner.id, how)

    def pair_by_targets(self) -> None:
        """Pair unnamed constants that hold references by their bytes and by what they refer to."""

        def key(graph: SectionGraph, node: Node) -> Hashable | None:
            references = graph.references[node.id]
            if node.kind is not Kind.CONSTANT or node.names or not references:
                return None
            if graph is self.post:
                targets = [each.target for each in references]
            else:
                pairs = [self.by_pre.get(each.target) for each in references]
                targets = [pair.post for pair in pairs if pair is not None]
            places = tuple((each.offset, each.addend) for each in references)
            return graph.contents(node), tuple(targets), places

        self.pair_in_order("content", key)

    def _open(self, graph: SectionGraph, seen: Mapping[int, Pair]) -> list[Node]:
        """The nodes that have no pair yet, but for table entries without a name."""
        side = graph is self.post
        self._named[side] = _without(self._named[side], seen)
        return self._named[side]

    def _sides(self) -> tuple[tuple[SectionGraph, Mapping[int, Pair]], ...]:
        return (self.pre, self.by_pre), (self.post, self.by_post)

    def follow_references(self) -> None:
        """Pair static locals and unnamed nodes by the references of nodes that are paired already.

        First where both referrers look alike, reference by reference; then, in referrers that changed, by
        the order of first use among nodes of one stem.
        """
        for exact in (True, False):
            self._fresh = deque([pair for pair in self.by_pre.values() if pair.pre not in self._settled])
            while self._fresh:
                pair = self._fresh.popleft()
                ours, theirs = self._all_references(pair)
                if {each.target for each in ours} <= self.by_pre.keys():
                    self._settled.add(pair.pre)
                    continue
                if _alike(ours, theirs) and self._tell(pair, ours):
                    for one, other in zip(ours, theirs, strict=True):
                        if one.target not in self.by_pre and self._plausible(one.target, other.target):
                            self.add(one.target, other.target, "reference")
                elif not exact:
                    self._by_stem(pair, ours, theirs)

    def _tell(self, pair: Pair, ours: tuple[Reference, ...]) -> bool:
        """Whether places of references tell variables apart: not those of one name in code that changed."""
        one, other = self.pre.nodes[pair.pre], self.post.nodes[pair.post]
        if one.kind is not Kind.FUNCTION or self.pre.contents(one) == self.post.contents(other):
            return True
        targets = {each.target for each in ours if is_static_local(self.pre.nodes[each.target])}
        names = [stem(self.pre.nodes[each].name) for each in targets if not self.pre.nodes[each].remade]
        return len(names) == len(set(names))

    def _all_references(self, pair: Pair) -> tuple[tuple[Reference, ...], tuple[Reference, ...]]:
        return _through_pool(self.pre, pair.pre), _through_pool(self.post, pair.post)

    def _plausible(self, pre: int, post: int) -> bool:
        one, other = self.pre.nodes[pre], self.post.nodes[post]
        if one.kind is not other.kind or one.kind in (Kind.STRING, Kind.EXTERN) or self.pre.is_pool_word(one):
            return False
        if one.table is not None or other.table is not None:
            return one.section_name == other.section_name
        if one.remade is not None or other.remade is not None:
            return one.remade == other.remade
        return stem(one.name) == stem(other.name) and (bool(one.name) or _same_section(one, other))

    def _by_stem(self, pair: Pair, ours: Iterable[Reference], theirs: Iterable[Reference]) -> None:
        mine = self._open_targets(self.pre, self.by_pre, ours)
        others = self._open_targets(self.post, self.by_post, theirs)
        for key, nodes in mine.items():
            partners = others.get(key, [])
            if len(nodes) > 1 or len(partners) > 1:
                for one, other in self._told_apart(pair, nodes, partners).items():
                    self.add(one, other, "uses side by side")
            if len(nodes) == len(partners):
                for one, other in zip(nodes, partners, strict=True):
                    self.add(one, other, "order of use", tuple(each for each in nodes if each != one))

    def _told_apart(self, pair: Pair, nodes: list[int], partners: list[int]) -> dict[int, int]:
        one, other = self.pre.nodes[pair.pre], self.post.nodes[pair.post]
        if not partners or Kind.FUNCTION is not one.kind or Kind.FUNCTION is not other.kind:
            return {}
        return told_apart(
            (self.pre, one, partial(_called, self.pre, self.by_pre, True), nodes),
            (self.post, other, partial(_called, self.post, self.by_post, False), partners),
        )

    def _open_targets(
        self, graph: SectionGraph, paired: Mapping[int, Pair], references: Iterable[Reference]
    ) -> dict[Hashable, list[int]]:
        found: dict[Hashable, dict[int, None]] = {}
        for reference in references:
            node = graph.nodes[reference.target]
            if node.id in paired or node.kind in (Kind.STRING, Kind.EXTERN) or node.is_fragment:
                continue
            if graph.is_pool_word(node) or (node.kind is Kind.FUNCTION and not is_part(node.name)):
                continue
            key = (node.kind, stem(node.name) or node.section_name)
            found.setdefault(key, {})[node.id] = None
        return {key: list(nodes) for key, nodes in found.items()}

    def pair_moved(self) -> None:
        """Pair static locals that went along with code into another function."""
        to_post = {pre: pair.post for pre, pair in self.by_pre.items()}
        to_pre = {post: pair.pre for post, pair in self.by_post.items()}
        for one, other in tuple(moved_statics(self.pre, self.post, to_post, to_pre)):
            self.add(one, other, "moved")

    def pair_entries(self) -> None:
        """Pair the table entries that paired owners hold, by table and order."""
        entries, others = self.pre.entries, self.post.entries
        owning = [p for p in self.by_pre.values() if p.pre in entries and p.post in others]
        for pair in owning:
            mine = _without((self.pre.nodes[e] for e in entries[pair.pre]), self.by_pre)
            yours = _without((self.post.nodes[e] for e in others[pair.post]), self.by_post)
            theirs = _group(yours, _section_name)
            for table, nodes in _group(mine, _section_name).items():
                for one, other in zip(nodes, theirs.get(table, []), strict=False):
                    self.add(one.id, other.id, "owner")


def _called(graph: SectionGraph, pairs: Mapping[int, Pair], is_pre: bool, reference: Reference) -> Hashable:
    """What a reference's target is called on both sides: by its pair, contents, or name without numbers."""
    node, pair = graph.nodes[reference.target], pairs.get(reference.target)
    if pair is not None:
        return pair.post if is_pre else node.id
    return graph.contents(node) if node.kind is Kind.STRING else (node.kind, stem(node.name))


def _through_pool(graph: SectionGraph, index: int) -> tuple[Reference, ...]:
    """A node's references; one to an address kept in a pool (.toc) reaches what that address is of."""
    found = graph.references[index]
    if (
        not found
        or not graph.arch.pools
        or not any(graph.is_pool_word(graph.nodes[each.target]) for each in found)
    ):
        return found
    return tuple(
        each._replace(target=words[0].target, addend=words[0].addend)
        if graph.is_pool_word(graph.nodes[each.target]) and len(words := graph.references[each.target]) == 1
        else each
        for each in found
    )


def _same_section(one: Node, other: Node) -> bool:
    return stem(one.section_name) == stem(other.section_name)


def _alike(ours: tuple[Reference, ...], theirs: tuple[Reference, ...]) -> bool:
    return len(ours) == len(theirs) and all(
        (one.offset, one.howto.size, one.addend) == (other.offset, other.howto.size, other.addend)
        for one, other in zip(ours, theirs, strict=True)
    )


def _by_names(nodes: Iterable[Node], seen: Mapping[int, Pair]) -> dict[Hashable, list[Node]]:
    found: dict[Hashable, list[Node]] = {}
    for node in nodes:
        if node.id not in seen and node.kind is not Kind.EXTERN and node.table is None:
            for name in node.names if not is_static_local(node) else ():
                found.setdefault((node.kind is Kind.FUNCTION, name), []).append(node)
    return found


def _without(nodes: Iterable[Node], seen: Mapping[int, Pair]) -> list[Node]:
    return [node for node in nodes if node.id not in seen]


def _group(nodes: Iterable[Node], key: Callable[[Node], Hashable | None]) -> dict[Hashable, list[Node]]:
    found: dict[Hashable, list[Node]] = {}
    for node in nodes:
        value = key(node)
        if value is not None:
            found.setdefault(value, []).append(node)
    return found

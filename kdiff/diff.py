# SPDX-License-Identifier: Apache-2.0
"""Stage 4: what changed between two graphs, and why.

In: two graphs and their pairing. Out: a `Delta` that puts every node into exactly one bucket: same,
changed, added or removed. Numbers do not count, meanings do: a reference is equal if it reaches the paired
node at the same offset, however either object happens to spell it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from kdiff.correlate import Pair, Pairing
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.inplace import InPlace, in_place, initial_values
from kdiff.linenumbers import Tables, moved_lines, same_but_line
from kdiff.split import Kind
from kdiff.values import dataclass

if TYPE_CHECKING:
    from kdiff.dwarflines import SourceLines


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a node counts as changed: one step of a chain. `via`: the post node whose change it follows."""

    key: str
    text: str
    offset: int | None = None
    via: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A paired node that differs."""

    pre: int
    post: int
    causes: tuple[Cause, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """The result. Node ids: `same` pairs (pre, post); `removed` in the pre, `added` in the post graph.

    `in_place`: which of `changed` keep their place and get new contents there, so that nothing follows.
    `initial`: which are variables that a module could start with, if it is loaded later.
    """

    same: tuple[tuple[int, int], ...]
    changed: tuple[Change, ...]
    added: tuple[int, ...]
    removed: tuple[int, ...]
    in_place: tuple[InPlace, ...] = ()
    initial: tuple[InPlace, ...] = ()


def diff(pre: SectionGraph, post: SectionGraph, pairing: Pairing) -> Delta:
    """Compare all pairs, then let changes spread to whatever cannot stay as it is because of them."""
    work = _Comparison(pre, post, pairing, cache(lambda: _line_tables(pre, post)))
    causes: dict[int, tuple[Cause, ...]] = {}
    for pair in pairing.by_pre.values():
        found = () if work.plainly_same(pair) else tuple(work.differences(pair))
        if found:
            causes[pair.post] = found
    others = [post for post in causes if _only_contents(causes[post])]
    written = in_place(pre, post, pairing, others, work.equivalent)
    initial = initial_values(pre, post, pairing, others, work.equivalent)
    _spread(work, causes, frozenset(each.post for each in written))
    changed = sorted(causes)
    return Delta(
        same=tuple(
            (p.pre, p.post) for p in sorted(pairing.by_pre.values(), key=_by_pre) if p.post not in causes
        ),
        changed=tuple(Change(pairing.by_post[post].pre, post, causes[post]) for post in changed),
        added=tuple(node.id for node in post.nodes if node.id not in pairing.by_post),
        removed=tuple(node.id for node in pre.nodes if node.id not in pairing.by_pre),
        in_place=written,
        initial=initial,
    )


def _line_tables(pre: SectionGraph, post: SectionGraph) -> tuple[SourceLines, SourceLines]:
    from kdiff.dwarflines import source_lines

    return source_lines(pre.obj, pre.arch), source_lines(post.obj, post.arch)


def _only_contents(causes: tuple[Cause, ...]) -> bool:
    return all(cause.key in ("content", "reference") for cause in causes)


def _by_pre(pair: Pair) -> int:
    return pair.pre


@dataclass(frozen=True, slots=True)
class _Comparison:
    pre: SectionGraph
    post: SectionGraph
    pairing: Pairing
    tables: Tables

    def plainly_same(self, pair: Pair) -> bool:
        """Whether a pair refers to nothing, owns nothing, and is of equal bytes, or of another unit."""
        pre, post = self.pre, self.post
        one, other = pre.nodes[pair.pre], post.nodes[pair.post]
        if pre.references[one.id] or post.references[other.id] or one.kind is not other.kind:
            return False
        if one.id in pre.entries or other.id in post.entries:
            return False
        alike = one.size == other.size and one.align == other.align and _class(one) == _class(other)
        return one.kind is Kind.EXTERN or (alike and pre.contents(one) == post.contents(other))

    def differences(self, pair: Pair) -> Iterator[Cause]:
        """Every way in which a pair differs by itself."""
        one, other = self.pre.nodes[pair.pre], self.post.nodes[pair.post]
        if one.kind is Kind.EXTERN and other.kind is Kind.EXTERN:
            yield from self._entries(one, other)
            return
        if one.kind is not other.kind:
            yield Cause("kind", f"was {one.kind.value}, is {other.kind.value}")
            return
        if one.kind in (Kind.DATA, Kind.CONSTANT) and one.align != other.align and one.names:
            yield Cause("alignment", f"alignment was {one.align}, is {other.align}")
        if _class(one) != _class(other):
            yield Cause("section", f"moved from {one.section_name} to {other.section_name}")
        if one.size != other.size:
            yield Cause("size", f"size was {one.size}, is {other.size}", min(one.size, other.size))
        if one.size == other.size and self.pre.contents(one) != self.post.contents(other):
            ours, theirs = _plain(self.pre, one), _plain(self.post, other)
            if ours != theirs and not self.only_lines_moved(one, other):
                at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
                yield Cause("content", f"byte was {ours[at]:#04x}, is {theirs[at]:#04x}", at)
        yield from self._references(one, other)
        yield from self._entries(one, other)

    def _references(self, one: Node, other: Node) -> Iterator[Cause]:
        ours, theirs = self.pre.references[one.id], self.post.references[other.id]
        for mine, yours in zip(ours, theirs, strict=False):
            if mine.offset != yours.offset or mine.insn_addend != yours.insn_addend:
                yield Cause("reference", "references stand at other places", mine.offset)
                return
            if mine.howto is not yours.howto and mine.howto.shape != yours.howto.shape:
                yield Cause("reference", f"{mine.howto.name} became {yours.howto.name}", mine.offset)
            elif not self.equivalent(mine, yours):
                before, after = (
                    _show(graph, reference) for graph, reference in ((self.pre, mine), (self.post, yours))
                )
                yield Cause("reference", f"referred to {before}, refers to {after}", mine.offset)
        if len(ours) != len(theirs):
            yield Cause("reference", f"had {len(ours)} references, has {len(theirs)}")

    def only_lines_moved(self, one: Node, other: Node) -> bool:
        """Whether all that differs in the bytes of two functions are numbers of source lines."""
        return bool(moved_lines(self.pre, self.post, one, other, self.tables))

    def equivalent(self, mine: Reference, yours: Reference) -> bool:
        """Whether two references mean the same."""
        if (mine.minus or yours.minus) and not self._same_minus(mine, yours):
            return False
        one, other = self.pre.nodes[mine.target], self.post.nodes[yours.target]
        if one.kind is Kind.STRING and other.kind is Kind.STRING:
            ours, theirs = self.pre.contents(one), self.post.contents(other)
            if mine.addend == yours.addend and (ours == theirs or same_but_line(ours, theirs)):
                return True
            return ours[mine.addend :] == theirs[yours.addend :] and 0 <= mine.addend < max(one.size, 1)
        if mine.addend != yours.addend:
            return False
        if self.pairing.to_post(mine.target) == yours.target:
            return True
        if _is_pool(self.pre, one) and _is_pool(self.post, other):
            return self.pre.contents(one) == self.post.contents(other)
        if self.pre.is_pool_word(one) and self.post.is_pool_word(other):
            return not any(self._references(one, other))
        return Kind.EXTERN in (one.kind, other.kind) and one.name == other.name != ""

    def _same_minus(self, mine: Reference, yours: Reference) -> bool:
        """Whether two references count from the same place; each graph has numbers of its own for it."""
        if mine.minus is None or yours.minus is None:
            return False
        (pre, before), (post, after) = mine.minus, yours.minus
        one, other = self.pre.nodes[pre], self.post.nodes[post]
        if before != after:
            return False
        if self.pairing.to_post(pre) == post:
            return True
        return Kind.EXTERN in (one.kind, other.kind) and one.name == other.name != ""

    def _entries(self, one: Node, other: Node) -> Iterator[Cause]:
        if one.id not in self.pre.entries and other.id not in self.post.entries:
            return
        ours, theirs = (
            [graph.nodes[e] for e in graph.entries.get(node.id, ()) if _compared(graph.nodes[e])]
            for graph, node in ((self.pre, one), (self.post, other))
        )
        tables = sorted({entry.section_name for entry in (*ours, *theirs)})
        for table in tables:
            mine = [entry for entry in ours if entry.section_name == table]
            yours = [entry for entry in theirs if entry.section_name == table]
            if len(mine) != len(yours):
                yield Cause("entry", f"owned {len(mine)} entries of {table}, owns {len(yours)}")
                continue
            for a, b in zip(mine, yours, strict=True):
                if not self._same_contents(a, b) or any(self._references(a, b)):
                    yield Cause("entry", f"its entry {a.row} of {table} differs")

    def _same_contents(self, one: Node, other: Node) -> bool:
        """Whether two entries hold the same, but for the fields of their references."""
        if one.table == other.table and self.pre.contents(one) == self.post.contents(other):
            return True
        return _plain(self.pre, one) == _plain(self.post, other)


def _spread(work: _Comparison, causes: dict[int, tuple[Cause, ...]], written: frozenset[int]) -> None:
    """Until nothing is added: who cannot go on using the pre version of a changed node changes too.

    Whoever uses what is `written` in place can. Pairs are asked in their order, again and again, but only
    those that use something that changed since.
    """
    order = [pair.post for pair in work.pairing.by_pre.values() if _may_follow(work.post, pair.post)]
    users: dict[int, list[int]] = {}
    for number, index in enumerate(order):
        for target in {reference.target for reference in _needs(work.post, work.post.nodes[index])}:
            users.setdefault(target, []).append(number)
    waiting = [(0, number) for number in sorted({user for each in causes for user in users.get(each, ())})]
    while waiting:
        turn, number = heappop(waiting)
        index = order[number]
        if index in causes:
            continue
        for reference in _needs(work.post, work.post.nodes[index]):
            cause = None if reference.target in written else _forced(work, reference, causes)
            if cause is not None:
                causes[index] = (cause,)
                for user in users.get(index, ()):
                    heappush(waiting, (turn + (user <= number), user))
                break


def _may_follow(post: SectionGraph, index: int) -> bool:
    node = post.nodes[index]
    needs = bool(post.references[index]) or index in post.entries
    return needs and node.kind is not Kind.EXTERN and (node.table is None or index not in post.owners)


def _needs(graph: SectionGraph, node: Node) -> Iterator[Reference]:
    """A node's references and those of its entries to their payload."""
    yield from graph.references[node.id]
    for entry in graph.entries.get(node.id, ()):
        for reference in graph.references[entry]:
            if graph.is_piece(graph.nodes[reference.target]):
                yield reference


def _forced(work: _Comparison, reference: Reference, causes: dict[int, tuple[Cause, ...]]) -> Cause | None:
    if reference.target not in causes:
        return None
    target = work.post.nodes[reference.target]
    if target.kind is Kind.CONSTANT or target.remade is not None or work.post.is_piece(target):
        return Cause("target", f"refers to {target.label}, which changed", reference.offset, target.id)
    if target.kind is Kind.FUNCTION and target.is_fragment:
        return Cause("target", f"continues in {target.label}, which changed", reference.offset, target.id)
    if target.kind is Kind.FUNCTION and reference.addend:
        return Cause(
            "target", f"refers to the inside of {target.label}, which changed", reference.offset, target.id
        )
    return None


def _compared(entry: Node) -> bool:
    return entry.table is not None and entry.table.compared


def _class(node: Node) -> tuple[object, ...]:
    """What of a section's name has a meaning: init code is not plain code, per-cpu data not plain data."""
    return node.standing, node.remade is not None


def _is_pool(graph: SectionGraph, node: Node) -> bool:
    return node.kind is Kind.CONSTANT and not node.names and not graph.references[node.id]


def _plain(graph: SectionGraph, node: Node) -> bytes:
    """A node's bytes with the fields of its references zeroed, and those its table's row ignores."""
    data = graph.contents(node)
    references = graph.references[node.id]
    for offset, size in _unimportant(node):
        data = data[:offset] + bytes(len(data[offset : offset + size])) + data[offset + size :]
    if not b"".join([data[r.offset : r.offset + r.howto.size] for r in references]).strip(b"\0"):
        return data
    plain = bytearray(data)
    order = graph.arch.byte_order
    for reference in references:
        field = slice(reference.offset, reference.offset + reference.howto.size)
        word = int.from_bytes(plain[field], order) & ~reference.howto.mask
        plain[field] = word.to_bytes(reference.howto.size, order)
    return bytes(plain)


def _unimportant(node: Node) -> tuple[tuple[int, int], ...]:
    """(offset, size) of what is no difference, by the rows of plugins."""
    if node.table is not None:
        return node.table.ignored
    return node.remade.ignored if node.remade is not None else ()


def _show(graph: SectionGraph, reference: Reference) -> str:
    node = graph.nodes[reference.target]
    if node.kind is Kind.STRING:
        return repr(string(graph, node, max(reference.addend, 0))[:60])
    return f"{node.label}+{reference.addend:#x}" if reference.addend else node.label


def string(graph: SectionGraph, node: Node, start: int = 0) -> str:
    """The text of a string node from byte `start` on, without its end."""
    width = int(graph.obj.sections["entsize"][node.section])
    order = "le" if graph.obj.byte_order == "little" else "be"
    code = {2: f"utf-16-{order}", 4: f"utf-32-{order}"}.get(width, "utf-8")
    return graph.contents(node)[start:].decode(code, "backslashreplace").rstrip("\0")

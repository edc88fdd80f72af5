# SPDX-License-Identifier: Apache-2.0
"""A function before and after, instruction beside instruction.

In: a plan and the ids of a pair. Out: `Row`s. Instructions are equal if they mean the same: fields count by
what they refer to, and jumps inside of the function by whether they still go to the same instruction, however
far that has moved.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from kdiff.diff import string
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.insn import texts
from kdiff.plan import Plan
from kdiff.split import Kind
from kdiff.values import dataclass

_MOST_ALIKE = 1 << 22
"""Pairs of equal instructions that are weighed against each other: seconds; real functions have far fewer."""


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction. `key` is equal for instructions that mean the same, wherever they stand."""

    offset: int
    text: str
    key: Hashable
    target: int | None = None
    """The offset to which a jump inside of the function goes."""


@dataclass(frozen=True, slots=True)
class Row:
    """An instruction on either side; None where one side has no counterpart."""

    before: Line | None
    after: Line | None
    same: bool


def side_by_side(plan: Plan, pre: int, post: int) -> tuple[Row, ...]:
    """Align a pair's instructions."""
    ours = _lines(plan, plan.pre, plan.pre.nodes[pre], moved=True)
    theirs = _lines(plan, plan.post, plan.post.nodes[post], moved=False)
    rows = list(_aligned(ours, theirs))
    where = {row.before.offset: row.after.offset for row in rows if row.before and row.after}
    return tuple(
        replace(row, same=False)
        if row.same and row.before and row.after and where.get(row.before.target or 0) != row.after.target
        and row.before.target is not None
        else row
        for row in rows
    )  # fmt: skip


def first_difference(rows: Sequence[Row]) -> int | None:
    """The index of the first row that differs."""
    return next((index for index, row in enumerate(rows) if not row.same), None)


def spelled(graph: SectionGraph, reference: Reference) -> str:
    """What a reference reaches, as a person would write it."""
    node = graph.nodes[reference.target]
    if node.kind is Kind.STRING:
        return repr(string(graph, node, max(reference.addend, 0)))
    if graph.is_pool_word(node):
        inside = [spelled(graph, each) for each in graph.references[node.id]]
        return f"*{inside[0]}" if inside else node.label
    return f"{node.label}{reference.addend:+#x}" if reference.addend else node.label


def _lines(plan: Plan, graph: SectionGraph, node: Node, *, moved: bool) -> list[Line]:
    """`moved`: the graph is the pre graph, whose nodes are called by those they are paired with."""
    code, references = graph.contents(node), graph.references[node.id]
    starts = [reference.offset for reference in references]
    found = []
    for offset, size, text in texts(graph.arch, code):
        inside = references[bisect_right(starts, offset - 1) : bisect_right(starts, offset + size - 1)]
        found.append(_line(plan, graph, node, code, (offset, size, text), inside, moved))
    return found


def _line(
    plan: Plan, graph: SectionGraph, node: Node, code: bytes, decoded: tuple[int, int, str],
    references: tuple[Reference, ...], moved: bool,
) -> Line:  # fmt: skip
    offset, size, text = decoded
    raw = code[offset : offset + size]
    branch = graph.arch.branch(raw)
    if branch is not None and not references:
        target = offset + branch.length + branch.displacement
        return Line(offset, text, (branch.operation, branch.call), target)
    jumps = [each for each in references if each.branch and each.target == node.id and each.addend]
    if branch is not None and jumps:
        name = text.partition(" ")[0]
        return Line(offset, f"{name} {jumps[0].addend:#x}", (branch.operation, branch.call), jumps[0].addend)
    plain = bytearray(raw)
    for each in references:
        field = slice(each.offset - offset, each.offset - offset + each.howto.size)
        stored = int.from_bytes(plain[field], graph.arch.byte_order)
        if field.stop <= size:
            plain[field] = (stored & ~each.howto.mask).to_bytes(each.howto.size, graph.arch.byte_order)
    meanings = tuple(_meaning(plan, graph, each, moved) for each in references)
    return Line(offset, _text(graph, text, references), (bytes(plain), meanings))


def _text(graph: SectionGraph, text: str, references: tuple[Reference, ...]) -> str:
    """An instruction's text with what it refers to: in place of a jump's operand, else behind it."""
    names = [spelled(graph, each) for each in references]
    if len(references) == 1 and references[0].branch and " " in text:
        operation, _, operands = text.partition(" ")
        kept = operands.rpartition(",")[0]
        return f"{operation} {kept + ', ' if kept else ''}{names[0]}"
    return f"{text}  ; {', '.join(dict.fromkeys(names))}" if names else text


def _meaning(plan: Plan, graph: SectionGraph, reference: Reference, moved: bool) -> Hashable:
    node = graph.nodes[reference.target]
    share = reference.insn_addend
    if node.kind is Kind.STRING:
        return "string", graph.contents(node)[max(reference.addend, 0) :], share
    if graph.is_pool_word(node):
        return "word", tuple(_meaning(plan, graph, each, moved) for each in graph.references[node.id])
    if node.kind is Kind.CONSTANT and not node.names and not graph.references[node.id]:
        return "constant", graph.contents(node), reference.addend, share
    if node.kind is Kind.EXTERN or not node.local:
        return "name", node.name, reference.addend, share
    other = plan.pairing.to_post(node.id) if moved else node.id
    return (
        ("node" if other is not None else "lost"),
        (node.id if other is None else other),
        reference.addend,
        share,
    )


def _aligned(ours: Sequence[Line], theirs: Sequence[Line]) -> Iterator[Row]:
    head = _common(ours, theirs)
    tail = _common(ours[head:][::-1], theirs[head:][::-1])
    for one, other in zip(ours[:head], theirs[:head], strict=True):
        yield Row(one, other, True)
    middle, rest = ours[head : len(ours) - tail], theirs[head : len(theirs) - tail]
    for tag, a, b, c, d in _opcodes([each.key for each in middle], [each.key for each in rest]):
        for one, other in zip_longest(middle[a:b], rest[c:d]):
            yield Row(one, other, tag == "equal")
    for one, other in zip(ours[len(ours) - tail :], theirs[len(theirs) - tail :], strict=True):
        yield Row(one, other, True)


def _opcodes(ours: list[Hashable], theirs: list[Hashable]) -> Sequence[tuple[str, int, int, int, int]]:
    """How one becomes the other; only as a whole where so much repeats that it would take minutes to tell."""
    often = Counter(theirs)
    if sum(often[each] for each in ours) > _MOST_ALIKE:
        return [("replace", 0, len(ours), 0, len(theirs))]
    from difflib import SequenceMatcher

    return SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()


def _common(ours: Iterable[Line], theirs: Iterable[Line]) -> int:
    """How many lines at the start are equal."""
    count = 0
    for one, other in zip(ours, theirs, strict=False):
        if one.key != other.key:
            break
        count += 1
    return count

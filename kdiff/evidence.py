# SPDX-License-Identifier: Apache-2.0
"""What a person can see of a change: the first difference of a pair, on both sides, and where it was written.

In: a plan, a changed pair, and the line tables of both objects. Out: `Step`s of an explanation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from kdiff.diff import Cause, Change
from kdiff.dwarflines import SourceLine, SourceLines
from kdiff.graph import Node, SectionGraph
from kdiff.listing import Line, Row, first_difference, side_by_side, spelled
from kdiff.plan import Plan
from kdiff.split import Kind
from kdiff.values import dataclass

_CONTEXT = 3
"""Instructions shown on either side of the first one that differs."""

_ENTRY = re.compile(r"its entry (\d+) of (\S+) differs")
_BRACKETS = re.compile(r"\b[a-z]+ ptr\b|\[[^]]*\]|\([^)]*\)")
_CONSTANT = re.compile(r"(?<![\w$%.])#?-?(?:0x[0-9a-f]+|\d+)\b|[A-Za-z_.][\w.]{4,}[-+]?(?:0x[0-9a-f]+)?")

_NUMBER = re.compile(r"\.\d+\b")
"""What the compiler adds to the names of static variables."""
_STACK = re.compile(r"(\$?sp|[er]sp|%r15|r1), ")


@dataclass(frozen=True, slots=True)
class Side:
    """A place in one object, with the instructions around it; the one that counts begins with `>`."""

    place: str
    source: str
    code: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One link of the chain. `key` is the cause's, or names the kind of step."""

    key: str
    node: str
    text: str
    before: Side | None = None
    after: Side | None = None


class Evidence:
    """Both versions of everything, with their sources."""

    def __init__(self, plan: Plan, before: SourceLines, after: SourceLines) -> None:
        self.plan, self.pre, self.post = plan, plan.pre, plan.post
        self.before, self.after = before, after

    def difference(self, change: Change, causes: Sequence[Cause]) -> Iterator[Step]:
        """The first thing in which a pair differs, and what else tells of the edit."""
        before, node = self.pre.nodes[change.pre], self.post.nodes[change.post]
        text = _summary(causes)
        if node.kind is not Kind.FUNCTION or before.kind is not Kind.FUNCTION:
            at = next((cause.offset for cause in causes if cause.offset is not None), None)
            sides = (self._bytes(self.pre, before, at), self._bytes(self.post, node, at))
            yield Step(causes[0].key, node.label, text, *sides)
        else:
            rows = side_by_side(self.plan, change.pre, change.post)
            at = first_difference(rows)
            if at is None:
                yield Step(causes[0].key, node.label, text)
            else:
                sides = (self._shown(rows, at, True, before), self._shown(rows, at, False, node))
                yield Step(causes[0].key, node.label, text, *sides)
                yield from self._operations(node, before, rows, at)
                yield from self._one_sided(node, before)
            yield from self._edits(node, before, rows)
        if all(cause.key == "entry" for cause in causes):
            yield from self._entry(node, before, causes[0])

    def _entry(self, node: Node, before: Node, cause: Cause) -> Iterator[Step]:
        """The first table entry of a function that differs."""
        match = _ENTRY.fullmatch(cause.text)
        if match is None:
            return
        ours, theirs = (
            [graph.nodes[each] for each in graph.entries.get(owner.id, ())]
            for graph, owner in ((self.pre, before), (self.post, node))
        )
        ours, theirs = ([each for each in side if each.section_name == match[2]] for side in (ours, theirs))
        for one, other in zip(ours, theirs, strict=False):
            if one.row == int(match[1]):
                sides = (self._bytes(self.pre, one, 0), self._bytes(self.post, other, 0))
                yield Step("entry", node.label, f"the first entry of {match[2]} that differs", *sides)

    def _operations(self, node: Node, before: Node, rows: tuple[Row, ...], at: int) -> Iterator[Step]:
        """The first operation that one version has and the other nowhere; registers do not count.

        Where a compiler gave registers other names, the first difference says little about the edit.
        """
        before_all = {operation(row.before) for row in rows if row.before is not None}
        after_all = {operation(row.after) for row in rows if row.after is not None}
        new = next((i for i, row in enumerate(rows) if _is_news(row.after, before_all)), None)
        old = next((i for i, row in enumerate(rows) if _is_news(row.before, after_all)), None)
        if new is not None and new != at:
            side = self._shown(rows, new, False, node)
            yield Step(
                "operation", node.label, "the first operation that only the post version has", None, side
            )
        if old is not None and old != at:
            side = self._shown(rows, old, True, before)
            yield Step("operation", node.label, "the first operation that only the pre version has", side)

    def _one_sided(self, node: Node, before: Node) -> Iterator[Step]:
        """References that only one version has: mostly what the edit itself wrote."""
        ours = {spelled(self.pre, each): each for each in reversed(self.pre.references[before.id])}
        theirs = {spelled(self.post, each): each for each in reversed(self.post.references[node.id])}
        for name in sorted(theirs.keys() - ours.keys(), key=lambda each: theirs[each].offset):
            pair = self.plan.pairing.by_post.get(theirs[name].target)
            if pair is None or all(each.target != pair.pre for each in ours.values()):
                side = self.side(self.post, node, theirs[name].offset)
                yield Step("reference", node.label, f"only the post version refers to {name}", None, side)
        for name in sorted(ours.keys() - theirs.keys(), key=lambda each: ours[each].offset):
            pair = self.plan.pairing.by_pre.get(ours[name].target)
            if pair is None or all(each.target != pair.post for each in theirs.values()):
                side = self.side(self.pre, before, ours[name].offset)
                yield Step("reference", node.label, f"only the pre version refers to {name}", side)

    def _edits(self, node: Node, before: Node, rows: Iterable[Row]) -> Iterator[Step]:
        """The stretches of source that differ, as far as line numbers tell."""
        rows = list(rows)
        ours = _by_file(self.before, before, (row.before for row in rows))
        theirs = _by_file(self.after, node, (row.after for row in rows))
        for file in [each for each in theirs if each in ours]:
            one, other = _edited(ours[file], theirs[file])
            if one or other:
                text = f"the edit is near {file}"
                yield Step("source", node.label, text, _lines_side(file, one), _lines_side(file, other))

    def side(self, graph: SectionGraph, node: Node, offset: int | None) -> Side:
        return Side(graph.where(node, offset), str(self._line(graph, node, offset or 0) or ""))

    def _line(self, graph: SectionGraph, node: Node, offset: int) -> SourceLine | None:
        table = self.before if graph is self.pre else self.after
        return table.at(node.section, node.start + offset) if node.kind is Kind.FUNCTION else None

    def _bytes(self, graph: SectionGraph, node: Node, offset: int | None) -> Side:
        side = self.side(graph, node, offset)
        if offset is None or node.kind is Kind.EXTERN:
            return side
        start = offset & ~15
        data = graph.contents(node)[start : start + 16]
        return replace(side, code=(f"> {start:x}: {data.hex(' ')}",)) if data else side

    def _shown(self, rows: tuple[Row, ...], at: int, early: bool, node: Node) -> Side:
        """One side of a difference: the instruction in question and its neighbours."""
        graph = self.pre if early else self.post
        lines = [row.before if early else row.after for row in rows]
        chosen = next((line for line in lines[at:] if line is not None), None)
        first = next((i for i in range(at, len(lines)) if lines[i] is not None), len(lines))
        near = [line for line in lines[:first] if line is not None][-_CONTEXT:]
        near += [line for line in lines[first:] if line is not None][: _CONTEXT + 1]
        code = tuple(f"{'>' if line is chosen else ' '} {line.offset:x}: {line.text}" for line in near)
        offset = node.size if chosen is None else chosen.offset
        return replace(self.side(graph, node, offset), code=code)


# Text ------------------------------------------------------------------------------------------------


def _summary(causes: Iterable[Cause]) -> str:
    """The causes in one line; entries of tables move with the code, so they count only by themselves."""
    causes = list(causes)
    shown = [cause.text for cause in causes if cause.key != "entry"]
    if shown:
        return "; ".join(dict.fromkeys(shown))
    tables = Counter(match[2] for cause in causes if (match := _ENTRY.fullmatch(cause.text)))
    shown = [cause.text for cause in causes if not _ENTRY.fullmatch(cause.text)]
    return "; ".join(
        [*shown, *(f"{count} of its entries of {name} differ" for name, count in tables.items())]
    )


def operation(line: Line) -> str:
    """An instruction without registers: the mnemonic, constants outside of brackets, and references.

    Of a jump inside of the function only the mnemonic, and nothing of one that moves the stack pointer.
    """
    plain, _, names = line.text.partition("  ; ")
    mnemonic, _, operands = plain.partition(" ")
    if line.target is not None:
        return mnemonic
    if _STACK.match(operands):
        return ""
    return " ".join((mnemonic, *_CONSTANT.findall(_BRACKETS.sub("", operands)), _NUMBER.sub("", names)))


def _is_news(line: Line | None, known: set[str]) -> bool:
    return line is not None and bool(operation(line)) and operation(line) not in known


# Source ----------------------------------------------------------------------------------------------


def _by_file(table: SourceLines, node: Node, lines: Iterable[Line | None]) -> dict[str, list[int]]:
    """Line numbers that a function's instructions come from, ascending, by file in order of appearance."""
    found: dict[str, set[int]] = {}
    for line in lines:
        place = None if line is None else table.at(node.section, node.start + line.offset)
        if place is not None and place.line:
            found.setdefault(place.file, set()).add(place.line)
    return {file: sorted(numbers) for file, numbers in found.items()}


def _edited(ours: list[int], theirs: list[int]) -> tuple[list[int], list[int]]:
    """The lines between those that agree at the start and those that agree, moved as a whole, at the end."""
    head = 0
    while head < min(len(ours), len(theirs)) and ours[head] == theirs[head]:
        head += 1
    left, right = ours[head:], theirs[head:]
    if not left or not right:
        return left, right
    moved = right[-1] - left[-1]
    while left and right and right[-1] - left[-1] == moved:
        left, right = left[:-1], right[:-1]
    return left, right


def _lines_side(file: str, lines: list[int]) -> Side | None:
    if not lines:
        return None
    return Side("", f"{file}:{lines[0]}" + (f"-{lines[-1]}" if lines[-1] != lines[0] else ""))

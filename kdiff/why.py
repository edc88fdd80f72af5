# SPDX-License-Identifier: Apache-2.0
"""Why something is replaced, carried, borrowed or left alone: a chain of causes that a person can follow.

In: a plan, a name, and the line tables of both objects. Out: an `Answer` for each thing of that name. Its
steps go from what was asked for to the edit: who needs it, what changed there, which instruction is the first
to differ, and from which lines of source that instruction was made.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from kdiff.correlate import Pair, is_anonymous_static, is_fragment, stem
from kdiff.diff import Cause, Change
from kdiff.dwarflines import SourceLine, SourceLines
from kdiff.errors import KdiffError
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.listing import Line, Row, first_difference, side_by_side, spelled
from kdiff.plan import Plan
from kdiff.review import review
from kdiff.split import Kind

_CONTEXT = 3
"""Instructions shown on either side of the first one that differs."""

_ENTRY = re.compile(r"its entry (\d+) of (\S+) differs")
_BRACKETS = re.compile(r"\[[^]]*\]|\([^)]*\)")
_CONSTANT = re.compile(r"(?<![\w$%.])#?-?(?:0x[0-9a-f]+|\d+)\b|[A-Za-z_.][\w.]{4,}[-+]?(?:0x[0-9a-f]+)?")

_STACK = re.compile(r"(\$?sp|[er]sp|%r15|r1), ")

_PASSES = {
    "name": "both have this name",
    "content": "both have these contents",
    "section": "both are all that their section holds",
    "row": "both stand at this place of their table",
    "reference": "the same place of a function that was paired before refers to both",
    "order of use": "functions that were paired before use both, in this order",
    "owner": "both belong to functions that were paired before, in this order",
}
"""What the passes of `correlate` mean."""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What happens to one thing and why. `fate`: replaced, carried, borrowed, changed, same, added, removed."""

    name: str
    kind: str
    fate: str
    steps: tuple[Step, ...]


def why(plan: Plan, name: str, before: SourceLines, after: SourceLines) -> tuple[Answer, ...]:
    """Explain everything called `name`; KdiffError `why.unknown` with near names if there is nothing."""
    work = _Explanation(plan, before, after)
    found = [node.id for node in plan.post.nodes if _is_called(node, name)]
    answers = [work.answer(index, name) for index in found]
    paired = {pair.pre for index in found if (pair := plan.pairing.by_post.get(index)) is not None}
    for node in plan.pre.nodes:
        if _is_called(node, name) and node.id not in paired:
            pair = plan.pairing.by_pre.get(node.id)
            answers.append(_removed(plan, node) if pair is None else work.answer(pair.post, name))
    if not answers:
        raise _unknown(plan, name)
    return tuple(dict.fromkeys(answers))


def _is_called(node: Node, name: str) -> bool:
    return name in (node.label, *node.names)


def _unknown(plan: Plan, name: str) -> KdiffError:
    names = {each for graph in (plan.pre, plan.post) for node in graph.nodes for each in node.names}
    near = sorted({each for each in names if stem(each) == stem(name)})
    near += [each for each in get_close_matches(name, sorted(names), 5, 0.6) if each not in near]
    return KdiffError(
        "why.unknown",
        f"neither object has anything called {name}",
        place=plan.post.obj.path,
        remedy=f"near names: {', '.join(near[:5])}" if near else "kdiff diff --same lists all names",
    )


def _removed(plan: Plan, node: Node) -> Answer:
    place = plan.pre.where(node)
    text = f"the pre object has it ({place}) and the post object has not; the kernel keeps it"
    return Answer(node.label, node.kind.value, "removed", (Step("removed", node.label, text),))


class _Explanation:
    """Looks things up for one plan."""

    def __init__(self, plan: Plan, before: SourceLines, after: SourceLines) -> None:
        self.plan, self.pre, self.post = plan, plan.pre, plan.post
        self.before, self.after = before, after
        self.changes = {change.post: change for change in plan.delta.changed}
        self.replaced = {post for _, post in plan.replaced}
        self.carried, self.borrowed = set(plan.carried), set(plan.borrowed)

    def answer(self, index: int, name: str) -> Answer:
        """Explain one post node, which was asked for by `name`."""
        node = self.post.nodes[index]
        fate, steps = self._fate(node)
        place = self.post.where(node)
        findings = tuple(
            Step(each.key, node.label, each.reason) for each in review(self.plan) if each.place == place
        )
        return Answer(name, node.kind.value, fate, (*steps, *findings))

    def _fate(self, node: Node) -> tuple[str, Iterator[Step]]:
        if node.id in self.replaced:
            return "replaced", self._change(node.id, set())
        if node.id in self.carried:
            return "carried", self._carried(node)
        if node.id in self.borrowed:
            return "borrowed", self._borrowed(node)
        if node.id in self.changes:
            return "changed", self._change(node.id, set())
        if node.id not in self.plan.pairing.by_post:
            text = "new in the post object, but nothing that is replaced leads to it"
            return "added", iter((Step("added", node.label, text),))
        return "same", self._same(node)

    # Changes -----------------------------------------------------------------------------------------

    def _change(self, index: int, seen: set[int]) -> Iterator[Step]:
        """A changed node's causes, and theirs, down to what was edited."""
        if index in seen or index not in self.changes:
            return
        seen.add(index)
        change = self.changes[index]
        node = self.post.nodes[index]
        followed = [cause for cause in change.causes if cause.via is not None]
        own = [cause for cause in change.causes if cause.via is None]
        if own:
            yield from self._own_change(node, change, own, seen)
        for cause in followed:
            yield Step(cause.key, node.label, cause.text, None, self._side(self.post, node, cause.offset))
            yield from self._change(cause.via if cause.via is not None else -1, seen)

    def _own_change(self, node: Node, change: Change, causes: list[Cause], seen: set[int]) -> Iterator[Step]:
        before = self.pre.nodes[change.pre]
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
        yield from self._targets(change, seen)

    def _targets(self, change: Change, seen: set[int]) -> Iterator[Step]:
        """What became of things that only one version refers to, where that is the story."""
        ours = {each.target for each in self.pre.references[change.pre]}
        theirs = {each.target for each in self.post.references[change.post]}
        for index in sorted(theirs - {change.post}):
            target = self.post.nodes[index]
            if index in self.changes and is_fragment(target):
                yield from self._change(index, seen)
            elif index not in self.plan.pairing.by_post and target.names and target.table is None:
                yield Step("added", target.label, "is new in the post object")
        for index in sorted(ours):
            target = self.pre.nodes[index]
            if index not in self.plan.pairing.by_pre and target.names and target.table is None:
                yield Step("removed", target.label, "is gone from the post object")

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
                side = self._side(self.post, node, theirs[name].offset)
                yield Step("reference", node.label, f"only the post version refers to {name}", None, side)
        for name in sorted(ours.keys() - theirs.keys(), key=lambda each: ours[each].offset):
            pair = self.plan.pairing.by_pre.get(ours[name].target)
            if pair is None or all(each.target != pair.post for each in theirs.values()):
                side = self._side(self.pre, before, ours[name].offset)
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

    # Carried, borrowed, same -------------------------------------------------------------------------

    def _carried(self, node: Node) -> Iterator[Step]:
        path = self._path(node.id)
        for source, target, reference in path:
            name, other = self.post.nodes[source].label, self.post.nodes[target].label
            offset = None if reference is None else reference.offset
            verb = "owns" if reference is None else "refers to"
            side = self._side(self.post, self.post.nodes[source], offset)
            yield Step("carried", name, f"{verb} {other}", None, side)
        yield Step("carried", node.label, self._reason(node))
        if node.id in self.changes:
            yield from self._change(node.id, set())
        elif path:
            first = path[0][0]
            yield from self._change(first, set())

    def _reason(self, node: Node) -> str:
        """Why a node that carried code reaches cannot stay in the kernel."""
        if node.table is not None:
            return f"an entry of {node.section_name} travels with the code it is about"
        if node.id in self.changes:
            return "it changed, so the kernel's own is not what the post code means"
        if node.id not in self.plan.pairing.by_post and node.kind is not Kind.STRING:
            return "it is new: the kernel does not have it"
        if is_fragment(node):
            return "it is a part of its function, which cannot be entered by itself"
        if is_anonymous_static(node):
            return "a macro makes this static anew at each use, so a fresh one is as good"
        return "it has no name of its own by which the kernel's could be found"

    def _path(self, wanted: int) -> list[tuple[int, int, Reference | None]]:
        """The shortest way from a replaced function to a carried node."""
        came: dict[int, tuple[int, Reference | None]] = {}
        waiting = sorted(self.replaced)
        seen = set(waiting)
        for source in waiting:
            following: list[tuple[int, Reference | None]] = [
                (reference.target, reference) for reference in self.post.references[source]
            ]
            following += [(entry, None) for entry in self.post.entries.get(source, ())]
            for target, reference in following:
                if target in self.carried and target not in seen:
                    seen.add(target)
                    came[target] = source, reference
                    waiting.append(target)
        path: list[tuple[int, int, Reference | None]] = []
        while wanted in came:
            source, reference = came[wanted]
            path.insert(0, (source, wanted, reference))
            wanted = source
        return path

    def _borrowed(self, node: Node) -> Iterator[Step]:
        users = [
            (self.post.nodes[source], reference)
            for source in self.plan.carried
            for reference in self.post.references[source]
            if reference.target == node.id
        ]
        for user, reference in users[:3]:
            side = self._side(self.post, user, reference.offset)
            yield Step("borrowed", user.label, f"refers to {node.label}", None, side)
        if len(users) > 3:
            yield Step("borrowed", node.label, f"{len(users) - 3} further references of carried code")
        if node.kind is Kind.EXTERN:
            yield Step("borrowed", node.label, "another unit defines it: the update uses the kernel's own")
        elif node.id in self.changes:
            yield Step("borrowed", node.label, "it changed, but it exists in the kernel and keeps its place")
            yield from self._change(node.id, set())
        else:
            yield Step("borrowed", node.label, "it did not change: the update uses the kernel's own")
            yield from self._same(node)

    def _same(self, node: Node) -> Iterator[Step]:
        pair = self.plan.pairing.by_post.get(node.id)
        if pair is None:
            return
        other = self.pre.nodes[pair.pre]
        text = f"paired with {other.label} of the pre object: {_PASSES.get(pair.how, pair.how)}"
        yield Step("paired", node.label, text if pair.sure else f"{text}; {self._alternatives(node, pair)}")
        if node.kind is Kind.EXTERN:
            yield Step("same", node.label, "another unit defines it, in both objects")
            return
        count = len(self.post.references[node.id])
        entries = len(self.post.entries.get(node.id, ()))
        text = f"{node.size} bytes, {count} references and {entries} table entries mean the same in both"
        yield Step("same", node.label, text)
        if node.id not in self.borrowed:
            yield Step("same", node.label, "and nothing it depends on changed in a way that it would notice")

    def _alternatives(self, node: Node, pair: Pair) -> str:
        found = [
            other.label
            for other in self.pre.nodes
            if other.kind is node.kind and other.id != pair.pre and stem(other.name) == stem(node.name)
        ]
        return f"not sure, {', '.join(sorted(found)) or 'another one'} would fit, too"

    # Places ------------------------------------------------------------------------------------------

    def _side(self, graph: SectionGraph, node: Node, offset: int | None) -> Side:
        return Side(graph.where(node, offset), str(self._line(graph, node, offset or 0) or ""))

    def _line(self, graph: SectionGraph, node: Node, offset: int) -> SourceLine | None:
        table = self.before if graph is self.pre else self.after
        return table.at(node.section, node.start + offset) if node.kind is Kind.FUNCTION else None

    def _bytes(self, graph: SectionGraph, node: Node, offset: int | None) -> Side:
        side = self._side(graph, node, offset)
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
        return replace(self._side(graph, node, offset), code=code)


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
    return " ".join((mnemonic, *_CONSTANT.findall(_BRACKETS.sub("", operands)), names))


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

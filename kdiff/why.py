# SPDX-License-Identifier: Apache-2.0
"""Why something is replaced, carried, borrowed or left alone: a chain of causes that a person can follow.

In: a plan, a name, and the line tables of both objects. Out: an `Answer` for each thing of that name. Its
steps go from what was asked for to the edit: who needs it, what changed there, which instruction is the first
to differ, and from which lines of source that instruction was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from kdiff.correlate import Pair
from kdiff.diff import Change
from kdiff.dwarflines import SourceLines
from kdiff.errors import KdiffError
from kdiff.evidence import Evidence, Step
from kdiff.graph import Node, Reference
from kdiff.inplace_text import changes, reason
from kdiff.kernel import Keep
from kdiff.linenumbers import moved_lines
from kdiff.naming import stem
from kdiff.plan import Plan
from kdiff.review import review
from kdiff.split import Kind
from kdiff.values import dataclass

PASSES = {
    "name": "both have this name",
    "name of another binding": "both have this name, one as a global and one as a static",
    "content": "both have these contents",
    "section": "both are all that their section holds",
    "pinned": "the author says so",
    "unit and name": "both have this name and come from the same source file",
    "section alike": "both stand at this place of a section that is alike in both",
    "row": "both stand at this place of their table",
    "reference": "the same place of a function that was paired before refers to both",
    "uses side by side": "functions that were paired before use both, in code that is alike",
    "order of use": "functions that were paired before use both, in this order",
    "name without its number": "but for a number both have this name, and nothing refers to them",
    "moved": "it went along with code that moved between functions",
    "owner": "both belong to functions that were paired before, in this order",
}
"""What the passes of `correlate` mean."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What happens to one thing and why.

    `fate`: replaced, in place, carried, borrowed, changed (and yet not replaced), added, removed or same.
    """

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
        self.evidence = Evidence(plan, before, after)
        self.tables = before, after
        self.changes = {change.post: change for change in plan.delta.changed}
        self.replaced = {post for _, post in plan.replaced}
        self.carried, self.borrowed = set(plan.carried), set(plan.borrowed)
        self.in_place = {each.post: each for each in plan.in_place}

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
            return "replaced", self._change(node.id)
        if node.id in self.in_place:
            return "in place", self._in_place(node)
        if node.id in self.carried:
            return "carried", self._carried(node)
        if node.id in self.borrowed:
            return "borrowed", self._borrowed(node)
        if node.id in self.changes:
            return "changed", self._change(node.id)
        if node.id not in self.plan.pairing.by_post:
            text = "new in the post object, but nothing that is replaced leads to it"
            return "added", iter((Step("added", node.label, text),))
        return "same", self._same(node)

    # Changes -----------------------------------------------------------------------------------------

    def _change(self, index: int) -> Iterator[Step]:
        """A changed node's causes, and theirs, down to what was edited; each node once."""
        seen: set[int] = set()
        stack: list[Iterator[Step | int]] = [iter((index,))]
        while stack:
            item = next(stack[-1], None)
            if item is None:
                stack.pop()
            elif isinstance(item, Step):
                yield item
            elif item not in seen and item in self.changes:
                seen.add(item)
                stack.append(self._causes(self.changes[item]))

    def _causes(self, change: Change) -> Iterator[Step | int]:
        """A change's steps, and the nodes whose changes are to be told in between."""
        node = self.post.nodes[change.post]
        followed = [cause for cause in change.causes if cause.via is not None]
        own = [cause for cause in change.causes if cause.via is None]
        if own:
            yield from self.evidence.difference(change, own)
            yield from self._targets(change)
        for cause in followed:
            yield Step(
                cause.key, node.label, cause.text, None, self.evidence.side(self.post, node, cause.offset)
            )
            if cause.via is not None:
                yield cause.via

    def _targets(self, change: Change) -> Iterator[Step | int]:
        """What became of things that only one version refers to, where that is the story."""
        ours = {each.target for each in self.pre.references[change.pre]}
        theirs = {each.target for each in self.post.references[change.post]}
        for index in sorted(theirs - {change.post}):
            target = self.post.nodes[index]
            if index in self.changes and target.is_fragment:
                yield index
            elif index not in self.plan.pairing.by_post and target.names and target.table is None:
                yield Step("added", target.label, "is new in the post object")
        for index in sorted(ours):
            target = self.pre.nodes[index]
            if index not in self.plan.pairing.by_pre and target.names and target.table is None:
                yield Step("removed", target.label, "is gone from the post object")

    def _in_place(self, node: Node) -> Iterator[Step]:
        item = self.in_place[node.id]
        text = f"its new contents are written where it lies: {reason(self.plan, item)}"
        yield Step("in place", node.label, text)
        for change in changes(self.plan, item):
            yield Step("in place", node.label, change)
        yield from self._change(node.id)

    # Carried, borrowed, same -------------------------------------------------------------------------

    def _carried(self, node: Node) -> Iterator[Step]:
        path = self._path(node.id)
        for source, target, reference in path:
            name, other = self.post.nodes[source].label, self.post.nodes[target].label
            offset = None if reference is None else reference.offset
            verb = "owns" if reference is None else "refers to"
            side = self.evidence.side(self.post, self.post.nodes[source], offset)
            yield Step("carried", name, f"{verb} {other}", None, side)
        yield Step("carried", node.label, self._reason(node))
        if node.id in self.changes:
            yield from self._change(node.id)
        elif path:
            first = path[0][0]
            yield from self._change(first)

    def _reason(self, node: Node) -> str:
        """Why a node that carried code reaches cannot stay in the kernel."""
        if node.table is not None and node.table.keep is Keep.ADDED:
            return f"the patch adds it to {node.section_name}, for whoever takes the extract"
        if node.table is not None:
            return f"an entry of {node.section_name} travels with the code it is about"
        if node.id in self.changes:
            return "it changed, so the kernel's own is not what the post code means"
        if node.id not in self.plan.pairing.by_post and node.kind is not Kind.STRING:
            return "it is new: the kernel does not have it"
        if node.is_fragment:
            return "it is a part of its function, which cannot be entered by itself"
        if node.remade is not None:
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
            side = self.evidence.side(self.post, user, reference.offset)
            yield Step("borrowed", user.label, f"refers to {node.label}", None, side)
        if len(users) > 3:
            yield Step("borrowed", node.label, f"{len(users) - 3} further references of carried code")
        if node.kind is Kind.EXTERN:
            yield Step("borrowed", node.label, "another unit defines it: the update uses the kernel's own")
        elif node.id in self.changes:
            yield Step("borrowed", node.label, "it changed, but it exists in the kernel and keeps its place")
            yield from self._change(node.id)
        else:
            yield Step("borrowed", node.label, "it did not change: the update uses the kernel's own")
            yield from self._same(node)

    def _same(self, node: Node) -> Iterator[Step]:
        pair = self.plan.pairing.by_post.get(node.id)
        if pair is None:
            return
        other = self.pre.nodes[pair.pre]
        text = f"paired with {other.label} of the pre object: {PASSES.get(pair.how, pair.how)}"
        yield Step(
            "paired", node.label, f"{text} ({'sure' if pair.sure else self._alternatives(node, pair)})"
        )
        if node.kind is Kind.EXTERN:
            yield Step("same", node.label, "another unit defines it, in both objects")
            return
        count = len(self.post.references[node.id])
        entries = len(self.post.entries.get(node.id, ()))
        text = f"{node.size} bytes, {count} references and {entries} table entries mean the same in both"
        yield Step("same", node.label, text)
        for move in moved_lines(self.pre, self.post, other, node, lambda: self.tables):
            text = f"at +{move.offset:#x} it tells its source line, which was {move.before}, is {move.after}"
            yield Step("same", node.label, f"{text}: no change of what it does")
        if node.id not in self.borrowed:
            yield Step("same", node.label, "and nothing it depends on changed in a way that it would notice")

    def _alternatives(self, node: Node, pair: Pair) -> str:
        found = [
            other.label
            for other in self.pre.nodes
            if other.kind is node.kind and other.id != pair.pre and stem(other.name) == stem(node.name)
        ]
        return f"not sure, {', '.join(sorted(found)) or 'another one'} would fit, too"

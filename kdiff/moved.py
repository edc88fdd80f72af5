# SPDX-License-Identifier: Apache-2.0
"""Static variables that went along with code into another function.

A patch that takes a part of a function out, or a compiler that decides otherwise about inlining, moves a
static local from one function to another that the first one calls. In: two graphs and the pairs so far.
Out: the pairs of variables that are the only ones of their name left, where all that uses one now is, or is
called only through new functions by, what used the other before (or the other way round).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdiff.graph import Node, SectionGraph
from kdiff.naming import is_numbered, stem
from kdiff.split import Kind


def moved_statics(
    pre: SectionGraph, post: SectionGraph, to_post: Mapping[int, int], to_pre: Mapping[int, int]
) -> Iterator[tuple[int, int]]:
    """Pairs (pre id, post id) of static locals that moved; `to_post` and `to_pre` are the pairs so far."""
    ours, theirs = _open(pre, to_post), _open(post, to_pre)
    for key in ours.keys() & theirs.keys():
        (one, *more), (other, *others) = ours[key], theirs[key]
        if more or others:
            continue
        before, after = _users(pre, one), _users(post, other)
        if _along(post, {to_post[each] for each in before if each in to_post}, after, to_pre) or _along(
            pre, {to_pre[each] for each in after if each in to_pre}, before, to_post
        ):
            yield one.id, other.id


def _open(graph: SectionGraph, paired: Mapping[int, int]) -> dict[tuple[object, ...], list[Node]]:
    found: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.kind not in (Kind.DATA, Kind.CONSTANT) or node.id in paired or not node.local:
            continue
        if node.table is None and node.remade is None and _is_static_local(node.name):
            key = (node.kind, stem(node.name).rpartition(".")[2], node.size, node.standing)
            found.setdefault(key, []).append(node)
    return dict(sorted(found.items(), key=lambda item: item[1][0].id))


def _is_static_local(name: str) -> bool:
    """gcc numbers them (`count.3`), clang names them after their function (`f.count`)."""
    return bool(name) and (is_numbered(name) or "." in name.strip("."))


def _users(graph: SectionGraph, node: Node) -> set[int]:
    return {
        source
        for source, references in enumerate(graph.references)
        if any(reference.target == node.id for reference in references)
    }


def _along(graph: SectionGraph, start: set[int], users: set[int], paired: Mapping[int, int]) -> bool:
    """Whether calls lead from `start` through functions that have no partner to all `users`."""
    reached, fresh = set(start), set(start)
    while fresh:
        called = {reference.target for each in fresh for reference in graph.references[each]}
        fresh = {
            each
            for each in called - reached
            if each not in paired and graph.nodes[each].kind is Kind.FUNCTION
        }
        reached |= fresh
    return bool(start) and users <= reached

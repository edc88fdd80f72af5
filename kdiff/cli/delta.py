# SPDX-License-Identifier: Apache-2.0
"""What a plan says, for programs: the lists that `kdiff diff --json` prints."""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.graph import Node, SectionGraph
from kdiff.plan import Plan
from kdiff.split import Kind


def is_listed(node: Node) -> bool:
    """Whether a node is shown by itself.

    Table entries follow their owners, strings their contents; what other units define is theirs.
    """
    return node.table is None and bool(node.names) and node.kind is not Kind.EXTERN


def as_json(plan: Plan, same: bool = False) -> dict[str, object]:
    """The delta by names. `replaced`: functions to redirect; `new`: functions the patch adds."""
    pre, post, delta = plan.pre, plan.post, plan.delta
    shown: dict[str, object] = {
        "replaced": [post.nodes[index].label for _, index in plan.replaced],
        "new": [label for label, node in _labels(post, delta.added) if node.kind is Kind.FUNCTION],
        "changed": [
            {
                "name": post.nodes[change.post].label,
                "kind": post.nodes[change.post].kind.value,
                "causes": [
                    {"key": cause.key, "text": cause.text, "offset": cause.offset} for cause in change.causes
                ],
            }
            for change in delta.changed
            if is_listed(post.nodes[change.post])
        ],
        "added": [label for label, _ in _labels(post, delta.added)],
        "removed": [label for label, _ in _labels(pre, delta.removed)],
    }
    if same:
        shown["same"] = [label for label, _ in _labels(pre, (index for index, _ in delta.same))]
    return shown


def _labels(graph: SectionGraph, ids: Iterable[int]) -> list[tuple[str, Node]]:
    return [(graph.nodes[index].label, graph.nodes[index]) for index in ids if is_listed(graph.nodes[index])]

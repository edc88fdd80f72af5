# SPDX-License-Identifier: Apache-2.0
"""Stage 5: what travels in the update and what stays in the kernel.

In: two graphs, pairing and delta. Out: a `Plan`. Changed functions are *replaced*; whatever their post
code reaches is *carried* if the kernel does not have it or has it under no name, else *borrowed*. That is a
closure over the post graph, and table entries travel with their owners because each is a node of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kdiff.correlate import Pairing, is_anonymous_static, is_fragment
from kdiff.diff import Delta
from kdiff.graph import Node, SectionGraph
from kdiff.kernel import Keep
from kdiff.split import Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with the post graph's nodes.

    `replaced`: (pre, post) ids of functions to redirect. `carried`: post ids that travel, replaced ones and
    table entries included, ascending. `borrowed`: post ids that carried nodes refer to and that stay.
    """

    pre: SectionGraph
    post: SectionGraph
    pairing: Pairing
    delta: Delta
    target: str
    replaced: tuple[tuple[int, int], ...]
    carried: tuple[int, ...]
    borrowed: tuple[int, ...]


def plan(pre: SectionGraph, post: SectionGraph, pairing: Pairing, delta: Delta, target: str) -> Plan:
    """Close the set of changed functions over the post graph."""
    changed = {change.post for change in delta.changed}
    replaced = tuple(
        (change.pre, change.post)
        for change in delta.changed
        if _can_be_entered(post, post.nodes[change.post])
    )
    carried: set[int] = set()
    borrowed: set[int] = set()
    waiting = deque(new for _, new in replaced)
    while waiting:
        current = waiting.popleft()
        if current in carried:
            continue
        carried.add(current)
        for reference in post.references[current]:
            node = post.nodes[reference.target]
            if travels(post, pairing, changed, node):
                waiting.append(node.id)
            else:
                borrowed.add(node.id)
        for entry in post.entries.get(current, ()):
            table = post.nodes[entry].table
            if table is not None and table.keep is Keep.OWNER:
                waiting.append(entry)
    return Plan(
        pre, post, pairing, delta, target, replaced, tuple(sorted(carried)), tuple(sorted(borrowed - carried))
    )


def _can_be_entered(graph: SectionGraph, node: Node) -> bool:
    return node.kind is Kind.FUNCTION and not is_fragment(node) and not graph.is_piece(node)


def travels(post: SectionGraph, pairing: Pairing, changed: set[int], node: Node) -> bool:
    """Whether a post node that carried code refers to must be carried too."""
    if node.kind is Kind.EXTERN:
        return False
    if node.id not in pairing.by_post or node.kind is Kind.STRING or post.is_piece(node):
        return True
    if node.kind is Kind.FUNCTION:
        return node.id in changed or is_fragment(node)
    if node.table is not None:
        return node.table.keep is Keep.REFERENCED
    if node.kind is Kind.CONSTANT:
        return node.id in changed or not node.names or is_anonymous_static(node)
    return is_anonymous_static(node)

# SPDX-License-Identifier: Apache-2.0
"""What lies right in front of a function and goes where it goes: no-ops to be patched, a hash of its type.

In: a graph and a node. Out: how many bytes. What enters the function does not enter these, but the kernel
finds them from its address: no-ops that an entry of a table names (`SpecialSection.ahead`), code under a name
made of the function's (`CodeAhead`), or bytes without a name that nothing refers to.
"""

from __future__ import annotations

from kdiff.graph import Node, SectionGraph
from kdiff.split import Kind, only_nops


def lead(graph: SectionGraph, node: Node) -> int:
    """The bytes in front of a function that travel with it, 0 for everything else."""
    if node.kind is not Kind.FUNCTION or graph.is_piece(node):
        return 0
    return max(_named_by_entries(graph, node), _adjoined(graph, node))


def _named_by_entries(graph: SectionGraph, node: Node) -> int:
    about = (graph.nodes[entry] for entry in graph.entries.get(node.id, ()))
    ahead = [each.id for each in about if each.table is not None and each.table.ahead]
    named = [-each.addend for entry in ahead for each in graph.references[entry] if each.target == node.id]
    return min(max([0, *named]), node.start)


def _adjoined(graph: SectionGraph, node: Node) -> int:
    before = graph.nodes[node.id - 1]
    if before.section != node.section or before.kind is not Kind.FUNCTION or before.start >= node.start:
        return 0
    if graph.references[before.id]:
        return 0  # code that does something by itself
    if before.names:
        own = {f"{mark}{name}" for mark in graph.habits.ahead for name in node.names}
        return node.start - before.start if before.name in own else 0
    if _is_used(graph, before) or only_nops(graph.arch, graph.contents(before)):
        return 0
    return node.start - before.start


def _is_used(graph: SectionGraph, node: Node) -> bool:
    return any(each.target == node.id for found in graph.references for each in found)

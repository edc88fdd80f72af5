# SPDX-License-Identifier: Apache-2.0
"""Functions that cannot be redirected are replaced by way of those who call them.

In: a plan, and what an emitter can redirect. Out: the same plan, in which a changed function that nothing can
redirect (what is declared `inline` is notrace in the kernel, include/linux/compiler_types.h) gives way to its
callers: they are replaced though they did not change, and their copies call the new function, which travels
with them. That is only possible while all uses of it are known: it is local, and only code of this unit
branches to it. Where that fails the plan stays as it is, and the emitter refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kdiff.graph import Reference, SectionGraph
from kdiff.habits import Standing
from kdiff.plan import Plan, replacing
from kdiff.split import Kind

Redirects = Callable[[SectionGraph, int], bool]
"""Whether calls of a function of a pre graph can be redirected."""


def by_callers(plan: Plan, redirects: Redirects) -> Plan:
    """Replace callers where functions themselves cannot be."""
    wanted = [pre for pre, _ in plan.replaced]
    if all(redirects(plan.pre, pre) for pre in wanted):
        return plan
    users = _users(plan.pre)
    replaced: dict[int, int] = {}
    moved: set[int] = set()
    seen: set[int] = set()
    while wanted:
        function = wanted.pop()
        if function in seen:
            continue
        seen.add(function)
        successor = plan.pairing.to_post(function)
        if successor is None:
            return plan
        if redirects(plan.pre, function):
            replaced[function] = successor
            continue
        callers = _callers(plan, function, users)
        if callers is None:
            return plan
        moved.add(successor)
        wanted += callers
    return replacing(plan, replaced.items(), moved)


def _users(graph: SectionGraph) -> Mapping[int, list[tuple[int, Reference]]]:
    """For each node who refers to it, and how."""
    found: dict[int, list[tuple[int, Reference]]] = {}
    for source, references in enumerate(graph.references):
        for each in references:
            found.setdefault(each.target, []).append((source, each))
    return found


def _callers(plan: Plan, function: int, users: Mapping[int, list[tuple[int, Reference]]]) -> list[int] | None:
    """Who branches to a local function; None if it may be used otherwise, or by code without a successor."""
    graph = plan.pre
    if not graph.nodes[function].local:
        return None
    found = []
    for source, reference in users.get(function, ()):
        node = graph.nodes[source]
        own = source == function or graph.owners.get(source) == function
        if own or node.standing is Standing.BOOT:
            continue
        enters = reference.branch and (not reference.addend or graph.nodes[function].is_fragment)
        if not enters or node.kind is not Kind.FUNCTION or graph.is_piece(node):
            return None
        found.append(source)
    return found or None

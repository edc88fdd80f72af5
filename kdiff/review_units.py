# SPDX-License-Identifier: Apache-2.0
"""Stage 6, continued: what goes from one unit to another.

In: all plans of an update. Out: refusals. Functions are paired within a unit, so one that moves is new code:
whoever calls it from outside of the update goes on calling the kernel's, which does no harm if both are the
same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from kdiff.addressbook import KERNEL
from kdiff.errors import Refusal
from kdiff.exports import Export
from kdiff.graph import Node, SectionGraph
from kdiff.naming import is_numbered
from kdiff.plan import Plan, new_globals
from kdiff.split import Kind


def review_units(
    plans: tuple[Plan, ...], exports: Mapping[str, Export] = MappingProxyType({})
) -> Iterator[Refusal]:
    """Refuse functions that change while they move, variables that would start again, and calls of new code
    that needs a module which may not be loaded.

    `exports`: what the kernel and its modules export to each other.
    """
    yield from _moving(plans)
    yield from _needing(plans, exports)


def _needing(plans: tuple[Plan, ...], exports: Mapping[str, Export]) -> Iterator[Refusal]:
    """New code of a module that is called from elsewhere: the caller's module must need that one already."""
    new = {name: plan for plan in plans if plan.target != KERNEL for name in new_globals(plan)}
    for plan in plans:
        externs = [node.name for node in plan.pre.nodes if node.kind is Kind.EXTERN]
        needed = {found.owner for name in externs if (found := exports.get(name)) is not None}
        for index in plan.borrowed:
            node = plan.post.nodes[index]
            home = new.get(node.name) if node.kind is Kind.EXTERN else None
            if home is not None and home.target not in (plan.target, *needed):
                yield Refusal(
                    "review.other_module", plan.post.where(node),
                    f"{plan.target} would use {node.name}, which is new in module {home.target}, and can be"
                    " loaded without that one",
                    "put the new code into the module that uses it, or into the kernel",
                )  # fmt: skip


def _moving(plans: tuple[Plan, ...]) -> Iterator[Refusal]:
    left = [(plan, plan.pre.nodes[index]) for plan in plans for index in plan.delta.removed]
    gone = {(node.kind, node.name): (plan, node) for plan, node in left if _has_identity(node)}
    for plan in plans:
        carried = set(plan.carried)
        for index in plan.delta.added:
            node = plan.post.nodes[index]
            former, before = gone.get((node.kind, node.name), (plan, node))
            if former is plan or not _has_identity(node):
                continue
            source = former.pre.obj.path
            if node.kind is Kind.DATA and index in carried:
                yield Refusal(
                    "review.moved_to_unit", plan.post.where(node),
                    f"variable {node.label} moves here from {source}, and would start from its initial value",
                    "leave it where it is",
                )  # fmt: skip
            elif (
                node.kind is Kind.FUNCTION
                and not node.local
                and not _same(former.pre, before, plan.post, node)
            ):
                yield Refusal(
                    "review.moved_to_unit", plan.post.where(node),
                    f"{node.label} moves here from {source} and changes; callers outside of the patch"
                    " would go on with the old one",
                    "leave it where it is; if the file is renamed, make the patch with `git diff -M`",
                )  # fmt: skip


def _has_identity(node: Node) -> bool:
    """Whether a name tells what a node is, in whatever unit it stands."""
    told = bool(node.name) and node.table is None and node.remade is None and not is_numbered(node.name)
    return told and node.kind in (Kind.FUNCTION, Kind.DATA)


def _same(pre: SectionGraph, before: Node, post: SectionGraph, after: Node) -> bool:
    """Whether two functions have the same bytes and refer to things of the same names."""
    return pre.contents(before) == post.contents(after) and _referred(pre, before) == _referred(post, after)


def _referred(graph: SectionGraph, node: Node) -> list[tuple[int, int, str]]:
    return [(each.offset, each.addend, graph.nodes[each.target].label) for each in graph.references[node.id]]

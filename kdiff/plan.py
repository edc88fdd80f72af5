# SPDX-License-Identifier: Apache-2.0
"""Stage 5: what travels in the update and what stays in the kernel.

In: two graphs, pairing and delta. Out: a `Plan`. Changed functions are *replaced*; whatever their post
code reaches is *carried* if the kernel does not have it or has it under no name, else *borrowed*. That is a
closure over the post graph, and table entries travel with their owners because each is a node of its own.
Constants that the kernel goes on using are written to *in place*; what they newly refer to is carried, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kdiff.correlate import Pairing
from kdiff.diff import Delta
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.inplace import InPlace
from kdiff.kernel import Keep
from kdiff.split import Kind
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True, eq=False)
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

    @property
    def in_place(self) -> tuple[InPlace, ...]:
        """The constants that get new contents where they lie; borrowed where carried code refers to them."""
        return self.delta.in_place


def plan(pre: SectionGraph, post: SectionGraph, pairing: Pairing, delta: Delta, target: str) -> Plan:
    """Close the set of changed functions over the post graph."""
    changed = _not_kept(delta)
    replaced = tuple(
        (change.pre, change.post)
        for change in delta.changed
        if _can_be_entered(post, post.nodes[change.post])
    )
    bare = Plan(pre, post, pairing, delta, target, replaced, (), ())
    demanded = {index for index in delta.added if replaced and _goes_along(post.nodes[index])}
    return _closed(bare, changed, {new for _, new in replaced} | demanded)


def replacing(plan: Plan, replaced: Iterable[tuple[int, int]], moved: set[int]) -> Plan:
    """The plan that redirects other functions, and takes some along (post ids) though they may not differ."""
    bare = replace(plan, replaced=tuple(sorted(replaced)))
    demanded = {index for index in plan.delta.added if _goes_along(plan.post.nodes[index])}
    sources = {new for _, new in bare.replaced} | demanded
    return _closed(bare, _not_kept(plan.delta) | moved, sources)


def _not_kept(delta: Delta) -> set[int]:
    """Post ids of what changed and does not keep its place."""
    return {change.post for change in delta.changed} - {each.post for each in delta.in_place}


def join(plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """Let units carry what they add for each other: a new global that another unit's carried code uses."""
    while True:
        wanted = {
            plan.post.nodes[index].name
            for plan in plans
            for index in plan.borrowed
            if plan.post.nodes[index].kind is Kind.EXTERN
        }
        wider = tuple(_with(plan, wanted) for plan in plans)
        if all(new is old for new, old in zip(wider, plans, strict=True)):
            return plans
        plans = wider


def new_globals(plan: Plan) -> dict[str, int]:
    """The globals a unit adds: name -> post id."""
    return {
        name: index
        for index in plan.delta.added
        for name in plan.post.nodes[index].names
        if not plan.post.nodes[index].local and plan.post.nodes[index].kind is not Kind.EXTERN
    }


def _with(plan: Plan, wanted: set[str]) -> Plan:
    added = {index for name, index in new_globals(plan).items() if name in wanted}
    if added <= set(plan.carried):
        return plan
    return _closed(plan, _not_kept(plan.delta), {*plan.carried, *added})


def _closed(bare: Plan, changed: set[int], sources: set[int]) -> Plan:
    """The plan that carries `sources` and all that must go along."""
    post = bare.post
    travelling = {node.id for node in post.nodes if travels(post, bare.pairing, changed, node)}
    sources = sources | (_written(bare) & travelling)
    return _carrying(bare, post.closure(sorted(sources), travelling | sources))


def _written(plan: Plan) -> set[int]:
    """Post ids that constants get references to where they lie."""
    new = (write.new for item in plan.in_place for write in item.writes)
    return {each.target for each in new if isinstance(each, Reference)}


def _carrying(plan: Plan, carried: Iterable[int]) -> Plan:
    here = set(carried)
    reached = {reference.target for node in here for reference in plan.post.references[node]}
    borrowed = (reached | _written(plan)) - here
    return replace(plan, carried=tuple(sorted(here)), borrowed=tuple(sorted(borrowed)))


def leave_out(plan: Plan, entries: Iterable[int]) -> Plan:
    """The plan without some table entries that it would carry."""
    return _carrying(plan, set(plan.carried).difference(entries))


def _goes_along(node: Node) -> bool:
    return node.table is not None and node.table.keep is Keep.ADDED


def _can_be_entered(graph: SectionGraph, node: Node) -> bool:
    return node.kind is Kind.FUNCTION and not node.is_fragment and not graph.is_piece(node)


def travels(post: SectionGraph, pairing: Pairing, changed: set[int], node: Node) -> bool:
    """Whether a post node must be carried too if carried code reaches it, or owns it."""
    if node.kind is Kind.EXTERN:
        return False
    if node.table is not None:
        owner = post.owners.get(node.id)
        if owner is not None and node.table.keep is Keep.OWNER:
            return post.nodes[owner].table is not None or travels(post, pairing, changed, post.nodes[owner])
        return node.table.keep is not Keep.NEVER and not node.table.opaque
    if node.id not in pairing.by_post or node.kind is Kind.STRING or post.is_piece(node):
        return True
    if node.kind is Kind.FUNCTION:
        return node.id in changed or node.is_fragment
    if node.kind is Kind.CONSTANT:
        return node.id in changed or not node.names or node.remade is not None
    return node.remade is not None


def keeps_identity(plan: Plan, source: Node, reference: Reference) -> bool:
    """Whether a reference takes the address of a replaced function: it must stay the kernel's own.

    A pointer may be stored, compared, and called after the update is gone; calls go to the successor.
    """
    if reference.branch or reference.addend or source.table is not None or plan.post.is_piece(source):
        return False
    return any(reference.target == post for _, post in plan.replaced)

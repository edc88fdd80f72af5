# SPDX-License-Identifier: Apache-2.0
"""Stage 6, continued: functions that cannot be what the patch makes of them in a kernel that runs.

In: a plan. Out: refusals for names that part from the function they were a second name of, for code that was
freed after boot and is plain code now, and for jumps that would lose a register.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from kdiff.addressbook import KERNEL
from kdiff.errors import Refusal
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.habits import Standing
from kdiff.naming import is_numbered, origin
from kdiff.plan import Plan
from kdiff.split import Kind

_FREED = (Standing.BOOT, Standing.EXIT)
_NOT_RUN = {
    Standing.BOOT: "the running kernel has freed it and will not run it again; what it did stays done",
    Standing.EXIT: "the kernel has dropped it, or will run it once, when the module leaves",
}
_LOADED = "it ran when the module was loaded, was freed, and will run again as it is in the module's file"


def review_scope(plan: Plan) -> Iterator[Refusal]:
    """Apply the rules to all that is replaced or carried, and to all names."""
    yield from _boot_code(plan)
    yield from _parted_names(plan)
    yield from _jumps_out(plan)


def _boot_code(plan: Plan) -> Iterator[Refusal]:
    """Code and data that run once, in what is replaced and in what would travel."""
    for pre, post in plan.replaced:
        before, node = plan.pre.nodes[pre], plan.post.nodes[post]
        if node.standing in _FREED:
            module = plan.target not in ("", KERNEL) and node.standing is Standing.BOOT
            why = _LOADED if module else _NOT_RUN[node.standing]
            yield Refusal(
                "review.init_code", plan.post.where(node),
                f"{node.label} is {node.standing.value} code: {why}",
                "drop this function from the patch; if what it did is wrong, mend that in code that runs, or"
                " reboot into a fixed kernel",
            )  # fmt: skip
        elif before.standing in _FREED:
            yield Refusal(
                "review.init_code", plan.post.where(node),
                f"{node.label} was {before.standing.value} code, which the running kernel has freed",
                "give it another name, so that it is a new function",
            )  # fmt: skip
    for index in sorted(_used_by_running_code(plan)):
        node = plan.post.nodes[index]
        if node.kind is Kind.FUNCTION:
            yield Refusal(
                "review.init_code", plan.post.where(node),
                f"replaced code would use new function {node.label}, which is {node.standing.value} code"
                " and freed when the update is loaded",
                "do not mark a function that running code uses",
            )  # fmt: skip
        else:
            yield Refusal(
                "review.init_data", plan.post.where(node),
                f"replaced code would use new {node.standing.value} data {node.label}, freed when the update"
                " is loaded",
                "do not mark data that running code uses",
            )  # fmt: skip


def _used_by_running_code(plan: Plan) -> set[int]:
    """New nodes that are freed after boot, though carried code refers to them that is not."""
    new = {
        index
        for index in plan.carried
        if plan.post.nodes[index].standing in _FREED
        and plan.post.nodes[index].table is None
        and index not in plan.pairing.by_post
    }
    return {
        reference.target
        for source in plan.carried
        if plan.post.nodes[source].standing not in _FREED
        for reference in plan.post.references[source]
        if reference.target in new
    }


def _parted_names(plan: Plan) -> Iterator[Refusal]:
    """A second name of one thing that becomes a thing of its own: the kernel has one address for both."""
    ours, theirs = (_by_name(graph) for graph in (plan.pre, plan.post))
    for name in sorted(ours.keys() & theirs.keys()):
        before, after = ours[name], theirs[name]
        if before is None or after is None or plan.pairing.to_post(before.id) == after.id:
            continue
        if len(before.names) > 1 or len(after.names) > 1:
            others = [each for each in before.names if each != name] or [before.label]
            yield Refusal(
                "review.alias_changed", plan.post.where(after),
                f"{name} was one with {', '.join(others)} and is something else now; the running kernel"
                " cannot tell its users apart",
                "leave the names as they are, and give what is new a name of its own",
            )  # fmt: skip


def _by_name(graph: SectionGraph) -> dict[str, Node | None]:
    """What has a name; None where several things have it."""
    found: dict[str, Node | None] = {}
    for node in graph.nodes:
        if node.kind is Kind.EXTERN or node.table is not None or node.remade is not None:
            continue
        for name in node.names:
            if not is_numbered(name):
                found[name] = None if name in found else node
    return found


def _jumps_out(plan: Plan) -> Iterator[Refusal]:
    """A sibling call that leaves the update where only a call brings the base register back."""
    carried = set(plan.carried)
    for index in plan.carried:
        node = plan.post.nodes[index]
        for reference in plan.post.references[index]:
            leaves = reference.howto.call_only and reference.target not in carried
            if leaves and _is_jump(plan, node, reference):
                target = plan.post.nodes[reference.target]
                yield Refusal(
                    "review.sibling_call", plan.post.where(node, reference.offset),
                    f"{node.label} ends in a jump to {target.label}, which stays in the kernel; its caller"
                    " would go on with another module's base register",
                    f'declare {origin(node.label)} with'
                    ' __attribute__((optimize("no-optimize-sibling-calls")))',
                )  # fmt: skip


def _is_jump(plan: Plan, node: Node, reference: Reference) -> bool:
    if node.kind is not Kind.FUNCTION:
        return False
    code = plan.post.code(node)
    found = code[bisect_right([each.offset for each in code], reference.offset) - 1]
    branch = plan.post.arch.branch(plan.post.contents(node)[found.offset : found.offset + found.size])
    return branch is not None and not branch.call

# SPDX-License-Identifier: Apache-2.0
"""Stage 6, continued: data that the running kernel has cannot be given another value, size or place.

In: a plan. Out: refusals for changed variables and constants, by what they are: per-cpu, read-only since
boot, freed after boot, or plain. A constant that can be written to in place is no refusal: whether an emitter
can do it is the emitter's to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.diff import Cause, Change
from kdiff.errors import Refusal
from kdiff.graph import Node
from kdiff.habits import Standing
from kdiff.plan import Plan
from kdiff.split import Kind

_LEAVE = "leave the data as it is and change the code that uses it, or reboot into a fixed kernel"
_PLACES = frozenset(("alignment", "kind", "section"))
"""Keys of causes that say where a variable lies, not what it holds."""


def review_data(plan: Plan, later: bool = False) -> Iterator[Refusal]:
    """Refuse what changes data that exists, and what adds data that no module can have.

    `later`: the plan is for a module that is loaded after the update, which sets what it starts with.
    """
    in_place = {each.post for each in (*plan.in_place, *(plan.delta.initial if later else ()))}
    staying = _used_by_what_stays(plan)
    for change in plan.delta.changed:
        node = plan.post.nodes[change.post]
        if node.table is not None or node.remade is not None or node.id in in_place:
            continue
        if node.kind is Kind.DATA:
            if not _only_protected(plan, change):
                yield _variable(plan, change)
        elif node.kind is Kind.CONSTANT and _is_boot_data(node):
            yield _variable(plan, change)
        elif node.kind is Kind.CONSTANT and not (node.local and plan.pre.nodes[change.pre].local):
            yield _constant(plan, change, "the global constant", "other units use it")
        elif node.kind is Kind.CONSTANT and node.id in staying:
            yield _constant(plan, change, "the constant", "data that stays refers to it")
    for index in plan.carried:
        node = plan.post.nodes[index]
        if _is_per_cpu(node):
            yield Refusal(
                "review.per_cpu", plan.post.where(node), f"the patch adds per-cpu variable {node.label}",
                "use a variable that is not per-cpu",
            )  # fmt: skip


def _variable(plan: Plan, change: Change) -> Refusal:
    before, node = plan.pre.nodes[change.pre], plan.post.nodes[change.post]
    cause = _telling(change)
    name, where = before.label, plan.post.where(node)
    how = {"size": "size"}.get(cause.key, "place in memory" if cause.key in _PLACES else "initial value")
    what = f"changes its {how} ({cause.text})"
    if _is_boot_data(before):
        return Refusal(
            "review.init_data", where, f"boot data {name} {what}; the running kernel has freed it",
            "drop it from the patch, or move what must still happen into code that runs",
        )  # fmt: skip
    if _is_per_cpu(before) or _is_per_cpu(node):
        return Refusal(
            "review.per_cpu_changed", where,
            f"per-cpu variable {name} {what}; each processor of the running kernel has one already", _LEAVE,
        )  # fmt: skip
    if cause.key == "size":
        return Refusal(
            "review.data_resized", where,
            f"variable {name} {what}; in the running kernel, other data follows right behind it",
            "keep its size and put what is new into a variable of its own",
        )  # fmt: skip
    if cause.key in _PLACES:
        return Refusal(
            "review.data_moved", where, f"variable {name} {what}; the running kernel has it already", _LEAVE
        )
    if _is_protected(before):
        return Refusal(
            "review.ro_after_init", where,
            f"variable {name}, which boot code sets and nobody may write to later, {what}", _LEAVE,
        )  # fmt: skip
    return Refusal(
        "review.data_changed", where,
        f"variable {name} {what}; the running kernel has it already, with a value of its own", _LEAVE,
    )  # fmt: skip


def _only_protected(plan: Plan, change: Change) -> bool:
    """Whether all that changes is that nobody may write any more; in the running kernel one still may."""
    return all(cause.key == "section" for cause in change.causes) and (
        _is_protected(plan.post.nodes[change.post]) and not _is_protected(plan.pre.nodes[change.pre])
    )


def _telling(change: Change) -> Cause:
    """The cause that says most: another size before another place before another value."""
    for keys in (frozenset(("size",)), _PLACES):
        for cause in change.causes:
            if cause.key in keys:
                return cause
    return change.causes[0]


def _constant(plan: Plan, change: Change, what: str, why: str) -> Refusal:
    before, node = plan.pre.nodes[change.pre], plan.post.nodes[change.post]
    cause = _telling(change)
    where, text = plan.post.where(node), f"{what} {before.label}"
    if cause.key == "size":
        return Refusal(
            "review.constant_resized", where, f"{text} changes its size ({cause.text}), and {why}",
            "keep its size and put what is new into a constant of its own",
        )  # fmt: skip
    if cause.key in _PLACES:
        return Refusal(
            "review.constant_moved", where,
            f"{text} changes its place in memory ({cause.text}), and {why}", _LEAVE,
        )  # fmt: skip
    return Refusal(
        "review.constant_changed", where, f"{text} changes ({cause.text}), and {why}", _LEAVE
    )  # fmt: skip


def _used_by_what_stays(plan: Plan) -> frozenset[int]:
    """All that nodes outside of the update refer to, but table entries, which follow their owners."""
    carried = set(plan.carried)
    return frozenset(
        reference.target
        for source, references in enumerate(plan.post.references)
        if source not in carried and plan.post.nodes[source].table is None
        for reference in references
    )


def _is_per_cpu(node: Node) -> bool:
    return node.standing is Standing.PER_CPU


def _is_protected(node: Node) -> bool:
    """Whether its memory is read-only once the kernel has booted (arch/*/mm, mark_rodata_ro)."""
    return node.standing is Standing.PROTECTED


def _is_boot_data(node: Node) -> bool:
    return node.standing in (Standing.BOOT, Standing.EXIT)

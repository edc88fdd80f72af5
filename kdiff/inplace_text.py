# SPDX-License-Identifier: Apache-2.0
"""What is written in place, in words and as JSON.

In: a plan and one of its `InPlace` items. Bytes are shown as they lie in memory, references by their target.
"""

from __future__ import annotations

from kdiff.graph import Node, Reference, SectionGraph
from kdiff.habits import Standing
from kdiff.inplace import InPlace, Write
from kdiff.listing import spelled
from kdiff.plan import Plan
from kdiff.split import Kind

_SHOWN = 16
"""Bytes of one write that a line shows."""


def changes(plan: Plan, item: InPlace) -> tuple[str, ...]:
    """Each write: `4 bytes at +0x10: 03000000 -> 04000000`, or `reference at +0x8: f -> g`."""
    return tuple(_change(plan, write) for write in item.writes)


def reason(plan: Plan, item: InPlace) -> str:
    """Why a copy in the update would not be enough."""
    holder = plan.pre.nodes[item.holder]
    if item.holder == item.pre:
        return "it is global, and other units use the kernel's own"
    if holder.standing in (Standing.BOOT, Standing.EXIT):
        return f"{holder.standing.value} code uses it ({holder.label}), and may have handed its address on"
    return f"{_what(holder)} {holder.label} stays in the kernel and leads to it"


def as_json(plan: Plan, item: InPlace) -> dict[str, object]:
    """The item; a `carried` reference leads into the update, which has to stay as long as it does."""
    fields = [write for write in item.writes if not _is_plain(write)]
    return {
        "name": plan.post.nodes[item.post].label,
        "pre_name": plan.pre.nodes[item.pre].label,
        "place": plan.pre.where(plan.pre.nodes[item.pre]),
        "size": plan.pre.nodes[item.pre].size,
        "reason": reason(plan, item),
        "bytes": [
            {"offset": each.offset, "old": _value(plan.pre, each.old), "new": _value(plan.post, each.new)}
            for each in item.writes
            if _is_plain(each)
        ],
        "references": [
            {
                "offset": each.offset,
                "size": each.size,
                "old": _value(plan.pre, each.old),
                "new": _value(plan.post, each.new),
                "carried": leads_into_update(plan, each),
            }
            for each in fields
        ],
    }


def leads_into_update(plan: Plan, write: Write) -> bool:
    """Whether the kernel's constant will refer to something that travels, and goes with an undo."""
    if not isinstance(write.new, Reference) or write.new.target not in set(plan.carried):
        return False
    return all(write.new.target != post for _, post in plan.replaced)


def _change(plan: Plan, write: Write) -> str:
    old, new = _value(plan.pre, write.old), _value(plan.post, write.new)
    if _is_plain(write):
        count = "1 byte" if write.size == 1 else f"{write.size} bytes"
        if write.size > _SHOWN:
            return f"{count} at +{write.offset:#x}"
        return f"{count} at +{write.offset:#x}: {old} -> {new}"
    whose = " (in the update)" if leads_into_update(plan, write) else ""
    return f"reference at +{write.offset:#x}: {old} -> {new}{whose}"


def _is_plain(write: Write) -> bool:
    return isinstance(write.old, bytes) and isinstance(write.new, bytes)


def _value(graph: SectionGraph, value: bytes | Reference) -> str:
    return value.hex() if isinstance(value, bytes) else spelled(graph, value)


def _what(node: Node) -> str:
    return {Kind.DATA: "variable", Kind.CONSTANT: "global constant"}.get(node.kind, node.kind.value)

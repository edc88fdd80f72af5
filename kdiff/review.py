# SPDX-License-Identifier: Apache-2.0
"""Stage 6: what must not be patched into a running kernel.

In: a plan. Out: refusals, each with a key, a place and a remedy. Every rule here is about what a source
patch means for a kernel that has been running for a while: data that exists keeps its values, code that
ran at boot does not run again, and other units were compiled against what this one exports.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.correlate import Pair
from kdiff.errors import Refusal
from kdiff.graph import Node, SectionGraph
from kdiff.kernel import Keep, Meaning, SpecialSection
from kdiff.naming import stem
from kdiff.plan import Plan
from kdiff.review_data import review_data
from kdiff.review_scope import review_scope
from kdiff.review_sections import review_sections
from kdiff.sectionrows import row_of
from kdiff.split import Kind


def review(plan: Plan, later: bool = False) -> tuple[Refusal, ...]:
    """Apply every rule to a plan. `later`: of a module that is loaded after the update, and not before."""
    return (
        *review_data(plan, later),
        *review_scope(plan),
        *_tables(plan),
        *_lost_state(plan),
        *_entries_inside(plan),
        *_unsure(plan),
        *review_sections(plan),
    )


def review_layouts(plan: Plan, release: str) -> tuple[Refusal, ...]:
    """Refuse tables whose layout the kernel at hand does not tell: nobody may guess it."""
    unknown = {
        node.section_name: node
        for graph in (plan.pre, plan.post)
        for node in graph.nodes
        if node.table is not None and node.table.keep is not Keep.NEVER and not _is_told(graph, node)
    }
    return tuple(
        Refusal(
            "review.unknown_layout", plan.post.where(node),
            f"the image of {release or 'this kernel'} has no type information about the entries of {name}",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF",
        )
        for name, node in sorted(unknown.items())
    )  # fmt: skip


def _is_told(graph: SectionGraph, entry: Node) -> bool:
    """Whether the kernel's facts tell the size of an entry, and the object agrees."""
    row = row_of(entry.section_name, graph.special)
    return row is not None and bool(row.entry_size) and not (entry.table is not None and entry.table.opaque)


def _tables(plan: Plan) -> Iterator[Refusal]:
    """Entries that the kernel reads at boot and that no update can add: exports, parameters, initcalls."""
    carried = set(plan.carried)
    for verb, graph, nodes in (("adds", plan.post, _coming(plan)), ("removes", plan.pre, _going(plan))):
        for meaning, node in nodes:
            if verb == "removes" or not meaning.may_come:
                yield _table_changed(meaning, verb, graph, node)
    for each in plan.delta.changed:
        node = plan.post.nodes[each.post]
        if node.table is None or node.table.opaque or not node.table.compared or node.id in carried:
            continue
        if node.id not in plan.post.owners:
            yield _table_changed(node.table.meaning, "changes", plan.post, node, f" ({each.causes[0].text})")


def left_out(plan: Plan) -> tuple[str, ...]:
    """What the patch adds to such tables and an update does without, a line for each."""
    return tuple(
        f"{meaning.what} {node.name}".rstrip() for meaning, node in _coming(plan) if meaning.may_come
    )


def _coming(plan: Plan) -> Iterator[tuple[Meaning, Node]]:
    """Entries that the patch adds and that do not travel, with what they mean."""
    carried = set(plan.carried)
    for index in plan.delta.added:
        table = _read_at_boot(plan.post, index)
        if table is not None and index not in carried:
            yield table.meaning, plan.post.nodes[index]


def _going(plan: Plan) -> Iterator[tuple[Meaning, Node]]:
    for index in plan.delta.removed:
        table = _read_at_boot(plan.pre, index)
        if table is not None and table.keep is Keep.NEVER:
            yield table.meaning, plan.pre.nodes[index]


def _read_at_boot(graph: SectionGraph, index: int) -> SpecialSection | None:
    """The table of an entry that nobody owns, if it is read at boot only."""
    table = graph.nodes[index].table
    if table is None or table.opaque or not table.compared or index in graph.owners:
        return None
    return table if table.keep in (Keep.NEVER, Keep.ADDED) else None


def _table_changed(meaning: Meaning, verb: str, graph: SectionGraph, node: Node, how: str = "") -> Refusal:
    what = f"{meaning.what} {node.name}".rstrip()
    return Refusal(
        meaning.key, graph.where(node),
        f"the patch {verb} {what} in {node.section_name}{how}, {meaning.why}", meaning.remedy,
    )  # fmt: skip


def _lost_state(plan: Plan) -> Iterator[Refusal]:
    """A carried variable whose namesake exists in the kernel would start again from its initial value."""
    removed: dict[str, list[Node]] = {}
    for index in plan.delta.removed:
        node = plan.pre.nodes[index]
        if node.kind is Kind.DATA and node.table is None and node.name:
            removed.setdefault(stem(node.name), []).append(node)
    for index in plan.carried:
        node = plan.post.nodes[index]
        if node.kind is not Kind.DATA or node.table is not None or node.remade is not None:
            continue
        for lost in removed.get(stem(node.name), ()):
            yield Refusal(
                "correlate.ambiguous", plan.post.where(node),
                f"cannot tell whether variable {node.label} is the {lost.label} of the running kernel",
                "pin it in a file of pairs, or keep the static variables in their order and number",
            )  # fmt: skip


def _entries_inside(plan: Plan) -> Iterator[Refusal]:
    """Nobody may keep a pointer to the inside of a function that is redirected at its start."""
    replaced = {pre for pre, _ in plan.replaced}
    used_elsewhere = {
        reference.target
        for source, references in enumerate(plan.pre.references)
        if references and source not in replaced and _is_used(plan.pre.nodes[source])
        for reference in references
    }
    for source, references in enumerate(plan.pre.references):
        if not references:
            continue
        node = plan.pre.nodes[source]
        if node.table is not None or source in replaced or node.is_fragment or plan.pre.is_piece(node):
            continue
        if node.kind is Kind.CONSTANT and node.local and source not in used_elsewhere:
            continue  # a switch's table, of which the successor has its own
        for reference in references:
            if reference.target in replaced and reference.addend:
                name = plan.pre.nodes[reference.target].label
                yield Refusal(
                    "review.entered_inside", plan.pre.where(node, reference.offset),
                    f"{node.label} refers to {name}+{reference.addend:#x}, inside of a replaced function",
                )  # fmt: skip


def _is_used(node: Node) -> bool:
    """Whether a node is in use by itself: no part of a function, and no entry that nobody reads."""
    unread = node.table is not None and node.table.keep is Keep.NEVER and not node.table.compared
    return not node.is_fragment and not unread


def _unsure(plan: Plan) -> Iterator[Refusal]:
    for index in (*plan.borrowed, *plan.carried):
        pair = plan.pairing.by_post.get(index)
        node = plan.post.nodes[index]
        if pair is not None and not pair.sure and node.kind is Kind.DATA and node.remade is None:
            yield Refusal(
                "correlate.ambiguous", plan.post.where(node),
                f"several variables of the same name fit {node.label} ({_fitting(plan.pre, pair)})",
                "pin the right one in a file of pairs, or leave the function's static variables as they are",
            )  # fmt: skip


def _fitting(pre: SectionGraph, pair: Pair) -> str:
    return ", ".join(sorted(pre.nodes[each].label for each in (pair.pre, *pair.alternatives)))

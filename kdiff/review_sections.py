# SPDX-License-Identifier: Apache-2.0
"""Stage 6, continued: sections whose meaning is not known, and tables that could not be cut into entries.

In: a plan. Out: refusals where something that travels depends on such a section, and the names of the
sections for a person to read. What depends on nothing unknown is not held up by it.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.elf.read import SHF_ALLOC, SHT_GROUP, SHT_NOTE
from kdiff.errors import Refusal
from kdiff.graph import Node, SectionGraph
from kdiff.plan import Plan
from kdiff.split import Kind
from kdiff.tables import row_of

_FACTS = "name the size of its entries with --facts, or compare objects that have debugging information"


def unknown_sections(graph: SectionGraph) -> tuple[str, ...]:
    """The names of loaded sections with contents that no plugin's row names, sorted."""
    found = set()
    for index, section in enumerate(graph.obj.sections):
        name = graph.obj.section_name(index) if index else ""
        if (
            not section["flags"] & SHF_ALLOC
            or not section["size"]
            or section["type"] in (SHT_GROUP, SHT_NOTE)
        ):
            continue
        if not graph.habits.known(name) and name not in graph.special and not row_of(name, graph.special):
            found.add(name)
    return tuple(sorted(found - set(graph.arch.pools)))


def review_sections(plan: Plan) -> Iterator[Refusal]:
    """Refuse what an unknown section or an uncut table says about code that travels."""
    carried = set(plan.carried)
    unknown = set(unknown_sections(plan.post)) if plan.carried else set()
    changed = {change.post for change in plan.delta.changed} | set(plan.delta.added)
    for node in plan.post.nodes:
        if node.table is not None and node.table.opaque:
            if _touches(plan, node, carried) or (node.id in changed and plan.carried):
                yield Refusal(
                    "review.unknown_entries", plan.post.where(node),
                    f"the entries of {node.section_name} cannot be told apart, and some are about code that"
                    " travels", _FACTS,
                )  # fmt: skip
        elif _is_about(plan, node, carried, changed, unknown):
            yield Refusal(
                "review.unknown_section", plan.post.where(node),
                f"nothing is known of section {node.section_name}, and what it says is about changed code",
                "add a row for it to a plugin (docs/plugins.md), or leave out what it is about",
            )  # fmt: skip


def _is_about(plan: Plan, node: Node, carried: set[int], changed: set[int], unknown: set[str]) -> bool:
    """Whether an unknown section changed, or names places inside of code that travels.

    Pointers to the start of a function stay right.
    """
    if node.section_name not in unknown or node.kind is Kind.FUNCTION:
        return False
    return node.id in changed or any(
        reference.target in carried and reference.addend != 0
        for reference in plan.post.references[node.id]
        if plan.post.nodes[reference.target].kind is Kind.FUNCTION
    )


def _touches(plan: Plan, node: Node, carried: set[int]) -> bool:
    """Whether a table is about something that travels, or something that travels refers to it."""
    if any(reference.target in carried for reference in plan.post.references[node.id]):
        return True
    return any(each.target == node.id for source in carried for each in plan.post.references[source])

# SPDX-License-Identifier: Apache-2.0
"""Stage 6, continued: sections whose meaning is not known, and tables that could not be cut into entries.

In: a plan. Out: refusals where something that travels depends on such a section, and the names of the
sections for a person to read. What depends on nothing unknown is not held up by it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kdiff.elf.read import SHF_ALLOC, SHT_GROUP, SHT_NOTE
from kdiff.errors import Refusal
from kdiff.graph import Node, SectionGraph
from kdiff.plan import Plan
from kdiff.sectionrows import Rows, row_of
from kdiff.split import Kind
from kdiff.structures import declared_sizes
from kdiff.tables import tables_of

_FACTS = "name the size of its entries with --facts, or compare objects that have debugging information"


def unknown_sections(graph: SectionGraph, among: Collection[str] | None = None) -> tuple[str, ...]:
    """The names of loaded sections with contents that no plugin's row names, sorted; all, or some of them."""
    asked = set(_filled(graph) if among is None else among).difference(graph.arch.pools)
    strange = [name for name in asked if not graph.habits.known(name) and name not in graph.special]
    if not strange:
        return ()
    rows = Rows(graph.special)
    return tuple(sorted({name for name in strange if rows.row(name) is None} & _filled(graph)))


def _filled(graph: SectionGraph) -> set[str]:
    """The names of loaded sections with contents."""
    sections, names = graph.obj.sections, graph.obj.names_of_sections()
    chosen = (sections["flags"] & SHF_ALLOC > 0) & (sections["size"] > 0)
    chosen &= (sections["type"] != SHT_GROUP) & (sections["type"] != SHT_NOTE)
    return {names[index] for index in chosen.nonzero()[0].tolist()}


def opaque_tables(graph: SectionGraph) -> tuple[tuple[str, str], ...]:
    """The names of tables that could not be cut into entries, and why, sorted."""
    rows = tables_of(graph.obj, graph.arch, graph.special, declared_sizes(graph.obj, graph.arch))
    return tuple(sorted((graph.obj.section_name(i), row.opaque) for i, row in rows.items() if row.opaque))


def review_sections(plan: Plan) -> Iterator[Refusal]:
    """Refuse what an unknown section or an uncut table says about code that travels."""
    yield from _opaque_tables(plan)
    yield from _mistyped_tables(plan)
    yield from _unfinished(plan)
    carried = set(plan.carried)
    changed = {change.post for change in plan.delta.changed} | set(plan.delta.added)
    named = {node.section_name for node in plan.post.nodes if node.section and node.kind is not Kind.FUNCTION}
    unknown = set(unknown_sections(plan.post, named)) if changed else set()
    for node in plan.post.nodes:
        if _is_about(plan, node, carried, changed, unknown):
            yield Refusal(
                "review.unknown_section", plan.post.where(node),
                f"nothing is known of section {node.section_name}, and what it says is about changed code",
                "add a row for it to a plugin (docs/plugins.md), or leave out what it is about",
            )  # fmt: skip


def _opaque_tables(plan: Plan) -> Iterator[Refusal]:
    """Tables that change as a whole, or of which a part might have to travel."""
    changed = {change.post for change in plan.delta.changed}
    kept = ((plan.pre, {pre for pre, _ in plan.replaced}), (plan.post, set(plan.carried)))
    for graph, about in kept:
        for node in graph.nodes:
            if node.table is None or not node.table.opaque:
                continue
            touched = _touched(graph, node, about)
            if touched:
                why = f"they may be about {touched}, which is replaced or carried"
            elif graph is plan.post and node.id in changed:
                why = "some of them change"
            else:
                continue
            yield Refusal(
                "review.unknown_entries", graph.where(node),
                f"the entries of {node.section_name} cannot be told apart, and {why}", _FACTS,
                (node.table.opaque,),
            )  # fmt: skip


def _mistyped_tables(plan: Plan) -> Iterator[Refusal]:
    """Tables cut by their relocations of which entries travel, and whose C type has another size."""
    found = {node.section_name: node for node in map(plan.post.nodes.__getitem__, plan.carried)}
    sizes = declared_sizes(plan.post.obj, plan.post.arch)
    for name, node in sorted(found.items()):
        table = node.table
        typed = sizes(table.structure) if table is not None and table.structure else 0
        if table is None or typed in (0, table.entry_size):
            continue
        row = row_of(name, plan.post.special)
        if row is not None and not row.entry_size:
            yield Refusal(
                "review.unknown_entries", plan.post.where(node),
                f"entries of {name} have {table.entry_size} bytes by its relocations,"
                f" {typed} by its debugging information", _FACTS,
            )  # fmt: skip


def _unfinished(plan: Plan) -> Iterator[Refusal]:
    """Code that travels and that the kernel would have to finish, which it does at boot only."""
    carried = set(plan.carried)
    for node in plan.post.nodes:
        if node.table is None or not node.table.finishes:
            continue
        for reference in plan.post.references[node.id]:
            if reference.target in carried:
                label = plan.post.nodes[reference.target].label
                yield Refusal(
                    "review.unfinished_code", plan.post.where(node),
                    f"{label} would be new code, and the kernel writes what {node.section_name} names"
                    " into code at boot only",
                    "leave the functions that use it as they are",
                )  # fmt: skip


def _touched(graph: SectionGraph, node: Node, kept: set[int]) -> str:
    """What a table is about, or what needs an entry of it, of all that is kept; empty for nothing."""
    about = [each.target for each in graph.references[node.id] if each.target in kept]
    needing = [
        source for source in sorted(kept) for each in graph.references[source] if each.target == node.id
    ]
    for index in (*about, *needing):
        if graph.nodes[index].kind in (Kind.FUNCTION, Kind.DATA):
            return graph.nodes[index].label
    return ""


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

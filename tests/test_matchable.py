# SPDX-License-Identifier: Apache-2.0
"""The graph that matching needs: which tables are in it, and that all else is as in the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compiled import ASSEMBLY, HABITS, compiled, graph_of, named, obj
from kdiff_arch_x86_64 import ARCHITECTURE
from run_memory import link

from kdiff.graph import SectionGraph
from kdiff.kernel import EntryView, Keep, Literal, Site, SpecialSection
from kdiff.matchable import graph_to_match
from kdiff.sites import sites
from kdiff.solve import solve
from kdiff.split import Kind

UNIT = """
.section .text.f,"ax"
.globl f
.type f,@function
f:  call far_away
    ret
.size f,.-f
.section __sites,"a"
    .long f - .
.section __notes,"a"
    .long f - .
"""
FILLED = Site(0, 5, "trap", ((Literal(b"\xcc" * 5),),))
SITES = SpecialSection("__sites", 4, Keep.OWNER, owner=0, sites=lambda view: [FILLED])
NOTES = SpecialSection("__notes", 4, Keep.OWNER, owner=0)


def needed(text: str, *rows: SpecialSection, pristine: bool) -> SectionGraph:
    special = {row.name: row for row in rows}
    return graph_to_match(obj(text, ASSEMBLY), ARCHITECTURE, special, HABITS, pristine)


def tables(graph: SectionGraph) -> set[str]:
    return {node.section_name for node in graph.nodes if node.kind is Kind.ENTRY}


@pytest.mark.parametrize(("pristine", "expected"), [(False, {"__sites"}), (True, set())])
def test_only_tables_that_tell_what_may_be_rewritten_are_needed_and_only_where_code_has_run(
    pristine: bool, expected: set[str]
) -> None:
    assert tables(needed(UNIT, SITES, NOTES, pristine=pristine)) == expected


@pytest.mark.parametrize("pristine", [False, True])
def test_a_table_that_tells_what_lies_in_front_of_a_function_is_needed(pristine: bool) -> None:
    assert tables(needed(UNIT, replace(NOTES, ahead=True), pristine=pristine)) == {"__notes"}


@pytest.mark.parametrize("pristine", [False, True])
def test_a_table_that_code_refers_to_is_needed(pristine: bool) -> None:
    text = UNIT.replace("ret", "lea __notes(%rip), %rax\n    ret")
    found = needed(text, SITES, NOTES, pristine=pristine)
    assert "__notes" in {node.section_name for node in found.nodes}


def test_without_its_tables_a_unit_matches_as_with_them_where_nothing_has_run() -> None:
    memory = link(compiled(UNIT, ASSEMBLY), compiled("void far_away(void) { }"))
    for pre in (needed(UNIT, SITES, pristine=True), graph_of(compiled(UNIT, ASSEMBLY), (SITES,))):
        run = solve(pre, sites(pre), memory, memory.address_book())
        assert run.addresses[named(pre, "f").id] == memory.at("f")
        assert run.addresses[named(pre, "far_away").id] == memory.at("far_away")
        filled = memory.patched(memory.at("f"), b"\xcc" * 5)
        assert solve(pre, sites(pre), filled, memory.address_book()).refusals


def test_what_a_node_may_be_rewritten_to_is_asked_when_it_is_needed() -> None:
    asked: list[EntryView] = []

    def permitted(view: EntryView) -> list[Site]:
        asked.append(view)
        return [FILLED]

    found = sites(graph_of(compiled(UNIT, ASSEMBLY), (replace(SITES, sites=permitted),)))
    assert not asked
    owner = next(iter(found))
    assert found[owner] == found[owner] == (FILLED,)
    assert len(asked) == 1

# SPDX-License-Identifier: Apache-2.0
"""Entries in runs lead to the plan and to the extract that single entries lead to."""

from __future__ import annotations

import pytest
from compiled import ASSEMBLY, HABITS, compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.compare import planned
from kdiff.elf.read import read_bytes
from kdiff.elf.write import write
from kdiff.extract import extract
from kdiff.graph import SectionGraph, build
from kdiff.kernel import Keep, SpecialSection
from kdiff.sectionrows import Rows

NAMES = "fgh"


def rows(runs: bool) -> dict[str, SpecialSection]:
    return {
        "__ip": SpecialSection("__ip", 4, Keep.OWNER, owner=0, runs=runs),
        "__info": SpecialSection("__info", 2, Keep.OWNER, parallel="__ip", runs=runs),
    }


def unit(about: str, changed: str = "", together: bool = False, numbers: int = 0) -> str:
    """Three functions of four instructions, and a table of places in them with a parallel one."""
    functions = "".join(
        f'.section .text{"" if together else f".{name}"},"ax"\n'
        f".globl {name}\n.type {name},@function\n{name}:\n"
        + "".join(f".L{name}{at}: nop\n" for at in range(3))
        + ("inc %eax\n" if name == changed else "dec %eax\n")
        + f"ret\n.size {name},.-{name}\n"
        for name in NAMES
    )
    places = "".join(f".long .L{name}{number % 3}-.\n" for number, name in enumerate(about))
    info = "".join(f".short {number + numbers}\n" for number in range(len(about)))
    return f'{functions}.section __ip,"a"\n{places}.section __info,"a"\n{info}'


def outcome(before: str, after: str, runs: bool, whole: bool) -> tuple[object, ...]:
    pre, post = (read_bytes(compiled(text, ASSEMBLY), "unit.o") for text in (before, after))
    plan = planned(pre, post, ARCHITECTURE, Rows(rows(runs)), HABITS, whole)
    replaced = [plan.post.nodes[new].label for _, new in plan.replaced]
    if not plan.carried:
        return replaced, b""
    made = extract(plan).obj
    tables = [
        (each.name, bytes(each.data), [(r.offset, r.type, r.addend, r.symbol) for r in each.relocations])
        for each in made.sections
    ]
    return replaced, tables, write(made)


@settings(max_examples=60, deadline=None)
@given(
    about=st.text(st.sampled_from(NAMES), max_size=12), changed=st.sampled_from(NAMES), together=st.booleans()
)
def test_runs_change_nothing(about: str, changed: str, together: bool) -> None:
    before, after = (unit(about, name, together) for name in ("", changed))
    found = [outcome(before, after, *how) for how in ((False, True), (True, True), (True, False))]
    assert found[0][0] == [changed]
    assert found[0] == found[1] == found[2]


@settings(max_examples=20, deadline=None)
@given(about=st.text(st.sampled_from(NAMES), min_size=1, max_size=9))
def test_a_changed_entry_changes_its_owner(about: str) -> None:
    """Those of the functions that the table is about, as all numbers differ."""
    before, after = unit(about), unit(about, numbers=1)
    for runs in (False, True):
        assert outcome(before, after, runs, whole=True)[0] == sorted(set(about))
        assert outcome(before, after, runs, whole=False)[0] == sorted(set(about))


def graph(about: str, together: bool, extra: str = "") -> SectionGraph:
    obj = read_bytes(compiled(unit(about, "", together) + extra, ASSEMBLY), "unit.o")
    return build(obj, ARCHITECTURE, rows(runs=True), HABITS)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("about", "expected"),
    [("fffgghhh", [("f", 3), ("g", 2), ("h", 3)]), ("fgf", [("f", 1), ("g", 1), ("f", 1)]), ("", [])],
)
def test_neighbours_about_one_function_are_one_node(
    about: str, expected: list[tuple[str, int]], together: bool
) -> None:
    found = graph(about, together)
    for table, size in (("__ip", 4), ("__info", 2)):
        nodes = [node for node in found.nodes if node.table is not None and node.section_name == table]
        assert [(found.nodes[found.owners[n.id]].name, n.size // size) for n in nodes] == expected


@pytest.mark.parametrize(("table", "size"), [("__ip", 4), ("__info", 2)])
def test_an_entry_with_a_name_is_a_node_of_its_own_in_both_tables(table: str, size: int) -> None:
    """What stands beside it in the parallel table would be nobody's otherwise."""
    found = graph("ffff", together=False, extra=f".globl second\n.set second, {table} + {size}\n")
    for name, step in (("__ip", 4), ("__info", 2)):
        nodes = [node for node in found.nodes if node.section_name == name]
        assert [(node.start // step, node.size // step) for node in nodes] == [(0, 1), (1, 1), (2, 2)]
        assert [found.nodes[found.owners[node.id]].name for node in nodes] == ["f"] * 3
        assert [node.names for node in nodes if node.names] == [("second",)] * (name == table)


def test_entries_about_code_of_other_units_are_nodes_of_their_own() -> None:
    """Nothing tells whether two of them are about one function."""
    extra = '.section __ip,"a"\n.long gone - ., other - .\n.section __info,"a"\n.short 1, 2\n'
    found = graph("ff", together=False, extra=extra)
    for name, step in (("__ip", 4), ("__info", 2)):
        nodes = [node for node in found.nodes if node.section_name == name]
        assert [(node.start // step, node.size // step) for node in nodes] == [(0, 2), (2, 1), (3, 1)]

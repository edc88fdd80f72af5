# SPDX-License-Identifier: Apache-2.0
"""Functions that cannot be redirected give way to their callers, where all of those are known."""

from __future__ import annotations

import pytest
from compiled import compiled, graph_of, named

from kdiff.callers import by_callers
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.graph import SectionGraph
from kdiff.plan import Plan, plan

HEAD = """
#define noinline __attribute__((noinline, noclone, noipa))
static noinline int leaf(int a) { return a * 3 + CHANGE; }
"""
UNIT = (
    HEAD
    + """
static noinline int between(int a) { return leaf(a) + 1; }
int direct(int a) { return leaf(a + 1) * 2; }
int indirect(int a) { return between(a + 2) * 2; }
int other(int a) { return a; }
"""
)


def planned(source: str, *sites: str) -> tuple[Plan, Plan]:
    """A plan before and after, for an emitter that can redirect `sites`."""
    pre, post = (graph_of(compiled(source, f"-DCHANGE={number}")) for number in (1, 2))
    pairing = correlate(pre, post)
    before = plan(pre, post, pairing, diff(pre, post, pairing), "vmlinux")

    def redirects(graph: SectionGraph, function: int) -> bool:
        return graph is pre and graph.nodes[function].name in sites

    return before, by_callers(before, redirects)


def replaced(found: Plan) -> set[str]:
    return {found.post.nodes[post].name for _, post in found.replaced}


def test_callers_are_replaced_and_bring_the_function_along() -> None:
    before, after = planned(UNIT, "direct", "indirect", "between", "other")
    assert replaced(before) == {"leaf"}
    assert replaced(after) == {"direct", "between"}
    assert {after.post.nodes[each].name for each in after.carried} == {"direct", "between", "leaf"}


def test_callers_that_cannot_be_redirected_give_way_to_theirs() -> None:
    _, after = planned(UNIT, "direct", "indirect")
    assert replaced(after) == {"direct", "indirect"}
    assert {after.post.nodes[each].name for each in after.carried} == {
        "direct",
        "indirect",
        "between",
        "leaf",
    }


def test_what_can_be_redirected_stays_as_it_is() -> None:
    before, after = planned(UNIT, "leaf")
    assert after is before


@pytest.mark.parametrize(
    "unit",
    [
        UNIT + "int (*pointer)(int) = leaf;",
        UNIT + "void keep(void *); void taken(void) { keep(leaf); }",
        UNIT.replace("static noinline int leaf", "noinline int leaf"),
        HEAD + "int (*const table[])(int) = { leaf };",
    ],
)
def test_a_function_that_others_may_call_stays_in_the_plan(unit: str) -> None:
    before, after = planned(unit, "direct", "indirect", "between", "taken")
    assert after is before
    assert "leaf" in replaced(after)


def test_a_global_caller_that_cannot_be_redirected_ends_it() -> None:
    before, after = planned(UNIT, "indirect", "between")
    assert after is before


def test_a_function_that_calls_itself_is_no_caller_of_its_own() -> None:
    unit = (
        HEAD.replace("return a * 3", "return a ? leaf(a - 1) * 3 : 5")
        + "int f(int a) { return leaf(a) + 1; }"
    )
    _, after = planned(unit, "f")
    assert replaced(after) == {"f"}
    assert not after.post.nodes[named(after.post, "leaf").id].is_fragment

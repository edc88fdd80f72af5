# SPDX-License-Identifier: Apache-2.0
"""Tests of static variables that move between functions."""

from __future__ import annotations

import pytest
from compiled import graph, named, planned
from test_kernel_tables import graph as assembled

from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.plan import Plan
from kdiff.review import review

TOGETHER = """
int far(int);
int other(int a) { static int calls = 3; return far(a + calls++); }
int f(int a) { static int calls = 1; int b = far(a); calls += b; return far(calls); }
"""
APART = """
int far(int);
int other(int a) { static int calls = 3; return far(a + calls++); }
__attribute__((noinline)) static int part(int b) { static int calls = 1; calls += b; return far(calls); }
int f(int a) { int b = far(a); return part(b); }
"""
ELSEWHERE = """
int far(int);
int other(int a) { static int calls = 3; return far(a + calls++); }
int g(int b) { static int calls = 1; calls += b; return far(calls); }
int f(int a) { int b = far(a); return far(b); }
"""


def made(pre: str, post: str) -> Plan:
    return planned(graph(pre), graph(post))


@pytest.mark.parametrize(("before", "after"), [(TOGETHER, APART), (APART, TOGETHER)])
def test_a_static_variable_that_moves_to_or_from_a_called_function_stays_the_kernels(
    before: str, after: str
) -> None:
    plan = made(before, after)
    assert not review(plan)
    assert {plan.post.nodes[n].name.partition(".")[0] for n in plan.borrowed} >= {"calls"}
    assert {pair.how for pair in plan.pairing.by_post.values()} >= {"moved"}


def test_a_variable_of_its_own_in_a_function_nobody_calls_is_not_the_one_that_went() -> None:
    pre, post = graph(TOGETHER), graph(ELSEWHERE)
    pairing = correlate(pre, post)
    fresh = next(n for n in post.nodes if n.name.startswith("calls") and post.contents(n)[0] == 1)
    assert fresh.id not in pairing.by_post
    assert named(post, "g").id not in pairing.by_post


def test_several_of_one_name_are_not_told_apart() -> None:
    text = TOGETHER.replace("return far(calls);", "{ static int calls = 1; calls--; } return far(calls);")
    assert not any(pair.how == "moved" for pair in made(text, APART).pairing.by_post.values())


def test_a_variable_of_another_size_did_not_move() -> None:
    wider = APART.replace("static int calls = 1", "static long calls = 1")
    assert not any(pair.how == "moved" for pair in made(TOGETHER, wider).pairing.by_post.values())


def test_a_static_variable_that_code_reaches_through_toc_is_followed() -> None:
    """-mcmodel=medium keeps addresses in .toc; its words have no names, and neither has the number."""
    text = """
.section .text.f,"ax"
.globl f
.type f,@function
f: addis 3,2,.LC0@toc@ha
 ld 3,.LC0@toc@l(3)
 blr
.size f,.-f
.section .toc,"aw"
.LC0: .quad {0}
.section .data.{0},"aw"
.type {0},@object
{0}: .quad 1
.size {0},8
"""
    pre, post = assembled("ppc64le", text.format("n.5")), assembled("ppc64le", text.format("n.7"))
    pairing = correlate(pre, post)
    assert pairing.to_post(named(pre, "n.5").id) == named(post, "n.7").id
    assert not diff(pre, post, pairing).changed

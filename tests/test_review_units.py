# SPDX-License-Identifier: Apache-2.0
"""What a patch moves from one unit to another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compiled import graph, planned

from kdiff.exports import Export
from kdiff.plan import join
from kdiff.review_units import review_units

OTHER = "int other(int a) {{ return use(a) + {}; }}\n"
MOVED = "int shared(int a) {{ return use(a) * {}; }}\n"


def found(*units: tuple[str, str]) -> list[str]:
    """Refusals for pre and post texts of units, by the last word of their places."""
    plans = join(tuple(planned(graph(pre), graph(post)) for pre, post in units))
    refusals = tuple(review_units(plans))
    assert {each.key for each in refusals} <= {"review.moved_to_unit"}
    return [each.place.rpartition(".")[2] for each in refusals]


def moving(pre: str, post: str) -> list[str]:
    """The same for code that leaves one unit and, as `post`, comes to another, in which something changes."""
    return found((OTHER.format(1) + pre, OTHER.format(1)), ("int b(void) { return use(1); }", post))


def test_a_global_function_may_move_if_it_stays_the_same() -> None:
    calls = "int b(void) { return shared(2); }\n"
    assert moving(MOVED.format(3), calls + MOVED.format(3)) == []
    assert moving(MOVED.format(3), calls + MOVED.format(4)) == ["shared"]
    assert moving(MOVED.format(3), calls + MOVED.format(3).replace("use", "abuse")) == ["shared"]


def test_static_functions_of_one_name_are_two() -> None:
    static = "static __attribute__((noinline)) "
    calls = "int b(void) { return shared(2); }\n"
    user = "int c(void) { return shared(5); }\n"
    assert moving(static + MOVED.format(3) + user, static + MOVED.format(4) + calls) == []


def test_a_variable_that_would_start_again_is_refused() -> None:
    state = "static int state = 5;\n"
    pre = state + "int a(void) { return state++; }\n"
    post = state + "int b(void) { return use(1) + state++; }\n"
    assert moving(pre, post) == ["state"]
    assert moving(pre, "int b(void) { return use(2); }\n" + post.replace("int b", "int c")) == []


def test_what_goes_within_a_unit_has_not_moved() -> None:
    assert found((MOVED.format(3) + OTHER.format(1), OTHER.format(1) + MOVED.format(4))) == []


EXPORTS = {"helper": Export("helper", 0, "one", True, "")}
NEW = "int first(int a) { return use(a); } int added(int a) { return use(a) * 3; }"


@pytest.mark.parametrize(
    ("home", "user", "calls", "fine"),
    [
        ("one", "two", "helper", True),
        ("one", "two", "other", False),
        ("one", "one", "other", True),
        ("vmlinux", "two", "other", True),
        ("one", "vmlinux", "other", False),
    ],
)
def test_new_code_of_a_module_is_for_those_who_need_that_module(
    home: str, user: str, calls: str, fine: bool
) -> None:
    before = f"int second(int a) {{ return {calls}(a); }}"
    after = f"int second(int a) {{ return {calls}(a) + added(a); }}"
    units = (
        (graph("int first(int a) { return use(a); }"), graph(NEW)),
        (graph(before), graph(after)),
    )
    plans = (planned(*each) for each in units)
    joined = join(tuple(replace(plan, target=to) for plan, to in zip(plans, (home, user), strict=True)))
    refusals = tuple(review_units(joined, EXPORTS))
    assert {each.key for each in refusals} == (set() if fine else {"review.other_module"})

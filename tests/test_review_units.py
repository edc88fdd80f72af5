# SPDX-License-Identifier: Apache-2.0
"""What a patch moves from one unit to another."""

from __future__ import annotations

from compiled import graph, planned

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

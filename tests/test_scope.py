# SPDX-License-Identifier: Apache-2.0
"""What a changed function takes along: callers it was inlined into, itself, its other names, pointers to it.

On each architecture whose calls, pointers or tables differ, with its own compiler.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import test_plugin_arch_ppc64le as ppc64le
from compiled import compiled, graph, labels, named
from compiled import planned as planned_pair
from kdiff_emit_livepatch import LivepatchEmitter
from kdiff_kernel_linux.tables import rows
from linkoracle import Cross, needs
from linkoracle import compiled as cross_compiled
from linkoracle import graph as cross_graph
from test_extract import CROSSES

from kdiff.cli.main import main
from kdiff.elf.read import STB_GLOBAL, STB_LOCAL, STB_WEAK
from kdiff.elf.write import NO_SYMBOL, Relocatable
from kdiff.extract import extract
from kdiff.kernel import KernelFacts
from kdiff.plan import Plan
from kdiff.review import review

NAMES = ("x86_64", "aarch64", "ppc64le", "s390x")
EVERYWHERE = pytest.mark.parametrize(
    "cross", [pytest.param(CROSSES[name], marks=needs(CROSSES[name]), id=name) for name in NAMES]
)
HEAD = "#define noinline __attribute__((noinline))\nlong limit(long), other(long);\n"
X86 = CROSSES["x86_64"]
POWER = CROSSES["ppc64le"]


def planned(before: str, after: str, cross: Cross = X86, *options: str) -> Plan:
    assert before != after
    return planned_pair(
        *(cross_graph(cross, cross_compiled(cross, HEAD + each, *options)) for each in (before, after))
    )


def replaced(found: Plan) -> list[str]:
    return labels(found.post, (post for _, post in found.replaced))


def keys(found: Plan) -> set[str]:
    return {each.key for each in review(found)}


def bindings(obj: Relocatable, *names: str) -> dict[str, list[tuple[bool, int]]]:
    """(whether it is defined, its binding) of each symbol of these names."""
    return {
        name: [(each.section is not None, each.binding) for each in obj.symbols if each.name == name]
        for name in names
    }


def targets(obj: Relocatable, section: str) -> dict[str, bool]:
    """What a section of the object refers to by name, and whether that is in the object."""
    found: dict[str, bool] = {}
    for each in obj.sections:
        if each.name.startswith(section):
            for relocation in _relocations(each.relocations):
                symbol = obj.symbols[relocation]
                found[symbol.name] = symbol.section is not None
    return found


def _relocations(relocations: Iterable[object]) -> list[int]:
    numbers = [each.symbol for each in relocations]
    return [number for number in numbers if number != NO_SYMBOL]


# Callers ---------------------------------------------------------------------------------------------

INLINED = """
static inline long part(long a) {{ return limit(a) * {}; }}
long one(long a) {{ return part(a) + 1; }}
long two(long a) {{ return part(a) + limit(2); }}
long three(long a) {{ return one(a) + other(3); }}
noinline long four(long a) {{ return other(a) + 4; }}
"""


@EVERYWHERE
def test_every_caller_that_a_changed_function_was_inlined_into_is_replaced(cross: Cross) -> None:
    found = planned(INLINED.format(3), INLINED.format(5), cross, "-fno-inline-small-functions")
    assert set(replaced(found)) >= {"one", "two"}
    assert "four" not in replaced(found)


RECURSIVE = """
{} long walk(long a)
{{
    if (a < 2)
        return limit(a) + {};
    return walk(a - limit(1)) * 3 + walk(a - 2);
}}
long start(long a) {{ return walk(a) + 1; }}
"""


@EVERYWHERE
@pytest.mark.parametrize("word", ["noinline", "static noinline"])
def test_a_recursive_function_calls_its_new_self(cross: Cross, word: str) -> None:
    found = planned(RECURSIVE.format(word, 3), RECURSIVE.format(word, 77), cross)
    assert replaced(found) == ["walk"]
    made = extract(found)
    assert "walk" not in {each.name for each in made.borrowed}
    assert targets(made.obj, ".text.walk").get("walk", True)
    assert targets(made.obj, ".text.walk")["limit"] is False


# Pointers --------------------------------------------------------------------------------------------

POINTERS = """
long go(long a) {{ return limit(a) + {0}; }}
struct ops {{ long flags; long (*go)(long); }};
struct ops table = {{ 1, go }};
static const struct ops fixed = {{ 2, go }};
const struct ops *registered = &fixed;
int same(long (*f)(long)) {{ return (f == go) * {0}; }}
long use(long a) {{ long n = go(a) + {0}; return n + limit(n); }}
"""


@EVERYWHERE
def test_a_function_keeps_its_identity_where_its_address_is_taken(cross: Cross) -> None:
    found = planned(POINTERS.format(3), POINTERS.format(77), cross)
    assert replaced(found) == ["go", "same", "use"]
    assert not {"table", "fixed", "registered"} & set(labels(found.post, found.carried))
    assert found.in_place == ()
    assert keys(found) == set()
    made = extract(found)
    assert "go" in {each.name for each in made.borrowed}
    assert bindings(made.obj, "go")["go"].count((False, STB_GLOBAL)) == 1
    assert bindings(made.obj, "go")["go"].count((True, STB_LOCAL)) == 1


# Names -----------------------------------------------------------------------------------------------

ALIASED = """
long second(long);
long first(long a) {{ return limit(a) + {}; }}
{}
long user(long a) {{ return limit(a) * second(a); }}
"""
ALIAS = 'long second(long) __attribute__((alias("first")));'


@EVERYWHERE
def test_a_function_with_two_names_is_replaced_once_and_keeps_both(cross: Cross) -> None:
    found = planned(ALIASED.format(3, ALIAS), ALIASED.format(77, ALIAS), cross)
    assert "first" in replaced(found)
    assert "second" not in replaced(found)
    assert keys(found) == set()
    made = extract(found).obj
    first, second = ([each for each in made.symbols if each.name == name] for name in ("first", "second"))
    assert [(each.section, each.value) for each in first] == [(each.section, each.value) for each in second]
    assert {each.binding for each in first + second} == {STB_LOCAL}


def test_a_second_name_that_becomes_a_function_of_its_own_is_refused() -> None:
    own = "long second(long a) { return other(a); }"
    for number in (3, 4):
        for before, after in ((ALIAS, own), (own, ALIAS)):
            found = planned(ALIASED.format(3, before), ALIASED.format(number, after))
            refusals = [each for each in review(found) if each.key == "review.alias_changed"]
            assert refusals
            assert all("second" in each.reason and each.place and each.remedy for each in refusals)


def test_a_function_whose_preferred_name_changes_is_the_same_function() -> None:
    text = "{} long first(long a) {{ return limit(a) + 3; }}\n"
    text += '{} long second(long) __attribute__((alias("first")));'
    text += " long (*p)(long) = first, (*q)(long) = second;"
    found = planned(text.format("static", ""), text.format("", "static"))
    names = [named(each, "first").names for each in (found.pre, found.post)]
    assert names == [("second", "first"), ("first", "second")]
    assert (found.delta.changed, found.delta.added, found.delta.removed) == ((), (), ())


def test_a_further_name_for_a_function_is_no_finding() -> None:
    found = planned(ALIASED.format(3, ALIAS), ALIASED.format(3, ALIAS) + ALIAS.replace("second", "third"))
    assert (replaced(found), keys(found)) == ([], set())


BOUND = "{} long part(long a) {{ return limit(a) + {}; }}\nlong (*p)(long) = part;"


@pytest.mark.parametrize(
    ("before", "after", "binding"),
    [
        ("static noinline", "noinline", STB_GLOBAL),
        ("noinline", "static noinline", STB_LOCAL),
        ("__attribute__((weak))", "__attribute__((weak))", STB_LOCAL),
        ("__attribute__((weak))", "noinline", STB_LOCAL),
    ],
)
def test_a_function_of_another_binding_is_the_same_function(before: str, after: str, binding: int) -> None:
    if before != after:
        found = planned(BOUND.format(before, 3), BOUND.format(after, 3))
        assert (replaced(found), found.delta.added, found.delta.removed) == ([], (), ())
    found = planned(BOUND.format(before, 3), BOUND.format(after, 4))
    assert (replaced(found), keys(found)) == (["part"], set())
    assert bindings(extract(found).obj, "part") == {"part": [(True, binding)]}


def test_a_weak_function_that_is_only_used_stays_weak() -> None:
    text = "long part(long) __attribute__((weak)); long work(long a) {{ return part ? part(a) + {} : 3; }}"
    made = extract(planned(text.format(4), text.format(5))).obj
    assert bindings(made, "part") == {"part": [(False, STB_WEAK)]}


# Jumps that leave the update -------------------------------------------------------------------------

SIBLING = "noinline long near(long a) {{ return limit(a) + {2}; }}\n{0} long work(long a) {{ return {1}; }}"
OPTIMIZE = '__attribute__((optimize("no-optimize-sibling-calls")))'


@needs(POWER)
def test_a_sibling_call_that_leaves_the_update_is_refused_on_ppc64le() -> None:
    found = planned(SIBLING.format("", "near(a * 3)", 3), SIBLING.format("", "near(a * 5)", 3), POWER)
    assert replaced(found) == ["work"]
    (refusal,) = review(found)
    assert refusal.key == "review.sibling_call"
    assert refusal.place.startswith("unit.o: .text.work+0x")
    assert "work ends in a jump to near" in refusal.reason
    assert OPTIMIZE in refusal.remedy


CLONED = """
noinline long near(long a) {{ return limit(a) + 3; }}
{0} static noinline long work(long a, long b) {{ return near(a * b); }}
long all(long a) {{ return work(a, {1}) + 1; }}
"""


@needs(POWER)
def test_the_remedy_names_the_function_in_the_source_that_a_copy_was_made_of() -> None:
    found = planned(CLONED.format("", 3), CLONED.format("", 5), POWER)
    assert replaced(found) == ["work.constprop.0"]
    (refusal,) = review(found)
    assert refusal.remedy == f"declare work with {OPTIMIZE}"
    assert keys(planned(CLONED.format("", 3), CLONED.format(OPTIMIZE, 5), POWER)) == set()


@needs(POWER)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("", "near(a * 3) + 1", 3), ("", "near(a * 5) + 1", 3)),
        ((OPTIMIZE, "near(a * 3)", 3), (OPTIMIZE, "near(a * 5)", 3)),
        (("", "near(a * 3)", 3), (OPTIMIZE, "near(a * 5)", 3)),
        (("", "near(a * 3)", 3), ("", "near(a * 5)", 4)),
    ],
)
def test_a_call_that_comes_back_and_a_jump_inside_of_the_update_are_fine(
    before: tuple[str, str, int], after: tuple[str, str, int]
) -> None:
    assert keys(planned(SIBLING.format(*before), SIBLING.format(*after), POWER)) == set()


@pytest.mark.parametrize(
    "cross",
    [
        *(
            pytest.param(CROSSES[name], marks=needs(CROSSES[name]), id=name)
            for name in NAMES
            if name != "ppc64le"
        ),
        pytest.param(ppc64le.POWER10, marks=needs(ppc64le.POWER10), id="power10"),
    ],
)
def test_where_no_register_is_lost_a_sibling_call_may_leave(cross: Cross) -> None:
    found = planned(SIBLING.format("", "near(a * 3)", 3), SIBLING.format("", "near(a * 5)", 3), cross)
    assert (replaced(found), keys(found)) == (["work"], set())


# Functions that cannot be entered elsewhere ----------------------------------------------------------

TRACED = ("-pg", "-mfentry", "-mrecord-mcount")
TABLES = rows(KernelFacts(machine="x86_64"), {})
TINY = "void limit(long); {} void work(long a) {{ {} }}"
NOTRACE = "__attribute__((no_instrument_function))"


@pytest.mark.parametrize(
    ("options", "word", "refused"),
    [
        (TRACED, "", set()),
        (TRACED, NOTRACE, {"livepatch.no_fentry"}),
        ((), "", {"livepatch.no_fentry"}),
    ],
)
def test_a_function_that_nothing_can_redirect_is_the_emitters_to_refuse(
    options: tuple[str, ...], word: str, refused: set[str]
) -> None:
    pre, post = (graph(TINY.format(word, each), *options, special=TABLES) for each in ("", "limit(a + 1);"))
    found = planned_pair(pre, post)
    assert named(pre, "work").size < (5 if not options or word else 99)
    assert replaced(found) == ["work"]
    assert review(found) == ()
    assert {each.key for each in LivepatchEmitter().review(found, KernelFacts())} == refused


def test_diff_accepts_a_function_that_is_too_short_to_be_redirected(tmp_path: Path) -> None:
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    pre.write_bytes(compiled(TINY.format("", "")))
    post.write_bytes(compiled(TINY.format("", "limit(a + 1);")))
    assert main(["diff", str(pre), str(post), "--json"]) == 0

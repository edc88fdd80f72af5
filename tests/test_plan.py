# SPDX-License-Identifier: Apache-2.0
"""Stage 5: what travels and what stays."""

from __future__ import annotations

from compiled import ASSEMBLY, UNIT, compiled, graph, graph_of, labels, named, planned
from hypothesis import given, settings
from strategies import pairs

from kdiff.graph import SectionGraph
from kdiff.kernel import Keep, SpecialSection
from kdiff.plan import Plan
from kdiff.split import Kind


def plan(before: str, after: str) -> Plan:
    return planned(graph(before), graph(after))


def replaced(plan: Plan) -> list[str]:
    return labels(plan.post, (post for _, post in plan.replaced))


def carried(plan: Plan) -> set[str]:
    """Labels of what is carried; strings by their text."""
    return {label(plan.post, node) for node in plan.carried}


def borrowed(plan: Plan) -> set[str]:
    return {label(plan.post, node) for node in plan.borrowed}


def label(graph: SectionGraph, index: int) -> str:
    node = graph.nodes[index]
    return repr(graph.contents(node)[:-1].decode()) if node.kind is Kind.STRING else node.label


def patched(old: str, new: str) -> Plan:
    assert old in UNIT
    return plan(UNIT, UNIT.replace(old, new))


# Laws ------------------------------------------------------------------------------------------------


def test_nothing_changed_is_nothing_to_do() -> None:
    found = plan(UNIT, UNIT)
    assert (found.replaced, found.carried, found.borrowed) == ((), (), ())


@given(pairs())
@settings(deadline=None, max_examples=12)
def test_a_plan_is_closed_over_all_references(texts: tuple[str, str]) -> None:
    found = plan(*texts)
    inside, outside = set(found.carried), set(found.borrowed)
    assert inside.isdisjoint(outside)
    assert {post for _, post in found.replaced} <= inside
    for node in inside:
        for reference in found.post.references[node]:
            assert reference.target in inside | outside
    for node in outside:
        assert found.post.nodes[node].kind is Kind.EXTERN or node in found.pairing.by_post
    assert list(found.carried) == sorted(inside)
    assert list(found.borrowed) == sorted(outside)


# What is replaced ------------------------------------------------------------------------------------


def test_changed_functions_are_replaced() -> None:
    found = patched("gauge[2] = 77", "gauge[2] = 78")
    assert replaced(found) == ["choose"]
    assert [found.pre.nodes[pre].label for pre, _ in found.replaced] == ["choose"]


def test_a_changed_variable_alone_replaces_nothing() -> None:
    found = patched("counter = 5", "counter = 6")
    assert (found.replaced, found.carried) == ((), ())


def test_a_new_function_that_nobody_replaced_uses_is_not_carried() -> None:
    found = plan(UNIT, UNIT + "int more(void) { return limit; }")
    assert (found.replaced, found.carried) == ((), ())


COLD = """
int printk(const char *, ...) __attribute__((cold));
int f(int a) { if (a < 0) { printk("bad"); printk("worse", %d); } return a * 3; }
"""


def test_a_cold_part_is_carried_with_its_function_and_never_replaced() -> None:
    found = plan(COLD % 77, COLD % 78)
    assert replaced(found) == ["f"]
    assert {"f", "f.cold", "'bad'", "'worse'"} == carried(found)


def test_an_unchanged_cold_part_is_carried_too() -> None:
    found = plan(COLD % 77, (COLD % 77).replace("a * 3", "a * 5"))
    assert {"f", "f.cold"} <= carried(found)


def test_an_unchanged_cold_part_that_never_comes_back_is_carried_too() -> None:
    text = "void stop(int) __attribute__((cold, noreturn));"
    text += "int f(int a) {{ if (a < 0) stop(7); return a * {}; }}"
    found = plan(text.format(3), text.format(5))
    assert [each.post for each in found.delta.changed] == [named(found.post, "f").id]
    assert carried(found) == {"f", "f.cold"}


# What is carried -------------------------------------------------------------------------------------


def test_strings_are_carried() -> None:
    found = patched('printk("case %d", a)', 'printk("another %d", a)')
    assert "'another %d'" in carried(found)


def test_a_new_static_function_and_what_it_needs_are_carried() -> None:
    new = 'static __attribute__((noinline)) int fresh(int a) { static int n; printk("fresh"); return n+=a; }'
    found = patched("int choose(int a)\n{", new + "\nint choose(int a)\n{ if (a > 99) return fresh(a);")
    assert {"fresh", "'fresh'"} <= carried(found)
    assert any(each.startswith("n.") for each in carried(found))
    assert replaced(found) == ["choose"]


def test_an_unnamed_table_of_a_replaced_function_is_carried() -> None:
    found = patched("gauge[2] = 77", "gauge[2] = 78")
    assert ".rodata.choose" in carried(found)


def test_a_changed_constant_is_carried() -> None:
    found = patched("7, 11, 13", "7, 11, 17")
    assert {"primes", "choose"} <= carried(found)


def test_the_name_of_a_function_is_carried_with_it() -> None:
    found = patched('"%s: negative"', '"%s: NEGATIVE"')
    assert {each for each in carried(found) if each.startswith("__func__")}


# What is borrowed ------------------------------------------------------------------------------------


def test_globals_statics_and_unchanged_functions_stay_in_the_kernel() -> None:
    found = patched("gauge[2] = 77", "gauge[2] = 78")
    assert {"other", "printk", "limit", "gauge", "tail", "primes"} == borrowed(found)


def test_static_variables_keep_their_values_in_the_kernel() -> None:
    found = patched("calls++;", "calls += 2;")
    assert {each.partition(".")[0] for each in borrowed(found)} >= {"calls", "counter", "names", "helper"}
    assert not {each for each in carried(found) if each.startswith("calls")}


def test_a_replaced_function_that_another_calls_is_carried() -> None:
    both = UNIT.replace("a * limit", "a ^ limit").replace("hits += a;", "hits -= a;")
    found = planned(graph(UNIT), graph(both))
    assert {"helper", "tail"} <= carried(found)
    assert "helper" not in borrowed(found)


# Table entries ---------------------------------------------------------------------------------------

TABLE = """
.section .text.f,"ax"
.globl f
.type f,@function
f: mov ${0},%eax
1: mov description(%rip),%ecx
ret
.size f,.-f
.section .text.g,"ax"
.globl g
.type g,@function
g: nop
2: ret
.size g,.-g
.section __sites,"a"
.long 2b - . , 20
.long 1b - . , 10
.section __more,"a"
.long 4, 3
.section __described,"aw"
.type description,@object
description: .long 5
.size description,4
.type unused,@object
unused: .long 6
.size unused,4
"""


def tabled(number: int, keep: Keep = Keep.OWNER) -> SectionGraph:
    rows = (
        SpecialSection("__sites", 8, keep, owner=0),
        SpecialSection("__more", 4, keep, parallel="__sites"),
        SpecialSection("__described", 4, Keep.REFERENCED),
    )
    return graph_of(compiled(TABLE.format(number), ASSEMBLY), rows)


def test_the_entries_of_a_replaced_function_are_carried_and_no_others() -> None:
    found = planned(tabled(1), tabled(2))
    assert replaced(found) == ["f"]
    assert carried(found) == {"f", "__sites+0x8", "__more+0x4", "description"}


def test_entries_nobody_keeps_are_not_carried() -> None:
    found = planned(tabled(1, Keep.NEVER), tabled(2, Keep.NEVER))
    assert carried(found) == {"f", "description"}


def test_an_entry_kept_where_it_is_referred_to_travels_with_the_code_that_refers_to_it() -> None:
    found = planned(tabled(1), tabled(2))
    assert "description" in carried(found)
    assert "unused" not in carried(found)


PIECES = """
.section .text.f,"ax"
.globl f
.type f,@function
f: mov ${0},%eax
1: nop
ret
.size f,.-f
.section .payload,"ax"
7: nop
8: mov $3,%ecx
.section __sites,"a"
.long 1b - . , 8b - .
"""


def test_the_payload_of_an_entry_is_carried_with_it_and_never_replaced() -> None:
    row = SpecialSection("__sites", 8, Keep.OWNER, owner=0, pieces=(".payload",))
    pre, post = (graph_of(compiled(PIECES.format(n), ASSEMBLY), (row,)) for n in (1, 2))
    found = planned(pre, post)
    assert carried(found) == {"f", "__sites+0x0", ".payload+0x1"}
    assert replaced(found) == ["f"]


def test_a_changed_payload_replaces_the_function_it_is_for() -> None:
    row = SpecialSection("__sites", 8, Keep.OWNER, owner=0, pieces=(".payload",))
    text = PIECES.format(1)
    pre, post = (graph_of(compiled(each, ASSEMBLY), (row,)) for each in (text, text.replace("$3", "$4")))
    found = planned(pre, post)
    assert replaced(found) == ["f"]
    assert named(found.post, "f").id in found.carried

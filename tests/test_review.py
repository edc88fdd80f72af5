# SPDX-License-Identifier: Apache-2.0
"""Stage 6: what must not be patched into a running kernel."""

from __future__ import annotations

import pytest
from compiled import ASSEMBLY, UNIT, compiled, graph, graph_of, obj, planned
from kdiff_arch_x86_64 import ARCHITECTURE
from kdiff_kernel_linux.tables import rows

from kdiff.errors import Refusal
from kdiff.graph import SectionGraph, build
from kdiff.kernel import Keep, KernelFacts, SpecialSection
from kdiff.review import left_out, review


def refusals(before: str, after: str, *options: str) -> list[Refusal]:
    assert before != after
    return list(review(planned(graph(before, *options), graph(after, *options))))


def keys(before: str, after: str, *options: str) -> set[str]:
    return {each.key for each in refusals(before, after, *options)}


def patched(old: str, new: str) -> set[str]:
    assert old in UNIT
    return keys(UNIT, UNIT.replace(old, new))


# What is fine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gauge[2] = 77", "gauge[2] = 78"),
        ("a * limit", "a * limit * 3"),
        ('"%s: negative"', '"%s: below zero"'),
        ("calls++;", "calls += 2;"),
        ("7, 11, 13", "7, 11, 17"),
        ("int choose(int a)\n{", "int choose(int a)\n{ static int fresh; fresh += a;"),
    ],
)
def test_a_change_of_code_is_fine(old: str, new: str) -> None:
    assert patched(old, new) == set()


def test_nothing_changed_is_fine() -> None:
    one = graph(UNIT)
    assert review(planned(one, one)) == ()


def test_a_variable_the_patch_adds_is_fine() -> None:
    text = "{} int f(int a) {{ return a + {}; }}"
    assert keys(text.format("", 1), text.format("int fresh = 7;", "fresh")) == set()


def test_a_function_with_a_jump_table_may_be_replaced() -> None:
    assert patched("gauge[2] = 77", "gauge[2] = 78") == set()


# Data ------------------------------------------------------------------------------------------------


def test_another_initial_value_is_refused_with_a_place_and_a_remedy() -> None:
    (refusal,) = refusals(UNIT, UNIT.replace("counter = 5", "counter = 6"))
    assert (refusal.key, refusal.place) == ("review.data_changed", "unit.o: .data.counter")
    assert "byte was 0x05, is 0x06" in refusal.reason
    assert "reboot" in refusal.remedy


def test_a_variable_of_another_size_is_refused() -> None:
    text = "char buffer[{}]; char f(int a) {{ return buffer[a]; }}"
    assert keys(text.format(16), text.format(32)) == {"review.data_resized"}


def test_a_static_variable_of_another_initial_value_is_refused() -> None:
    text = "int f(void) {{ static int n = {}; return n++; }}"
    assert keys(text.format(3), text.format(4)) == {"review.data_changed"}


def test_a_table_of_pointers_to_other_functions_is_refused() -> None:
    assert "review.data_changed" in patched("table = {entry, choose", "table = {entry, other")


def test_a_changed_static_constant_that_only_replaced_functions_use_is_fine() -> None:
    text = "static const int limits[] = {{1, 2, {}}}; int f(int a) {{ return limits[a]; }}"
    assert keys(text.format(3), text.format(4)) == set()


def test_a_per_cpu_variable_of_another_size_is_refused() -> None:
    text = '__attribute__((section(".data..percpu"))) char n[{}]; int f(void) {{ return n[0]; }}'
    assert keys(text.format(8), text.format(16)) == {"review.per_cpu_changed"}


def test_a_new_per_cpu_variable_is_refused() -> None:
    text = "extern int limit; {} int f(void) {{ return limit + {}; }}"
    new = '__attribute__((section(".data..percpu"))) int fresh;'
    assert keys(text.format("", 1), text.format(new, "fresh")) == {"review.per_cpu"}


# Static variables nobody can tell apart --------------------------------------------------------------

ONE = "int far(int); int f(int a) { static int n = 1; return far(n++); }"
TWO = """
int far(int);
int f(int a)
{{
    {}
    if (a) {{ static int n = 1; far(n++); }} else {{ static int n = 1; far(n--); }}
    return 0;
}}
"""


def test_a_static_variable_that_became_two_of_its_name_is_ambiguous() -> None:
    assert keys(ONE, TWO.format("")) == {"correlate.ambiguous"}


def test_two_static_variables_of_one_name_that_became_one_are_ambiguous() -> None:
    assert keys(TWO.format(""), ONE) == {"correlate.ambiguous"}


def test_two_static_variables_of_one_name_are_ambiguous_where_their_uses_changed() -> None:
    assert keys(TWO.format(""), TWO.format("").replace("far(n++)", "far(n += a)")) == {"correlate.ambiguous"}
    assert keys(TWO.format(""), TWO.format("far(9);")) == set()


def test_the_leftovers_of_macros_are_never_ambiguous() -> None:
    once, twice = ONE.replace("n", "__already_done"), TWO.format("").replace("int n", "int __already_done")
    twice = twice.replace("(n", "(__already_done")
    once = "int far(int); int f(int a) { static int __already_done = 1; return far(__already_done++); }"
    assert keys(once, twice) == set()


# Boot ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "word"), [(".init.text", "boot"), (".exit.text", "exit")])
def test_code_that_will_not_run_again_is_refused(section: str, word: str) -> None:
    text = f'__attribute__((section("{section}"))) int f(int a) {{{{ return a * {{}}; }}}}'
    (refusal,) = refusals(text.format(77), text.format(78))
    assert refusal.key == "review.init_code"
    assert word in refusal.reason


# Tables that are read at boot ------------------------------------------------------------------------


def table(keep: Keep, *lines: str, compared: bool = True, owner: int | None = None) -> SectionGraph:
    text = '.section .text.f,"ax"\n.globl f\n.type f,@function\nf: ret\n.size f,.-f\n.section __table,"a"\n'
    row = SpecialSection("__table", 8, keep, compared=compared, owner=owner)
    return graph_of(compiled(text + "\n".join(lines) + "\n", ASSEMBLY), (row,))


def test_an_entry_more_or_less_of_a_table_read_at_boot_is_refused() -> None:
    one, two = table(Keep.NEVER, ".quad 1"), table(Keep.NEVER, ".quad 1", ".quad 2")
    for pre, post, word in ((one, two, "adds"), (two, one, "removes")):
        (refusal,) = review(planned(pre, post))
        assert refusal.key == "review.table_changed"
        assert f"the patch {word} an entry in __table" in refusal.reason


def test_a_changed_entry_of_a_table_read_at_boot_is_refused() -> None:
    (refusal,) = review(planned(table(Keep.NEVER, ".quad 1"), table(Keep.NEVER, ".quad 2")))
    assert refusal.key == "review.table_changed"


def test_a_table_whose_entries_mean_nothing_may_change() -> None:
    one, two = (table(Keep.NEVER, *lines, compared=False) for lines in ((".quad 1",), (".quad 2", ".quad 3")))
    assert review(planned(one, two)) == ()


FAMILIES = {
    "___ksymtab_gpl+f": ("review.export_changed", "an export entry"),
    ".export_symbol": ("review.export_changed", "an export entry"),
    "__param": ("review.parameter_changed", "a module parameter entry"),
    ".initcall6.init": ("review.initcall_changed", "an initcall entry"),
    ".con_initcall.init": ("review.initcall_changed", "an initcall entry"),
    ".init.setup": ("review.boot_option_changed", "a boot option entry"),
    ".pci_fixup_header": ("review.table_changed", "an entry entry"),
}


@pytest.mark.parametrize("section", FAMILIES)
def test_a_new_entry_is_refused_by_what_the_table_is_about(section: str) -> None:
    facts = KernelFacts(machine="x86_64")
    special = {row.name: row for row in rows(facts, {})}
    text = "int far(int); int f(int a) {{ return far({}); }} {}"
    entry = f'void *const entry __attribute__((section("{section}"), used)) = f;'
    before, after = (build(obj(text.format(*each)), ARCHITECTURE, special) for each in ((1, ""), (2, entry)))
    key, what = FAMILIES[section]
    for pre, post, verb in ((before, after, "adds"), (after, before, "removes")):
        found = planned(pre, post)
        if key == "review.export_changed" and verb == "adds":
            assert review(found) == ()
            assert len(left_out(found)) == 1
            continue
        (refusal,) = review(found)
        assert refusal.key == key
        assert f"the patch {verb} {what} in {section}" in refusal.reason
        assert refusal.place == f"unit.o: {section}"
        assert refusal.remedy


# The inside of functions -----------------------------------------------------------------------------


def test_data_that_points_inside_of_a_replaced_function_is_refused() -> None:
    text = """
    .section .text.f,"ax"
    .globl f
    .type f,@function
    f: mov ${},%eax
    1: ret
    .size f,.-f
    .section .data.p,"aw"
    .globl p
    .type p,@object
    p: .quad 1b
    .size p,8
    """
    pre, post = (graph_of(compiled(text.format(n), ASSEMBLY)) for n in (1, 2))
    assert "review.entered_inside" in {each.key for each in review(planned(pre, post))}

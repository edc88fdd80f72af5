# SPDX-License-Identifier: Apache-2.0
"""Stage 4: what changed between two graphs, and why."""

from __future__ import annotations

import pytest
from compiled import ASSEMBLY, REST, UNIT, WHOLE, changes, compiled, delta, graph, graph_of, labels, named
from elfwriter import FUNC, LOCAL, OBJECT, Sec, Sym, elf
from hypothesis import given, settings
from strategies import pairs

from kdiff.diff import Delta
from kdiff.graph import SectionGraph
from kdiff.kernel import Keep, SpecialSection

PC32, PLT32, ABS64 = 2, 4, 1
FORMS = [(UNIT,), (UNIT, WHOLE), (UNIT, "-Os"), (REST,), (UNIT, "-g")]


def in_one_bucket(pre: SectionGraph, post: SectionGraph, found: Delta) -> None:
    changed = [(each.pre, each.post) for each in found.changed]
    before = [*(one for one, _ in found.same), *(one for one, _ in changed), *found.removed]
    after = [*(two for _, two in found.same), *(two for _, two in changed), *found.added]
    assert sorted(before) == list(range(len(pre.nodes)))
    assert sorted(after) == list(range(len(post.nodes)))


def texts(pre: SectionGraph, post: SectionGraph) -> dict[str, list[str]]:
    """Causes in words, by label in the post graph."""
    return {label: [cause.text for cause in change.causes] for label, change in changes(pre, post).items()}


# Laws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_nothing_changes_between_a_graph_and_itself(form: tuple[str, ...]) -> None:
    one, again = graph(*form), graph(*form)
    for other in (one, again):
        found = delta(one, other)
        assert (found.changed, found.added, found.removed) == ((), (), ())
        assert len(found.same) == len(one.nodes)


@given(pairs())
@settings(deadline=None, max_examples=12)
def test_every_node_lies_in_exactly_one_bucket_and_swapping_sides_swaps_added_and_removed(
    sources: tuple[str, str],
) -> None:
    pre, post = (graph(text) for text in sources)
    there, back = delta(pre, post), delta(post, pre)
    in_one_bucket(pre, post, there)
    in_one_bucket(post, pre, back)
    assert (there.added, there.removed) == (back.removed, back.added)
    assert {(each.pre, each.post) for each in there.changed} == {
        (each.post, each.pre) for each in back.changed
    }


def test_a_delta_is_in_order() -> None:
    found = delta(graph(UNIT), graph(UNIT.replace("a + 1", "a + 2") + "int more(void) { return limit; }"))
    assert [each.post for each in found.changed] == sorted(each.post for each in found.changed)
    assert list(found.added) == sorted(found.added)
    assert list(found.same) == sorted(found.same)


# What counts -----------------------------------------------------------------------------------------


def test_another_immediate_changes_its_function_and_the_jump_table_into_it() -> None:
    found = changes(graph(UNIT), graph(UNIT.replace("gauge[2] = 77", "gauge[2] = 78")))
    assert sorted(found) == [".rodata.choose", "choose"]
    (cause,) = found["choose"].causes
    assert (cause.key, cause.text) == ("content", "byte was 0x4d, is 0x4e")


def test_another_string_changes_the_functions_that_use_it() -> None:
    found = texts(graph(UNIT), graph(UNIT.replace("case %d", "CASE %d")))
    assert found["choose"] == ["referred to 'case %d', refers to 'CASE %d'"]
    assert found.keys() == {"choose", ".rodata.choose"}


def test_another_callee_changes_the_caller() -> None:
    text = "int one(int); int two(int); int f(int a) {{ return {}(a) + 1; }}"
    found = texts(graph(text.format("one")), graph(text.format("two")))
    assert found == {"f": ["referred to one, refers to two"]}


def test_another_offset_into_the_same_variable_changes_the_function() -> None:
    text = "extern int gauge[8]; int f(void) {{ return gauge[{}]; }}"
    found = texts(graph(text.format(1)), graph(text.format(2)))
    assert found == {"f": ["referred to gauge+0x4, refers to gauge+0x8"]}


def test_another_size_says_so() -> None:
    found = texts(graph("int f(int a) { return a; }"), graph("int f(int a) { return a * 1000 + 7; }"))
    assert found["f"][0].startswith("size was 3, is ")


def test_an_initial_value_changes_its_variable_and_not_its_users() -> None:
    found = texts(graph(UNIT), graph(UNIT.replace("counter = 5", "counter = 6")))
    assert found == {"counter": ["byte was 0x05, is 0x06"]}


def test_a_changed_table_of_constants_spreads_to_its_users() -> None:
    pre, post = graph(UNIT), graph(UNIT.replace("7, 11, 13", "7, 11, 17"))
    found = changes(pre, post)
    assert sorted(found) == [".rodata.choose", "choose", "primes"]
    (cause,) = found["choose"].causes
    assert (cause.key, cause.via) == ("target", named(post, "primes").id)


def test_a_changed_string_in_a_table_of_pointers_spreads_to_its_users() -> None:
    found = changes(graph(UNIT), graph(UNIT.replace('"two"', '"deux"')))
    assert sorted(found) == ["entry", "names"]


def test_a_changed_callee_does_not_change_its_caller() -> None:
    one, two = (graph(text, "-fno-ipa-ra") for text in (UNIT, UNIT.replace("a * limit", "a ^ limit")))
    assert list(changes(one, two)) == ["helper"]


def test_a_changed_cold_part_changes_its_function() -> None:
    text = """
    int printk(const char *, ...) __attribute__((cold));
    int f(int a) { if (a < 0) { printk("bad"); printk("worse", %d); } return a * 3; }
    """
    pre, post = graph(text % 77), graph(text % 78)
    found = texts(pre, post)
    assert sorted(found) == ["f", "f.cold"]
    assert found["f"] == ["continues in f.cold, which changed"]


def test_a_variable_that_moves_to_another_kind_of_section_changed() -> None:
    text = 'int f(void) {{ return 1; }} __attribute__((section("{}"))) int n = 3;'
    found = texts(graph(text.format(".data.x")), graph(text.format(".data..percpu")))
    assert found == {"n": ["moved from .data.x to .data..percpu"]}


def test_a_function_that_becomes_boot_code_changed() -> None:
    text = "__attribute__((section({}))) int f(void) {{ return 1; }}"
    found = texts(graph(text.format('".text.f"')), graph(text.format('".init.text"')))
    assert found == {"f": ["moved from .text.f to .init.text"]}


def test_another_alignment_of_a_variable_is_a_change() -> None:
    text = "__attribute__((aligned({}))) int n = 3;"
    found = texts(graph(text.format(4)), graph(text.format(64)))
    assert found == {"n": ["alignment was 4, is 64"]}


def test_something_that_was_a_variable_and_is_a_constant_changed() -> None:
    found = texts(graph("int n = 3;"), graph("const int n = 3;"))
    assert found == {"n": ["was data, is constant"]}


def test_more_references_in_the_same_bytes_are_a_change() -> None:
    def data(*relocs: tuple[int, int, str, int]) -> SectionGraph:
        return graph_of(
            elf(Sec(".data", bytes(16), "wa", 8, relocs=relocs), Sym("n", ".data", 0, 16, OBJECT))
        )

    one = (0, ABS64, "x", 0)
    assert texts(data(one), data(one, (8, ABS64, "x", 0))) == {"n": ["had 1 references, has 2"]}
    assert texts(data(one), data((8, ABS64, "x", 0))) == {"n": ["references stand at other places"]}
    assert texts(data((0, ABS64, "x", 0)), data((0, 24, "x", 0))) == {
        "n": ["R_X86_64_64 became R_X86_64_PC64"]
    }


# What does not count ---------------------------------------------------------------------------------


def test_strings_that_moved_do_not_count() -> None:
    found = changes(graph(UNIT), graph('void e(char *); void zero(void) { e("aaaa first"); }' + UNIT))
    assert found == {}


def test_statics_that_moved_or_got_another_number_do_not_count() -> None:
    post = graph("static int early; int zero(void) { static int calls; return calls++ + early++; }" + UNIT)
    assert changes(graph(UNIT), post) == {}


def test_a_call_written_as_plt_or_as_pc_relative_is_the_same() -> None:
    def call(kind: int) -> SectionGraph:
        code = Sec(".text", b"\xe8\0\0\0\0\xc3", "ax", relocs=((1, kind, "g", -4),))
        return graph_of(elf(code, Sym("f", ".text", 0, 6, FUNC)))

    assert changes(call(PC32), call(PLT32)) == {}


def test_a_section_symbol_and_a_symbol_are_the_same() -> None:
    def load(name: str, addend: int) -> SectionGraph:
        return graph_of(
            elf(
                Sec(".text.f", b"\x8b\x05\0\0\0\0\xc3", "ax", relocs=((2, PC32, name, addend),)),
                Sec(".data", bytes(16), "wa", 8),
                Sym("first", ".data", 0, 8, OBJECT, LOCAL), Sym("second", ".data", 8, 8, OBJECT, LOCAL),
                Sym("f", ".text.f", 0, 7, FUNC),
            )
        )  # fmt: skip

    assert changes(load("second", -4), load(".data", 4)) == {}
    assert sorted(changes(load("second", -4), load(".data", -4))) == ["f"]


def test_what_stands_in_fields_of_an_object_with_addends_does_not_count() -> None:
    def call(junk: bytes) -> SectionGraph:
        code = Sec(".text", b"\xe8" + junk + b"\xc3", "ax", relocs=((1, PLT32, "g", -4),))
        return graph_of(elf(code, Sym("f", ".text", 0, 6, FUNC)))

    assert changes(call(bytes(4)), call(b"\1\2\3\4")) == {}


def test_a_callee_that_another_unit_takes_over_is_the_same_for_its_caller() -> None:
    caller = (
        Sec(".text.f", b"\xe8\0\0\0\0\xc3", "ax", relocs=((1, PLT32, "g", -4),)),
        Sym("f", ".text.f", 0, 6, FUNC),
    )
    pre = graph_of(elf(*caller, Sec(".text.g", b"\xc3", "ax"), Sym("g", ".text.g", 0, 1, FUNC)))
    post = graph_of(elf(*caller))
    found = delta(pre, post)
    assert found.changed == ()
    assert (labels(pre, found.removed), labels(post, found.added)) == (["g"], ["g"])


def test_the_order_of_functions_in_their_unit_does_not_count() -> None:
    one, two = "int a(int x) { return x + 1; }", "int b(int x) { return x + 2; }"
    assert changes(graph(one + two), graph(two + one)) == {}


# Added and removed -----------------------------------------------------------------------------------


def test_what_only_post_has_was_added() -> None:
    pre, post = graph(UNIT), graph(UNIT + "static int fresh = 4; int more(void) { return fresh++; }")
    found = delta(pre, post)
    assert labels(post, found.added) == ["fresh", "more"]
    assert (found.removed, found.changed) == ((), ())


def test_what_only_pre_has_was_removed() -> None:
    pre, post = graph(UNIT + "int extra(int a) { return a; }"), graph(UNIT)
    found = delta(pre, post)
    assert labels(pre, found.removed) == ["extra"]
    assert (found.added, found.changed) == ((), ())


def test_a_static_function_that_was_inlined_away_is_removed() -> None:
    pre, post = graph(UNIT), graph(UNIT.replace("__attribute__((noinline)) int helper", "inline int helper"))
    assert "helper" in labels(pre, delta(pre, post).removed)


# Table entries ---------------------------------------------------------------------------------------

ENTRIES = """
.section .text.f,"ax"
.type f,@function
f: nop
1: nop
2: ret
.size f,.-f
.section __sites,"a"
"""


def entries(*lines: str, compared: bool = True, ignored: tuple[tuple[int, int], ...] = ()) -> SectionGraph:
    row = SpecialSection("__sites", 8, Keep.OWNER, owner=0, compared=compared, ignored=ignored)
    return graph_of(compiled(ENTRIES + "\n".join(lines) + "\n", ASSEMBLY), (row,))


def test_a_changed_entry_changes_its_owner() -> None:
    found = texts(entries(".long 1b - ., 7"), entries(".long 1b - ., 8"))
    assert "its entry 0 of __sites differs" in found["f"]


def test_an_entry_about_another_place_changes_its_owner() -> None:
    assert "f" in texts(entries(".long 1b - ., 7"), entries(".long 2b - ., 7"))


def test_an_entry_more_changes_its_owner() -> None:
    found = texts(entries(".long 1b - ., 7"), entries(".long 1b - ., 7", ".long 2b - ., 7"))
    assert found["f"] == ["owned 1 entries of __sites, owns 2"]


def test_entries_that_mean_nothing_do_not_change_their_owner() -> None:
    one, two = (entries(f".long 1b - ., {n}", compared=False) for n in (7, 8))
    assert "f" not in changes(one, two)


def test_fields_that_are_ignored_do_not_count() -> None:
    one, two = (entries(f".long 1b - ., {n}", ignored=((4, 4),)) for n in (7, 8))
    assert changes(one, two) == {}


# Real code -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimization", ["-O1", "-O2", "-O3", "-Os"])
def test_the_same_source_with_lines_moved_is_the_same(optimization: str) -> None:
    assert changes(graph(UNIT, optimization), graph("\n\n\n/* more lines */\n" + UNIT, optimization)) == {}

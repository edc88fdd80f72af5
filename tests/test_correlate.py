# SPDX-License-Identifier: Apache-2.0
"""Stage 3: which post node is which pre node."""

from __future__ import annotations

import pytest
from compiled import ASSEMBLY, HABITS, UNIT, WHOLE, changes, compiled, graph, graph_of, named
from elfwriter import LOCAL, OBJECT, Sec, Sym, elf
from hypothesis import given, settings
from strategies import pairs

from kdiff.correlate import Pairing, correlate, is_static_local
from kdiff.graph import SectionGraph
from kdiff.kernel import Keep, SpecialSection
from kdiff.naming import stem
from kdiff.split import Kind

PC32, ABS64 = 2, 1


def paired(pre: SectionGraph, post: SectionGraph) -> dict[str, str]:
    """Labels of pre to labels of post."""
    return {
        pre.nodes[pair.pre].label: post.nodes[pair.post].label
        for pair in correlate(pre, post).by_pre.values()
    }


def sure(pre: SectionGraph, post: SectionGraph) -> dict[str, bool]:
    return {pre.nodes[pair.pre].label: pair.sure for pair in correlate(pre, post).by_pre.values()}


# Laws ------------------------------------------------------------------------------------------------


def is_one_to_one(pre: SectionGraph, post: SectionGraph, pairing: Pairing) -> bool:
    return (
        len(pairing.by_pre) == len(pairing.by_post)
        and all(pairing.by_post[pair.post] == pair for pair in pairing.by_pre.values())
        and all(pairing.to_pre(pairing.to_post(index) or 0) == index for index in pairing.by_pre if index)
        and all(
            pre.nodes[pair.pre].kind is post.nodes[pair.post].kind
            for pair in pairing.by_pre.values()
            if pair.how != "name"
        )
    )


@pytest.mark.parametrize("options", [(), (WHOLE,), ("-Os",)])
def test_a_graph_pairs_with_itself_node_by_node(options: tuple[str, ...]) -> None:
    one = graph(UNIT, *options)
    pairing = correlate(one, one)
    assert all(pair.pre == pair.post for pair in pairing.by_pre.values())
    assert {node.label for node in one.nodes if node.id not in pairing.by_pre} == set()


@given(pairs())
@settings(deadline=None, max_examples=12)
def test_a_pairing_is_one_to_one_and_reads_alike_from_both_ends(texts: tuple[str, str]) -> None:
    pre, post = (graph(text) for text in texts)
    there, back = correlate(pre, post), correlate(post, pre)
    assert is_one_to_one(pre, post, there)
    assert {(pair.pre, pair.post) for pair in there.by_pre.values()} == {
        (pair.post, pair.pre) for pair in back.by_pre.values()
    }


# Names -----------------------------------------------------------------------------------------------


def test_functions_and_variables_pair_by_name_however_they_moved() -> None:
    pre = graph("int a = 1, b = 2; int f(void) { return a; } int g(void) { return b; }")
    post = graph("int b = 3, a = 1; int g(void) { return a + b; } int f(void) { return 7; }")
    assert paired(pre, post) == {"a": "a", "b": "b", "f": "f", "g": "g"}


def test_statics_pair_by_name() -> None:
    text = "static int n; static __attribute__((noinline)) int f(int a) { return a * n++; }"
    text += "int g(int a) { return f(a) + %d; }"
    assert paired(graph(text % 1), graph(text % 2)) == {"n": "n", "f": "f", "g": "g"}


def test_a_function_that_became_static_pairs_with_its_former_self() -> None:
    body = (
        "__attribute__((noinline, noclone)) int f(int x) { return x * 7; } int g(int x) { return f(x) + 1; }"
    )
    assert paired(graph(body), graph(f"static {body}"))["f"] == "f"
    assert paired(graph(f"static {body}"), graph(body))["f"] == "f"


def test_a_function_does_not_pair_with_a_variable_of_its_name() -> None:
    pre, post = graph("int thing(void) { return 1; }"), graph("int thing = 1;")
    assert paired(pre, post) in ({}, {"thing": "thing"})
    static = "static int thing(void) __attribute__((used)); static int thing(void) { return 1; }"
    assert paired(graph(static), graph("static int thing __attribute__((used)) = 1;")) == {}


def test_a_symbol_of_another_unit_pairs_with_itself() -> None:
    pre = graph("int far(int); int f(void) { return far(1); }")
    post = graph("int far(int); int f(void) { return far(2) + far(3); }")
    assert paired(pre, post)["far"] == "far"


def test_a_name_that_occurs_twice_pairs_with_nothing_by_name() -> None:
    twice = elf(
        Sec(".data.a", bytes(4), "wa"), Sec(".data.b", bytes(4), "wa"),
        Sym("n", ".data.a", 0, 4, OBJECT, LOCAL), Sym("n", ".data.b", 0, 4, OBJECT, LOCAL),
    )  # fmt: skip
    assert correlate(graph_of(twice), graph_of(twice)).by_pre == {}


# Static variables of functions -----------------------------------------------------------------------

COUNTERS = """
int f(void) {{ static int calls = 1; {f} return calls++; }}
int g(void) {{ static int calls = 2; {g} return calls++; }}
"""


def test_static_variables_pair_by_who_uses_them_and_not_by_the_number_the_compiler_gave() -> None:
    pre = graph(COUNTERS.format(f="", g=""))
    post = graph("int first(void) { static int calls = 7; return calls++; }" + COUNTERS.format(f="", g=""))
    found = paired(pre, post)
    by_value = {
        label: post.contents(next(n for n in post.nodes if n.label == other))
        for label, other in found.items()
        if label.startswith("calls")
    }
    values = {n.label: pre.contents(n) for n in pre.nodes if n.name.startswith("calls")}
    assert by_value == values
    assert {n.name for n in pre.nodes} & {n.name for n in post.nodes if n.name.startswith("calls")}


def test_a_static_variable_of_a_changed_function_pairs_by_its_order_of_use() -> None:
    text = "int far(int); int f(int a) {{ static int calls, total = 3; {} return total += calls++; }}"
    pre, post = graph(text.format("")), graph(text.format("far(a);"))
    found = paired(pre, post)
    assert {stem(a): stem(b) for a, b in found.items() if "." in a} == {"calls": "calls", "total": "total"}
    assert all(sure(pre, post).values())


TWO = """
int far(int);
int f(int a)
{{
    {before}
    if (a) {{ static int n = 1; far(n++); }} else {{ static int n = 2; far(n--); }}
    return 0;
}}
"""


def test_two_static_variables_of_one_name_in_a_changed_function_are_told_by_their_uses() -> None:
    pre, post = graph(TWO.format(before="")), graph(TWO.format(before="far(9);"))
    found = sure(pre, post)
    assert [found[label] for label in found if label.startswith("n.")] == [True, True]


BLOCKS = "int far(int); int f(int a) {{ {} return 0; }}"
UP, DOWN = "{ static int n = 1; far(n++); }", "{ static int n = 1; far(n--); }"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (UP + DOWN, DOWN + UP),
        (UP + DOWN + "far(2);", DOWN + UP),
        (UP + DOWN, DOWN + "far(3);"),
        (UP + UP, UP + UP + UP),
    ],
)
def test_static_variables_of_one_name_are_not_told_apart_where_uses_fit_several(
    before: str, after: str
) -> None:
    found = sure(graph(BLOCKS.format(before)), graph(BLOCKS.format(after)))
    assert not any(found[label] for label in found if label.startswith("n."))


def test_two_static_variables_of_one_name_in_an_unchanged_function_pair_surely() -> None:
    pre = graph(TWO.format(before=""))
    post = graph("int more(void) { static int n = 8; return n++; }" + TWO.format(before=""))
    found = sure(pre, post)
    assert [found[label] for label in found if label.startswith("n.")] == [True, True]
    contents = {
        (pre.contents(pre.nodes[p.pre]), post.contents(post.nodes[p.post]))
        for p in correlate(pre, post).by_pre.values()
        if pre.nodes[p.pre].name.startswith("n.")
    }
    assert all(one == other for one, other in contents)


def test_a_static_variable_that_became_two_pairs_with_neither() -> None:
    pre = graph("int far(int); int f(int a) { static int n = 1; return far(n++); }")
    post = graph(TWO.format(before=""))
    assert not any(label.startswith("n.") for label in paired(pre, post))


# What has no identity but its contents ---------------------------------------------------------------


def test_strings_pair_by_their_text() -> None:
    pre = graph('void f(char *); void g(void) { f("one"); f("two"); }')
    post = graph('void f(char *); void g(void) { f("new"); f("two"); f("one"); }')
    texts = {
        (pre.contents(pre.nodes[p.pre]), post.contents(post.nodes[p.post]))
        for p in correlate(pre, post).by_pre.values()
        if pre.nodes[p.pre].kind is Kind.STRING
    }
    assert texts == {(b"one\0", b"one\0"), (b"two\0", b"two\0")}


def test_unnamed_constants_pair_by_their_contents() -> None:
    def constants(*values: int) -> SectionGraph:
        data = b"".join(value.to_bytes(8, "little") for value in values)
        return graph_of(elf(Sec(".rodata.cst8", data, "aM", 8, entry_size=8)))

    pre, post = constants(1, 2, 3), constants(3, 9, 1)
    found = {
        (pre.contents(pre.nodes[p.pre])[0], post.contents(post.nodes[p.post])[0])
        for p in correlate(pre, post).by_pre.values()
    }
    assert {(1, 1), (3, 3)} <= found


def test_equal_strings_of_several_sections_pair_one_to_one() -> None:
    pre = graph('void f(char *); void a(void) { f("x"); } void b(void) { f("x"); }')
    pairing = correlate(pre, pre)
    strings = [node.id for node in pre.nodes if node.kind is Kind.STRING]
    assert len(strings) == len({pairing.to_post(node) for node in strings})


def test_the_name_of_a_function_as_a_variable_pairs_with_that_of_the_same_function() -> None:
    text = "void p(const char *); {} void f(void) {{ p(__func__); }} void g(void) {{ p(__func__); }}"
    pre, post = graph(text.format("")), graph(text.format("void e(void) { p(__func__); }"))
    texts = {
        (pre.contents(pre.nodes[p.pre]), post.contents(post.nodes[p.post]))
        for p in correlate(pre, post).by_pre.values()
        if pre.nodes[p.pre].name.startswith("__func__")
    }
    assert texts == {(b"f\0", b"f\0"), (b"g\0", b"g\0")}


def test_the_jump_table_of_a_function_pairs_with_that_of_the_same_function() -> None:
    found = paired(graph(UNIT), graph(UNIT.replace("return 9;", "return 10;")))
    assert found[".rodata.choose"] == ".rodata.choose"


# Parts of functions ----------------------------------------------------------------------------------

COLD = """
int printk(const char *, ...) __attribute__((cold));
int f(int a) { if (a < 0) { printk("bad"); return printk("worse"); } return a * %d; }
"""


def test_a_cold_part_pairs_with_that_of_the_same_function() -> None:
    found = paired(graph(COLD % 3), graph(COLD % 5))
    assert found["f.cold"] == "f.cold"


CLONE = """
.section .text.f,"ax"
.globl f
.type f,@function
f: call part{0}
ret
.size f,.-f
.section .text.part{0},"ax"
.type part{0},@function
part{0}: mov $1,%eax
ret
.size part{0},.-part{0}
"""


@pytest.mark.parametrize("clone", [".isra", ".constprop", ".part"])
def test_a_clone_that_got_another_number_pairs_with_its_former_self(clone: str) -> None:
    pre = graph_of(compiled(CLONE.format(f"{clone}.0"), ASSEMBLY))
    post = graph_of(compiled(CLONE.format(f"{clone}.1"), ASSEMBLY))
    assert paired(pre, post) == {"f": "f", f"part{clone}.0": f"part{clone}.1"}


def test_a_clone_of_another_kind_is_another_function() -> None:
    pre = graph_of(compiled(CLONE.format(".isra.0"), ASSEMBLY))
    post = graph_of(compiled(CLONE.format(".constprop.0"), ASSEMBLY))
    assert paired(pre, post) == {"f": "f"}


# Table entries ---------------------------------------------------------------------------------------

ENTRIES = """
.section .text.f,"ax"
.type f,@function
f: nop
1: nop
2: ret
.size f,.-f
.section .text.g,"ax"
.type g,@function
g: nop
3: ret
.size g,.-g
.section __sites,"a"
"""
ROW = SpecialSection("__sites", 4, Keep.OWNER, owner=0)


def entries(*sites: str) -> SectionGraph:
    table = "".join(f".long {site} - .\n" for site in sites)
    return graph_of(compiled(ENTRIES + table, ASSEMBLY), (ROW,))


def test_entries_pair_by_owner_and_order_and_not_by_their_place_in_the_table() -> None:
    found = paired(entries("1b", "2b", "3b"), entries("3b", "1b", "2b"))
    assert found["__sites+0x0"] == "__sites+0x4"
    assert found["__sites+0x4"] == "__sites+0x8"
    assert found["__sites+0x8"] == "__sites+0x0"


def test_an_entry_too_many_pairs_with_nothing() -> None:
    assert len([a for a in paired(entries("1b", "3b"), entries("1b", "2b", "3b")) if "__sites" in a]) == 2


# Words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("calls.3", "calls"),
        ("calls.3.1", "calls"),
        ("f.isra.0", "f.isra"),
        ("f.cold", "f.cold"),
        ("plain", "plain"),
        ("__UNIQUE_ID_ddebug512.8", "__UNIQUE_ID_ddebug"),
        ("__UNIQUE_ID_addressable_f12", "__UNIQUE_ID_addressable_f"),
    ],
)
def test_the_stem_of_a_name_has_no_numbers_of_the_compiler(name: str, expected: str) -> None:
    assert stem(name) == expected


def test_static_variables_fragments_and_macros_leftovers_are_told_by_their_names() -> None:
    pre = graph(COLD % 2)
    calls, done = (
        next(
            n
            for n in graph(
                "int g(void) { static int __already_done, calls; return __already_done++ + calls++; }"
            ).nodes
            if stem(n.name) == name
        )
        for name in ("calls", "__already_done")
    )
    assert (is_static_local(calls), calls.remade is not None) == (True, False)
    assert done.remade is not None
    assert named(pre, "f.cold").is_fragment
    assert not named(pre, "f").is_fragment


def test_what_a_macro_makes_anew_pairs_by_who_refers_to_it_whatever_its_number() -> None:
    """UBSAN's records have no names, and their sections are numbered through the unit."""
    text = """
    .section .data..Lubsan_data{0},"aw"
    .quad 0; .long {2}, 7
    .section .data..Lubsan_data{1},"aw"
    .quad 1; .long {3}, 9
    .section .text.f,"ax"
    .type f,@function
    f: mov $.data..Lubsan_data{0},%rdi; ret
    .size f,.-f
    .section .text.g,"ax"
    .type g,@function
    g: mov $.data..Lubsan_data{1},%rdi; ret
    .size g,.-g
    """
    pre, post = graph(text.format(1, 2, 10, 20), ASSEMBLY), graph(text.format(2, 3, 15, 25), ASSEMBLY)
    assert not changes(pre, post)
    post = graph(text.format(2, 3, 15, 25).replace(".quad 1", ".quad 2"), ASSEMBLY)
    assert set(changes(pre, post)) >= {"g"}
    assert "f" not in changes(pre, post)


@pytest.mark.parametrize("name", ["__key", "setup.__key", "__func__", "__func__.setup", "setup._rs"])
def test_a_macros_static_is_told_as_gcc_and_as_clang_name_it(name: str) -> None:
    assert HABITS.remade(name, ".bss") is not None
    assert HABITS.remade(name.replace("_", "x"), ".bss") is None


def test_what_macros_declare_and_nothing_refers_to_pairs_without_its_number() -> None:
    """Kernel modules keep their first function so: ___ADDRESSABLE in include/linux/compiler.h."""
    unit = """
    static int begin(void) { return 1; }
    static int end(void) { return 2; }
    static void *__attribute__((used)) __UNIQUE_ID_addressable_begin%d = (void *)begin;
    static void *__attribute__((used)) __UNIQUE_ID_addressable_end%d = (void *)end;
    """
    found = paired(graph(unit % (7, 8)), graph(unit % (9, 10)))
    assert found["__UNIQUE_ID_addressable_begin7"] == "__UNIQUE_ID_addressable_begin9"
    assert found["__UNIQUE_ID_addressable_end8"] == "__UNIQUE_ID_addressable_end10"
    assert changes(graph(unit % (7, 8)), graph(unit % (9, 10))) == {}


def test_a_static_local_that_nothing_refers_to_pairs_if_its_contents_are_the_same() -> None:
    text = """
    int f(int a) {{ {more} static int kept __attribute__((used)) = {value}; return a; }}
    """
    one = graph(text.format(more="", value=7))
    other = graph(text.format(more="static int first __attribute__((used)) = 1;", value=7))
    changed = graph(text.format(more="", value=8))
    kept = next(label for label in paired(one, one) if label.startswith("kept"))
    assert paired(one, other)[kept].startswith("kept")
    assert kept not in paired(one, changed)

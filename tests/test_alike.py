# SPDX-License-Identifier: Apache-2.0
"""Graphs of what is not alike lead to the plan that whole graphs lead to."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiled import ASSEMBLY, HABITS, UNIT, compiled
from elfwriter import FUNC, GLOBAL, LOCAL, OBJECT, Sec, Sym, elf
from hypothesis import given, settings
from kdiff_arch_x86_64 import ARCHITECTURE
from linkoracle import EDITS, Cross
from linkoracle import compiled as cross_compiled
from strategies import pairs
from test_linenumbers import AARCH64, ARM, I386, LOONGARCH64, PPC64LE, RISCV64, S390X

from kdiff.alike import Alike, alike
from kdiff.arch import Architecture
from kdiff.cli.delta import is_listed
from kdiff.cli.main import main
from kdiff.compare import planned
from kdiff.elf.read import Object, read_bytes
from kdiff.elf.stack import Stack
from kdiff.graph import build, build_each
from kdiff.kernel import Keep, Shape, SpecialSection
from kdiff.plan import Plan
from kdiff.review import review
from kdiff.sectionrows import Rows
from kdiff.split import Kind

Special = Mapping[str, SpecialSection]
NOTHING: Special = {}
BUGS = {
    "__bugs": SpecialSection(
        "__bugs", 0, Keep.OWNER, owner=0, shapes=(Shape(12, ((0, 4),), ignored=((8, 2),)),)
    )
}


def outcome(plan: Plan) -> tuple[object, ...]:
    """All that a plan decides, by names."""
    pre, post, delta = plan.pre, plan.post, plan.delta
    named = [
        sorted(node.label for node in map(graph.nodes.__getitem__, ids) if is_listed(node))
        for graph, ids in (
            (post, [each.post for each in delta.changed]), (post, delta.added), (pre, delta.removed),
            (post, plan.carried), (post, [new for _, new in plan.replaced]),
        )
    ]  # fmt: skip
    entries = sorted(post.nodes[i].section_name for i in plan.carried if post.nodes[i].table is not None)
    return named, entries, sorted((each.key, each.reason) for each in review(plan))


def assert_same(one: Alike, other: Alike) -> None:
    """What is told of a pair depends neither on other pairs nor on columns that its objects share."""
    assert one.sections == other.sections
    for mine, yours in ((one.pre, other.pre), (one.post, other.post)):
        for name in ("nodes", "references", "strings"):
            assert np.array_equal(getattr(mine, name), getattr(yours, name))
        assert (mine.tables, mine.pieces) == (yours.tables, yours.pieces)
        assert mine.entries.keys() == yours.entries.keys()
        for index, chosen in mine.entries.items():
            assert np.array_equal(chosen, yours.entries[index])


def common(pairs: list[tuple[Object, Object]], arch: Architecture, special: Special) -> list[Alike]:
    pre, post = (Stack.of(objects) for objects in zip(*pairs, strict=True))
    return alike(pre, post, arch, Rows(special), HABITS)


def both(
    before: bytes, after: bytes, arch: Architecture = ARCHITECTURE, special: Special = NOTHING
) -> tuple[object, ...]:
    """The outcome, which is the same with whole graphs; neither other pairs nor a twin change anything."""
    pre = read_bytes(before, "unit.o")
    post, unlike = read_bytes(after, "unit.o", pre), read_bytes(after, "unit.o")
    plans = [planned(pre, post, arch, Rows(special), HABITS, whole) for whole in (False, True)]
    assert outcome(plans[0]) == outcome(plans[1])
    pairs = [(post, pre), (pre, pre), (pre, post), (unlike, pre), (pre, unlike), (pre, post)]
    found = common(pairs, arch, special)
    alone, back = (common([pair], arch, special)[0] for pair in ((pre, post), (post, pre)))
    for one, other in zip((back, alone, back, alone, alone), (found[0], *found[2:]), strict=True):
        assert_same(one, other)
    objects, scopes = [pair[0] for pair in pairs], [each.pre for each in found]
    graphs = build_each(Stack.of(objects), arch, special, HABITS, scopes)
    for graph, obj, scope in zip(graphs, objects, scopes, strict=True):
        assert graph == build(obj, arch, special, HABITS, scope)
    return outcome(plans[0])


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_the_plan_is_that_of_whole_graphs(texts: tuple[str, str]) -> None:
    both(*(compiled(text) for text in texts))


@pytest.mark.parametrize(
    "cross", [AARCH64, ARM, I386, LOONGARCH64, PPC64LE, RISCV64, S390X], ids=lambda c: c.architecture.name
)
def test_the_plan_is_that_of_whole_graphs_on_every_architecture(cross: Cross) -> None:
    for old, new, changed in EDITS:
        before, after = (cross_compiled(cross, text) for text in (UNIT, UNIT.replace(old, new)))
        (_, _, _, _, replaced), _, _ = both(before, after, cross.architecture)
        assert replaced == [changed]


def test_equal_objects_leave_nothing() -> None:
    obj = read_bytes(compiled(UNIT), "unit.o")
    (found,) = common([(obj, obj)], ARCHITECTURE, NOTHING)
    assert not found.pre.references.any()
    assert not found.post.references.any()


def test_an_edit_leaves_what_it_reaches() -> None:
    pre, post = (
        read_bytes(compiled(text), "unit.o") for text in (UNIT, UNIT.replace("return gauge[3]", "return 3"))
    )
    (found,) = common([(pre, post)], ARCHITECTURE, NOTHING)
    kept = {pre.section_name(index) for index in found.pre.references.nonzero()[0]}
    assert ".text.choose" in kept
    assert ".text.helper" not in kept


SAYS = """\
void say(const char *);
void quiet(void) {{ say("by and by"); say("hello"); }}
void loud(void) {{ say("{}"); {} }}
"""


def test_strings_become_nodes_when_something_reaches_them() -> None:
    pre, post = (compiled(SAYS.format(*each)) for each in (("hello", "say(0);"), ("by", "")))
    (_, _, _, carried, replaced), _, _ = both(pre, post)
    assert replaced == ["loud"]
    assert carried == ["loud"]
    small = planned(read_bytes(pre), read_bytes(post), ARCHITECTURE, Rows(NOTHING), HABITS)
    found = [
        [graph.contents(node) for node in graph.nodes if node.kind is Kind.STRING]
        for graph in (small.pre, small.post)
    ]
    assert found == [[b"hello\0"], [b"by\0"]]
    assert [node.id for node in small.post.nodes] == list(range(len(small.post.nodes)))


def function(name: str, code: str) -> str:
    """A function in a section of its own, for the assembler."""
    return f'.section .text.{name},"ax"\n.type {name},@function\n{name}: {code}; ret\n.size {name},.-{name}\n'


NUMBERED = (
    """\
.section .bss.n.{0},"aw",@nobits
.type n.{0},@object
n.{0}: .zero 4
.size n.{0},4
.section .bss.n.{1},"aw",@nobits
.type n.{1},@object
n.{1}: .zero 4
.size n.{1},4
"""
    + function("f", "mov $.bss.n.{0},%rax")
    + function("g", "mov $.bss.n.{1},%rax; {2}")
)


def test_a_number_alone_proves_nothing() -> None:
    """The two variables swap their numbers: who refers to them tells which is which."""
    before, after = (
        compiled(NUMBERED.format(*each), ASSEMBLY) for each in ((1, 2, "nop"), (2, 1, "inc %eax"))
    )
    (_, added, removed, carried, replaced), _, refusals = both(before, after)
    assert (added, removed, carried, replaced, refusals) == ([], [], ["g"], ["g"], [])


ENTRIES = (
    function("f", "nop")
    + function("g", "nop")
    + """\
.section __bugs,"a"
.long .text.f - .; .long 1; .word {0}; .word {1}
.long .text.g - .; .long 1; .word {0}; .word 3
"""
)


def test_entries_of_equal_code_are_compared() -> None:
    first, lines, flags = (compiled(ENTRIES.format(*each), ASSEMBLY) for each in ((10, 1), (20, 1), (20, 2)))
    assert both(first, lines, special=BUGS)[0][4] == []
    assert both(first, flags, special=BUGS)[0][4] == ["f"]


KEYED = (
    function("f", "nop")
    + function("g", "nop")
    + """\
.section __keys,"a"
.long .text.f - .; .long {0} - .
.long .text.g - .; .long {1} - .
.section .data,"aw"
.quad one, two
"""
)
KEYS = {"__keys": SpecialSection("__keys", 8, Keep.OWNER, owner=0)}


@pytest.mark.parametrize("keys, changed", [(("two", "one"), ["f", "g"]), (("one", "one"), ["g"])])
def test_what_entries_of_equal_code_refer_to_is_compared(keys: tuple[str, str], changed: list[str]) -> None:
    """Code and entries are equal, byte for byte, and the table is as long as before."""
    before, after = (compiled(KEYED.format(*each), ASSEMBLY) for each in (("one", "two"), keys))
    assert both(before, after, special=KEYS)[0][4] == changed
    assert both(before, before, special=KEYS)[0][4] == []


BESIDE = {
    "__ip": SpecialSection("__ip", 4, Keep.OWNER, owner=0),
    "__info": SpecialSection("__info", 2, Keep.OWNER, parallel="__ip"),
}


def test_equal_bytes_of_a_parallel_table_may_be_about_other_code() -> None:
    code = function("f", "nop") + function("g", "nop")
    table = '.section __ip,"a"\n.long .text.{} - ., .text.{} - .\n.section __info,"a"\n.short 1, {}\n'
    before, swapped, alike_ones = (
        compiled(code + table.format(*each), ASSEMBLY)
        for each in (("f", "g", 2), ("g", "f", 2), ("g", "f", 1))
    )
    assert both(before, swapped, special=BESIDE)[0][4] == ["f", "g"]
    assert both(before, alike_ones, special=BESIDE)[0][4] == ["g"]


MASKED = {
    "__bugs": SpecialSection(
        "__bugs", 0, Keep.OWNER, owner=0,
        shapes=(Shape(12, ((0, 4),), ignored=((8, 2),)), Shape(12, ((0, 4), (4, 4)), ignored=((10, 2),))),
    )
}  # fmt: skip


def test_each_pair_has_its_own_layout_of_a_table() -> None:
    """Among others too, where tables of one name are compared at once."""
    table = '.section __bugs,"a"\n.long .text.f - .; .long {}; .word {}; .word {}\n'
    code, pairs, changed = function("f", "nop"), [], []
    for field in ("1", "key - ."):
        first, one, other = (
            read_bytes(compiled(code + table.format(field, *each), ASSEMBLY), "unit.o")
            for each in ((1, 1), (2, 1), (1, 2))
        )
        pairs += [(first, one), (first, other)]
    found = common(pairs, ARCHITECTURE, MASKED)
    for (pre, _), each in zip(pairs, found, strict=True):
        changed.append([pre.section_name(index) for index in each.pre.references.nonzero()[0]])
    assert changed == [[], [".text.f", "__bugs"], [".text.f", "__bugs"], []]


CUT_BY_RECORDS = {
    "__table": SpecialSection(
        "__table", 0, Keep.OWNER, owner=0, shapes=(Shape(8, ((0, 4),)), Shape(16, ((0, 4), (4, 4))))
    )
}


def test_a_layout_is_not_taken_over_where_records_differ() -> None:
    """Headers and symbols are equal, and records as many."""
    code = function("f", "nop") + function("g", "nop")
    table = '.section __table,"a"\n.long .text.f - .; .long {}; .long {}; .long 0\n'
    before, after = (
        compiled(code + table.format(*each), ASSEMBLY)
        for each in (("0", ".text.g - ."), (".text.g - .", "0"))
    )
    both(before, after, special=CUT_BY_RECORDS)


def test_a_layout_is_not_taken_over_where_symbols_differ() -> None:
    """Those that cover a table say how long its entries are."""
    shapes = Shape(8, ((0, 4),)), Shape(16, ((0, 4), (8, 4)))
    row = SpecialSection("__table", 0, Keep.OWNER, owner=0, shapes=shapes)
    code = Sec(".text.f", b"\x90\xc3", "ax", 16)
    table = Sec("__table", bytes(16), "a", 8, relocs=((0, 2, ".text.f", 0), (8, 2, ".text.f", 1)))
    before, after = (
        elf(code, table, Sym("f", ".text.f", 0, 2, FUNC), Sym("entry", "__table", 0, size, OBJECT, LOCAL))
        for size in (16, 8)
    )
    pre = read_bytes(before)
    assert read_bytes(after, "", pre).relocations is pre.relocations
    both(before, after, special={row.name: row})


def test_a_table_alone_is_not_beside_that_of_another_pair() -> None:
    code = function("f", "nop") + function("g", "nop")
    table = '.section __ip,"a"\n.long .text.f - ., .text.g - .\n.section __info,"a"\n.short 1, {}\n'
    texts = [code + table.format(1), code + table.format(2)]
    texts += [text.replace(table[: table.index(".section __info")], "") for text in texts]
    one, other, bare, changed = (read_bytes(compiled(text, ASSEMBLY), "unit.o") for text in texts)
    (alone,) = common([(bare, changed)], ARCHITECTURE, BESIDE)
    assert_same(common([(one, other), (bare, changed)], ARCHITECTURE, BESIDE)[1], alone)


POINTED = ENTRIES + function("h", "{2}; lea __bugs+12(%rip),%rax")


def test_an_entry_that_code_refers_to_stays_with_its_owner() -> None:
    """A second entry about a function that stays would be read by the kernel as one more."""
    before, after = (compiled(POINTED.format(1, 1, code), ASSEMBLY) for code in ("nop", "inc %eax"))
    (_, _, _, carried, replaced), entries, _ = both(before, after, special=BUGS)
    assert (carried, replaced, entries) == (["h"], ["h"], [])
    pre, post = (read_bytes(each, "unit.o") for each in (before, after))
    for whole in (False, True):
        plan = planned(pre, post, ARCHITECTURE, Rows(BUGS), HABITS, whole)
        assert [plan.post.nodes[index].label for index in plan.borrowed] == ["__bugs+0xc"]


def test_entries_of_a_table_that_only_one_object_has_are_compared() -> None:
    table = ENTRIES.index(".section __bugs")
    full, bare = compiled(ENTRIES.format(1, 1), ASSEMBLY), compiled(ENTRIES[:table], ASSEMBLY)
    for before, after in ((full, bare), (bare, full)):
        assert both(before, after, special=BUGS)[0][4] == ["f", "g"]


REPLACED = (
    """\
.section .repl,"ax"
1: nop
2: nop
"""
    + function("f", "nop")
    + function("g", "nop")
    + function("h", "nop; {2}")
    + """\
.section .alts,"a"
.long .text.f - ., {0}b - .
.long .text.g - ., {1}b - .
.long .text.h - ., {0}b - .
"""
)


def test_payload_goes_by_its_entries_and_not_by_its_place() -> None:
    """Two functions swap the places of their replacements, which look alike."""
    row = SpecialSection(".alts", 8, Keep.OWNER, owner=0, pieces=(".repl",))
    before, after = (
        compiled(REPLACED.format(*each), ASSEMBLY) for each in (("1", "2", "nop"), ("2", "1", "inc %eax"))
    )
    assert both(before, after, special={row.name: row})[0][4] == ["h"]


RELRO = (
    """\
.section .data.rel.ro.local,"aw"
.quad .text.g, .text.h
"""
    + function("g", "nop")
    + function("h", "nop")
    + function("f", "{}; mov $.data.rel.ro.local,%rax")
)


def test_a_nameless_constant_travels_with_its_references_though_its_section_is_writable() -> None:
    pre, post = (read_bytes(compiled(RELRO.format(each), ASSEMBLY), "unit.o") for each in ("nop", "inc %eax"))
    made = planned(pre, post, ARCHITECTURE, Rows({}), HABITS)
    (table,) = (node for node in made.post.nodes if node.section_name == ".data.rel.ro.local")
    assert table.id in made.carried
    assert len(made.post.references[table.id]) == 2


def kept(before: bytes, after: bytes, special: Special = NOTHING) -> set[str]:
    """The sections of the pre object whose references a graph needs."""
    pre, post = read_bytes(before, "unit.o"), read_bytes(after, "unit.o")
    (found,) = common([(pre, post)], ARCHITECTURE, special)
    return {pre.section_name(index) for index in found.pre.references.nonzero()[0]}


@pytest.mark.parametrize("use", ["call .text.g", "call g", "jne g", "cs call g", "movabs $g,%rax"])
def test_who_calls_a_function_that_changed_is_left_out(use: str) -> None:
    text = function("g", "nop; {}") + function("f", use)
    before, after = (compiled(text.format(each), ASSEMBLY) for each in ("nop", "inc %eax; nop"))
    assert both(before, after)[0][4] == ["g"]
    assert kept(before, after) == {".text.g"}


@pytest.mark.parametrize("use", ["jmp .text.g+1", "cmpb $1,.text.g+1(%rip)", "cmpb $1,g+1(%rip)"])
def test_who_reaches_into_a_function_that_changed_is_looked_at(use: str) -> None:
    """The addend of such a comparison is that of a call: its instruction ends a byte later."""
    text = function("g", "nop; {}") + function("f", use)
    before, after = (compiled(text.format(each), ASSEMBLY) for each in ("nop", "inc %eax; nop"))
    assert both(before, after)[0][4] == ["f", "g"]
    assert kept(before, after) == {".text.f", ".text.g"}


@pytest.mark.parametrize(
    "more",
    [
        function("g.cold", "ud2; {}") + function("f", "jmp g.cold"),
        '.section .text.two,"ax"\n' + "".join(
            f".type {name},@function\n{name}: nop; {{}}; ret\n.size {name},.-{name}\n" for name in "gh"
        ) + function("f", "call g"),
    ],
)  # fmt: skip
def test_who_uses_a_part_or_one_of_several_functions_is_looked_at(more: str) -> None:
    before, after = (compiled(more.format(*[each] * 2), ASSEMBLY) for each in ("nop", "inc %eax; nop"))
    both(before, after)
    assert ".text.f" in kept(before, after)


def test_what_nobody_reads_is_left_out() -> None:
    row = SpecialSection(".note_of_tool", 0, Keep.NEVER, compared=False)
    text = function("g", "nop") + '.section .note_of_tool,"a"\n.quad .text.g, {}\n'
    before, after = (compiled(text.format(each), ASSEMBLY) for each in (1, 2))
    assert both(before, after, special={row.name: row})[0] == [[], [], [], [], []]
    assert kept(before, after, {row.name: row}) == set()


CALLER = Sec(".text.f", b"\x48\x8b\x05\0\0\0\0\xc3", "ax", 16, relocs=((3, 2, "a", -4),))
PLACES = Sec(".data.x", bytes(8), "wa", 8), Sec(".data.y", bytes(8), "wa", 8)
READER = Sym("f", ".text.f", 0, 8, FUNC)


def variable(name: str, section: str, binding: int = LOCAL) -> Sym:
    return Sym(name, section, 0, 8, OBJECT, binding)


def test_a_symbol_that_changes_places_is_the_same_variable() -> None:
    """All names and all records are equal, byte for byte, but two names have changed places."""
    before, after = (
        elf(CALLER, *PLACES, variable("a", f".data.{one}"), variable("b", f".data.{other}"), READER)
        for one, other in ("xy", "yx")
    )
    pre, post = read_bytes(before), read_bytes(after)
    (found,) = common([(pre, post)], ARCHITECTURE, NOTHING)
    named = {pre.section_name(index) for index in found.pre.nodes.nonzero()[0]}
    assert named == {".text.f", ".data.x", ".data.y"}
    both(before, after)


def test_an_equal_record_says_something_else_where_symbols_are_counted_otherwise() -> None:
    caller = replace(CALLER, relocs=((3, 2, "b", -4),))
    one, other = variable("a", ".data.x"), variable("b", ".data.y")
    before, after = elf(CALLER, *PLACES, one, other, READER), elf(caller, *PLACES, other, one, READER)
    assert read_bytes(before).relocations.equals(read_bytes(after).relocations)
    assert both(before, after)[0][4] == ["f"]


@pytest.mark.parametrize("name", ["a", "a.1", "__func__.1"])
def test_a_variable_that_becomes_global_is_looked_at_as_such(name: str) -> None:
    """Names, places and all records are equal, but the number of a local variable means nothing."""
    caller = replace(CALLER, relocs=((3, 2, name, -4),))
    before, after = (
        elf(caller, *PLACES, variable(name, ".data.x", binding), replace(READER, binding=binding))
        for binding in (LOCAL, GLOBAL)
    )
    for pair in ((before, after), (after, before), (after, after)):
        both(*pair)


def test_a_batch_has_a_line_for_each_pair_and_goes_on_after_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, changed = EDITS[0]
    for name, before, after in (
        ("a/one.o", compiled(UNIT), compiled(UNIT.replace(old, new))),
        ("a/two.o", compiled(UNIT), compiled(UNIT)),
        ("broken.o", b"no object", compiled(UNIT)),
    ):
        for folder, data in (("pre", before), ("post", after)):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    for jobs in ("1", "2"):
        assert main(["diff", str(tmp_path / "pre"), str(tmp_path / "post"), "--json", "-j", jobs]) == 1
        *lines, totals = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        assert [(each["pair"], each["outcome"]) for each in lines] == [
            ("a/one.o", "changed"), ("a/two.o", "same"), ("broken.o", "error")
        ]  # fmt: skip
        assert lines[0]["replaced"] == [changed]
        assert "not an ELF file" in lines[2]["error"]
        assert totals == {"totals": {"changed": 1, "same": 1, "error": 1}}


def test_a_pair_that_fails_where_many_are_looked_at_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names without an end are found when the pairs are asked together what is alike in them."""
    lines = []
    for number, (old, new, _) in enumerate(EDITS):
        texts = [compiled(text) for text in (UNIT, UNIT.replace(old, new))]
        if number == 1:
            obj, changed = read_bytes(texts[1]), bytearray(texts[1])
            start, size = (int(obj.sections[column][obj.symbol_names]) for column in ("offset", "size"))
            changed[start : start + size] = b"x" * size
            texts[1] = bytes(changed)
        for name, text in zip(("pre", "post"), texts, strict=True):
            (tmp_path / f"{name}{number}.o").write_bytes(text)
        lines.append(f"{tmp_path}/pre{number}.o {tmp_path}/post{number}.o\n")
    (tmp_path / "list").write_text("".join(lines))
    assert main(["diff", "--batch", str(tmp_path / "list"), "--json"]) == 1
    *found, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(found) == len(EDITS)
    for number, (each, (_, _, changed_function)) in enumerate(zip(found, EDITS, strict=True)):
        if number == 1:
            assert each["outcome"] == "error"
            assert "has no end" in each["error"]
        else:
            assert each["replaced"] == [changed_function]


def test_a_name_that_no_file_can_have_is_the_error_of_its_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, changed = EDITS[0]
    for name, text in (("pre.o", UNIT), ("post.o", UNIT.replace(old, new))):
        (tmp_path / name).write_bytes(compiled(text))
    good = f"{tmp_path / 'pre.o'} {tmp_path / 'post.o'}\n"
    (tmp_path / "list").write_text(f"{good}{tmp_path / ('n' * 300)} {tmp_path / 'post.o'}\n{good}")
    assert main(["diff", "--batch", str(tmp_path / "list"), "--json"]) == 1
    *found, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert [each["outcome"] for each in found] == ["changed", "error", "changed"]
    assert found[2]["replaced"] == [changed]


def test_a_list_names_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, _ = EDITS[0]
    for name, text in (("pre.o", UNIT), ("post.o", UNIT.replace(old, new))):
        (tmp_path / name).write_bytes(compiled(text))
    (tmp_path / "list").write_text(f"# pairs\n{tmp_path / 'pre.o'} {tmp_path / 'post.o'}\n")
    assert main(["diff", "--batch", str(tmp_path / "list")]) == 0
    assert "1 pairs: 0 same, 1 changed, 0 refused, 0 error" in capsys.readouterr().out
    (tmp_path / "list").write_text("one two three\n")
    assert main(["diff", "--batch", str(tmp_path / "list")]) == 1
    assert "line 1 names 3 files" in capsys.readouterr().err


def test_objects_are_freed_without_a_search_for_garbage() -> None:
    """A batch does not search for it: what would wait for that adds up."""
    texts = [compiled(text) for text in (UNIT, UNIT.replace("return gauge[3]", "return 3"))]

    def compare() -> None:
        pre, post = (read_bytes(text, "unit.o") for text in texts)
        review(planned(pre, post, ARCHITECTURE, Rows(NOTHING), HABITS))

    compare()
    gc.collect()
    gc.disable()
    try:
        compare()
        assert gc.collect() == 0
    finally:
        gc.enable()

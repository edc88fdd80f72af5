# SPDX-License-Identifier: Apache-2.0
"""Explanations: every fate, the way to the edit, source lines, and names that nobody has."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import test_plugin_arch_ppc64le as ppc64le
import test_plugin_arch_riscv64 as riscv64
import test_plugin_arch_s390x as s390x
from compiled import UNIT, compiled, graph, graph_of, named, planned
from linkoracle import Cross, needs
from linkoracle import compiled as cross_compiled
from linkoracle import graph as cross_graph

from kdiff import correlate
from kdiff.cli.main import main
from kdiff.dwarflines import NONE, SourceLine, source_lines
from kdiff.errors import KdiffError
from kdiff.evidence import Step, operation
from kdiff.graph import SectionGraph
from kdiff.listing import Line
from kdiff.why import PASSES, Answer, why

DEBUG = "-g"


def explained(before: str, after: str, name: str, *options: str) -> Answer:
    pre, post = graph(before, *options), graph(after, *options)
    (answer,) = why(planned(pre, post), name, *(source_lines(each.obj, each.arch) for each in (pre, post)))
    return answer


def texts(answer: Answer) -> list[str]:
    return [f"{step.node}: {step.text}" for step in answer.steps]


# Fates -----------------------------------------------------------------------------------------------


def test_a_replaced_function_shows_its_first_instruction_that_differs_on_both_sides() -> None:
    text = "int f(int a, int b) { return a * b + %d; }"
    answer = explained(text % 5, text % 6, "f")
    assert answer.fate == "replaced"
    step = answer.steps[0]
    assert step.before is not None
    assert step.after is not None
    (old,) = (line for line in step.before.code if line.startswith(">"))
    (new,) = (line for line in step.after.code if line.startswith(">"))
    assert "5" in old
    assert new == old.replace("5", "6")
    assert len(step.before.code) > 1


def test_an_instruction_is_shown_with_its_source_line() -> None:
    text = "extern int limit;\n\nint f(int a)\n{\n\tif (a > limit)\n\t\treturn 1;\n\treturn a + %d;\n}\n"
    answer = explained(text % 5, text % 6, "f", DEBUG)
    step = answer.steps[0]
    assert step.before is not None
    assert step.after is not None
    assert step.before.source.endswith(":7")
    assert step.after.source.endswith(":7")


def test_without_debug_information_there_is_no_source_line() -> None:
    text = "int f(int a) { return a + %d; }"
    step = explained(text % 5, text % 6, "f").steps[0]
    assert step.after is not None
    assert step.after.source == ""


def test_a_new_reference_is_named_with_its_line() -> None:
    before = "int printk(const char *, ...);\nint f(int a)\n{\n\treturn a;\n}\n"
    after = before.replace("\treturn", '\tif (a > 7)\n\t\tprintk("too many\\n");\n\treturn')
    answer = explained(before, after, "f", DEBUG)
    (step,) = (each for each in answer.steps if each.text == "only the post version refers to printk")
    assert step.after is not None
    assert step.after.source.endswith(":5")
    assert any("'too many\\n'" in each.text for each in answer.steps)


def test_inserted_lines_are_named() -> None:
    before = 'int printk(const char *, ...);\nint f(int a)\n{\n\tprintk("a");\n\treturn a;\n}\n'
    after = before.replace("\treturn", '\tprintk("b");\n\tprintk("c");\n\treturn')
    answer = explained(before, after, "f", DEBUG)
    (step,) = (each for each in answer.steps if each.key == "source")
    assert step.after is not None
    assert step.after.source.endswith(":5-6")


def test_a_change_that_follows_another_leads_to_it() -> None:
    text = """
    int printk(const char *, ...);
    static const int table[] = {1, 2, %d};
    int get(int a) { return table[a]; }
    """
    answer = explained(text % 3, text % 4, "get")
    assert answer.fate == "replaced"
    assert [step.node for step in answer.steps] == ["get", "table"]
    assert answer.steps[0].key == "target"
    last = answer.steps[-1]
    assert last.before is not None
    assert last.after is not None
    assert "03 00 00 00" in last.before.code[0]
    assert "04 00 00 00" in last.after.code[0]


def test_a_carried_node_shows_the_way_from_a_replaced_function() -> None:
    before = "int f(int a) { return a; }"
    after = """
    static const char *const words[] = {"one", "two"};
    static __attribute__((noinline)) const char *pick(int a) { return words[a & 1]; }
    int f(int a) { return a + *pick(a); }
    """
    answer = explained(before, after, "words")
    assert answer.fate == "carried"
    assert texts(answer)[:3] == [
        "f: refers to pick",
        "pick: refers to words",
        "words: it is new: the kernel does not have it",
    ]
    assert any(step.node == "f" and step.before is not None for step in answer.steps[3:])


def test_a_borrowed_node_shows_who_needs_it_and_why_it_stays() -> None:
    changed = UNIT.replace("hits += a; return", "hits -= a; return")
    answer = explained(UNIT, changed, "helper")
    assert answer.fate == "borrowed"
    shown = texts(answer)
    assert shown[0] == "tail: refers to helper"
    assert "it did not change" in shown[1]
    assert "both have this name" in shown[2]
    extern = explained(UNIT, changed.replace("return a ^", "return other(a) ^"), "other")
    assert "another unit defines it" in texts(extern)[-1]


def test_what_did_not_change_is_paired_with_something_by_a_pass() -> None:
    changed = UNIT.replace("hits += a; return", "hits -= a; return")
    answer = explained(UNIT, changed, "choose")
    assert answer.fate == "same"
    assert texts(answer)[0] == "choose: paired with choose of the pre object: both have this name (sure)"
    assert "mean the same in both" in texts(answer)[1]


def test_what_is_added_without_a_user_and_what_is_removed_say_so() -> None:
    before = "int f(int a) { return a; } int gone(int a) { return a * 7; }"
    after = "int f(int a) { return a; } int news(int a) { return a * 9; }"
    assert explained(before, after, "news").fate == "added"
    assert explained(before, after, "gone").fate == "removed"


def test_a_change_that_is_refused_says_why() -> None:
    answer = explained("int counter = 5;", "int counter = 6;", "counter")
    assert answer.fate == "changed"
    assert answer.steps[-1].key == "review.data_changed"


def test_a_static_that_was_renumbered_is_found_by_both_names() -> None:
    before = "int f(void) { static int n = 5; return n++; }"
    after = "int f(void) { static int m = 7, n = 5; m++; return n++ + 1 + m; }"
    old, new = (
        next(node.name for node in graph(text).nodes if node.name.startswith("n."))
        for text in (before, after)
    )
    answers = [explained(before, after, name) for name in dict.fromkeys((old, new))]
    assert {answer.fate for answer in answers} == {"borrowed"}
    assert any(f"paired with {old}" in text for text in texts(answers[0]))


def test_an_unknown_name_is_an_error_with_near_names() -> None:
    with pytest.raises(KdiffError) as caught:
        explained(UNIT, UNIT, "chose")
    assert caught.value.key == "why.unknown"
    assert "choose" in caught.value.remedy


def test_a_static_is_near_to_its_name_without_a_number() -> None:
    with pytest.raises(KdiffError, match=r"calls\.\d"):
        explained(UNIT, UNIT, "calls")


def test_every_node_of_every_fate_has_an_explanation() -> None:
    changed = UNIT.replace("hits += a; return", "hits -= a; return").replace("return 9", "return 8")
    pre, post = graph(UNIT), graph(changed)
    plan = planned(pre, post)
    for node in (*pre.nodes, *post.nodes):
        for answer in why(plan, node.label, NONE, NONE):
            assert answer.steps
            assert all(isinstance(step, Step) and step.text for step in answer.steps)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("add eax, 0x10", "add 0x10 "),
        ("add ebx, 0x10", "add 0x10 "),
        ("mov rax, qword ptr [rsp + 0x38]", "mov "),
        ("test byte ptr [rdi], 4", "test 4 "),
        ("add w0, w1, #7", "add #7 "),
        ("call printk", "call printk "),
        ("mov rdi, 0  ; table.7", "mov 0 table"),
        ("sub rsp, 0x48", ""),
    ],
)
def test_an_operation_has_no_registers(text: str, expected: str) -> None:
    assert operation(Line(0, text, text)) == expected


def test_every_pass_of_correlation_is_explained() -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(Path(correlate.__file__).read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in ("pair_unique", "pair_in_order", "add")
    ]
    named = {
        argument.value
        for call in calls
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }
    assert "name" in named
    assert named <= PASSES.keys()


# Lines -----------------------------------------------------------------------------------------------

LINES = (
    "extern int limit;\nint f(int a)\n{\n\treturn a * limit;\n}\n\nint g(int a)\n{\n\treturn a + limit;\n}\n"
)


def lines_of(found: SectionGraph, name: str) -> set[int]:
    table, node = source_lines(found.obj, found.arch), named(found, name)
    shown = {table.at(node.section, node.start + at) for at in range(node.size)}
    return {line.line for line in shown if line is not None}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("packed", ["none", "zlib"])
def test_functions_in_sections_of_their_own_have_lines_of_their_own(version: int, packed: str) -> None:
    found = graph(LINES, DEBUG, f"-gdwarf-{version}", f"-gz={packed}")
    assert lines_of(found, "f") in ({3, 4, 5}, {4, 5})
    assert lines_of(found, "g") in ({8, 9, 10}, {9, 10})


@pytest.mark.parametrize(
    "cross",
    [
        pytest.param(cross, id=name, marks=needs(cross))
        for name, cross in (
            ("ppc64le", ppc64le.GCC),
            ("riscv64", riscv64.GCC),
            ("riscv64-relaxed", Cross(riscv64.ARCHITECTURE, "riscv64-linux-gnu-", ("-mrelax",), 0, 0, 0)),
            ("s390x", s390x.GCC),
        )
    ],
)
def test_lines_are_read_on_every_architecture(cross: Cross) -> None:
    found = cross_graph(cross, cross_compiled(cross, LINES, DEBUG))
    assert lines_of(found, "f") in ({3, 4, 5}, {4, 5})
    assert lines_of(found, "g") in ({8, 9, 10}, {9, 10})


def test_an_object_without_debug_information_has_no_lines() -> None:
    found = graph(LINES)
    assert source_lines(found.obj, found.arch) is NONE


def test_a_broken_line_table_is_as_good_as_none() -> None:
    data = compiled(LINES, DEBUG)
    whole = graph_of(data)
    index = next(i for i in range(len(whole.obj.sections)) if whole.obj.section_name(i) == ".debug_line")
    start, size = (int(whole.obj.sections[field][index]) for field in ("offset", "size"))
    for at in range(0, size, 3):
        for value in (0, 0xFF):
            broken = graph_of(data[: start + at] + bytes([value]) + data[start + at + 1 :])
            source_lines(broken.obj, broken.arch)


def test_a_source_line_is_written_as_editors_take_it() -> None:
    assert str(SourceLine("net/ipv4/tcp.c", 12)) == "net/ipv4/tcp.c:12"


# Command ---------------------------------------------------------------------------------------------


def test_the_command_explains_and_gives_the_same_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    pre.write_bytes(compiled(UNIT))
    post.write_bytes(compiled(UNIT.replace("return 9", "return 8")))
    words = ["diff", str(pre), str(post), "--why", "choose"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["why"]
    assert answer["fate"] == "replaced"
    for step in answer["steps"]:
        assert step["text"] in text
        assert all(line in text for side in ("before", "after") if step[side] for line in step[side]["code"])
    assert main([*words[:-1], "nothing_like_it"]) == 1

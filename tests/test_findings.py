# SPDX-License-Identifier: Apache-2.0
"""What a patch does to data and to what the kernel reads at boot, as drivers write it: each has its own key.

All of it is compiled with the headers' macros (`kernel_macros`), by gcc, and compared as `kdiff diff` does.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from compiled import compiled, graph, labels, planned
from kdiff_kernel_linux.tables import rows
from kernel_macros import HEADERS, OLD_HEADERS

from kdiff.cli.main import main
from kdiff.errors import Refusal
from kdiff.kernel import KernelFacts
from kdiff.plan import Plan
from kdiff.review import left_out, review

TABLES = rows(KernelFacts(machine="x86_64"), {})
BOTH = pytest.mark.parametrize("headers", [HEADERS, OLD_HEADERS], ids=["new", "old"])
CODE = "int work(int a) {{ return limit(a) + {}; }}\n"
START = 'static int __init start(void) {{ return publish("x") + {}; }}\n'


def plan(before: str, after: str, headers: str = HEADERS) -> Plan:
    assert before != after
    return planned(*(graph(headers + text, special=TABLES) for text in (before, after)))


def replaced(found: Plan) -> list[str]:
    return labels(found.post, (post for _, post in found.replaced))


def refusals(before: str, after: str, headers: str = HEADERS) -> tuple[Refusal, ...]:
    found = review(plan(before, after, headers))
    assert all(each.place.startswith("unit.o: ") and each.remedy for each in found)
    return found


def keys(before: str, after: str, headers: str = HEADERS) -> set[str]:
    return {each.key for each in refusals(before, after, headers)}


# What is read at boot, or published there ------------------------------------------------------------


@BOTH
def test_an_export_less_is_refused(headers: str) -> None:
    one, two = CODE.format(1), CODE.format(2)
    assert keys(f"{one}EXPORT_SYMBOL_GPL(work)", one, headers) == {"review.export_changed"}
    assert keys(f"{one}EXPORT_SYMBOL_GPL(work)", two, headers) == {"review.export_changed"}


@BOTH
def test_an_export_more_is_left_out(headers: str) -> None:
    one = CODE.format(1)
    found = plan(one, f"{one}EXPORT_SYMBOL_GPL(work)", headers)
    assert review(found) == ()
    (line,) = left_out(found)
    assert line.startswith("an export ")
    assert line.endswith("_work")
    assert left_out(plan(one, CODE.format(2), headers)) == ()


def test_an_export_more_leaves_others_as_they_are_where_each_has_a_section() -> None:
    exported = "int {0}(int a) {{{{ return limit(a); }}}} EXPORT_SYMBOL_GPL({0})\n"
    others = exported.format("first") + "{0}" + exported.format("last")
    work = CODE.format(1) + "EXPORT_SYMBOL_GPL(work)"
    found = plan(others.format(""), others.format(work), OLD_HEADERS)
    assert review(found) == ()
    assert len(left_out(found)) == 1
    assert keys(others.format(""), others.format(work)) == {"review.export_changed"}  # one table for all


@BOTH
def test_an_exported_function_may_change(headers: str) -> None:
    before, after = (f"{CODE.format(number)}EXPORT_SYMBOL_GPL(work)" for number in (1, 2))
    assert replaced(plan(before, after, headers)) == ["work"]
    assert keys(before, after, headers) == set()


@BOTH
def test_an_initcall_more_or_less_or_at_another_level_is_refused(headers: str) -> None:
    one = CODE.format(1) + START.format(1)
    device, early = f"{one}device_initcall(start)", f"{one}early_initcall(start)"
    assert keys(CODE.format(1), device, headers) == {"review.initcall_changed"}
    assert keys(device, CODE.format(1), headers) == {"review.initcall_changed"}
    assert keys(device, early, headers) == {"review.initcall_changed"}


def test_an_exit_call_more_is_refused() -> None:
    one = CODE.format(1)
    stop = "static void __exit stop(void) { limit(3); }\n__exitcall(stop)"
    assert keys(one, one + stop) == {"review.exitcall_changed"}


PARAMETER = "static int debug = 3;\nint work(void) {{ return debug + {}; }}\n{}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "module_param(debug, int, 0644)"),
        ("module_param(debug, int, 0644)", ""),
        ("module_param(debug, int, 0444)", "module_param(debug, int, 0644)"),
    ],
)
def test_a_module_parameter_more_or_less_or_with_other_rights_is_refused(before: str, after: str) -> None:
    found = keys(PARAMETER.format(1, before), PARAMETER.format(1, after))
    assert found == {"review.parameter_changed"}


def test_code_that_reads_a_parameter_may_change_and_descriptions_too() -> None:
    text = 'module_param(debug, int, 0644)\nMODULE_PARM_DESC(debug, "{}")'
    before = PARAMETER.format(1, text.format("noise"))
    assert keys(before, PARAMETER.format(2, text.format("more noise"))) == set()
    assert replaced(plan(before, PARAMETER.format(2, text.format("more noise")))) == ["work"]


OPTION = "static int __init option(char *s) {{ return limit({}); }}\n{}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '__setup("demo=", option)'),
        ('__setup("demo=", option)', ""),
        ('__setup("demo=", option)', '__setup("dema=", option)'),
        ('__setup("demo", option)', 'early_param("demo", option)'),
    ],
)
def test_a_boot_option_more_or_less_or_of_another_name_is_refused(before: str, after: str) -> None:
    one = CODE.format(1)
    found = keys(one + OPTION.format(1, before), one + OPTION.format(1, after))
    assert found - {"review.init_data"} == {"review.boot_option_changed"}


# Boot and exit code ----------------------------------------------------------------------------------


@BOTH
def test_changed_boot_code_is_refused_by_its_name_alone_and_among_other_changes(headers: str) -> None:
    text = CODE + START + "device_initcall(start)"
    before = text.format(1, 1)
    for after in (text.format(1, 2), text.format(2, 2)):
        (refusal,) = refusals(before, after, headers)
        assert refusal.key == "review.init_code"
        assert refusal.reason.startswith("start is boot code")
        assert refusal.place == "unit.o: .init.text"
        assert "drop this function" in refusal.remedy
    assert keys(before, text.format(2, 1), headers) == set()


@pytest.mark.parametrize(
    ("target", "words"), [("vmlinux", "what it did stays done"), ("bridge", "ran when the module was loaded")]
)
def test_the_reason_says_what_became_of_boot_code(target: str, words: str) -> None:
    text = START + "device_initcall(start)"
    (refusal,) = review(replace(plan(text.format(1), text.format(2)), target=target))
    assert words in refusal.reason


def test_a_function_inlined_into_boot_code_changes_boot_code() -> None:
    text = "static inline int part(void) {{ return limit({}); }}\n"
    text += "static int __init start(void) {{ return part(); }}\ndevice_initcall(start)"
    (refusal,) = refusals(text.format(3), text.format(4))
    assert (refusal.key, refusal.reason.split()[0]) == ("review.init_code", "start")


def test_changed_exit_code_is_refused() -> None:
    text = "static void __exit stop(void) {{ limit({}); }}\n__exitcall(stop)"
    (refusal,) = refusals(text.format(3), text.format(4))
    assert refusal.key == "review.init_code"
    assert refusal.reason.startswith("stop is exit code")


def test_boot_code_that_becomes_plain_code_is_refused() -> None:
    text = "{} noinline int part(int a) {{ return limit(a); }}\nint work(int a) {{ return {}; }}"
    (refusal,) = refusals(text.format("__init", "limit(a)"), text.format("", "part(a) * 2"))
    assert refusal.key == "review.init_code"
    assert "was boot code" in refusal.reason
    assert "another name" in refusal.remedy


@pytest.mark.parametrize(
    ("new", "use", "key"),
    [
        ("static noinline int __init fresh(int a) { return limit(a) * 3; }", "fresh(a)", "review.init_code"),
        ("static int fresh __initdata = 7;", "fresh++", "review.init_data"),
        ("static const int fresh[] __initconst = { 1, 2, 3 };", "fresh[a]", "review.init_data"),
    ],
)
def test_new_boot_code_and_data_that_running_code_would_use_are_refused(new: str, use: str, key: str) -> None:
    text = "{}\nint work(int a) {{ return limit(a) + {}; }}"
    assert keys(text.format("", 1), text.format(new, use)) == {key}


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("int level __initdata = {};", set()),
        ("static int level __initdata = {}; int __init f(void) {{ return level++; }}", set()),
        (
            "static const int level[] __initconst = {{ {}, 1 }}; int __init f(int a) {{ return level[a]; }}",
            {"review.init_code"},
        ),
    ],
)
def test_changed_boot_data_is_refused(text: str, more: set[str]) -> None:
    assert keys(text.format(4), text.format(5)) == {"review.init_data"} | more


# Variables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("int n = 4;", "int n = 5;", "review.data_changed"),
        ("int n;", "int n = 5;", "review.data_changed"),
        ("static int n __used = 4;", "static int n __used = 5;", "review.data_changed"),
        ("int (*n)(int) = limit;", "int (*n)(int) = work;", "review.data_changed"),
        ("int n = 4;", "long n = 4;", "review.data_resized"),
        ("int n[4];", "int n[5];", "review.data_resized"),
        ("int n = 4;", "int n __aligned(64) = 4;", "review.data_moved"),
        ("int n = 4;", "DEFINE_PER_CPU(int, n) = 4;", "review.per_cpu_changed"),
        ("DEFINE_PER_CPU(int, n) = 4;", "int n = 4;", "review.per_cpu_changed"),
        ("DEFINE_PER_CPU(int, n) = 4;", "DEFINE_PER_CPU(int, n) = 5;", "review.per_cpu_changed"),
        ("DEFINE_PER_CPU(int, n) = 4;", "DEFINE_PER_CPU(long, n) = 4;", "review.per_cpu_changed"),
        ("int n __ro_after_init = 4;", "int n __ro_after_init = 5;", "review.ro_after_init"),
        ("int n __ro_after_init = 4;", "int n = 4;", "review.data_moved"),
        ("int n __ro_after_init = 4;", "long n __ro_after_init = 4;", "review.data_resized"),
        ("int n = 4;", "int n __ro_after_init = 5;", "review.data_moved"),
    ],
)
def test_each_change_of_a_variable_has_its_key(before: str, after: str, key: str) -> None:
    for code in (CODE.format(1), CODE.format(2)):
        (refusal,) = refusals(CODE.format(1) + before, code + after)
        assert refusal.key == key
        assert " n" in refusal.reason


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int n = 4;", "int n __read_mostly = 4;"),
        ("int n = 4;", "int n __ro_after_init = 4;"),
        ("static int n = 4; int *p = &n;", "int n = 4; int *p = &n;"),
    ],
)
def test_a_variable_that_only_lies_or_is_known_elsewhere_is_no_finding(before: str, after: str) -> None:
    assert keys(CODE.format(1) + before, CODE.format(2) + after) == set()


def test_new_data_of_every_plain_kind_is_carried() -> None:
    after = """
    int global = 5; static int empty[4]; static const int fixed[] = { 7, 8, 9 };
    static int seldom __read_mostly = 3; static int once __ro_after_init = 4;
    int work(int a) { empty[a] = global++; return fixed[a] + seldom++ + once++ + empty[a + 1]; }
    """
    found = plan(CODE.format(1), after)
    assert review(found) == ()
    assert set(labels(found.post, found.carried)) == {"work", "global", "empty", "fixed", "seldom", "once"}


@pytest.mark.parametrize("word", ["DEFINE_PER_CPU", "DEFINE_PER_CPU_READ_MOSTLY", "static DEFINE_PER_CPU"])
def test_a_new_per_cpu_variable_is_refused(word: str) -> None:
    found = keys(CODE.format(1), f"{word}(int, n);\nint work(int a) {{ return n++; }}")
    assert found == {"review.per_cpu"}


# Sections nobody knows --------------------------------------------------------------------------------

LISTED = '{} const int listed[] __used __section("__demo_table") = {{ 1, {} }};'


@pytest.mark.parametrize("word", ["", "static"])
def test_a_table_of_unknown_meaning_is_neither_written_in_place_nor_passed_over(word: str) -> None:
    before = CODE.format(1) + LISTED.format(word, 2)
    for code in (CODE.format(1), CODE.format(2)):
        found = plan(before, code + LISTED.format(word, 3))
        assert found.in_place == ()
        assert "review.unknown_section" in {each.key for each in review(found)}
    assert keys(CODE.format(1), before) == {"review.unknown_section"}
    assert keys(before, CODE.format(2) + LISTED.format(word, 2)) == set()


# As a command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_boot_code_ends_with_status_3_whatever_else_changes(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    pre.write_bytes(compiled(HEADERS + CODE.format(1) + START.format(1) + "device_initcall(start)"))
    post.write_bytes(compiled(HEADERS + CODE.format(number) + START.format(2) + "device_initcall(start)"))
    assert main(["diff", str(pre), str(post), "--json"]) == 3
    assert {each["key"] for each in json.loads(capsys.readouterr().out)["refusals"]} == {"review.init_code"}

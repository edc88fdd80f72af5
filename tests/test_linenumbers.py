# SPDX-License-Identifier: Apache-2.0
"""Numbers of source lines in code are no change; other constants are."""

from __future__ import annotations

import pytest
from compiled import ASSEMBLY, HABITS, changes, graph, planned
from linkoracle import Cross, compiled
from test_plugin_arch_aarch64 import CROSS as AARCH64
from test_plugin_arch_arm import CROSS as ARM
from test_plugin_arch_i386 import CROSS as I386
from test_plugin_arch_loongarch64 import CLANG as LOONGARCH64
from test_plugin_arch_ppc64le import GCC as PPC64LE
from test_plugin_arch_riscv64 import GCC as RISCV64
from test_plugin_arch_s390x import GCC as S390X

from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.dwarflines import NONE
from kdiff.elf.read import read_bytes
from kdiff.graph import build
from kdiff.why import why

TEXT = """
void __might_resched(const char *, int, unsigned);
void note(int, int);
{blank}
int f(int a) {{ __might_resched("x.c", __LINE__, {offsets}); return a + {constant}; }}
int g(int a) {{ note(__LINE__, a); return a; }}
"""
BLANK = 60 * "\n"


def unit(lines: int = 0, offsets: int = 0, constant: int = 1, start: int = 0) -> str:
    return "\n" * start + TEXT.format(blank="\n" * lines, offsets=offsets, constant=constant)


def changed(cross: Cross, before: str, after: str, *flags: str) -> set[str]:
    pre, post = (
        build(read_bytes(compiled(cross, text, *flags), "unit.o"), cross.architecture, {}, HABITS)
        for text in (before, after)
    )
    return {post.nodes[each.post].label for each in diff(pre, post, correlate(pre, post)).changed}


@pytest.mark.parametrize(
    "cross", [AARCH64, ARM, LOONGARCH64, PPC64LE, RISCV64, S390X], ids=lambda c: c.architecture.name
)
@pytest.mark.parametrize("start", [0, 3000, 5000])
def test_a_line_that_a_callee_is_told_is_no_change_on_any_architecture(cross: Cross, start: int) -> None:
    if cross is ARM and start == 0:
        start = 300
    before, after = unit(start=start), unit(7, start=start)
    assert changed(cross, before, after) == {"g"}
    assert changed(cross, before, unit(7, offsets=1, start=start)) == {"f", "g"}
    assert changed(cross, before, unit(7, constant=2, start=start)) == {"f", "g"}


def test_the_argument_must_be_the_line() -> None:
    assert set(changes(graph(unit()), graph(unit(7)))) == {"g"}
    assert set(changes(graph(unit()), graph(unit(7, offsets=7)))) == {"f", "g"}


SCRATCH = """
.section .text.f,"ax"
.type f,@function
f: mov ${},%esi
imul %esi,%eax
mov %ebx,%esi
call __might_resched
ret
.size f,.-f
"""


def test_a_number_that_is_used_before_the_call_is_no_line() -> None:
    pre, post = (graph(SCRATCH.format(number), ASSEMBLY) for number in (5, 6))
    assert set(changes(pre, post)) == {"f"}
    line = SCRATCH.replace("imul %esi,%eax\nmov %ebx,%esi", "nop")
    assert not changes(*(graph(line.format(number), ASSEMBLY) for number in (5, 6)))


def test_line_tables_know_better_than_who_is_told() -> None:
    text = unit().replace("__LINE__, 0", "{}, 0")
    assert "100, 0" in text.replace("{}", "100")
    pre, post = (text.replace("{}", number) for number in ("100", "200"))
    assert not changes(graph(pre), graph(post))
    assert set(changes(graph(pre, "-g"), graph(post, "-g"))) == {"f"}


@pytest.mark.parametrize("cross", [AARCH64, I386, PPC64LE, RISCV64, S390X], ids=lambda c: c.architecture.name)
def test_the_line_table_tells_a_line_from_a_number(cross: Cross) -> None:
    assert changed(cross, unit(), unit(7), "-g") == set()
    edited = unit(7).replace("note(__LINE__", "note(__LINE__ + 1")
    assert changed(cross, unit(), edited, "-g") == {"g"}


INLINED = """
void __might_resched(const char *, int, unsigned);
void note(const char *, int, unsigned);
static void tells(int *p, int line) {{ __might_resched("x.c", line, *p); __might_resched("y.c", line, 1); }}
static void notes(int *p, int line) {{ note("x.c", line, *p); note("y.c", line, 1); }}
int busy(int);
{blank}
int f(int *p) {{
    int found = busy(1);
    if (busy(2)) {{
        tells(p, __LINE__);
        found = -2;
    }}
    return found;
}}
int g(int *p) {{
    int found = busy(1);
    if (busy(2)) {{
        notes(p, __LINE__);
        found = -2;
    }}
    return found;
}}
int h(int *p) {{
    int found = busy(1);
    if (busy(2)) {{
        tells(p, {number});
        found = -2;
    }}
    return found;
}}
"""


def test_a_line_without_a_place_must_be_told_to_who_takes_it() -> None:
    pre = graph(INLINED.format(blank="", number=33), "-g")
    for number, more in ((33, set()), (40, set()), (41, {"h"}), (500, {"h"})):
        post = graph(INLINED.format(blank="\n" * 7, number=number), "-g")
        assert set(changes(pre, post)) == {"g"} | more


def test_the_line_table_of_both_objects_is_needed() -> None:
    assert set(changes(graph(unit(), "-g"), graph(unit(7)))) == {"g"}
    assert not changes(graph(unit(), "-g"), graph(unit(7), "-g"))


def test_code_that_differs_in_more_than_constants_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    pre, post = graph(unit()), graph(unit().replace("return a +", "return a -"))
    monkeypatch.setattr("kdiff.graph.decoded", None)
    assert set(changes(pre, post)) == {"f"}


def test_why_names_the_lines_that_moved() -> None:
    (answer,) = why(planned(graph(unit()), graph(unit(7))), "f", NONE, NONE)
    assert answer.fate == "same"
    assert any("its source line, which was 5, is 12" in step.text for step in answer.steps)


FORTIFIED = """
void warn(const char *, int);
{blank}
#define TEXT(line) TEXT_(line)
#define TEXT_(line) "field \\"{field}\\" at x.c:" #line
int f(int a) {{ warn(TEXT(__LINE__), a); return a; }}
"""


def test_a_line_at_the_end_of_a_text_is_no_change_and_the_text_before_it_is_one() -> None:
    """As in include/linux/fortify-string.h: `field "a" at FILE:LINE`."""
    one = graph(FORTIFIED.format(blank="", field="a"))
    assert changes(one, graph(FORTIFIED.format(blank=BLANK, field="a"))) == {}
    assert set(changes(one, graph(FORTIFIED.format(blank=BLANK, field="b")))) == {"f"}


# Registers -------------------------------------------------------------------------------------------

ASSEMBLER = ".text\n.globl f\n.type f, %function\nf:\n{}\n"
USED = {
    "loongarch64": "addi.w $a1, $zero, {0}\nadd.d $a1, $a1, $a2\nb __might_resched",
    "riscv64": "li a1, {0}\nadd a1, a1, a2\ntail __might_resched",
    "aarch64": "mov w1, #{0}\nadd w1, w1, w2\nb __might_resched",
}
"""A constant that is changed before it is an argument."""
KEPT = {
    "loongarch64": "addi.w $a1, $zero, {0}\nadd.d $a2, $a2, $a3\naddi.d $a0, $a0, 5\nb __might_resched",
    "riscv64": "li s1, {0}\ncall other\nli a2, 0\nmv a1, s1\ncall __might_resched\nret",
    "aarch64": "mov w19, #{0}\nbl other\nmov w2, #0\nmov w1, w19\nbl __might_resched\nret",
}
"""One that is not, or that waits in a register which a call keeps."""
LOST = {
    "riscv64": "li s1, {0}\ncall other\nld s1, 8(sp)\nmv a1, s1\ncall __might_resched\nret",
    "aarch64": "mov w19, #{0}\nbl other\nldr w19, [sp]\nmov w1, w19\nbl __might_resched\nret",
}
MISTAKEN = {
    "riscv64": "li a1, {0}\ncall other\ncall __might_resched\nret",
    "aarch64": "mov w1, #{0}\nbl other\nbl __might_resched\nret",
    "loongarch64": "addi.w $a1, $zero, {0}\nbl other\nb __might_resched",
}
"""One that is no longer there when it is called for."""
CROSSES = {"loongarch64": LOONGARCH64, "riscv64": RISCV64, "aarch64": AARCH64}


def assembled(cross: Cross, text: str, line: int) -> bytes:
    return compiled(cross, ASSEMBLER.format(text.format(line)), language="assembler")


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        *((text, name, False) for each in (USED, LOST, MISTAKEN) for name, text in each.items()),
        *((text, name, True) for name, text in KEPT.items()),
    ],
)
def test_a_line_must_be_in_the_register_that_the_call_takes(text: str, name: str, told: bool) -> None:
    cross = CROSSES[name]
    pre, post = (
        build(read_bytes(assembled(cross, text, line), "unit.o"), cross.architecture, {}, HABITS)
        for line in (123, 130)
    )
    assert (not diff(pre, post, correlate(pre, post)).changed) == told

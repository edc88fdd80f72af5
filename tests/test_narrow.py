# SPDX-License-Identifier: Apache-2.0
"""What large objects are cut down to leads to the plan that whole graphs lead to."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from compiled import ASSEMBLY, HABITS, UNIT, compiled
from hypothesis import HealthCheck, given, settings
from kdiff_arch_x86_64 import ARCHITECTURE
from linkoracle import EDITS, Cross
from linkoracle import compiled as cross_compiled
from strategies import pairs
from test_alike import BUGS, ENTRIES, NUMBERED, POINTED, RELRO, REPLACED, function, kept, outcome
from test_linenumbers import AARCH64, LOONGARCH64, PPC64LE, RISCV64, S390X

from kdiff import narrow as narrowing
from kdiff.arch import Architecture
from kdiff.atoms import Atoms, Names
from kdiff.compare import planned
from kdiff.elf.read import Object, read_bytes
from kdiff.kernel import Keep, SpecialSection
from kdiff.narrow import Narrowed, narrow
from kdiff.reach import sources
from kdiff.sectionrows import Rows

Special = Mapping[str, SpecialSection]


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every object count as a large one."""
    monkeypatch.setattr(narrowing, "LARGE", 0)


def objects(before: bytes, after: bytes) -> tuple[Object, Object]:
    return read_bytes(before, "unit.o"), read_bytes(after, "unit.o")


def cut(
    before: bytes, after: bytes, arch: Architecture = ARCHITECTURE, special: Special = BUGS
) -> Narrowed | None:
    return narrow(*objects(before, after), arch, special, HABITS)


def both(
    before: bytes, after: bytes, arch: Architecture = ARCHITECTURE, special: Special = BUGS
) -> tuple[object, ...]:
    """The outcome, which is the same with whole graphs."""
    assert cut(before, after, arch, special) is not None
    plans = [planned(*objects(before, after), arch, Rows(special), HABITS, whole) for whole in (False, True)]
    assert outcome(plans[0]) == outcome(plans[1])
    return outcome(plans[0])


def replaced(found: tuple[object, ...]) -> list[str]:
    (_, _, _, _, names), _, _ = found  # type: ignore[misc]
    return names  # type: ignore[no-any-return,has-type]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs())
def test_the_plan_is_that_of_whole_graphs(texts: tuple[str, str]) -> None:
    both(*(compiled(text) for text in texts))


@pytest.mark.parametrize(
    "cross", [AARCH64, LOONGARCH64, PPC64LE, RISCV64, S390X], ids=lambda c: c.architecture.name
)
def test_the_plan_is_that_of_whole_graphs_on_every_architecture(cross: Cross) -> None:
    for old, new, changed in EDITS:
        before, after = (cross_compiled(cross, text) for text in (UNIT, UNIT.replace(old, new)))
        assert replaced(both(before, after, cross.architecture)) == [changed]


def test_equal_objects_leave_nothing() -> None:
    found = cut(compiled(UNIT), compiled(UNIT))
    assert found is not None
    assert not len(found.pre.relocations)
    assert not len(found.post.relocations)


ROW = SpecialSection(".alts", 8, Keep.OWNER, owner=0, pieces=(".repl",))


@pytest.mark.parametrize(
    ("text", "before", "after", "special", "expected"),
    [
        (NUMBERED, (1, 2, "nop"), (2, 1, "inc %eax"), {}, ["g"]),
        (ENTRIES, (10, 1), (20, 1), BUGS, []),
        (ENTRIES, (20, 1), (20, 2), BUGS, ["f"]),
        (REPLACED, ("1", "2", "nop"), ("2", "1", "inc %eax"), {ROW.name: ROW}, ["h"]),
        (RELRO, ("nop",), ("inc %eax",), {}, ["f"]),
        (POINTED, (1, 1, "nop"), (1, 1, "inc %eax"), BUGS, ["h"]),
    ],
    ids=["numbered", "lines", "flags", "payload", "relro", "pointed"],
)
def test_the_plan_is_that_of_whole_graphs_for_odd_ones(
    text: str, before: Sequence[object], after: Sequence[object], special: Special, expected: list[str]
) -> None:
    found = both(*(compiled(text.format(*each), ASSEMBLY) for each in (before, after)), special=special)
    assert replaced(found) == expected


FAR = """
    .section .data.shared,"aw"
{variables}
    .section .text.f,"ax"
    .globl f
    .type f,@function
f:  {code}
    movabs $.data.shared+0x80000010,%rax
    ret
    .size f,.-f
    .section .text.g,"ax"
    .globl g
    .type g,@function
g:  call f
    ret
    .size g,.-g
    .section .data.z_last,"aw"
    .globl z
    .type z,@object
z:  .fill {size},1,1
    .size z,{size}
"""
VARIABLES = "".join(f"    .type v{n},@object\nv{n}: .quad {n}\n    .size v{n},8\n" for n in range(6))
"""More than there are steps before places are searched for."""


def test_a_place_far_behind_a_section_is_still_one_of_it() -> None:
    before, after = (
        compiled(FAR.format(variables=VARIABLES, code=code, size=size), ASSEMBLY)
        for code, size in (("nop", 8), ("inc %eax", 16))
    )
    assert replaced(both(before, after)) == ["f"]
    found = cut(before, after)
    assert found is not None
    for obj in (found.pre, found.post):
        (symbol,) = obj.relocations["symbol"][obj.relocations["type"] == 1].tolist()
        assert obj.symbol_name(symbol) == ".data.shared"


def test_owners_of_entries_that_are_referred_to_stay() -> None:
    """Whole kernels always have such: code that begins to search a table at its first entry."""
    before, after = (compiled(POINTED.format(1, 1, code), ASSEMBLY) for code in ("nop", "inc %eax"))
    found = cut(before, after)
    assert found is not None
    assert {".text.g", ".text.h", "__bugs"} <= set(labels(found))
    assert ".text.f" not in labels(found)
    plan = planned(*objects(before, after), ARCHITECTURE, Rows(BUGS), HABITS)
    assert [plan.post.nodes[each].label for _, each in plan.replaced] == ["h"]


MERGED = (
    '.section .rodata.{0},"aM{1}",@progbits,{2}\n.balign {2}\n{3}\n{4}\n'
    + function("f", "mov $.rodata.{0}+{2}*2,%rax")
    + function("g", "mov $.rodata.{0},%rax")
)


@pytest.mark.parametrize(
    ("name", "flags", "size", "first", "second"),
    [
        ("wide", "S", 2, ".short 0x41, 0", ".short 0x42, {}, 0"),
        ("cst8", "", 8, ".quad 1, 2", ".quad {}"),
        ("cst16", "", 16, ".quad 1, 2, 3, 4", ".quad 5, {}"),
    ],
)
def test_all_of_a_merged_constant_is_compared(
    name: str, flags: str, size: int, first: str, second: str
) -> None:
    """A string of wide characters differs in its second one, a constant in its last bytes."""
    before, after = (
        compiled(MERGED.format(name, flags, size, first, second.format(each)), ASSEMBLY) for each in (7, 8)
    )
    assert replaced(both(before, before)) == []
    assert "f" in replaced(both(before, after))


# Linked objects --------------------------------------------------------------------------------------

FIRST = """
int printk(const char *, ...);
static __attribute__((noinline)) int show(int a) { static int n; n GROWN a; printk("first %d", n); return n; }
__attribute__((section(".init.text"))) int begin_one(int a) { return show(a) + ADD; }
int one(int a) { return show(a) + 1; }
"""
SECOND = """
int printk(const char *, ...);
static __attribute__((noinline)) int show(int a) { static int n; n ^= a; printk("second %d", n); return n; }
static __attribute__((noinline, section(".init.text"))) int inner(int a) { return a * SCALE; }
__attribute__((section(".init.text"))) int begin_two(int a) { return show(a) + inner(a) - 1; }
int two(int a) { printk(TEXT); return show(a) + STEP; }
"""
DEFINED = {"GROWN": "+=", "ADD": "1", "SCALE": "3", "TEXT": '"two"', "STEP": "2"}


@cache
def linked(*edits: tuple[str, str], third: str = "int three(int a) { return a + 3; }") -> bytes:
    """Three units as one object, in which `show`, its variable and .init.text are of two of them."""
    chosen = DEFINED | dict(edits)

    def filled(text: str) -> str:
        for name, value in chosen.items():
            text = text.replace(name, value)
        return text

    with TemporaryDirectory() as scratch:
        files = []
        for number, text in enumerate((filled(FIRST), third, filled(SECOND))):
            files.append(Path(scratch) / f"{number}.o")
            source = f'asm(".file \\"{number}.c\\"");\n{text}'
            files[-1].write_bytes(compiled(source, "-fno-inline"))
        out = Path(scratch) / "linked.o"
        subprocess.run(["ld", "-r", "-o", out, *files], check=True, capture_output=True)
        return out.read_bytes()


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ((), []),
        ((("ADD", "77"),), ["begin_one"]),
        ((("SCALE", "a*a*5"),), ["inner"]),
        ((("STEP", "a*7+2"),), ["two"]),
        ((("TEXT", '"another text"'),), ["two"]),
        ((("ADD", "a*9"), ("STEP", "limit()")), ["begin_one", "two"]),
    ],
    ids=["none", "in front", "in the middle", "at the end", "a string", "two units"],
)
def test_of_linked_units_exactly_what_was_edited_is_replaced(
    edits: tuple[tuple[str, str], ...], expected: list[str]
) -> None:
    for before, after in ((linked(), linked(*edits)), (linked(*edits), linked())):
        assert replaced(both(before, after)) == expected


def test_a_static_function_of_a_common_name_that_is_new_in_an_earlier_unit_changes_no_other() -> None:
    more = (
        FIRST.partition("int one")[0].replace("begin_one", "three").replace("ADD", "1").replace("GROWN", "+=")
    )
    found = planned(*objects(linked(), linked(third=more)), ARCHITECTURE, Rows({}), HABITS)
    assert [found.post.nodes[each.post].label for each in found.delta.changed] == ["three"]
    added = [found.post.nodes[each] for each in found.delta.added]
    assert sorted(node.name for node in added if node.kind.value in ("function", "data")) == ["n.0", "show"]


def test_debugging_information_and_implicit_addends_are_left_to_whole_graphs() -> None:
    debug = compiled(UNIT, "-g")
    assert cut(debug, debug) is None
    implicit = compiled(UNIT, "-m32", "-mcmodel=32", "-fno-pic")
    obj = read_bytes(implicit, "unit.o")
    assert obj.relocations["implicit"].all()
    assert narrow(obj, obj, ARCHITECTURE, Rows({}), HABITS) is None


def test_every_record_of_a_table_belongs_to_the_atom_that_owns_its_entry() -> None:
    obj = read_bytes(compiled(ENTRIES.format(1, 1), ASSEMBLY), "unit.o")
    atoms = Atoms(obj, ARCHITECTURE, BUGS, Names())
    (table,) = atoms.tables.values()
    names = [obj.section_name(int(atoms.section[owner])) for owner in table.owner]
    assert names == [".text.f", ".text.g"]
    rows = np.arange(table.records.start, table.records.stop)
    assert (sources(atoms, rows) == table.owner[table.entry_of(rows)]).all()


def labels(found: Narrowed) -> Iterator[str]:
    for index in range(1, len(found.pre.sections)):
        yield found.pre.section_name(index)


def padded(name: str, code: str, mark: str = "__pfx_") -> str:
    """A function behind no-ops that have a name of their own."""
    ahead = f"{mark}{name}"
    return function(name, code).replace(
        f".type {name}", f".type {ahead},@function\n{ahead}: nop; nop\n.size {ahead},2\n.type {name}"
    )


@pytest.mark.parametrize("make", [function, padded])
@pytest.mark.parametrize("use", ["call g", "jne g", "cs call g", "movabs $g,%rax"])
def test_who_calls_a_function_that_changed_is_left_out(make: Callable[[str, str], str], use: str) -> None:
    text = make("g", "nop; {}") + function("f", use)
    before, after = (compiled(text.format(each), ASSEMBLY) for each in ("nop", "inc %eax; nop"))
    assert replaced(both(before, after)) == ["g"]
    found = cut(before, after)
    assert found is not None
    assert ".text.f" not in labels(found)
    assert kept(before, after) == {".text.g"}


@pytest.mark.parametrize(
    ("use", "changed"),
    [
        ("jmp .text.g+1", function("g", "nop; {0}")),
        ("cmpb $1,.text.g+1(%rip)", function("g", "nop; {0}")),
        ("cmpb $1,g+1(%rip)", function("g", "nop; {0}")),
        ("lea g(%rip),%rax", function("g", "nop; {0}")),
        ("call g+1", padded("g", "nop; {0}")),
        ("call g", padded("g", "nop; {0}", mark="__other_")),
        ("call g.cold", padded("g.cold", "nop; {0}")),
        ("call alias", function("g", "alias: nop; {0}") + ".type alias,@function\n.size alias,1\n"),
        ("call g", function("g", "nop; {0}") + function("h", "{0}").replace(".text.h", ".text.g")),
    ],
)
def test_who_does_more_than_call_a_function_that_changed_is_looked_at(use: str, changed: str) -> None:
    text = changed + function("f", use)
    before, after = (compiled(text.format(each), ASSEMBLY) for each in ("nop", "inc %eax; nop"))
    both(before, after)
    found = cut(before, after)
    assert found is not None
    assert ".text.f" in labels(found)


def test_who_calls_one_of_two_functions_of_a_name_is_looked_at() -> None:
    before, after = linked(), linked(("GROWN", "-="))
    assert replaced(both(before, after)) == ["show@.text.show+0x0"]
    found = cut(before, after)
    assert found is not None
    assert ".text.one" in labels(found)


def test_an_edit_leaves_what_it_reaches() -> None:
    found = cut(linked(), linked(("STEP", "a*7+2")))
    assert found is not None
    names = set(labels(found))
    assert {".text.two", ".text.show"} <= names
    assert not {".text.one", ".init.text", ".text.three"} & names

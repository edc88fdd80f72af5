# SPDX-License-Identifier: Apache-2.0
"""The extracted object: exactly what travels, and readable by everybody else's tools."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import pytest
import test_plugin_arch_aarch64 as aarch64
import test_plugin_arch_arm as arm
import test_plugin_arch_i386 as i386
import test_plugin_arch_loongarch64 as loongarch64
import test_plugin_arch_ppc64le as ppc64le
import test_plugin_arch_riscv64 as riscv64
import test_plugin_arch_s390x as s390x
from compiled import ASSEMBLY, UNIT, compiled, graph, graph_of, planned
from elfwriter import ABS, COMMON, FUNC, Sec, Sym, elf
from kdiff_arch_x86_64 import ARCHITECTURE as X86_64
from linkoracle import EDITS, Cross, link, mismatches, needs
from linkoracle import compiled as cross_compiled
from linkoracle import graph as cross_graph

from kdiff.cli.main import main
from kdiff.elf.read import STB_LOCAL, STB_WEAK, read_bytes
from kdiff.elf.write import Relocatable, write
from kdiff.errors import KdiffError
from kdiff.extract import Extract, extract
from kdiff.graph import Node, Reference, SectionGraph, build
from kdiff.kernel import Keep, SpecialSection
from kdiff.object_file import confirm, save
from kdiff.split import Kind

AFTER = UNIT
for _old, _new, _ in EDITS:
    AFTER = AFTER.replace(_old, _new)
AFTER = AFTER.replace(
    "int entry(int a)\n{",
    "int news = 9; int added(int x);\n"
    "__attribute__((noinline)) int added(int x) { return x * limit + other(x) + news++; }\n"
    "int entry(int a)\n{ a = added(a);",
)
CROSSES = {
    "aarch64": aarch64.GCC if hasattr(aarch64, "GCC") else aarch64.CROSS,
    "arm": arm.CROSS,
    "i386": i386.CROSS,
    "loongarch64": loongarch64.CLANG,
    "ppc64le": ppc64le.GCC,
    "riscv64": riscv64.GCC,
    "riscv64-relaxed": replace(riscv64.GCC, flags=("-mcmodel=medany", "-march=rv64gc", "-mabi=lp64d")),
    "s390x": s390x.GCC,
    "x86_64": Cross(
        X86_64,
        "x86_64-linux-gnu-",
        ("-mcmodel=kernel", "-mno-red-zone", "-mno-sse", "-fcf-protection=none"),
        text=0xFFFFFFFF81000000,
        data=0xFFFFFFFF81800000,
        externs=0xFFFFFFFF82000000,
    ),
}
EVERY_ARCHITECTURE = [
    pytest.param(cross, id=name, marks=needs(cross)) for name, cross in sorted(CROSSES.items())
]


def of_cross(cross: Cross) -> tuple[SectionGraph, Extract]:
    """The post graph of a unit with many edits, and what is extracted."""
    pre, post = (cross_graph(cross, cross_compiled(cross, text)) for text in (UNIT, AFTER))
    return post, extract(planned(pre, post))


def made(before: str, after: str, *options: str) -> Extract:
    return extract(planned(graph(before, *options), graph(after, *options)))


def names(found: Extract) -> dict[str, int]:
    """Defined symbols and their bindings."""
    return {each.name: each.binding for each in found.obj.symbols if each.section is not None}


def undefined(found: Extract) -> set[str]:
    return {each.name for each in found.obj.symbols if each.section is None and each.reserved is None}


CARRIED = ("choose", "tail", "weak_one", "entry", "added")


# Every architecture ----------------------------------------------------------------------------------


def meaning(graph: SectionGraph, reference: Reference) -> Hashable:
    """A reference freed of how its target is called in the extracted object."""

    def target(node: Node, offset: int) -> Hashable:
        if node.kind is Kind.STRING or node.section_name == ".rodata.str":
            return graph.contents(node)[offset:]
        if graph.is_pool_word(node) or "toc" in node.name:
            return tuple(meaning(graph, each) for each in graph.references[node.id])
        if not node.name or node.name.startswith(".L"):
            return graph.contents(node), offset
        return node.name.partition(",")[0], offset

    travels = graph.nodes[reference.target].name in CARRIED
    less = None if reference.minus is None else target(graph.nodes[reference.minus[0]], reference.minus[1])
    return (
        reference.offset,
        reference.howto.shape,
        reference.insn_addend,
        reference.entry if travels else 0,  # of another module's function, its linker decides
        reference.branch,
        target(graph.nodes[reference.target], reference.addend),
        less,
    )


@pytest.mark.parametrize("cross", EVERY_ARCHITECTURE)
def test_every_reference_of_what_travels_means_what_it_meant(cross: Cross) -> None:
    post, found = of_cross(cross)
    again = build(read_bytes(write(found.obj), "out.o"), post.arch, {})
    ours = {node.name: node for node in again.nodes if node.section}
    compared = 0
    for name in CARRIED:
        (before,) = (node for node in post.nodes if node.name == name)
        assert [meaning(again, each) for each in again.references[ours[name].id]] == [
            meaning(post, each) for each in post.references[before.id]
        ]
        if not post.obj.relocations["implicit"].any():
            assert again.contents(ours[name]) == post.contents(before)
        compared += len(post.references[before.id])
    assert compared > 20


@pytest.mark.parametrize("cross", EVERY_ARCHITECTURE)
def test_the_linker_stores_in_the_extracted_object_what_is_meant(cross: Cross) -> None:
    _, found = of_cross(cross)
    data = write(found.obj)
    plain = data.replace(b",<stdin>,", b"_.stdin._").replace(b",-,", b"___")  # names for a linker script
    assert mismatches(link(cross, plain)) == []


@pytest.mark.parametrize("cross", EVERY_ARCHITECTURE)
def test_other_tools_read_the_extracted_object(cross: Cross, tmp_path: Path) -> None:
    _, found = of_cross(cross)
    path = tmp_path / "out.o"
    save(found.obj, path)
    prefix = cross.prefix
    linker = cross.linker or f"{prefix}ld"
    emulation = ("-m", cross.emulation) if cross.emulation else ()
    commands = [[linker, *emulation, "-r", "-o", str(tmp_path / "again.o"), str(path)]]
    if prefix:
        commands += [[f"{prefix}readelf", "-aW", str(path)], [f"{prefix}objdump", "-dr", str(path)]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    linked = build(read_bytes((tmp_path / "again.o").read_bytes()), cross.architecture, {})
    assert {*CARRIED, "news"} <= {node.name for node in linked.nodes if node.section}


@pytest.mark.parametrize("cross", EVERY_ARCHITECTURE)
def test_nothing_else_travels(cross: Cross) -> None:
    post, found = of_cross(cross)
    marks = post.arch.mapping_symbols or ("\0",)
    carried = {name for name in names(found) if name and not name.startswith((".L", *marks))}
    assert carried - {"__func__.0"} == {*CARRIED, "news"}
    borrowed = {each.name.removeprefix("entry.").removesuffix(".1") for each in found.borrowed}
    assert borrowed - {".TOC."} == {
        *("limit", "gauge", "other", "printk", "hits", "helper", "names", "primes", "counter", "calls")
    }


# Symbols ---------------------------------------------------------------------------------------------


def test_globals_become_local_unless_they_are_new() -> None:
    found = names(made(UNIT, AFTER))
    assert {name for name in ("choose", "entry", "weak_one") if found[name] != STB_LOCAL} == set()
    assert found["added"] != STB_LOCAL
    assert found["news"] != STB_LOCAL


def test_a_function_that_becomes_global_is_global() -> None:
    before = "static __attribute__((noinline,used)) int f(int a) { return a + 1; }"
    assert names(made(before, "int f(int a) { return a + 2; }"))["f"] != STB_LOCAL


def test_a_borrowed_static_is_called_by_its_name_file_and_position_before_the_patch() -> None:
    before = """
    int f(void) { static int n; return n++; }
    int g(void) { static int n; return n--; }
    """
    after = "int h(void) { static int n = 7; return n += 2; }" + before.replace("n--", "n -= 3")
    found = made(before, after)
    (borrowed,) = found.borrowed
    old = {node.name for node in graph(before).nodes if node.name.startswith("n.")}
    assert borrowed.name in old
    assert borrowed.symbol == f"{borrowed.name},<stdin>,1"
    assert borrowed.static


def test_statics_of_one_name_are_told_apart_by_their_files() -> None:
    def linked(value: str) -> bytes:
        data = bytes.fromhex
        return elf(
            Sec(".data.one", data("01000000"), "aw"),
            Sec(".data.two", data("02000000"), "aw"),
            Sec(
                ".text.f",
                data(f"8b0500000000 8b0500000000 83c0{value}c3"),
                "ax",
                relocs=((2, 2, "one", -4), (8, 2, "two", -4)),
            ),
            Sym("a.c", 0xFFF1, type=4, binding=0),
            Sym("one", ".data.one", size=4, type=1, binding=0),
            Sym("b.c", 0xFFF1, type=4, binding=0),
            Sym("two", ".data.two", size=4, type=1, binding=0),
            Sym("f", ".text.f", size=16, type=FUNC),
        ).replace(b"\0two\0", b"\0one\0")

    found = extract(planned(graph_of(linked("01")), graph_of(linked("02"))))
    assert undefined(found) == {"one,a.c,1", "one,b.c,1"}


def test_a_stored_pointer_to_a_replaced_function_stays_the_kernels() -> None:
    before = "int f(int a) { return a + 1; } void *g(void) { return (char *)f; } int h(void) { return f(3); }"
    found = made(before, before.replace("a + 1", "a + 2").replace("(char *)f", "(char *)f + 0x10"))
    assert names(found)["f"] == STB_LOCAL
    pointer = 'int f(int a); void *g(void) { asm volatile (""); return f; } int f(int a) { return a + %d; }'
    found = made(pointer % 1, (pointer % 2).replace('("")', '("nop")'))
    assert undefined(found) == {"f"}


def test_a_weak_reference_stays_weak() -> None:
    text = "extern int maybe(void) __attribute__((weak)); int f(void) { return maybe ? maybe() : %d; }"
    found = made(text % 1, text % 2)
    assert [each.binding for each in found.obj.symbols if each.name == "maybe"] == [STB_WEAK]


def test_aliases_come_along() -> None:
    text = 'int f(int a) { return a + %d; } int g(int) __attribute__((alias("f")));'
    assert {"f", "g"} <= names(made(text % 1, text % 2)).keys()


def test_an_absolute_symbol_keeps_its_value_and_a_new_common_one_its_size() -> None:
    def unit(second: Sym) -> bytes:
        return elf(
            Sec(".text.f", bytes(8), "ax", relocs=((0, 10, "fixed", 0), (4, 10, second.name, 0))),
            Sym("f", ".text.f", size=8, type=FUNC),
            Sym("fixed", ABS, value=0x1234),
            second,
        )

    found = extract(planned(graph_of(unit(Sym("other"))), graph_of(unit(Sym("news", COMMON, 8, 8)))))
    kept = {each.name: each for each in found.obj.symbols}
    assert (kept["fixed"].reserved, kept["fixed"].value) == (0xFFF1, 0x1234)
    assert (kept["news"].reserved, kept["news"].size) == (COMMON, 8)
    assert found.borrowed == ()


def test_labels_without_use_are_left_out() -> None:
    found = made(UNIT, AFTER)
    used = {
        found.obj.symbols[relocation.symbol].name
        for section in found.obj.sections
        for relocation in section.relocations
    }
    assert {name for name in names(found) if name.startswith(".L")} <= used


# Contents --------------------------------------------------------------------------------------------

TABLE = """
.section .text.f,"ax"
.globl f
.type f,@function
f: nop
movl $%d, %%eax
nop
.size f, . - f
.section .text.g,"ax"
.globl g
.type g,@function
g: nop
ret
.size g, . - g
.section __sites,"a"
.long g - .
.long f + 1 - .
.long g + 1 - .
.long f - .
"""


def test_exactly_the_entries_of_what_travels_come_along() -> None:
    row = SpecialSection("__sites", 4, Keep.OWNER, owner=0)
    pre, post = (graph_of(compiled(TABLE % value, ASSEMBLY), (row,)) for value in (1, 2))
    found = extract(planned(pre, post)).obj
    (table,) = (each for each in found.sections if each.name == "__sites")
    targets = [(found.symbols[each.symbol].name, each.offset, each.addend) for each in table.relocations]
    assert (table.size, targets) == (8, [("f", 0, 1), ("f", 4, 0)])


def test_an_object_of_implicit_addends_has_them_in_its_fields() -> None:
    cross = i386.CROSS
    if not needs(cross).args[0]:
        text = "extern int gauge[8]; int f(void) { return gauge[3] + %d; }"
        pre, post = (cross_graph(cross, cross_compiled(cross, text % value)) for value in (1, 2))
        found = extract(planned(pre, post)).obj
        (code,) = (each for each in found.sections if each.name == ".text.f")
        (relocation,) = code.relocations
        assert not found.explicit
        assert relocation.addend == 0
        assert int.from_bytes(code.data[relocation.offset : relocation.offset + 4], "little") == 12


# Files -----------------------------------------------------------------------------------------------


def ours() -> Relocatable:
    return made(UNIT, AFTER).obj


def test_a_second_reader_notices_every_difference() -> None:
    obj = ours()
    data = write(obj)
    confirm(obj, data, "out.o")
    (first, *others), symbols = obj.sections, obj.symbols
    with_other_size = replace(obj, sections=(replace(first, size=first.size + 1), *others))
    with_other_name = replace(
        obj, symbols=tuple(replace(s, name="x") if s.name == "printk" else s for s in symbols)
    )
    index = next(i for i, section in enumerate(obj.sections) if section.relocations)
    section = obj.sections[index]
    fewer = replace(section, relocations=section.relocations[1:])
    without_one = replace(obj, sections=(*obj.sections[:index], fewer, *obj.sections[index + 1 :]))
    for wrong in (with_other_size, with_other_name, without_one, replace(obj, machine=183)):
        with pytest.raises(KdiffError) as caught:
            confirm(wrong, data, "out.o")
        assert caught.value.key == "output.second_reader"


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "out.o"
    target.mkdir()
    with pytest.raises(KdiffError, match="cannot be written"):
        save(ours(), target)
    assert [each.name for each in tmp_path.iterdir()] == ["out.o"]


def files(folder: Path, before: str, after: str) -> tuple[str, str, Path]:
    paths = folder / "pre.o", folder / "post.o"
    for path, text in zip(paths, (before, after), strict=True):
        path.write_bytes(compiled(text))
    return str(paths[0]), str(paths[1]), folder / "out.o"


def test_the_command_writes_the_object_and_says_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pre, post, out = files(tmp_path, UNIT, AFTER)
    assert main(["diff", pre, post, "--extract", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["extract"]
    assert shown["file"] == str(out)
    assert ".text.added" in {each["name"] for each in shown["sections"]}
    assert {"name": "hits", "static": True, "symbol": "hits,<stdin>,1"} in shown["borrowed"]
    assert any(each["name"] == "added" and each["global"] for each in shown["symbols"])
    assert {each["symbol"] for each in shown["borrowed"]} <= set(
        out.read_bytes().decode("latin-1").split("\0")
    )


def test_nothing_is_written_if_nothing_changed(tmp_path: Path) -> None:
    pre, post, out = files(tmp_path, UNIT, UNIT)
    assert main(["diff", pre, post, "--extract", str(out)]) == 66
    assert not out.exists()


def test_nothing_is_written_if_the_change_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = AFTER.replace("int counter = 5", "int counter = 6")
    pre, post, out = files(tmp_path, UNIT, refused)
    assert main(["diff", pre, post, "--extract", str(out)]) == 3
    assert not out.exists()
    assert "review.data_changed" in capsys.readouterr().out

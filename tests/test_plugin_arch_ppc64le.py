# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_ppc64le."""

from __future__ import annotations

import re

import kdiff_arch_ppc64le
import linkoracle
import pytest
from compiled import UNIT
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_ppc64le import ARCHITECTURE
from linkoracle import Cross, changed_functions, compiled, differs, graph, howtos_used, link, mismatches

from kdiff.api import Architecture, Overflow
from kdiff.insn import disassemble, instructions

TEXT, DATA, EXTERNS = 0xC000000000010000, 0xC000000001000000, 0xC000000001800000
BASES = ((".TOC.", 0x8000),)
KEEP = ("--no-toc-optimize", "--no-pcrel-optimize")
"""The linker would change instructions and leave words of .toc out."""
KERNEL = ("-mabi=elfv2", "-mcmodel=medium", "-msoft-float", "-mno-altivec", "-mno-vsx")
GCC = Cross(
    ARCHITECTURE, "powerpc64le-linux-gnu-", ("-mcpu=power8", *KERNEL), TEXT, DATA, EXTERNS, KEEP, bases=BASES
)
POWER10 = Cross(
    ARCHITECTURE, "powerpc64le-linux-gnu-", ("-mcpu=power10",), TEXT, DATA, EXTERNS, KEEP, bases=BASES
)
CLANG = Cross(
    ARCHITECTURE,
    "powerpc64le-linux-gnu-",
    ("-mcpu=power8", "-mllvm", "-ppc-merge-string-pool=false"),
    *(TEXT, DATA, EXTERNS, KEEP),
    compiler=("clang-19", "--target=powerpc64le-linux-gnu"),
    bases=BASES,
)
needs_gcc = linkoracle.needs(GCC)
EVERYBODY = [
    pytest.param(cross, marks=linkoracle.needs(cross), id=name)
    for name, cross in (("gcc", GCC), ("power10", POWER10), ("clang", CLANG))
]

EVERY_TYPE = r"""
.abiversion 2
.text
.reloc ., R_PPC64_NONE, near
.reloc ., R_PPC64_TOCSAVE, near
.reloc ., R_PPC64_ENTRY
lis 3, far@highest
ori 3, 3, far@higher
lis 3, far@highesta
addi 3, 3, far@highera
oris 3, 3, far@high
addis 3, 3, far@higha
ori 3, 3, far@l
ld 3, far@l(4)
lis 3, bits32@h
lis 3, bits32@ha
li 3, bits16
ld 3, bits16(4)
addis 3, 2, near@toc@ha
addis 3, 2, near@toc@h
addi 3, 3, near@toc@l
ld 3, near@toc@l(3)
addi 3, 2, close@toc
ld 3, close@toc(2)
addis 3, 12, (near - .)@ha
addis 3, 12, (near - .)@h
addi 3, 12, (near - . + 4)@l
addi 3, 12, short - .
.irp part, HIGH, HIGHA, HIGHER, HIGHERA, HIGHEST, HIGHESTA
.reloc ., R_PPC64_REL16_\part, near
addis 3, 12, 0
.endr
bc 12, 2, next
b next
bl next
bl with_toc
bl before
bla low24
bca 12, 2, low16
.reloc ., R_PPC64_REL24_NOTOC, next
bl .
.reloc ., R_PPC64_REL24_P9NOTOC, before
bl .
.p2align 6
pla 3, near@pcrel
.reloc .-8, R_PPC64_PCREL_OPT, 8
pld 3, far@got@pcrel
paddi 3, 0, bits34
.section .data.words, "aw"
.quad far + 5
.long bits32 + 1
.short bits16 + 1
.byte 0
.reloc ., R_PPC64_UADDR32, bits32 + 2
.long 0
.reloc ., R_PPC64_UADDR16, bits16 + 2
.short 0
.reloc ., R_PPC64_UADDR64, far + 6
.quad 0
.balign 8
.quad near - .
.long near - .
.long before - .
.section .text.next, "ax"
.global next
next: blr
.type with_toc, @function
.global with_toc
with_toc:
addis 2, 12, (.TOC. - .)@ha
addi 2, 2, (.TOC. - .)@l + 4
.localentry with_toc, 8
blr
"""


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_ppc64le.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (21, 64, "little")


# Relocations -----------------------------------------------------------------------------------------


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (8, False, Overflow.WRAP)


def test_halves_of_an_address_do_not_determine_it() -> None:
    partial = {row.name.removeprefix("R_PPC64_") for row in ARCHITECTURE.howtos.values() if not row.complete}
    assert {"TOC16_HA", "TOC16", "TOC16_LO_DS", "REL16_HA", "ADDR16_HIGHEST", "NONE"} <= partial
    assert not partial & {"ADDR64", "REL32", "REL24", "REL14", "PCREL34", "D34"}


@pytest.mark.parametrize(
    "value, high, low",
    [
        (0x12347FFF, 0x1234, 0x7FFF),
        (0x12348000, 0x1235, -0x8000),
        (-0x8000, 0, -0x8000),
        (-0x8001, -1, 0x7FFF),
    ],
)
def test_the_high_half_makes_up_for_the_sign_of_the_low_one(value: int, high: int, low: int) -> None:
    ha, lo = ARCHITECTURE.howtos[6], ARCHITECTURE.howtos[4]
    stored = ha.insert(bytes(2), ha.value(value, 0, 64), "little")
    assert int.from_bytes(stored, "little", signed=True) == high
    assert lo.extract(lo.insert(bytes(2), lo.value(value, 0, 64), "little"), "little") == low


@pytest.mark.parametrize("code, way", [(0, 0), (1, 0), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64)])
def test_the_local_entry_is_read_from_st_other(code: int, way: int) -> None:
    entry = ARCHITECTURE.howtos[10].entry
    assert entry is not None
    assert entry(code << 5 | 3) == way


@needs_gcc
def test_the_linker_stores_what_every_row_stores() -> None:
    places = {
        "far": 0xDEADBEEF12345678, "bits32": 0x7EDCA988, "bits16": 0x7A5C, "bits34": 0x198765432,
        "low24": 0x123450, "low16": 0x5A54, "near": 0xC000000001899AB8, "close": 0xC000000001024AB8,
        "before": 0xC00000000000F678, "short": 0xC000000000014444,
    }  # fmt: skip
    linked = link(POWER10, compiled(POWER10, EVERY_TYPE, language="assembler"), places)
    assert places["far"] in linked.slots
    assert not mismatches(linked)
    assert howtos_used(linked) == {row.name for row in ARCHITECTURE.howtos.values() if row.fields}


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",)])
def test_the_linker_stores_what_is_computed_for_compiled_code(cross: Cross, options: tuple[str, ...]) -> None:
    linked = link(cross, compiled(cross, UNIT, *options))
    assert not mismatches(linked)
    assert len(howtos_used(linked)) > 3


@needs_gcc
def test_the_linker_stores_what_is_computed_for_traced_functions() -> None:
    linked = link(GCC, compiled(GCC, UNIT, "-pg", "-mprofile-kernel"))
    assert not mismatches(linked)
    reached = [linked.graph.nodes[each.target].label for row in linked.graph.references for each in row]
    assert reached.count("_mcount") >= 5


# Branches --------------------------------------------------------------------------------------------


@given(st.sampled_from((16, 18)) | st.integers(0, 63), st.integers(0, (1 << 26) - 1))
def test_capstone_agrees_with_every_branch(opcode: int, rest: int) -> None:
    code = (opcode << 26 | rest).to_bytes(4, "little")
    base = 0x10000000000
    branch = ARCHITECTURE.branch(code)
    text = disassemble(ARCHITECTURE, code, base)[0].split(maxsplit=5)[-1]
    found = re.fullmatch(r"(b\w*[+-]?)( .*)?[ ,](0x[0-9a-f]+|\d+)", text)
    if branch is None:
        assert found is None or found[1].rstrip("+-").endswith("a") or rest & 2
        return
    if branch.displacement + branch.length == 0:
        return  # capstone leaves the target out
    if found is None:
        assert text.startswith(".byte")  # BO fields that mean nothing
        return
    assert int(found[3], 0) == base + branch.length + branch.displacement
    assert branch.call == found[1].rstrip("+-").endswith("l")


def test_only_an_unconditional_jump_does_not_fall_through() -> None:
    words = (0x48000010, 0x48000011, 0x41820010, 0x42000010, 0x42800010, 0x429F0005)
    found = [ARCHITECTURE.branch(word.to_bytes(4, "little")) for word in words]
    assert [each and each.falls_through for each in found] == [False, True, True, True, False, True]
    assert [each and each.call for each in found] == [False, True, False, False, False, True]


def test_branches_on_different_conditions_are_different_operations() -> None:
    words = (0x41820010, 0x40820010, 0x41810010, 0x4182FF10)
    found = [ARCHITECTURE.branch(word.to_bytes(4, "little")) for word in words]
    operations = [branch.operation for branch in found if branch is not None]
    assert operations[0] == operations[3]
    assert len(set(operations)) == 3


@pytest.mark.parametrize("code", ["", "000048", "2000804e", "2004804e", "02000048", "00000060"])
def test_indirect_and_absolute_branches_and_cut_off_code_are_no_relative_branch(code: str) -> None:
    assert ARCHITECTURE.branch(bytes.fromhex(code)) is None


# No-ops ----------------------------------------------------------------------------------------------


def test_each_short_no_op_is_one_instruction() -> None:
    for nop in ARCHITECTURE.nops:
        if len(nop) == 4:
            (only,) = instructions(ARCHITECTURE, nop)
            assert only.known
            assert only.size == 4


@needs_gcc
@pytest.mark.parametrize("cpu", ["power6", "power7", "power8", "power10"])
def test_the_assembler_aligns_with_known_no_ops_only(cpu: str) -> None:
    source = "".join(f"{'blr;' * count}blr\n.p2align 5\n" for count in range(8))
    found = graph(GCC, compiled(GCC, source, f"-mcpu={cpu}", language="assembler"))
    (code,) = [found.contents(node) for node in found.nodes]
    words = {code[at : at + 4] for at in range(0, len(code), 4)} - {(0x4E800020).to_bytes(4, "little")}
    rest = {word for word in words if ARCHITECTURE.branch(word) is None}
    assert rest
    assert rest <= set(ARCHITECTURE.nops)


# Graphs ----------------------------------------------------------------------------------------------


@needs_gcc
def test_calls_within_a_unit_go_to_the_local_entry() -> None:
    found = graph(GCC, compiled(GCC, UNIT))
    calls = {
        found.nodes[each.target].label: (each.addend, each.entry)
        for row in found.references
        for each in row
        if each.branch
    }
    assert calls["tail"] == calls["helper"] == (0, 8)
    assert calls["other"] == calls["weak_one"] == (0, 0)


@needs_gcc
def test_a_word_of_the_toc_is_a_node_that_reaches_one_symbol() -> None:
    found = graph(GCC, compiled(GCC, UNIT))
    words = [node for node in found.nodes if found.is_pool_word(node)]
    assert {found.nodes[each.target].label for node in words for each in found.references[node.id]} == {
        "choose",
        "gauge",
        "limit",
    }
    assert all(node.size == 8 and len(found.references[node.id]) == 1 for node in words)


@needs_gcc
def test_an_address_in_the_toc_counts_from_its_base() -> None:
    found = graph(GCC, compiled(GCC, UNIT))
    bases = {
        found.nodes[each.minus[0]].label
        for row in found.references
        for each in row
        if "TOC16" in each.howto.name and each.minus is not None
    }
    assert bases == {".TOC."}


@needs_gcc
def test_a_new_word_of_the_toc_changes_nobody_else() -> None:
    after = UNIT.replace("extern int limit,", "extern int fresh, limit,").replace(
        "{ hits += a; return helper", "{ hits += a + fresh; return helper"
    )
    before, later = graph(GCC, compiled(GCC, UNIT)), graph(GCC, compiled(GCC, after))
    assert changed_functions(before, later) == ["tail"]


@pytest.mark.parametrize("cross", EVERYBODY)
def test_an_object_does_not_differ_from_itself(cross: Cross) -> None:
    found = graph(cross, compiled(cross, UNIT))
    assert not differs(found, found)


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(cross: Cross, old: str, new: str, name: str) -> None:
    before, after = (graph(cross, compiled(cross, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]

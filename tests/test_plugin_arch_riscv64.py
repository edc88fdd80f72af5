# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_riscv64."""

from __future__ import annotations

import re

import kdiff_arch_riscv64
import linkoracle
import pytest
from compiled import UNIT
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_riscv64 import ARCHITECTURE
from linkoracle import Cross, changed_functions, compiled, differs, graph, howtos_used, link, mismatches

from kdiff.api import Architecture, Overflow
from kdiff.insn import disassemble, instructions

PLACES = (0xFFFFFFFF80002000, 0xFFFFFFFF80800000, 0xFFFFFFFF81000000)
KERNEL = ("-march=rv64imac", "-mabi=lp64")
KEEP = ("--no-relax",)


def gcc(*options: str) -> Cross:
    return Cross(ARCHITECTURE, "riscv64-linux-gnu-", (*KERNEL, *options), *PLACES, KEEP)


GCC = gcc("-mcmodel=medany", "-mno-relax")
RELAX = gcc("-mcmodel=medany")
CLANG = Cross(
    ARCHITECTURE,
    "riscv64-linux-gnu-",
    (*KERNEL, "-mcmodel=medany"),
    *PLACES,
    KEEP,
    compiler=("clang-19", "--target=riscv64-linux-gnu"),
    linker="ld.lld-19",
)
needs_gcc, needs_clang = linkoracle.needs(GCC), linkoracle.needs(CLANG)
EVERYBODY = [
    pytest.param(cross, marks=linkoracle.needs(cross), id=name)
    for name, cross in (
        ("gcc", GCC),
        ("relax", RELAX),
        ("medlow", gcc("-mcmodel=medlow")),
        ("pic", gcc("-fPIC")),
        ("clang", CLANG),
    )
]

EVERY_TYPE = r"""
.option norelax
.text
.reloc ., R_RISCV_NONE, near
.reloc ., R_RISCV_RELAX, 0
.reloc ., R_RISCV_ALIGN, 0
lui a0, %hi(bits32)
addi a0, a0, %lo(bits32)
sw a1, %lo(bits32 + 4)(a0)
lui a0, %hi(below32)
addi a0, a0, %lo(below32)
1: auipc a0, %pcrel_hi(near)
addi a0, a0, %pcrel_lo(1b)
sw a1, %pcrel_lo(1b)(a0)
nop
lw a1, %pcrel_lo(2f)(a0)
2: auipc a0, %pcrel_hi(before + 0x7fe)
3: auipc a0, %got_pcrel_hi(far)
ld a0, %pcrel_lo(3b)(a0)
.reloc ., R_RISCV_CALL, before
auipc ra, 0
jalr ra, ra, 0
call near
tail before
.reloc ., R_RISCV_BRANCH, middle
.4byte 0x00b50063
.reloc ., R_RISCV_JAL, next
.4byte 0x0000056f
.reloc ., R_RISCV_RVC_BRANCH, tiny
.2byte 0xc101
.reloc ., R_RISCV_RVC_JUMP, middle
.2byte 0xa001
.space 64
tiny: ret
.space 1234
middle: ret
.section .data.words, "aw"
.quad far + 5
.long bits31 + 1
.reloc ., R_RISCV_32_PCREL, near
.long 0
.balign 8
.macro pair add, sub, size, from=first
.reloc ., R_RISCV_\add, last + 3
.reloc ., R_RISCV_\sub, \from
.\size 0
.endm
pair ADD8, SUB8, byte
pair SET8, SUB8, byte
pair SET6, SUB6, byte
.byte 0
pair ADD16, SUB16, 2byte
pair SET16, SUB16, 2byte
pair ADD32, SUB32, 4byte
pair SET32, SUB32, 4byte
pair ADD64, SUB64, 8byte
.4byte near - .
.8byte near - .
.section .text.next, "ax"
.global next
next: ret
.section .rodata.span, "a"
first: .space 45
last: .byte 0
.section .text.tail, "ax"
ret
"""
ULEB128 = """
.option norelax
.text
.reloc ., R_RISCV_PLT32, near
.long 0
.section .data.words, "aw"
.reloc ., R_RISCV_SET_ULEB128, last + 3
.reloc ., R_RISCV_SUB_ULEB128, first
.byte 0
.reloc ., R_RISCV_SET_ULEB128, last + 0x1234
.reloc ., R_RISCV_SUB_ULEB128, first
.byte 0x80, 0x80, 0
.section .rodata.span, "a"
first: .space 45
last: .byte 0
"""


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_riscv64.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (243, 64, "little")


# Relocations -----------------------------------------------------------------------------------------


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (8, False, Overflow.WRAP)


def test_parts_of_an_address_do_not_determine_it() -> None:
    partial = {row.name.removeprefix("R_RISCV_") for row in ARCHITECTURE.howtos.values() if not row.complete}
    assert {"HI20", "PCREL_HI20", "LO12_I", "PCREL_LO12_S", "GOT_HI20", "RELAX", "ALIGN"} <= partial
    assert not partial & {"64", "32", "CALL", "CALL_PLT", "BRANCH", "JAL", "RVC_JUMP", "ADD32", "32_PCREL"}


@pytest.mark.parametrize("way", [0, 0x7FE, 0x800, 0x801, -0x800, -0x802, 0x7FFFF7FE, -0x80000800])
def test_the_halves_of_a_far_call_add_up(way: int) -> None:
    code = ARCHITECTURE.howtos[19].insert(bytes.fromhex("97000000e7800000"), way, "little")
    first, second = int.from_bytes(code[:4], "little"), int.from_bytes(code[4:], "little", signed=True)
    assert (first & 0xFFFFF000) - (first >> 31 << 32) + (second >> 20) == way
    assert ARCHITECTURE.howtos[19].extract(code, "little") == way


@pytest.mark.parametrize("way", [0x7FFFF800, -0x80000801])
def test_a_call_that_is_too_far_overflows(way: int) -> None:
    with pytest.raises(OverflowError, match="CALL_PLT"):
        ARCHITECTURE.howtos[19].insert(bytes(8), way, "little")


@needs_gcc
def test_the_linker_stores_what_every_row_stores() -> None:
    places = {
        "far": 0xDEADBEEF12345678, "bits32": 0x7EDCA988, "below32": -0x7EDCA988 & (1 << 64) - 1,
        "bits31": 0x7EDCA988, "near": 0xFFFFFFFF81234AB8, "before": 0xFFFFFFFF80001878,
    }  # fmt: skip
    linked = link(GCC, compiled(GCC, EVERY_TYPE, language="assembler"), places)
    assert places["far"] in linked.slots
    assert not mismatches(linked)
    storing = {row.name for row in ARCHITECTURE.howtos.values() if row.fields and not row.subtracts}
    missing = {"R_RISCV_PLT32", "R_RISCV_SET_ULEB128"}
    """GNU ld 2.40 does not know them."""
    made = {"R_RISCV_ADD32.relative", "R_RISCV_ADD64.relative", "R_RISCV_PCREL_LO12_I.slot"}
    assert howtos_used(linked) == storing - missing | made


@needs_clang
def test_the_other_linker_stores_what_the_rows_store_that_the_first_does_not_know() -> None:
    linked = link(CLANG, compiled(CLANG, ULEB128, language="assembler"), {"near": 0xFFFFFFFF81234AB8})
    assert not mismatches(linked)
    used = {"R_RISCV_PLT32", "R_RISCV_SET_ULEB128.1", "R_RISCV_SET_ULEB128.3"}
    assert howtos_used(linked) == used


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",)])
def test_the_linker_stores_what_is_computed_for_compiled_code(cross: Cross, options: tuple[str, ...]) -> None:
    linked = link(cross, compiled(cross, UNIT, *options))
    assert not mismatches(linked)
    assert len(howtos_used(linked)) > 5


# Branches --------------------------------------------------------------------------------------------

COMPRESSED = st.sampled_from((0xA001, 0xC001, 0xE001)).flatmap(
    lambda half: st.integers(0, 0x1FFF).map(lambda rest: (half | rest & 0x1FFC, 2))
)
WORDS = st.sampled_from((0x63, 0x6F)).flatmap(
    lambda opcode: st.integers(0, (1 << 25) - 1).map(lambda rest: (rest << 7 | opcode, 4))
)


@given(COMPRESSED | WORDS)
def test_capstone_agrees_with_every_branch(instruction: tuple[int, int]) -> None:
    word, size = instruction
    code = word.to_bytes(size, "little")
    branch = ARCHITECTURE.branch(code)
    first = instructions(ARCHITECTURE, code)[0]
    text = disassemble(ARCHITECTURE, code)[0]
    found = re.search(r" (c\.)?(j\w*|b\w+) (.*, |)(-?(0x)?[0-9a-f]+)$", text)
    if branch is None:
        assert not first.known
        return
    assert first.size == branch.length
    assert found is not None
    assert int(found[4], 0) == branch.length + branch.displacement


def test_a_compressed_branch_is_what_it_stands_for() -> None:
    for short, long in (("01a0", "6f000000"), ("01c1", "63000500"), ("01e1", "63100500")):
        one, other = ARCHITECTURE.branch(bytes.fromhex(short)), ARCHITECTURE.branch(bytes.fromhex(long))
        assert one is not None
        assert other is not None
        assert one.operation == other.operation
        assert (one.length, other.length) == (2, 4)


def test_a_pair_is_the_jump_it_may_become() -> None:
    call, tail = (ARCHITECTURE.branch(bytes.fromhex(x)) for x in ("97000000e7800080", "1703000067000380"))
    jal = ARCHITECTURE.branch(bytes.fromhex("ef000000"))
    assert call is not None
    assert tail is not None
    assert jal is not None
    assert call.operation == jal.operation != tail.operation
    assert (call.call, call.falls_through, tail.call, tail.falls_through) == (True, True, False, False)
    assert call.displacement + call.length == tail.displacement + tail.length == -0x800


@pytest.mark.parametrize(
    "code", ["", "13", "6f", "6f0000", "97000000", "97000000e700", "97000000e7800200", "8280", "67800000"]
)
def test_indirect_branches_and_cut_off_code_are_no_relative_branch(code: str) -> None:
    assert ARCHITECTURE.branch(bytes.fromhex(code)) is None


# No-ops ----------------------------------------------------------------------------------------------


def test_each_no_op_is_one_instruction() -> None:
    for nop in ARCHITECTURE.nops:
        (only,) = instructions(ARCHITECTURE, nop)
        assert only.known
        assert only.size == len(nop)


@needs_gcc
def test_the_assembler_aligns_with_known_no_ops_only() -> None:
    source = "".join(f"{'ret;' * count}ret\n.p2align 4\n" for count in range(8))
    found = graph(GCC, compiled(GCC, source, language="assembler"))
    (code,) = [found.contents(node) for node in found.nodes]
    pieces = {
        code[each.offset : each.offset + each.size]
        for each in instructions(ARCHITECTURE, code)
        if code[each.offset : each.offset + each.size] != bytes.fromhex("8280")
    }
    assert pieces == set(ARCHITECTURE.nops)


# Graphs ----------------------------------------------------------------------------------------------


@needs_gcc
def test_a_low_part_reaches_what_its_high_part_reaches() -> None:
    found = graph(RELAX, compiled(RELAX, UNIT))
    pairs = 0
    for row in found.references:
        high = {each.offset: each for each in row if each.howto.name == "R_RISCV_PCREL_HI20"}
        for each in row:
            if each.howto.labelled:
                partner = high[each.offset - each.insn_addend]
                assert (partner.target, partner.addend) == (each.target, each.addend)
                pairs += 1
    assert pairs > 8


@needs_gcc
def test_a_distance_to_the_field_itself_is_one_relative_reference() -> None:
    source = ".text\nf: ret\n.data\n.quad 0\n.4byte f - .\n"
    found = graph(RELAX, compiled(RELAX, source, language="assembler"))
    (only,) = [each for row in found.references for each in row]
    assert (only.offset, only.addend, only.insn_addend, only.minus) == (8, 0, 0, None)
    assert only.howto.pc_relative


@needs_gcc
def test_a_distance_between_two_other_places_keeps_both() -> None:
    source = ".text\nf: ret\ng: ret\n.data\n.4byte g - f\n"
    found = graph(RELAX, compiled(RELAX, source, language="assembler"))
    (only,) = [each for row in found.references for each in row]
    assert only.minus == (only.target, 0)
    assert only.addend == 2


@needs_gcc
def test_hints_to_the_linker_are_no_references() -> None:
    found = graph(RELAX, compiled(RELAX, UNIT))
    types = set(found.obj.relocations["type"].tolist())
    assert 51 in types
    assert not [each for row in found.references for each in row if not each.howto.size]


@needs_gcc
def test_labels_that_stay_for_relaxation_name_nothing() -> None:
    found = graph(RELAX, compiled(RELAX, UNIT))
    symbols = [found.obj.symbol_name(index) for index in range(len(found.obj.symbols))]
    assert [name for name in symbols if name.startswith(".L")]
    assert not [name for node in found.nodes for name in node.names if name.startswith((".L", "$"))]
    assert not [name for names in found.inner.values() for _, name in names if name.startswith((".L", "$"))]


@needs_gcc
def test_a_far_call_is_a_branch() -> None:
    found = graph(RELAX, compiled(RELAX, UNIT))
    calls = [each for row in found.references for each in row if "CALL" in each.howto.name]
    assert len(calls) > 5
    assert all(each.branch for each in calls)


@needs_gcc
def test_records_of_function_entries_reach_the_functions() -> None:
    linked = link(GCC, compiled(GCC, UNIT, "-fpatchable-function-entry=8"))
    assert not mismatches(linked)
    found = linked.graph
    (table,) = [node for node in found.nodes if node.section_name == "__patchable_function_entries"]
    reached = {found.nodes[each.target].label for each in found.references[table.id]}
    assert {"choose", "entry", "helper", "tail", "weak_one"} == reached


@pytest.mark.parametrize("cross", EVERYBODY)
def test_an_object_does_not_differ_from_itself(cross: Cross) -> None:
    found = graph(cross, compiled(cross, UNIT))
    assert not differs(found, found)


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(cross: Cross, old: str, new: str, name: str) -> None:
    before, after = (graph(cross, compiled(cross, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]

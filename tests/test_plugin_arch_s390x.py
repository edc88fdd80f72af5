# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_s390x."""

from __future__ import annotations

import re

import kdiff_arch_s390x
import linkoracle
import pytest
from compiled import UNIT
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_s390x import ARCHITECTURE
from linkoracle import Cross, changed_functions, compiled, differs, graph, howtos_used, link, mismatches

from kdiff.api import Architecture, Overflow
from kdiff.insn import disassemble, instructions

PLACES = (0x100000, 0x1000000, 0x1800000)
GCC = Cross(ARCHITECTURE, "s390x-linux-gnu-", ("-march=z13", "-m64"), *PLACES)
PIE = Cross(ARCHITECTURE, "s390x-linux-gnu-", ("-march=z13", "-m64", "-fPIE"), *PLACES)
CLANG = Cross(
    ARCHITECTURE,
    "s390x-linux-gnu-",
    ("-march=z13",),
    *PLACES,
    compiler=("clang-19", "--target=s390x-linux-gnu"),
)
needs_gcc = linkoracle.needs(GCC)
EVERYBODY = [
    pytest.param(cross, marks=linkoracle.needs(cross), id=name)
    for name, cross in (("gcc", GCC), ("pie", PIE), ("clang", CLANG))
]

EVERY_TYPE = """
.text
.reloc ., R_390_NONE, near
larl %r1, near
larl %r1, before + 6
brasl %r14, near@PLT
brcl 15, before
jg next
j next
brc 8, next@PLT
cgrj %r1, %r2, 8, next
cgij %r1, 3, 8, next
bprp 1, close, before
bprp 1, close@PLT, before@PLT
cgrl %r1, near@GOTENT
lgrl %r1, far@GOTENT
l %r1, bits12(%r2)
lg %r1, bits20(%r2)
lay %r1, minus20(%r2)
lhi %r1, bits16
.section .data.words, "aw"
.quad far + 5
.long bits32 + 1
.short bits16 + 1
.byte bits8
.balign 8
.quad near - .
.quad near@PLT - .
.long near - .
.long near@PLT - .
.long before - .
.reloc ., R_390_PC16, beside
.short 0
.section .text.next, "ax"
.global next
next: br %r14
"""


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_s390x.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (22, 64, "big")


# Relocations -----------------------------------------------------------------------------------------


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (8, False, Overflow.WRAP)


def test_a_type_without_one_destination_stores_nothing_reaches_a_slot_or_may_be_of_either_sign() -> None:
    partial = {row.name for row in ARCHITECTURE.howtos.values() if not row.complete}
    assert partial == {f"R_390_{name}" for name in ("NONE", "GOTENT", "8", "16", "32")}


def test_an_odd_destination_does_not_fit() -> None:
    row = ARCHITECTURE.howtos[19]
    assert row.insert(bytes(4), -2, "big") == b"\xff\xff\xff\xff"
    with pytest.raises(OverflowError, match="PC32DBL"):
        row.insert(bytes(4), 3, "big")


def test_a_long_displacement_stores_its_high_part_behind_its_low_one() -> None:
    row = ARCHITECTURE.howtos[57]
    assert row.insert(bytes.fromhex("20000058"), 0x12345, "big") == bytes.fromhex("23451258")
    assert row.extract(bytes.fromhex("2fffff58"), "big") == -1


@needs_gcc
def test_the_linker_stores_what_every_row_stores() -> None:
    places = {
        "far": 0xDEADBEEF12345678, "bits32": 0x7EDCA988, "bits16": 0x7A5C, "bits12": 0xABC, "bits20": 0x7A5C3,
        "minus20": -0x7A5C3 & (1 << 64) - 1, "bits8": 0x5A, "near": 0x1899AB8, "before": 0xF8678,
        "beside": 0x1001230, "close": 0x100AB8,
    }  # fmt: skip
    linked = link(GCC, compiled(GCC, EVERY_TYPE, language="assembler"), places)
    assert {places["near"], places["far"]} <= linked.slots.keys()
    assert not mismatches(linked)
    assert howtos_used(linked) == {row.name for row in ARCHITECTURE.howtos.values() if row.fields}


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",), ("-pg", "-mfentry")])
def test_the_linker_stores_what_is_computed_for_compiled_code(cross: Cross, options: tuple[str, ...]) -> None:
    linked = link(cross, compiled(cross, UNIT, *options))
    assert not mismatches(linked)
    assert {"R_390_64", "R_390_PC32DBL", "R_390_PLT32DBL"} <= howtos_used(linked)


# Branches --------------------------------------------------------------------------------------------

COMPARE = st.sampled_from((0x44, 0x45, 0x64, 0x65, 0x76, 0x77, 0x7C, 0x7D, 0x7E, 0x7F))
LAST = COMPARE | st.integers(0, 255)
OPCODES = st.sampled_from((0xA7, 0xC0, 0xCC, 0xEC, 0x84, 0x85)) | st.integers(0, 255)


@given(OPCODES, st.binary(min_size=4, max_size=4), LAST)
def test_capstone_agrees_with_every_branch(opcode: int, middle: bytes, last: int) -> None:
    code = bytes((opcode,)) + middle + bytes((last,))
    base = 0x10000000000
    branch = ARCHITECTURE.branch(code)
    first = instructions(ARCHITECTURE, code)[0]
    text = disassemble(ARCHITECTURE, code, base)[0]
    found = re.search(r" (j\w*|br\w+|c\w*j\w*)( .*)?[ ,](0x[0-9a-f]+)$", text)
    if branch is None or not first.known:
        assert found is None or not first.known
        return
    assert first.size == branch.length
    assert found is not None
    if not re.match(r"cl?g?ij", found[1]):  # capstone 5 adds the immediate to the target
        assert int(found[3], 16) == base + branch.length + branch.displacement


@pytest.mark.parametrize("mask", range(16))
def test_the_short_and_the_long_form_of_a_condition_are_one_operation(mask: int) -> None:
    short = ARCHITECTURE.branch(bytes((0xA7, mask << 4 | 4, 0, 8)))
    long = ARCHITECTURE.branch(bytes((0xC0, mask << 4 | 4, 0, 0, 0, 8)))
    assert short is not None
    assert long is not None
    assert short.operation == long.operation
    assert (short.length, long.length) == (4, 6)
    assert short.length + short.displacement == long.length + long.displacement == 16
    assert short.falls_through == long.falls_through == (mask != 15)


def test_calls_are_told_from_jumps() -> None:
    call, jump = (ARCHITECTURE.branch(bytes.fromhex(code)) for code in ("c0e500000008", "a7f40008"))
    assert call is not None
    assert jump is not None
    assert (call.call, call.falls_through, jump.call, jump.falls_through) == (True, True, False, False)


def test_other_operands_make_another_operation() -> None:
    codes = ("ec1200088064", "ec1300088064", "ec1200082064", "ec1200088076", "ec1200108064")
    found = [branch.operation for code in codes if (branch := ARCHITECTURE.branch(bytes.fromhex(code)))]
    assert found[0] == found[4]
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    "code", ["", "a7", "a7f400", "c0e5000000", "ec12000880", "07fe", "0de1", "c01000000008"]
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
    source = "".join(f"{'br %r14;' * count}br %r14\n.p2align 4\n" for count in range(8))
    found = graph(GCC, compiled(GCC, source, language="assembler"))
    (code,) = [found.contents(node) for node in found.nodes]
    rest = {code[at : at + 2] for at in range(0, len(code), 2)} - {b"\x07\xfe"}
    assert rest
    assert rest <= set(ARCHITECTURE.nops)


# Graphs ----------------------------------------------------------------------------------------------


@needs_gcc
def test_the_way_from_an_instruction_to_its_field_is_no_part_of_the_target() -> None:
    found = graph(GCC, compiled(GCC, UNIT))
    calls = [each for row in found.references for each in row if each.branch]
    assert len(calls) > 5
    assert {(each.addend, each.insn_addend) for each in calls} == {(0, 2)}


@pytest.mark.parametrize("cross", EVERYBODY)
def test_an_object_does_not_differ_from_itself(cross: Cross) -> None:
    found = graph(cross, compiled(cross, UNIT))
    assert not differs(found, found)


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(cross: Cross, old: str, new: str, name: str) -> None:
    before, after = (graph(cross, compiled(cross, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]

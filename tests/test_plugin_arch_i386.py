# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_i386."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import kdiff_arch_i386
import linkoracle
import pytest
from compiled import UNIT, named
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_i386 import ARCHITECTURE
from linkoracle import (
    Cross,
    changed_functions,
    compiled,
    differs,
    fields,
    graph,
    howtos_used,
    link,
    mismatches,
)

from kdiff.api import Architecture, Overflow
from kdiff.insn import disassemble, instructions
from kdiff.split import Kind

CROSS = Cross(
    ARCHITECTURE,
    "i686-linux-gnu-",
    (
        *("-march=i686", "-mregparm=3", "-freg-struct-return", "-mpreferred-stack-boundary=2"),
        *("-msoft-float", "-mno-sse", "-mno-mmx", "-fcf-protection=none"),
    ),
    text=0xC1000000,
    data=0xC1800000,
    externs=0xC1A00000,
)
needs_cross = linkoracle.needs(CROSS)
CLANG = replace(
    CROSS,
    compiler=("clang", "--target=i686-linux-gnu"),
    flags=("-march=i686", "-mregparm=3", "-mno-sse", "-mno-mmx", "-fcf-protection=none"),
)
needs_clang = linkoracle.needs(CLANG)

EVERY_TYPE = """
.text
.reloc ., R_386_NONE, near
movl $near + 5, %eax
movl next - 4, %eax
movl $7, near + 8(,%eax,4)
call near
call next + 16
call before@PLT
jmp near
jne before
.section .data.words, "aw"
.long near + 5
.long next
.long before - .
.word bits16 + 1
.byte bits8 + 1
.byte beside - . + 3
.word beside - .
.section .text.next, "ax"
.global next
next: ret
"""
CONDITIONS = range(16)
OTHER_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, *range(0x64, 0x68), 0xF0, 0xF2, 0xF3))
"""Nobody writes a branch with these; one that did would be compared byte by byte."""


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_i386.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (3, 32, "little")


# Relocations -----------------------------------------------------------------------------------------


def test_types_that_reach_a_slot_and_not_the_symbol_have_no_row() -> None:
    got32, gotoff, gotpc, got32x = 3, 9, 10, 43
    assert not {got32, gotoff, gotpc, got32x} & ARCHITECTURE.howtos.keys()


def test_fields_fill_their_container_and_relative_ones_count_from_the_end() -> None:
    for row in ARCHITECTURE.howtos.values():
        assert row.mask == (1 << (8 * row.size)) - 1
        assert row.end_relative == row.pc_relative == ("PC" in row.name or "PLT" in row.name)
        assert row.complete == (row.size > 0 and row.overflow is not Overflow.EITHER)


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (4, False, Overflow.WRAP)


@needs_cross
def test_the_linker_stores_what_every_row_stores() -> None:
    places = {"near": 0xC123456D, "before": 0xC00FABC5, "bits16": 0x7A5C, "bits8": 0x5A, "beside": 0xC1800020}
    linked = link(CROSS, compiled(CROSS, EVERY_TYPE, language="assembler"), places)
    assert not mismatches(linked)
    assert howtos_used(linked) == {row.name for row in ARCHITECTURE.howtos.values() if row.fields}


@needs_cross
@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",), ("-march=i386",)])
def test_the_linker_stores_what_is_computed_for_compiled_code(options: tuple[str, ...]) -> None:
    linked = link(CROSS, compiled(CROSS, UNIT, *options))
    assert not mismatches(linked)
    assert len(howtos_used(linked)) >= 2


@needs_clang
@pytest.mark.parametrize("option", ["-O2", "-Os", "-O0"])
def test_the_linker_stores_what_is_computed_for_what_clang_compiles(option: str) -> None:
    linked = link(CLANG, compiled(CLANG, UNIT, option))
    assert not mismatches(linked)
    assert howtos_used(linked) == {"R_386_32", "R_386_PC32"}


@needs_cross
def test_what_a_branch_adds_for_its_own_end_is_not_part_of_its_target() -> None:
    linked = link(CROSS, compiled(CROSS, UNIT))
    branches = [each.reference for each in fields(linked) if each.reference.branch]
    assert len(branches) > 5
    assert {(each.addend, each.insn_addend) for each in branches} == {(0, -4)}


# Branches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_short_and_the_near_form_of_a_condition_are_one_operation(condition: int) -> None:
    short = ARCHITECTURE.branch(bytes((0x70 + condition, 0x10)))
    near = ARCHITECTURE.branch(bytes((0x0F, 0x80 + condition, 0x10, 0, 0, 0)))
    assert short is not None
    assert near is not None
    assert short.operation == near.operation
    assert (short.length, near.length) == (2, 6)
    assert short.displacement == near.displacement == 16


def test_different_conditions_are_different_operations() -> None:
    decoded = [ARCHITECTURE.branch(bytes((0x70 + condition, 0))) for condition in CONDITIONS]
    assert len({branch.operation for branch in decoded if branch is not None}) == 16


def test_jumps_and_calls_are_told_apart() -> None:
    short, near, call = (ARCHITECTURE.branch(bytes.fromhex(x)) for x in ("ebfe", "e9fbffffff", "e800000000"))
    assert short is not None
    assert near is not None
    assert call is not None
    assert short.operation == near.operation != call.operation
    assert (short.call, short.falls_through) == (near.call, near.falls_through) == (False, False)
    assert (call.call, call.falls_through) == (True, True)
    assert short.displacement + short.length == near.displacement + near.length == 0


def test_a_prefix_is_part_of_the_operation_and_moves_the_field() -> None:
    plain = ARCHITECTURE.branch(bytes.fromhex("e900000000"))
    prefixed = ARCHITECTURE.branch(bytes.fromhex("2ee900000000"))
    assert plain is not None
    assert prefixed is not None
    assert prefixed.operation != plain.operation
    assert (prefixed.field_offset, prefixed.length) == (plain.field_offset + 1, plain.length + 1)


@pytest.mark.parametrize("code", ["", "e8", "e8000000", "0f", "0f84000000", "eb", "2e", "2e" * 14 + "eb00"])
def test_cut_off_or_overlong_code_is_no_branch(code: str) -> None:
    assert ARCHITECTURE.branch(bytes.fromhex(code)) is None


@pytest.mark.parametrize("code", ["ffd0", "ffe0", "ff1500000000", "c3", "cc", "0f0b", "0f1f440000", "90" * 6])
def test_indirect_branches_and_other_instructions_are_no_relative_branch(code: str) -> None:
    assert ARCHITECTURE.branch(bytes.fromhex(code)) is None


@given(st.sampled_from((b"", b"\x2e", b"\x3e")), st.integers(0, 255), st.binary(min_size=8, max_size=8))
def test_capstone_agrees_with_every_branch(prefix: bytes, opcode: int, rest: bytes) -> None:
    code = prefix + bytes((opcode,)) + rest
    branch = ARCHITECTURE.branch(code)
    base = 0xC1000000
    first = instructions(ARCHITECTURE, code)[0]
    text = disassemble(ARCHITECTURE, code, base)[0][-60:]
    target = re.search(r"\b(j\w+|call|loop\w*) (0x[0-9a-f]+)$", text)
    if branch is None:
        assert target is None or code[len(prefix)] in OTHER_PREFIXES
        return
    assert first.size == branch.length
    assert target is not None
    assert int(target[2], 16) == (base + branch.length + branch.displacement) % (1 << 32)
    field = code[branch.field_offset : branch.field_offset + branch.field_size]
    assert int.from_bytes(field, "little", signed=True) == branch.displacement


# No-ops ----------------------------------------------------------------------------------------------


def test_each_no_op_is_one_instruction() -> None:
    for nop in ARCHITECTURE.nops:
        (only,) = instructions(ARCHITECTURE, nop)
        assert only.known
        assert only.size == len(nop)


def test_no_ops_are_distinct_and_come_longest_first() -> None:
    lengths = [len(nop) for nop in ARCHITECTURE.nops]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(ARCHITECTURE.nops)) == len(ARCHITECTURE.nops)


def test_a_no_op_moves_and_loads_each_register_into_itself() -> None:
    for nop in ARCHITECTURE.nops:
        text = disassemble(ARCHITECTURE, nop)[0].split(maxsplit=1 + len(nop))[-1]
        assert re.fullmatch(r"(nop|xchg)\b.*|mov (e\w\w), \2|lea (e\w\w), .*\[\3( \+ eiz)?( \+ 0)?\]", text)


@needs_cross
@pytest.mark.parametrize("option", ["-O2", "-march=i686", "-march=i386", "-march=pentium", "-mtune=k8"])
def test_the_assembler_aligns_with_known_no_ops_only(option: str, tmp_path: Path) -> None:
    source = "".join(f".byte {'0xc3,' * count}0xc3\n.p2align 4\n" for count in range(16))
    (tmp_path / "a.s").write_text(source)
    prefix = CROSS.prefix
    subprocess.run([f"{prefix}as", option, "-o", "a.o", "a.s"], cwd=tmp_path, check=True)
    subprocess.run([f"{prefix}objcopy", "-O", "binary", "a.o", "a.bin"], cwd=tmp_path, check=True)
    code = (tmp_path / "a.bin").read_bytes()
    shapes = {
        code[each.offset : each.offset + each.size]
        for each in instructions(ARCHITECTURE, code)
        if code[each.offset] != 0xC3
    }
    assert len(shapes) > 5
    assert shapes <= set(ARCHITECTURE.nops)


# Graphs ----------------------------------------------------------------------------------------------


@needs_cross
@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",)])
def test_an_object_does_not_differ_from_itself(options: tuple[str, ...]) -> None:
    found = graph(CROSS, compiled(CROSS, UNIT, *options))
    assert not differs(found, found)


@needs_cross
def test_an_addend_in_the_field_reaches_the_right_string() -> None:
    text = 'int printk(const char *, int); void f(int a) { printk("first", a); printk("second", a); }'
    found = graph(CROSS, compiled(CROSS, text))
    reached = [found.nodes[each.target] for each in found.references[named(found, "f").id]]
    strings = [found.contents(node) for node in reached if node.kind is Kind.STRING]
    assert sorted(strings) == [b"first\0", b"second\0"]


@needs_cross
@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(old: str, new: str, name: str) -> None:
    before, after = (graph(CROSS, compiled(CROSS, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]

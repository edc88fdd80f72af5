# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_arm."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import kdiff_arch_arm
import linkoracle
import pytest
from compiled import UNIT, named
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_arm import ARCHITECTURE
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
from kdiff.errors import KdiffError
from kdiff.insn import disassemble, instructions

CROSS = Cross(
    ARCHITECTURE,
    "arm-linux-gnueabihf-",
    (
        *("-marm", "-mabi=aapcs-linux", "-mfpu=vfp", "-mfloat-abi=soft", "-march=armv7-a", "-funwind-tables"),
        *("-mno-fdpic", "-mtp=cp15"),
    ),
    text=0xC0100000,
    data=0xC1000000,
    externs=0xC1200000,
    link_flags=("--no-merge-exidx-entries",),
)
needs_cross = linkoracle.needs(CROSS)
CLANG = replace(
    CROSS,
    compiler=("clang", "--target=arm-linux-gnueabi"),
    flags=("-marm", "-march=armv7-a", "-mfloat-abi=soft", "-funwind-tables", "-meabi", "gnu"),
)
needs_clang = linkoracle.needs(CLANG)

EVERY_TYPE = """
.syntax unified
.arch armv7-a
.text
.reloc ., R_ARM_NONE, near
.reloc ., R_ARM_PC24, next
bl 0f
0:
bl near
bl next + 16
blne near
b before
bcs next
movw r0, #:lower16:near + 0x7ff4
movt r0, #:upper16:near + 0x7ff4
movw r3, #:lower16:next - 4
movt r3, #:upper16:next - 4
movw r0, #:lower16:near - .
movt r0, #:upper16:near - .
movw r0, #:lower16:before - . - 8
movt r0, #:upper16:before - . - 8
.section .data.words, "aw"
.word near + 5
.word next
.word before - .
.word near(TARGET1) + 4
.hword bits16 + 1
.byte bits8 + 1
.balign 4
.reloc ., R_ARM_PREL31, near
.word 4
.reloc ., R_ARM_PREL31, before
.word 0x80000000
.section .text.next, "ax"
.global next
next: bx lr
bl before
"""


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_arm.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (40, 32, "little")


# Relocations -----------------------------------------------------------------------------------------


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (4, False, Overflow.WRAP)


def test_both_halves_of_a_pair_have_the_same_addend() -> None:
    low, high = ARCHITECTURE.howtos[43], ARCHITECTURE.howtos[44]
    movw, movt = (bytes.fromhex(x) for x in ("fc0f0fe3", "fc0f4fe3"))
    assert low.addend(movw, "little") == high.addend(movt, "little") == -4
    assert high.extract(movt, "little") == -4 << 16
    assert not low.complete
    assert not high.complete


@needs_cross
def test_the_linker_stores_what_every_row_stores() -> None:
    places = {"near": 0xC123456C, "before": 0xC00FABC4, "bits16": 0x7A5C, "bits8": 0x5A}
    linked = link(CROSS, compiled(CROSS, EVERY_TYPE, language="assembler"), places)
    assert not mismatches(linked)
    assert howtos_used(linked) == {row.name for row in ARCHITECTURE.howtos.values() if row.fields}


@needs_cross
@pytest.mark.parametrize(
    "option", ["-O2", "-march=armv5te", "-march=armv4", "-Os", "-O0", "-mlong-calls", "-mtune=cortex-a15"]
)
def test_the_linker_stores_what_is_computed_for_compiled_code(option: str) -> None:
    linked = link(CROSS, compiled(CROSS, UNIT, option))
    assert not mismatches(linked)
    assert len(howtos_used(linked)) >= 2


@needs_clang
@pytest.mark.parametrize("option", ["-O2", "-march=armv5te", "-Os"])
def test_the_linker_stores_what_is_computed_for_what_clang_compiles(option: str) -> None:
    linked = link(CLANG, compiled(CLANG, UNIT, option))
    assert not mismatches(linked)
    assert {"R_ARM_CALL", "R_ARM_PREL31"} <= howtos_used(linked)


@needs_cross
def test_what_a_branch_adds_for_the_pipeline_is_not_part_of_its_target() -> None:
    linked = link(CROSS, compiled(CROSS, UNIT))
    branches = [each.reference for each in fields(linked) if each.reference.branch]
    assert len(branches) > 5
    assert {(each.addend, each.insn_addend) for each in branches} == {(0, -8)}


@needs_cross
def test_thumb_code_is_an_error() -> None:
    with pytest.raises(KdiffError, match="not known"):
        graph(CROSS, compiled(CROSS, UNIT, "-mthumb"))


# Branches --------------------------------------------------------------------------------------------


@given(st.integers(0, (1 << 28) - 1).map(lambda low: low & 0x01FFFFFF | 0x0A000000), st.integers(0, 14))
def test_capstone_agrees_with_every_branch(low: int, condition: int) -> None:
    code = (condition << 28 | low).to_bytes(4, "little")
    base = 0xC0100000
    branch = ARCHITECTURE.branch(code)
    found = re.search(r" (bl?\w*) #(0x[0-9a-f]+)$", disassemble(ARCHITECTURE, code, base)[0])
    assert branch is not None
    assert found is not None
    assert branch.operation == found[1]
    assert int(found[2], 16) == (base + branch.length + branch.displacement) % (1 << 32)


@given(st.integers(0, (1 << 32) - 1))
def test_capstone_knows_no_branch_that_is_not_decoded(word: int) -> None:
    code = word.to_bytes(4, "little")
    if ARCHITECTURE.branch(code) is None:
        assert not re.search(r" (?!blx )(b|bl)(\w\w)? #0x", disassemble(ARCHITECTURE, code)[0])


def test_only_an_unconditional_jump_does_not_fall_through() -> None:
    codes = ("feffffea", "feffffeb", "feffff0a")
    found = [branch for x in codes if (branch := ARCHITECTURE.branch(bytes.fromhex(x))) is not None]
    assert [each.falls_through for each in found] == [False, True, True]
    assert [each.call for each in found] == [False, True, False]
    assert {each.length + each.displacement for each in found} == {0}


@pytest.mark.parametrize("code", ["", "feffff", "1eff2fe1", "33ff2fe1", "00f020e3", "000000fa"])
def test_indirect_branches_and_cut_off_code_are_no_relative_branch(code: str) -> None:
    assert ARCHITECTURE.branch(bytes.fromhex(code)) is None


# No-ops ----------------------------------------------------------------------------------------------


def test_each_no_op_is_one_instruction() -> None:
    for nop in ARCHITECTURE.nops:
        (only,) = instructions(ARCHITECTURE, nop)
        assert only.known
        assert only.size == len(nop)


@needs_cross
@pytest.mark.parametrize("architecture", ["armv4", "armv5te", "armv6k", "armv7-a"])
def test_the_assembler_aligns_with_known_no_ops_only(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "a.s").write_text(f".arch {architecture}\nmov pc, lr\n.p2align 5\nmov pc, lr\n")
    prefix = CROSS.prefix
    subprocess.run([f"{prefix}as", "-march=armv5te", "-o", "a.o", "a.s"], cwd=tmp_path, check=True)
    subprocess.run([f"{prefix}objcopy", "-O", "binary", "a.o", "a.bin"], cwd=tmp_path, check=True)
    code = (tmp_path / "a.bin").read_bytes()
    assert {code[at : at + 4] for at in range(4, 32, 4)} <= set(ARCHITECTURE.nops)


# Graphs ----------------------------------------------------------------------------------------------


@needs_cross
def test_mapping_symbols_name_nothing() -> None:
    found = graph(CROSS, compiled(CROSS, UNIT, "-march=armv5te"))
    symbols = [found.obj.symbol_name(index) for index in range(len(found.obj.symbols))]
    assert {"$a", "$d"} <= set(symbols)
    assert not [name for node in found.nodes for name in node.names if name.startswith("$")]
    assert not [name for names in found.inner.values() for _, name in names if name.startswith("$")]


@needs_cross
@pytest.mark.parametrize("options", [("-mtune=cortex-a15",), ("-march=armv5te",), ("-march=armv4",)])
def test_an_object_does_not_differ_from_itself(options: tuple[str, ...]) -> None:
    found = graph(CROSS, compiled(CROSS, UNIT, *options))
    assert not differs(found, found)


@needs_cross
def test_a_pair_of_moves_reaches_one_place() -> None:
    text = '.section .text.f, "ax"\nmovw r0, #:lower16:a + 0x7004\nmovt r0, #:upper16:a + 0x7004\n'
    found = graph(CROSS, compiled(CROSS, text, language="assembler"))
    low, high = (each for node in found.nodes for each in found.references[node.id])
    assert (low.howto.name, high.howto.name) == ("R_ARM_MOVW_ABS_NC", "R_ARM_MOVT_ABS")
    assert (low.target, low.addend) == (high.target, high.addend) == (named(found, "a").id, 0x7004)


@needs_cross
@pytest.mark.parametrize("options", [("-mtune=cortex-a15",), ("-march=armv5te",)])
@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(
    old: str, new: str, name: str, options: tuple[str, ...]
) -> None:
    before, after = (graph(CROSS, compiled(CROSS, x, *options)) for x in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]

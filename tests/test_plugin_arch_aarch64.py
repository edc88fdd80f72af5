# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_aarch64."""

from __future__ import annotations

import re
from dataclasses import replace

import kdiff_arch_aarch64
import linkoracle
import pytest
from compiled import UNIT
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_aarch64 import ARCHITECTURE
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

CROSS = Cross(
    ARCHITECTURE,
    "aarch64-linux-gnu-",
    ("-mgeneral-regs-only", "-mabi=lp64", "-mbranch-protection=pac-ret+bti"),
    text=0xFFFF800008080000,
    data=0xFFFF800009000000,
    externs=0xFFFF80000A000000,
)
needs_cross = linkoracle.needs(CROSS)
CLANG = replace(
    CROSS,
    compiler=("clang", "--target=aarch64-linux-gnu"),
    flags=("-mgeneral-regs-only", "-mbranch-protection=pac-ret+bti"),
)
needs_clang = linkoracle.needs(CLANG)

MAYBE = """
extern int maybe __attribute__((weak)); extern int sometimes(void) __attribute__((weak));
int probe(void) { return (&maybe ? maybe : 1) + (sometimes ? sometimes() : 2); }
"""
"""Symbols that may stay undefined, whose addresses are loaded from slots."""

EVERY_TYPE = """
.text
.reloc ., R_AARCH64_NONE, near
movz x0, #:abs_g0:bits16
movk x0, #:abs_g0_nc:far
movz x0, #:abs_g1:bits32
movk x0, #:abs_g1_nc:far
movz x0, #:abs_g2:bits48
movk x0, #:abs_g2_nc:far
movk x0, #:abs_g3:far
movz x0, #:abs_g0_s:bits16
movz x0, #:abs_g0_s:below16
movz x0, #:abs_g1_s:bits32
movz x0, #:abs_g1_s:below32
movz x0, #:abs_g2_s:bits48
movz x0, #:abs_g2_s:far
movz x0, #:prel_g0:next
movz x0, #:prel_g0:before
movk x0, #:prel_g0_nc:near
movz x0, #:prel_g1:near + 8
movz x0, #:prel_g1:before
movk x0, #:prel_g1_nc:near
movz x0, #:prel_g2:near
movz x0, #:prel_g2:before
movk x0, #:prel_g2_nc:before
movz x0, #:prel_g3:near
movz x0, #:prel_g3:before
ldr x0, next
adr x0, next + 3
adr x0, before - 5
adrp x0, near
adrp x0, before
adrp x0, next + 0x1000
adrp x0, near + 0xbc0
adrp x0, :pg_hi21_nc:near + 0x123bc0
add x0, x0, #:lo12:near + 0x7ff
ldrb w0, [x0, #:lo12:near + 5]
ldrh w0, [x0, #:lo12:near + 6]
ldr w0, [x0, #:lo12:near + 12]
ldr x0, [x0, #:lo12:near + 0xf8]
ldr q0, [x0, #:lo12:near + 0x30]
adrp x0, :got:near
ldr x0, [x0, #:got_lo12:near]
tbz x3, #40, next
b.ne next
cbnz w5, next
b near
bl near
bl before
.section .data.words, "aw"
.quad far + 5
.word bits32 + 1
.hword bits16 + 1
.balign 8
.quad near - .
.word near - .
.word before - .
.hword beside - .
.section .text.next, "ax"
.global next
next: ret
"""


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_aarch64.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (183, 64, "little")


# Relocations -----------------------------------------------------------------------------------------


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (8, False, Overflow.WRAP)


def test_halves_of_an_address_do_not_determine_it() -> None:
    partial = {row.name for row in ARCHITECTURE.howtos.values() if not row.complete}
    assert {"R_AARCH64_ADR_PREL_PG_HI21", "R_AARCH64_ADD_ABS_LO12_NC", "R_AARCH64_NONE"} <= partial
    assert not partial & {"R_AARCH64_ABS64", "R_AARCH64_PREL32", "R_AARCH64_CALL26", "R_AARCH64_TSTBR14"}
    assert {row.name for row in ARCHITECTURE.howtos.values() if row.slot} <= partial
    assert not any("MOVW" in row.name and row.complete for row in ARCHITECTURE.howtos.values() if row.drops)


def test_a_scaled_load_of_an_unaligned_address_overflows() -> None:
    row = ARCHITECTURE.howtos[286]
    with pytest.raises(OverflowError, match="LDST64"):
        row.insert(bytes(4), 0xFFFF800008080004, "little")


@needs_cross
def test_the_linker_stores_what_every_row_stores() -> None:
    places = {
        "near": 0xFFFF80000A123458 & ~0xF, "far": 0xFFFF8000DEADBEE8, "before": 0xFFFF80000807F678,
        "bits16": 0x7A5C, "bits32": 0x7EDCBA98, "bits48": 0x7EDCBA987654, "beside": 0xFFFF800009000010,
        "below16": -0x7A5C, "below32": -0x7EDCBA98,
    }  # fmt: skip
    linked = link(CROSS, compiled(CROSS, EVERY_TYPE, language="assembler"), places)
    assert not mismatches(linked)
    used = {row.name for row in ARCHITECTURE.howtos.values() if row.fields}
    assert howtos_used(linked) == used - {"R_AARCH64_GOT_LD_PREL19"}


@needs_cross
@pytest.mark.parametrize("options", [(), ("-mcmodel=large",), ("-Os",), ("-O0",)])
def test_the_linker_stores_what_is_computed_for_compiled_code(options: tuple[str, ...]) -> None:
    linked = link(CROSS, compiled(CROSS, UNIT, *options))
    assert not mismatches(linked)
    assert len(howtos_used(linked)) > 3


@needs_cross
@pytest.mark.parametrize("options", [(), ("-mcmodel=tiny",)])
def test_a_slot_is_reached_as_the_linker_reaches_it(options: tuple[str, ...]) -> None:
    near = replace(CROSS, data=CROSS.text + 0x40000, externs=CROSS.text + 0x60000)
    linked = link(near, compiled(near, MAYBE, *options))
    slots = [each.reference for each in fields(linked) if each.reference.howto.slot]
    assert {linked.graph.nodes[each.target].name for each in slots} == {"maybe", "sometimes"}
    assert not mismatches(linked)


@needs_clang
def test_the_linker_stores_what_is_computed_for_what_clang_compiles() -> None:
    linked = link(CLANG, compiled(CLANG, UNIT + MAYBE))
    assert not mismatches(linked)
    assert "R_AARCH64_ADR_GOT_PAGE" in howtos_used(linked)


# Branches --------------------------------------------------------------------------------------------

opcodes = st.sampled_from((0x14000000, 0x94000000, 0x54000000, 0x34000000, 0x36000000, 0xB5000000))


@given(opcodes | st.just(0), st.integers(0, (1 << 26) - 1) | st.integers(0, (1 << 32) - 1))
def test_capstone_agrees_with_every_branch(opcode: int, rest: int) -> None:
    code = (opcode | rest).to_bytes(4, "little")
    base = 0x10000000000
    branch = ARCHITECTURE.branch(code)
    text = disassemble(ARCHITECTURE, code, base)[0].split(maxsplit=5)[-1]
    found = re.fullmatch(r"(b|bl|b\.\w+|cbn?z|tbn?z)( .*)?[ #](0x[0-9a-f]+|\d+)", text)
    if branch is None:
        assert found is None or found[1].startswith("bc.")
        return
    assert found is not None
    assert branch.operation.split()[0].replace("b.cs", "b.hs").replace("b.cc", "b.lo") == found[1]
    assert int(found[3], 0) == (base + branch.length + branch.displacement) % (1 << 64)
    register = re.search(r" ([wx]\d+|[wx]zr)", found[2] or "")
    if register is not None:
        assert branch.operation.split()[1].replace("31", "zr") == register[1]


def test_only_an_unconditional_jump_does_not_fall_through() -> None:
    codes = ("00000014", "00000094", "00000054", "0e000054", "00000034")
    found = [branch for x in codes if (branch := ARCHITECTURE.branch(bytes.fromhex(x))) is not None]
    assert [each.falls_through for each in found] == [False, True, True, False, True]
    assert [each.call for each in found] == [False, True, False, False, False]


@pytest.mark.parametrize("code", ["", "000000", "00003fd6", "00001fd6", "c0035fd6", "1f2003d5", "00000000"])
def test_indirect_branches_and_cut_off_code_are_no_relative_branch(code: str) -> None:
    assert ARCHITECTURE.branch(bytes.fromhex(code)) is None


def test_the_no_op_is_one_instruction() -> None:
    (only,) = instructions(ARCHITECTURE, ARCHITECTURE.nops[0])
    assert only.known
    assert disassemble(ARCHITECTURE, ARCHITECTURE.nops[0])[0].endswith("nop")


# Graphs ----------------------------------------------------------------------------------------------


@needs_cross
def test_mapping_symbols_name_nothing() -> None:
    found = graph(CROSS, compiled(CROSS, UNIT, "-g"))
    symbols = [found.obj.symbol_name(index) for index in range(len(found.obj.symbols))]
    assert {"$x", "$d"} <= set(symbols)
    assert not [name for node in found.nodes for name in node.names if name.startswith("$")]
    assert not [name for names in found.inner.values() for _, name in names if name.startswith("$")]


@needs_cross
@pytest.mark.parametrize("options", [(), ("-mcmodel=large",), ("-fpatchable-function-entry=2",)])
def test_an_object_does_not_differ_from_itself(options: tuple[str, ...]) -> None:
    found = graph(CROSS, compiled(CROSS, UNIT, *options))
    assert not differs(found, found)


@needs_cross
@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(old: str, new: str, name: str) -> None:
    before, after = (graph(CROSS, compiled(CROSS, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]

# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_x86_64."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import kdiff_arch_x86_64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_x86_64 import ARCHITECTURE
from kdiff_arch_x86_64.operands import around

from kdiff.api import Architecture, Overflow
from kdiff.insn import disassemble, instructions

ELF_H = Path("/usr/include/elf.h")
CONDITIONS = range(16)
OTHER_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, *range(0x40, 0x50), *range(0x64, 0x68), 0xF0, 0xF2, 0xF3))
"""Nobody writes a branch with these; one that did would be compared byte by byte."""


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_x86_64.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (62, 64, "little")


# Relocations -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not ELF_H.exists(), reason="needs elf.h")
def test_numbers_of_relocation_types_are_those_of_elf_h() -> None:
    defined = {
        name: int(value) for name, value in re.findall(r"#define (R_X86_64_\w+)\s+(\d+)", ELF_H.read_text())
    }
    assert {row.name: row.type for row in ARCHITECTURE.howtos.values()}.items() <= defined.items()


def test_a_row_stands_under_its_own_number() -> None:
    assert all(number == row.type for number, row in ARCHITECTURE.howtos.items())


def test_every_type_the_module_loader_applies_has_a_row() -> None:
    names = {row.name for row in ARCHITECTURE.howtos.values()}
    loader = {"NONE", "64", "32", "32S", "PC32", "PLT32", "PC64"}
    assert {f"R_X86_64_{name}" for name in loader} <= names


def test_types_that_reach_a_slot_and_not_the_symbol_have_no_row() -> None:
    gotpcrel, gotpcrelx, rex_gotpcrelx = 9, 41, 42
    assert not {gotpcrel, gotpcrelx, rex_gotpcrelx} & ARCHITECTURE.howtos.keys()


def test_fields_fill_their_container_and_relative_ones_count_from_the_end() -> None:
    for row in ARCHITECTURE.howtos.values():
        assert row.mask == (1 << (8 * row.size)) - 1
        assert row.end_relative == row.pc_relative == ("PC" in row.name or "PLT" in row.name)


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (8, False, Overflow.WRAP)


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
    base = 0x10000000000
    first = instructions(ARCHITECTURE, code)[0]
    text = disassemble(ARCHITECTURE, code, base)[0][-60:]
    target = re.search(r"\b(j\w+|call|loop\w*) (0x[0-9a-f]+)$", text)
    if branch is None:
        assert target is None or code[len(prefix)] in OTHER_PREFIXES
        return
    assert first.size == branch.length
    assert target is not None
    assert int(target[2], 16) == base + branch.length + branch.displacement
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
    assert set(lengths) == set(range(1, 16))


def test_instructions_that_clear_the_upper_half_of_a_register_are_no_no_ops() -> None:
    for code in ("8d7600", "89f6", "8db600000000", "f390"):
        assert bytes.fromhex(code) not in ARCHITECTURE.nops


@pytest.mark.skipif(shutil.which("as") is None, reason="needs an assembler")
def test_the_assembler_aligns_with_known_no_ops_only(tmp_path: Path) -> None:
    source = "".join(f".byte {'0xc3,' * count}0xc3\n.p2align 5\n" for count in range(32))
    (tmp_path / "a.s").write_text(source)
    subprocess.run(["as", "-o", "a.o", "a.s"], cwd=tmp_path, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", "a.o", "a.bin"], cwd=tmp_path, check=True)
    code = (tmp_path / "a.bin").read_bytes()
    shapes = {
        code[each.offset : each.offset + each.size]
        for each in instructions(ARCHITECTURE, code)
        if code[each.offset] != 0xC3
    }
    assert len(shapes) > 5
    assert shapes <= set(ARCHITECTURE.nops)


def judged(code: bytes, field: int) -> tuple[int, bool]:
    """What decoding from the start says of the instruction that holds a field."""
    (found,) = (each for each in instructions(ARCHITECTURE, code) if 0 <= field - each.offset < each.size)
    decoded = ARCHITECTURE.branch(code[found.offset :])
    is_branch = decoded is not None and found.offset + decoded.field_offset == field
    return found.offset + found.size, is_branch


@pytest.mark.parametrize(
    ("code", "field", "end", "is_branch"),
    [
        ("e8 00000000", 1, 5, True),
        ("2e e9 00000000", 2, 6, True),
        ("0f84 00000000", 2, 6, True),
        ("488b05 00000000", 3, 7, False),
        ("ff15 00000000", 2, 6, False),
        ("803d 00000000 01", 2, 7, False),
        ("48833d 00000000 01", 3, 8, False),
        ("c705 00000000 01000000", 2, 10, False),
        ("84c0 748c e9 00000000", 5, 9, True),  # je, jmp: no operand with SIB, as 0f 74 8c e9 would be
    ],
)
def test_the_bytes_in_front_of_a_field_tell_its_instruction(
    code: str, field: int, end: int, is_branch: bool
) -> None:
    assert around(bytes.fromhex(code), field) == (end, is_branch) == judged(bytes.fromhex(code), field)


@pytest.mark.parametrize(
    ("code", "field"),
    [
        ("81e8 00000000", 2),  # sub $constant, %eax
        ("c745e8 00000000", 3),  # movl $constant, -24(%rbp)
        ("48c744e5e8 00000000", 5),  # movq $constant, -24(%rbp,%riz,8)
        ("c704e8 00000000", 3),  # movl $constant, (%rax,%rbp,8)
        ("660f3a0f05 00000000 01", 5),  # palignr $1, mem, %xmm0
        ("c4e37b6305 00000000 01", 5),  # of the third VEX map
        ("66c705 00000000 0100", 3),  # movw $1, mem
        ("660f388005 00000000", 5),  # invept mem, %rax
        ("0ff605 00000000", 3),  # psadbw mem, %mm0
        ("69448005 00000000", 4),  # imul $constant, 5(%rax,%rax,4), %eax
        ("488b0425 00000000", 4),  # an absolute operand
        ("0f748ce9 00000000", 4),  # pcmpeqb 0x0(%rcx,%rbp,8), %mm1
        ("c5f1748ce9 00000000", 5),  # vpcmpeqb 0x0(%rcx,%rbp,8), %xmm1, %xmm1
        ("898ce9 00000000", 3),  # mov %ecx, 0x0(%rcx,%rbp,8)
        ("e8", 0),
    ],
)
def test_where_the_bytes_in_front_of_a_field_leave_a_doubt_nothing_is_told(code: str, field: int) -> None:
    assert around(bytes.fromhex(code), field) is None


PREFIXES = st.sampled_from(["", "66", "f0", "f3", "48", "6648", "65", "0f", "480f", "660f", "0f38", "660f38"])
LONG = st.sampled_from(["0f3a", "660f3a", "c5f8", "c4e279", "c4e379", "8fe878", "62f17c48", "62f37d48"])

LEGACY_AND_REX = bytes.fromhex("262e363e64656667f0f2f3") + bytes(range(0x40, 0x50))


@given(prefix=st.one_of(PREFIXES, LONG), opcode=st.integers(0, 255), tail=st.binary(min_size=2, max_size=8))
def test_capstone_agrees_with_what_is_told_of_operands_in_memory(
    prefix: str, opcode: int, tail: bytes
) -> None:
    head = bytes.fromhex(prefix) + bytes([opcode, tail[0] & 0x38 | 0x05])
    code = head + bytes(4) + tail.ljust(12, b"\x90")
    found = instructions(ARCHITECTURE, code)[0]
    told = around(code, len(head))
    wide = opcode >= 0xB8 and opcode < 0xC0 and "0f" not in prefix  # mov $constant: no ModRM
    if found.known and found.size >= len(head) + 4 and told is not None and not wide:
        assert told == judged(code, len(head))


@given(opcode=st.sampled_from(["69", "81", "c7", "f7"]), operand=st.binary(min_size=1, max_size=3))
def test_a_constant_is_never_taken_for_the_displacement_of_a_branch(opcode: str, operand: bytes) -> None:
    head = bytes.fromhex(opcode) + operand
    code = head + bytes(4) + b"\x90" * 12
    found = instructions(ARCHITECTURE, code)[0]
    if found.known and found.size == len(head) + 4:
        assert around(code, len(head)) in (None, (found.size, False))


@given(
    prefix=st.one_of(PREFIXES, LONG),
    opcode=st.integers(0, 255),
    register=st.integers(0, 7),
    base=st.sampled_from([0xE8, 0xE9]),
)
def test_a_displacement_behind_sib_is_never_taken_for_that_of_a_branch(
    prefix: str, opcode: int, register: int, base: int
) -> None:
    head = bytes.fromhex(prefix) + bytes([opcode, 0x84 | register << 3, base])
    code = head + bytes(4) + b"\x90" * 12
    found = instructions(ARCHITECTURE, code)[0]
    wide = head.lstrip(LEGACY_AND_REX)[0] in (*range(0xA0, 0xA4), *range(0xB8, 0xC0))  # no ModRM: mov
    if found.known and found.size >= len(head) + 4 and not wide:
        assert around(code, len(head)) is None

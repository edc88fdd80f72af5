# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_arch_loongarch64."""

from __future__ import annotations

import kdiff_arch_loongarch64
import linkoracle
import pytest
from compiled import UNIT
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_loongarch64 import ARCHITECTURE
from linkoracle import Cross, changed_functions, compiled, differs, graph, howtos_used, link, mismatches

from kdiff.api import Architecture, KdiffError, Overflow
from kdiff.insn import disassemble, instructions
from kdiff.stackvalue import stored

PLACES = (0x9000000000202000, 0x9000000001000000, 0x9000000001800000)


def clang(*options: str) -> Cross:
    return Cross(
        ARCHITECTURE,
        "",
        options,
        *PLACES,
        compiler=("clang-19", "--target=loongarch64-linux-gnu"),
        linker="ld.lld-19",
    )


CLANG = clang()
needs_clang = linkoracle.needs(CLANG)
EVERYBODY = [
    pytest.param(cross, marks=needs_clang, id=name)
    for name, cross in (
        ("clang", CLANG),
        ("medium", clang("-mcmodel=medium")),
        ("direct", clang("-fdirect-access-external-data")),
        ("relax", clang("-mrelax")),
    )
]

EVERY_TYPE = r"""
.text
.reloc ., R_LARCH_NONE, near
.reloc ., R_LARCH_RELAX, 0
.reloc ., R_LARCH_MARK_LA, near
.reloc ., R_LARCH_MARK_PCREL, near
lu12i.w $a0, %abs_hi20(far)
ori $a0, $a0, %abs_lo12(far)
lu32i.d $a0, %abs64_lo20(far)
lu52i.d $a0, $a0, %abs64_hi12(far)
pcalau12i $a0, %pc_hi20(near)
addi.d $a0, $a0, %pc_lo12(near)
ld.w $a1, $a0, %pc_lo12(near + 0x7fc)
pcalau12i $a0, %pc_hi20(before)
pcalau12i $a0, %got_pc_hi20(far)
ld.d $a0, $a0, %got_pc_lo12(far)
lu12i.w $a0, %got_hi20(far)
ori $a0, $a0, %got_lo12(far)
lu32i.d $a0, %got64_lo20(far)
lu52i.d $a0, $a0, %got64_hi12(far)
beq $a0, $a1, %b16(next)
beqz $a0, %b21(next)
b %b26(next)
bl near
bl before
.reloc ., R_LARCH_CALL36, near
pcaddu18i $ra, 0
jirl $ra, $ra, 0
.reloc ., R_LARCH_CALL36, before
pcaddu18i $ra, 0
jirl $ra, $ra, 0
.reloc ., R_LARCH_PCREL20_S2, next
pcaddi $a0, 0
.section .data.words, "aw"
.quad far + 5
.4byte bits31 + 1
.balign 8
.reloc ., R_LARCH_64_PCREL, near
.quad 0
.reloc ., R_LARCH_32_PCREL, near
.4byte 0
.4byte before - .
.balign 8
.macro pair bits, size
.reloc ., R_LARCH_ADD\bits, last + 3
.reloc ., R_LARCH_SUB\bits, first
\size
.endm
pair 8, ".byte 0"
pair 6, ".byte 0"
pair 16, ".2byte 0"
pair 32, ".4byte 0"
pair 64, ".8byte 0"
pair _ULEB128, ".byte 0"
.reloc ., R_LARCH_ADD_ULEB128, last + 0x1234
.reloc ., R_LARCH_SUB_ULEB128, first
.byte 0x80, 0x80, 0
.section .text.next, "ax"
.global next
next: ret
.section .rodata.span, "a"
first: .space 45
last: .byte 0
"""

SYMBOL, PLACE = 5, 0x9000000000202468


def as_architecture(arch: Architecture) -> Architecture:
    return arch


def test_the_hook_provides_one_architecture() -> None:
    assert tuple(kdiff_arch_loongarch64.kdiff_architectures()) == (as_architecture(ARCHITECTURE),)
    assert (ARCHITECTURE.elf_machine, ARCHITECTURE.elf_class, ARCHITECTURE.byte_order) == (258, 64, "little")


# Relocations -----------------------------------------------------------------------------------------


def test_an_absolute_word_is_a_pointer() -> None:
    row = ARCHITECTURE.howtos[ARCHITECTURE.absolute_word]
    assert (row.size, row.pc_relative, row.overflow) == (8, False, Overflow.WRAP)


def test_parts_of_an_address_do_not_determine_it() -> None:
    partial = {row.name.removeprefix("R_LARCH_") for row in ARCHITECTURE.howtos.values() if not row.complete}
    assert {"ABS_HI20", "ABS64_HI12", "PCALA_HI20", "PCALA_LO12", "GOT_PC_LO12", "RELAX"} <= partial
    assert not partial & {"64", "32", "B16", "B21", "B26", "CALL36", "32_PCREL", "PCREL20_S2", "ADD32"}


@pytest.mark.parametrize("way", [0, 0x1FFFC, 0x20000, -0x20000, -0x20004, 0x1FFFFDFFFC, -0x2000020000])
def test_the_halves_of_a_far_call_add_up(way: int) -> None:
    code = ARCHITECTURE.howtos[110].insert(bytes.fromhex("0100001e2100004c"), way, "little")
    branch = ARCHITECTURE.branch(code)
    assert branch is not None
    assert branch.length + branch.displacement == way
    assert ARCHITECTURE.howtos[110].extract(code, "little") == way


@needs_clang
def test_the_linker_stores_what_every_row_stores() -> None:
    places = {
        "far": 0xDEADBEEF12345678, "bits31": 0x7EDCA988, "near": 0x9000000001899AB8,
        "before": 0x9000000000201678,
    }  # fmt: skip
    linked = link(CLANG, compiled(CLANG, EVERY_TYPE, language="assembler"), places)
    assert places["far"] in linked.slots
    assert not mismatches(linked)
    storing = {row for row in ARCHITECTURE.howtos.values() if row.fields and not row.subtracts}
    made = {"R_LARCH_ADD32.relative", "R_LARCH_ADD_ULEB128.1", "R_LARCH_ADD_ULEB128.3"}
    wanted = {row.name for row in storing if not row.stack and not row.uleb128}
    assert howtos_used(linked) == wanted | made


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",)])
def test_the_linker_stores_what_is_computed_for_compiled_code(cross: Cross, options: tuple[str, ...]) -> None:
    linked = link(cross, compiled(cross, UNIT, *options))
    assert not mismatches(linked)
    assert len(howtos_used(linked)) > 3


# Stack machine ---------------------------------------------------------------------------------------

Operation = tuple[str, int, int]
PCREL, PLT, ABSOLUTE = "PUSH_PCREL", "PUSH_PLT_PCREL", "PUSH_ABSOLUTE"
NUMBERS = {row.name.removeprefix("R_LARCH_SOP_"): row for row in ARCHITECTURE.howtos.values() if row.stack}
SEQUENCES: dict[str, tuple[str, list[Operation]]] = {
    "bl": ("POP_32_S_0_10_10_16_S2", [(PLT, SYMBOL, 0)]),
    "beq": ("POP_32_S_10_16_S2", [(PCREL, SYMBOL, 0)]),
    "beqz": ("POP_32_S_0_5_10_16_S2", [(PCREL, SYMBOL, 8)]),
    "pcaddu12i": ("POP_32_S_5_20", [(PCREL, SYMBOL, 0x800), (ABSOLUTE, 0, 12), ("SR", 0, 0)]),
    "addi.d": (
        "POP_32_S_10_12",
        [
            (PCREL, SYMBOL, 4), (PCREL, SYMBOL, 0x804), (ABSOLUTE, 0, 12), ("SR", 0, 0), (ABSOLUTE, 0, 12),
            ("SL", 0, 0), ("SUB", 0, 0),
        ],
    ),
    "lu12i.w": (
        "POP_32_S_5_20",
        [(ABSOLUTE, SYMBOL, 0), (ABSOLUTE, 0, 32), ("SL", 0, 0), (ABSOLUTE, 0, 44), ("SR", 0, 0)],
    ),
    "ori": ("POP_32_U_10_12", [(ABSOLUTE, SYMBOL, 0), (ABSOLUTE, 0, 0xFFF), ("AND", 0, 0)]),
    "lu32i.d": (
        "POP_32_S_5_20",
        [(ABSOLUTE, SYMBOL, 0), (ABSOLUTE, 0, 12), ("SL", 0, 0), (ABSOLUTE, 0, 44), ("SR", 0, 0)],
    ),
    "lu52i.d": ("POP_32_S_10_12", [(ABSOLUTE, SYMBOL, 0), (ABSOLUTE, 0, 52), ("SR", 0, 0)]),
}  # fmt: skip
"""What binutils 2.38 writes for each instruction of its macros."""


def signed(value: int, bits: int = 64) -> int:
    value &= (1 << bits) - 1
    return value - (value >> (bits - 1) << bits)


def popped(operations: list[Operation], address: int, place: int) -> int:
    """Run the stack machine as the ABI's table of relocation types says, on 64-bit signed values."""
    stack: list[int] = []
    for name, symbol, addend in operations:
        if name.startswith("PUSH"):
            stack.append(signed((address if symbol else 0) + addend - (place if name in (PCREL, PLT) else 0)))
            continue
        right, left = stack.pop(), stack.pop()
        combined = {
            "SL": lambda a, b: a << b, "SR": lambda a, b: a >> b, "SUB": lambda a, b: a - b,
            "AND": lambda a, b: a & b,
        }[name](left, right)  # fmt: skip
        stack.append(signed(combined))
    (only,) = stack
    return only


@pytest.mark.parametrize("instruction", SEQUENCES)
@given(way=st.integers(-(1 << 24), 1 << 24), far=st.integers(0, (1 << 64) - 1))
def test_a_stack_computation_is_a_row_that_stores_the_same(instruction: str, way: int, far: int) -> None:
    name, operations = SEQUENCES[instruction]
    relative = operations[0][0] != ABSOLUTE
    near = instruction in ("bl", "beq", "beqz")
    address = PLACE + 4 * (way >> 12 if near else way) if relative else far
    pop = NUMBERS[name]
    found = stored(pop, [(NUMBERS[each].stack, symbol, addend) for each, symbol, addend in operations])
    assert found is not None
    howto, symbol, addend = found
    assert symbol == SYMBOL
    value = howto.value(address + addend, PLACE, 64)
    expected = popped(operations, address, PLACE)
    background = bytes.fromhex("ffffffff")
    assert howto.insert(background, value, "little") == pop.insert(background, expected, "little")


@pytest.mark.parametrize(
    "operations",
    [
        [],
        [(ABSOLUTE, 0, 5)],
        [(PCREL, SYMBOL, 0), (PCREL, SYMBOL, 0)],
        [("SR", 0, 0)],
        [(PCREL, SYMBOL, 0), ("SR", 0, 0)],
        [(PCREL, SYMBOL, 0), (ABSOLUTE, 0, 12), ("SL", 0, 0)],
        [(PCREL, SYMBOL, 0), (PCREL, 7, 0), ("SUB", 0, 0)],
        [(PCREL, SYMBOL, 0), (ABSOLUTE, 0, 0xFF0), ("AND", 0, 0)],
        [(ABSOLUTE, 0, 1), (PCREL, SYMBOL, 0), ("SR", 0, 0)],
        [(PCREL, SYMBOL, 0), (ABSOLUTE, 0, -1), ("SR", 0, 0)],
    ],
)
def test_other_computations_are_not_known(operations: list[Operation]) -> None:
    steps = [(NUMBERS[name].stack, symbol, addend) for name, symbol, addend in operations]
    assert stored(NUMBERS["POP_32_S_5_20"], steps) is None


def source(name: str) -> str:
    pop, operations = SEQUENCES[name]
    lines = [
        f".reloc ., R_LARCH_SOP_{each}, {'near + ' if symbol else ''}{addend}" if each.startswith("PUSH")
        else f".reloc ., R_LARCH_SOP_{each}, 0"
        for each, symbol, addend in operations
    ]  # fmt: skip
    return "\n".join([*lines, f".reloc ., R_LARCH_SOP_{pop}, 0", ".4byte 0", ""])


@needs_clang
def test_halves_from_the_stack_machine_reach_one_place() -> None:
    found = graph(CLANG, compiled(CLANG, source("pcaddu12i") + source("addi.d"), language="assembler"))
    (high, low) = next(row for row in found.references if row)
    assert (high.target, high.addend) == (low.target, low.addend)
    assert (high.offset, low.offset, low.insn_addend, high.addend) == (0, 4, 4, 0)


@needs_clang
def test_a_computation_that_nothing_stores_is_an_error() -> None:
    text = ".reloc ., R_LARCH_SOP_PUSH_PCREL, near\n.4byte 0\n.4byte 0\n"
    with pytest.raises(KdiffError, match="nothing stores"):
        graph(CLANG, compiled(CLANG, text, language="assembler"))


# Branches --------------------------------------------------------------------------------------------


def test_only_an_unconditional_jump_does_not_fall_through() -> None:
    words = (0x50001000, 0x54001000, 0x58001085, 0x40001080, 0x48001000)
    found = [ARCHITECTURE.branch(word.to_bytes(4, "little")) for word in words]
    assert [each and each.falls_through for each in found] == [False, True, True, True, True]
    assert [each and each.call for each in found] == [False, True, False, False, False]
    assert {each.displacement + each.length for each in found if each} == {16}


@needs_clang
def test_the_disassembler_agrees_with_every_branch() -> None:
    ways = (-0x20000, -4, 0, 4, 0x1FFFC)
    lines = [
        f"{name} {way}"
        for way in ways
        for name in (
            *("b", "bl", "beqz $a0,", "bnez $t8,", "bceqz $fcc3,", "bcnez $fcc3,", "beq $a0, $a1,"),
            *("bne $a0, $a1,", "blt $a0, $a1,", "bge $a0, $a1,", "bltu $a0, $a1,", "bgeu $a0, $a1,"),
        )
    ]
    found = graph(CLANG, compiled(CLANG, "\n".join(lines), language="assembler"))
    (code,) = [found.contents(node) for node in found.nodes]
    branches = [ARCHITECTURE.branch(code[at : at + 4]) for at in range(0, len(code), 4)]
    assert len(branches) == len(lines)
    ends = [branch.displacement + branch.length for branch in branches if branch is not None]
    assert ends == [int(line.split()[-1]) for line in lines]
    operations = {branch.operation for branch in branches if branch is not None}
    assert len(operations) == len(lines) // len(ways)


def test_a_pair_is_the_jump_it_may_become() -> None:
    call, tail = (ARCHITECTURE.branch(bytes.fromhex(x)) for x in ("0100001e2100004c", "0c00001e8001004c"))
    bl, b = (ARCHITECTURE.branch(bytes.fromhex(x)) for x in ("00000054", "00000050"))
    assert call is not None
    assert tail is not None
    assert bl is not None
    assert b is not None
    assert (call.operation, tail.operation) == (bl.operation, b.operation)
    assert call.operation != tail.operation


@pytest.mark.parametrize("code", ["", "000050", "0100001e", "0100001e4100004c", "2000004c", "00004003"])
def test_indirect_branches_and_cut_off_code_are_no_relative_branch(code: str) -> None:
    assert ARCHITECTURE.branch(bytes.fromhex(code)) is None


# Instructions ----------------------------------------------------------------------------------------


def test_code_is_cut_into_words_without_capstone() -> None:
    code = bytes(10)
    assert [(each.offset, each.size, each.known) for each in instructions(ARCHITECTURE, code)] == [
        (0, 4, True),
        (4, 4, True),
        (8, 1, False),
        (9, 1, False),
    ]
    assert disassemble(ARCHITECTURE, ARCHITECTURE.nops[0], 0x1000) == (
        f"1000: {'00 00 40 03':<32} .word 0x03400000",
    )


@needs_clang
def test_the_assembler_aligns_with_known_no_ops_only() -> None:
    found = graph(CLANG, compiled(CLANG, "ret\n.p2align 5\nret\n", language="assembler"))
    (code,) = [found.contents(node) for node in found.nodes]
    assert {code[at : at + 4] for at in range(4, 32, 4)} == set(ARCHITECTURE.nops)


# Graphs ----------------------------------------------------------------------------------------------


@needs_clang
def test_a_far_call_is_a_branch() -> None:
    medium = clang("-mcmodel=medium")
    found = graph(medium, compiled(medium, UNIT))
    calls = [each for row in found.references for each in row if each.howto.name == "R_LARCH_CALL36"]
    assert len(calls) > 5
    assert all(each.branch for each in calls)


@pytest.mark.parametrize("cross", EVERYBODY)
def test_an_object_does_not_differ_from_itself(cross: Cross) -> None:
    found = graph(cross, compiled(cross, UNIT))
    assert not differs(found, found)


@pytest.mark.parametrize("cross", EVERYBODY)
@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(cross: Cross, old: str, new: str, name: str) -> None:
    before, after = (graph(cross, compiled(cross, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]

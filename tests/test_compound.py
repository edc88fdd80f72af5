# SPDX-License-Identifier: Apache-2.0
"""Tests of kdiff.compound: records that mean something together only, in objects made for the purpose.

What compilers write, and what linkers make of it, is tested with the plugins of riscv64 and loongarch64.
"""

from __future__ import annotations

import pytest
from elfwriter import FUNC, LOCAL, OBJECT, Sec, Sym, elf
from kdiff_arch_loongarch64 import ARCHITECTURE as LOONGARCH64
from kdiff_arch_ppc64le import ARCHITECTURE as PPC64LE
from kdiff_arch_riscv64 import ARCHITECTURE as RISCV64

from kdiff.arch import Architecture
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.elf.read import read_bytes
from kdiff.errors import KdiffError
from kdiff.graph import Reference, SectionGraph, build

ADD32, SUB32, ADD64, SUB64, SET_ULEB, SUB_ULEB = 35, 39, 36, 40, 60, 61
PCREL_HI20, PCREL_LO12_I, GOT_HI20, RELAX, ALIGN = 23, 24, 20, 51, 43
PUSH_PCREL, POP_S_5_20 = 22, 43
REL24 = 10


def graph(arch: Architecture, *parts: Sec | Sym) -> SectionGraph:
    data = elf(*parts, machine=arch.elf_machine)
    return build(read_bytes(data, "odd.o"), arch, {})


def references(arch: Architecture, *parts: Sec | Sym) -> list[Reference]:
    return [each for row in graph(arch, *parts).references for each in row]


def test_two_records_of_one_place_are_one_reference() -> None:
    table = Sec("table", bytes(8), relocs=((0, ADD32, "here", 5), (0, SUB32, "there", 1)))
    (only,) = references(RISCV64, table)
    assert (only.howto.type, only.offset, only.addend, only.insn_addend) == (ADD32, 0, 5, 0)
    assert only.minus is not None
    assert only.minus[1] == 1


def test_what_is_subtracted_is_compared_by_what_it_is_and_not_by_its_number() -> None:
    def counted_from(name: str, *order: str) -> SectionGraph:
        data = [Sec(each, bytes(4), "wa") for each in order]
        names = [Sym(each[1:], each, 0, 4, OBJECT, LOCAL) for each in order]
        code = Sec(".text.f", bytes(8), "ax", relocs=((0, ADD32, "f", 0), (0, SUB32, name, 0)))
        return graph(RISCV64, code, Sym("f", ".text.f", 0, 8, FUNC), *data, *names)

    before = counted_from("a", ".a", ".b")
    for name, changed in (("a", []), ("b", ["f"])):
        after = counted_from(name, ".b", ".a")
        delta = diff(before, after, correlate(before, after))
        assert [after.nodes[each.post].label for each in delta.changed] == changed


def test_what_is_subtracted_may_lie_anywhere_in_the_section_of_the_field() -> None:
    table = Sec("table", bytes(16), relocs=((12, ADD32, "here", 0), (12, SUB32, "table", 8)))
    (only,) = references(RISCV64, table)
    assert only.howto.pc_relative
    assert (only.addend, only.insn_addend, only.minus) == (0, 4, None)


def test_records_of_different_widths_are_no_pair() -> None:
    table = Sec("table", bytes(8), relocs=((0, ADD32, "here", 0), (0, SUB64, "there", 0)))
    with pytest.raises(KdiffError, match="R_RISCV_SUB64 subtracts from nothing"):
        references(RISCV64, table)


def test_a_subtraction_alone_is_an_error_with_its_place() -> None:
    with pytest.raises(KdiffError, match="subtracts from nothing") as error:
        references(RISCV64, Sec("table", bytes(8), relocs=((4, SUB32, "there", 0),)))
    assert error.value.place == "odd.o: table+0x4"


def test_an_unknown_type_is_an_error_with_its_place() -> None:
    with pytest.raises(KdiffError, match="riscv64 relocation type 200 is not known") as error:
        references(RISCV64, Sec("table", bytes(8), relocs=((4, 200, "there", 0),)))
    assert error.value.place == "odd.o: table+0x4"


@pytest.mark.parametrize("data, size", [(b"\0", 1), (b"\x80\0", 2), (b"\x80\x80\0", 3)])
def test_a_uleb128_is_as_long_as_it_says(data: bytes, size: int) -> None:
    table = Sec("table", data, relocs=((0, SET_ULEB, "here", 0), (0, SUB_ULEB, "there", 0)))
    (only,) = references(RISCV64, table)
    assert only.howto.size == size
    stored = only.howto.insert(data, (1 << 7 * size) - 2, "little")
    assert stored == b"\xfe" + b"\xff" * (size - 2) + b"\x7f" if size > 1 else stored == b"\x7e"


def code(*relocs: tuple[int, int, str, int]) -> tuple[Sec | Sym, ...]:
    return (
        Sec(".text.f", bytes.fromhex("17050000") + bytes.fromhex("13050500") * 3, "ax", relocs=relocs),
        Sym("f", ".text.f", size=16, type=FUNC),
        Sym("label", ".text.f", value=0, binding=LOCAL),
        Sym("elsewhere", ".text.f", value=8, binding=LOCAL),
    )


def test_a_low_part_reaches_what_the_high_part_at_its_label_reaches() -> None:
    high, low = references(
        RISCV64, *code((0, PCREL_HI20, "data", 0x10), (0, RELAX, "", 0), (12, PCREL_LO12_I, "label", 0))
    )
    assert (high.target, high.addend) == (low.target, low.addend)
    assert (low.addend, low.insn_addend, low.howto.slot) == (0x10, 12, False)


def test_a_low_part_of_the_address_of_a_slot_reaches_the_slot_too() -> None:
    _, low = references(RISCV64, *code((0, GOT_HI20, "data", 0), (4, PCREL_LO12_I, "label", 0)))
    assert low.howto.slot
    assert low.howto.name != RISCV64.howtos[PCREL_LO12_I].name


@pytest.mark.parametrize("label", ["elsewhere", "missing"])
def test_a_low_part_without_a_high_part_is_an_error(label: str) -> None:
    with pytest.raises(KdiffError, match="no high part"):
        references(RISCV64, *code((0, PCREL_HI20, "data", 0), (4, PCREL_LO12_I, label, 0)))


def test_hints_are_left_out() -> None:
    assert references(RISCV64, *code((0, RELAX, "", 0), (4, ALIGN, "", 6))) == []


@pytest.mark.parametrize(
    "relocs", [((0, PUSH_PCREL, "f", 0), (4, POP_S_5_20, "", 0)), ((0, POP_S_5_20, "", 0),)]
)
def test_a_stack_computation_that_is_cut_off_is_an_error(
    relocs: tuple[tuple[int, int, str, int], ...],
) -> None:
    with pytest.raises(KdiffError, match=r"not known|nothing stores"):
        references(LOONGARCH64, Sec(".text.f", bytes(8), "ax", relocs=relocs))


def callee(name: str, addend: int) -> list[Reference]:
    return references(
        PPC64LE,
        Sec(".text.g", bytes.fromhex("01000048") * 4, "ax", relocs=((4, REL24, name, addend),)),
        Sec(".text.f", bytes.fromhex("2000804e") * 4, "ax"),
        Sym("g", ".text.g", size=16, type=FUNC),
        Sym("f", ".text.f", size=16, type=FUNC, other=3 << 5),
        Sym("h", ".text.f", size=16, type=FUNC, binding=LOCAL),
    )


@pytest.mark.parametrize("name, addend", [("f", 0), (".text.f", 8)])
def test_a_call_of_a_local_entry_reaches_the_function_however_it_is_written(name: str, addend: int) -> None:
    (only,) = callee(name, addend)
    assert (only.addend, only.entry) == (0, 8)
    assert only.branch


def test_a_call_of_another_place_in_a_function_is_not_its_local_entry() -> None:
    (only,) = callee(".text.f", 12)
    assert (only.addend, only.entry) == (12, 0)

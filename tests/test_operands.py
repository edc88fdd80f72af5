# SPDX-License-Identifier: Apache-2.0
"""Branches and fields of code that real compilers and assemblers make are those that capstone sees."""

from __future__ import annotations

from dataclasses import replace

import linkoracle
import pytest
import test_plugin_arch_aarch64 as aarch64
import test_plugin_arch_arm as arm
import test_plugin_arch_i386 as i386
import test_plugin_arch_ppc64le as ppc64le
import test_plugin_arch_riscv64 as riscv64
import test_plugin_arch_s390x as s390x
from compiled import UNIT
from compiled import graph as native
from linkoracle import Cross, compiled, graph
from operands import checked, disagreements, field_agrees, is_data
from test_ranges import AARCH64_ROWS, ARM_ROWS, PPC64LE_ROWS, RISCV64_ROWS, S390X_ROWS, Rows

COMPILERS = [
    pytest.param(cross, marks=linkoracle.needs(cross), id=name)
    for name, cross in (
        ("aarch64", aarch64.CROSS), ("aarch64-clang", aarch64.CLANG), ("arm", arm.CROSS),
        ("arm-clang", arm.CLANG), ("i386", i386.CROSS), ("i386-clang", i386.CLANG), ("ppc64le", ppc64le.GCC),
        ("ppc64le-clang", ppc64le.CLANG), ("s390x", s390x.GCC), ("s390x-pie", s390x.PIE),
        ("s390x-clang", s390x.CLANG), ("riscv64", riscv64.GCC), ("riscv64-clang", riscv64.CLANG),
    )
]  # fmt: skip

UNSEEN = {
    "aarch64": set[str](),
    "arm": {"R_ARM_PREL31"},
    "ppc64le": {"R_PPC64_D34", "R_PPC64_PCREL34", "R_PPC64_GOT_PCREL34"},
    "s390x": set[str](),
    "riscv64": {
        f"R_RISCV_{name}" for name in ("CALL", "CALL_PLT", "SET6", "SUB6", "SET_ULEB128", "SUB_ULEB128")
    },
}
"""Data, a field of two instructions, and instructions that capstone 5 does not know."""
ASSEMBLED = [
    pytest.param(rows, marks=linkoracle.needs(rows.cross), id=rows.cross.architecture.name)
    for rows in (AARCH64_ROWS, ARM_ROWS, PPC64LE_ROWS, S390X_ROWS, RISCV64_ROWS)
]


@pytest.mark.parametrize("cross", COMPILERS)
@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",)])
def test_capstone_agrees_about_compiled_code(cross: Cross, options: tuple[str, ...]) -> None:
    found = graph(cross, compiled(cross, UNIT, *options))
    assert not disagreements(found)
    branches, howtos = checked(found)
    assert branches >= 10
    assert len(howtos) >= 2


@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",), ("-pg", "-mfentry")])
def test_capstone_agrees_about_code_for_x86_64(options: tuple[str, ...]) -> None:
    found = native(UNIT, *options)
    assert not disagreements(found)
    branches, howtos = checked(found)
    assert branches >= 10
    assert {"R_X86_64_PC32", "R_X86_64_32S"} <= howtos


@pytest.mark.parametrize("rows", ASSEMBLED)
def test_capstone_agrees_about_the_field_of_every_row(rows: Rows) -> None:
    arch = rows.cross.architecture
    wanted = {row.name for row in arch.howtos.values() if row.fields and not is_data(arch, row)}
    wanted -= UNSEEN[arch.name]
    texts = [text for name, text in rows.texts.items() if rows.prefix + name in wanted]
    source = "".join(
        f'.section .text.f{number}, "ax"\n.type f{number}, %function\nf{number}:\n{text}\n'.replace(
            "{}", "near"
        )
        for number, text in enumerate(texts)
    )
    found = graph(rows.cross, compiled(rows.cross, source, language="assembler"))
    assert not disagreements(found)
    assert checked(found)[1] == wanted


def test_a_field_one_bit_off_is_seen() -> None:
    arch = aarch64.ARCHITECTURE
    low = arch.howtos[277]
    (bits,) = low.fields
    wrong = replace(low, fields=(replace(bits, field_lsb=bits.field_lsb + 1, width=bits.width - 1),))
    add = bytes.fromhex("00000091")
    assert field_agrees(arch, low, add, 0)
    assert not field_agrees(arch, wrong, add, 0)
    assert not field_agrees(arch, replace(low, fields=(replace(bits, value_lsb=1),)), add, 0)

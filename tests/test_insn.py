# SPDX-License-Identifier: Apache-2.0
"""Tests of `kdiff.insn`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.distribution import KernelSetup
from kdiff.elf.read import SHF_EXECINSTR, read
from kdiff.insn import around, boundaries, disassemble, insn_addend, instructions

PC32, ABS32S = ARCHITECTURE.howtos[2], ARCHITECTURE.howtos[11]
INVALID = b"\x06"
"""push %es, which 64-bit mode does not have."""


@given(st.binary(max_size=200))
def test_instructions_cover_any_bytes_without_gap_or_overlap(code: bytes) -> None:
    end = 0
    for each in instructions(ARCHITECTURE, code):
        assert each.offset == end
        assert each.size > 0
        end += each.size
    assert end == len(code)


@given(st.binary(max_size=100))
def test_boundaries_are_the_offsets_of_the_instructions(code: bytes) -> None:
    assert boundaries(ARCHITECTURE, code) == {each.offset for each in instructions(ARCHITECTURE, code)}


@pytest.mark.parametrize(
    "code",
    ["f30f1efa", "0f0b", "2ee800000000", "f0480fb13d00000000", "3ef0ff08", "2e2e2e31c0", "6690", "cc"],
)
def test_what_the_kernel_writes_is_one_known_instruction(code: str) -> None:
    data = bytes.fromhex(code)
    assert [(each.size, each.known) for each in instructions(ARCHITECTURE, data)] == [(len(data), True)]


def test_decoding_goes_on_behind_bytes_that_are_no_instruction() -> None:
    found = instructions(ARCHITECTURE, b"\x90" + INVALID + b"\xc3")
    assert [(each.offset, each.known) for each in found] == [(0, True), (1, False), (2, True)]


def test_a_truncated_instruction_is_not_known() -> None:
    found = instructions(ARCHITECTURE, b"\xe8\x00\x00")
    assert not found[0].known


@pytest.mark.parametrize(
    ("code", "field", "share"),
    [
        ("e800000000", 1, -4),
        ("8b0500000000", 2, -4),
        ("803d0000000001", 2, -5),
        ("66c705000000000100", 3, -6),
        ("c7050000000005000000", 2, -8),
    ],
)
def test_the_instruction_share_is_the_way_from_its_end_to_the_field(
    code: str, field: int, share: int
) -> None:
    (only,) = instructions(ARCHITECTURE, bytes.fromhex(code))
    assert insn_addend(PC32, field, only.offset + only.size) == share


def test_an_absolute_field_has_no_instruction_share() -> None:
    (only,) = instructions(ARCHITECTURE, bytes.fromhex("48c7c000000000"))
    assert insn_addend(ABS32S, 3, only.size) == 0


def test_lines_show_address_bytes_and_text() -> None:
    lines = disassemble(ARCHITECTURE, bytes.fromhex("31c0c3"), 0xFFFFFFFF81000000)
    assert [line.split() for line in lines] == [
        ["ffffffff81000000:", "31", "c0", "xor", "eax,", "eax"],
        ["ffffffff81000002:", "c3", "ret"],
    ]


def test_the_lines_around_an_offset_mark_the_instruction_that_holds_it() -> None:
    lines = around(ARCHITECTURE, bytes.fromhex("9090e8000000009090"), 4, count=1)
    assert [line[0] for line in lines] == [" ", ">", " "]
    assert "call" in lines[1]
    assert lines[0].split()[0] == "1:"


def test_the_lines_around_an_offset_beyond_the_end_are_the_last_ones() -> None:
    lines = around(ARCHITECTURE, b"\x90\xc3", 50)
    assert [line[0] for line in lines] == [" ", ">"]


def test_there_are_no_lines_around_an_offset_of_no_code() -> None:
    assert around(ARCHITECTURE, b"", 0) == ()


@pytest.mark.kernel
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs binutils")
def test_boundaries_in_a_kernel_module_are_those_objdump_finds(kernel: KernelSetup) -> None:
    path = _module(kernel, "nf_tables.ko")
    expected = _objdump(path)
    obj = read(path)
    compared = 0
    for index in range(1, len(obj.sections)):
        name = obj.section_name(index)
        if obj.sections["flags"][index] & SHF_EXECINSTR and name in expected:
            found = boundaries(ARCHITECTURE, bytes(obj.contents(index)))
            assert found == expected[name]
            compared += len(found)
    assert compared > 10_000


def _module(kernel: KernelSetup, name: str) -> Path:
    return next((kernel.image / "modules").rglob(name))


def _objdump(path: Path) -> dict[str, frozenset[int]]:
    text = subprocess.run(
        ["objdump", "-dwz", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
    ).stdout
    sections: dict[str, set[int]] = {}
    current: set[int] = set()
    for line in text.splitlines():
        if found := re.match(r"Disassembly of section (.*):", line):
            current = sections.setdefault(found[1], set())
        elif found := re.match(r"\s+([0-9a-f]+):\s", line):
            current.add(int(found[1], 16))
    return {name: frozenset(offsets) for name, offsets in sections.items()}


def test_code_that_ends_within_an_instruction_is_covered_to_its_end() -> None:
    from kdiff_arch_aarch64 import ARCHITECTURE as AARCH64

    found = instructions(AARCH64, bytes.fromhex("c0035fd6") + b"\x01\x02")
    assert [(each.offset, each.size, each.known) for each in found] == [
        (0, 4, True),
        (4, 1, False),
        (5, 1, False),
    ]
    assert [each.offset for each in instructions(AARCH64, b"\x01")] == [0]

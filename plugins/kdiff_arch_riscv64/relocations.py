# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type of the psABI that a kernel object can have."""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import BitField, Howto, Overflow

R_RISCV_64 = 2
R_RISCV_SUB8, R_RISCV_SUB16, R_RISCV_SUB32, R_RISCV_SUB64 = 37, 38, 39, 40
R_RISCV_SUB6, R_RISCV_SUB_ULEB128 = 52, 61

_LOW = 12
_HALF_LOW = 0x800


def scattered(places: str) -> tuple[BitField, ...]:
    """Fields from the notation of the instruction set manual: `12@31 10:5@25`: value bits @ lowest bit."""
    fields = []
    for each in places.split():
        bits, place = each.split("@")
        high, _, low = bits.partition(":")
        least = int(low or high)
        fields.append(BitField(int(place), least, int(high) - least + 1))
    return tuple(fields)


B_TYPE = scattered("12@31 10:5@25 4:1@8 11@7")
J_TYPE = scattered("20@31 10:1@21 11@20 19:12@12")
CB_TYPE = scattered("8@12 4:3@10 7:6@5 2:1@3 5@2")
CJ_TYPE = scattered("11@12 4@11 9:8@9 10@8 6@7 7@6 3:1@3 5@2")
I_TYPE = scattered("11:0@20")
S_TYPE = scattered("11:5@25 4:0@7")
U_TYPE = scattered("31:12@12")
PAIR = scattered("31:12@12 11:0@52")
"""auipc and jalr, one behind the other."""


def _word(type: int, name: str, bits: int, *, relative: bool = False, overflow: Overflow) -> Howto:
    return Howto(type, f"R_RISCV_{name}", bits // 8, (BitField(0, 0, bits),), overflow, relative)


def _branch(type: int, name: str, size: int, fields: tuple[BitField, ...]) -> Howto:
    return Howto(type, f"R_RISCV_{name}", size, fields, Overflow.SIGNED, True)


def _pair(type: int, name: str) -> Howto:
    return Howto(type, f"R_RISCV_{name}", 8, PAIR, Overflow.SIGNED, True, signed_low=_LOW)


def _high(type: int, name: str, *, relative: bool, slot: bool = False) -> Howto:
    return Howto(
        type,
        f"R_RISCV_{name}",
        4,
        U_TYPE,
        Overflow.SIGNED,
        relative,
        drops=_LOW,
        adjust=_HALF_LOW,
        slot=slot,
    )


def _low(type: int, name: str, fields: tuple[BitField, ...], *, labelled: bool = False) -> Howto:
    return Howto(type, f"R_RISCV_{name}", 4, fields, Overflow.WRAP, labelled, labelled=labelled)


def _sum(type: int, name: str, bits: int, partner: int | None) -> Howto:
    """A term of a sum: added or set if there is a partner, else subtracted."""
    return Howto(
        type,
        f"R_RISCV_{name}",
        (bits + 7) // 8,
        (BitField(0, 0, bits),),
        Overflow.WRAP,
        partner=partner,
        subtracts=partner is None,
    )


def _uleb128(type: int, name: str, partner: int | None) -> Howto:
    fields = (BitField(0, 0, 7),)
    return Howto(
        type,
        f"R_RISCV_{name}",
        1,
        fields,
        Overflow.UNSIGNED,
        partner=partner,
        subtracts=partner is None,
        uleb128=True,
    )


def _hint(type: int, name: str) -> Howto:
    return Howto(type, f"R_RISCV_{name}", 0, (), Overflow.UNSIGNED)


def _rows() -> Iterator[Howto]:
    yield _hint(0, "NONE")
    yield _word(1, "32", 32, overflow=Overflow.WRAP)
    yield _word(R_RISCV_64, "64", 64, overflow=Overflow.WRAP)
    yield _branch(16, "BRANCH", 4, B_TYPE)
    yield _branch(17, "JAL", 4, J_TYPE)
    yield _pair(18, "CALL")
    yield _pair(19, "CALL_PLT")
    yield _high(20, "GOT_HI20", relative=True, slot=True)
    yield _high(23, "PCREL_HI20", relative=True)
    yield _low(24, "PCREL_LO12_I", I_TYPE, labelled=True)
    yield _low(25, "PCREL_LO12_S", S_TYPE, labelled=True)
    yield _high(26, "HI20", relative=False)
    yield _low(27, "LO12_I", I_TYPE)
    yield _low(28, "LO12_S", S_TYPE)
    yield _sum(33, "ADD8", 8, R_RISCV_SUB8)
    yield _sum(34, "ADD16", 16, R_RISCV_SUB16)
    yield _sum(35, "ADD32", 32, R_RISCV_SUB32)
    yield _sum(36, "ADD64", 64, R_RISCV_SUB64)
    yield _sum(R_RISCV_SUB8, "SUB8", 8, None)
    yield _sum(R_RISCV_SUB16, "SUB16", 16, None)
    yield _sum(R_RISCV_SUB32, "SUB32", 32, None)
    yield _sum(R_RISCV_SUB64, "SUB64", 64, None)
    yield _hint(43, "ALIGN")
    yield _branch(44, "RVC_BRANCH", 2, CB_TYPE)
    yield _branch(45, "RVC_JUMP", 2, CJ_TYPE)
    yield _hint(51, "RELAX")
    yield _sum(R_RISCV_SUB6, "SUB6", 6, None)
    yield _sum(53, "SET6", 6, R_RISCV_SUB6)
    yield _sum(54, "SET8", 8, R_RISCV_SUB8)
    yield _sum(55, "SET16", 16, R_RISCV_SUB16)
    yield _sum(56, "SET32", 32, R_RISCV_SUB32)
    yield _word(57, "32_PCREL", 32, relative=True, overflow=Overflow.SIGNED)
    yield _word(59, "PLT32", 32, relative=True, overflow=Overflow.SIGNED)
    yield _uleb128(60, "SET_ULEB128", R_RISCV_SUB_ULEB128)
    yield _uleb128(R_RISCV_SUB_ULEB128, "SUB_ULEB128", None)


HOWTOS = {row.type: row for row in _rows()}

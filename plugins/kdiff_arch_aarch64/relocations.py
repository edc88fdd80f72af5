# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type that aarch64 kernel objects have."""

from __future__ import annotations

from kdiff.api import BitField, Howto, Overflow

R_AARCH64_NONE = 0
R_AARCH64_ABS64 = 257

_IMM16 = 5
"""Where `movz`, `movn` and `movk` have their immediate."""
_IMM12 = 10
"""Where `add` and loads and stores have theirs."""
_MOVZ = 1 << 30
"""The opcode bit that makes a `movz` of a `movn`."""


def _data(type: int, name: str, size: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    return Howto(type, name, size, (BitField(0, 0, 8 * size),), overflow, relative)


def _branch(type: int, name: str, lsb: int, width: int, *, slot: bool = False) -> Howto:
    return Howto(type, name, 4, (BitField(lsb, 2, width),), Overflow.SIGNED, pc_relative=True, slot=slot)


def _adr(type: int, name: str, drops: int, overflow: Overflow, *, slot: bool = False) -> Howto:
    """`adr` and `adrp`: two low bits of the immediate stand before all the others."""
    fields = (BitField(29, drops, 2), BitField(5, drops + 2, 19))
    return Howto(type, name, 4, fields, overflow, True, drops=drops, paged=bool(drops), slot=slot)


def _low12(type: int, name: str, scale: int, *, slot: bool = False) -> Howto:
    return Howto(type, name, 4, (BitField(_IMM12, scale, 12 - scale),), Overflow.WRAP, slot=slot)


def _move(type: int, name: str, group: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    low = 16 * group
    return Howto(type, name, 4, (BitField(_IMM16, low, 16),), overflow, relative, drops=low)


def _signed_move(type: int, name: str, group: int, *, relative: bool = False) -> Howto:
    """The sign chooses between `movz` and `movn`, which stores the complement."""
    low = 16 * group
    fields = (BitField(_IMM16, low, 16), BitField(30, low + 16, 1))
    flips = (_MOVZ, _MOVZ | 0xFFFF << _IMM16)
    return Howto(type, name, 4, fields, Overflow.SIGNED, relative, drops=low, flips=flips)


_S, _U, _W = Overflow.SIGNED, Overflow.UNSIGNED, Overflow.WRAP

HOWTOS = {
    row.type: row
    for row in (
        Howto(R_AARCH64_NONE, "R_AARCH64_NONE", 0, (), Overflow.UNSIGNED),
        Howto(256, "R_AARCH64_NULL", 0, (), Overflow.UNSIGNED),
        _data(R_AARCH64_ABS64, "R_AARCH64_ABS64", 8, _W),
        _data(258, "R_AARCH64_ABS32", 4, _U),
        _data(259, "R_AARCH64_ABS16", 2, _U),
        _data(260, "R_AARCH64_PREL64", 8, _W, relative=True),
        _data(261, "R_AARCH64_PREL32", 4, _S, relative=True),
        _data(262, "R_AARCH64_PREL16", 2, _S, relative=True),
        _move(263, "R_AARCH64_MOVW_UABS_G0", 0, _U),
        _move(264, "R_AARCH64_MOVW_UABS_G0_NC", 0, _W),
        _move(265, "R_AARCH64_MOVW_UABS_G1", 1, _U),
        _move(266, "R_AARCH64_MOVW_UABS_G1_NC", 1, _W),
        _move(267, "R_AARCH64_MOVW_UABS_G2", 2, _U),
        _move(268, "R_AARCH64_MOVW_UABS_G2_NC", 2, _W),
        _move(269, "R_AARCH64_MOVW_UABS_G3", 3, _W),
        _signed_move(270, "R_AARCH64_MOVW_SABS_G0", 0),
        _signed_move(271, "R_AARCH64_MOVW_SABS_G1", 1),
        _signed_move(272, "R_AARCH64_MOVW_SABS_G2", 2),
        _branch(273, "R_AARCH64_LD_PREL_LO19", 5, 19),
        _adr(274, "R_AARCH64_ADR_PREL_LO21", 0, _S),
        _adr(275, "R_AARCH64_ADR_PREL_PG_HI21", 12, _S),
        _adr(276, "R_AARCH64_ADR_PREL_PG_HI21_NC", 12, _W),
        _low12(277, "R_AARCH64_ADD_ABS_LO12_NC", 0),
        _low12(278, "R_AARCH64_LDST8_ABS_LO12_NC", 0),
        _branch(279, "R_AARCH64_TSTBR14", 5, 14),
        _branch(280, "R_AARCH64_CONDBR19", 5, 19),
        _branch(282, "R_AARCH64_JUMP26", 0, 26),
        _branch(283, "R_AARCH64_CALL26", 0, 26),
        _low12(284, "R_AARCH64_LDST16_ABS_LO12_NC", 1),
        _low12(285, "R_AARCH64_LDST32_ABS_LO12_NC", 2),
        _low12(286, "R_AARCH64_LDST64_ABS_LO12_NC", 3),
        _signed_move(287, "R_AARCH64_MOVW_PREL_G0", 0, relative=True),
        _move(288, "R_AARCH64_MOVW_PREL_G0_NC", 0, _W, relative=True),
        _signed_move(289, "R_AARCH64_MOVW_PREL_G1", 1, relative=True),
        _move(290, "R_AARCH64_MOVW_PREL_G1_NC", 1, _W, relative=True),
        _signed_move(291, "R_AARCH64_MOVW_PREL_G2", 2, relative=True),
        _move(292, "R_AARCH64_MOVW_PREL_G2_NC", 2, _W, relative=True),
        _signed_move(293, "R_AARCH64_MOVW_PREL_G3", 3, relative=True),
        _low12(299, "R_AARCH64_LDST128_ABS_LO12_NC", 4),
        _branch(309, "R_AARCH64_GOT_LD_PREL19", 5, 19, slot=True),
        _adr(311, "R_AARCH64_ADR_GOT_PAGE", 12, _S, slot=True),
        _low12(312, "R_AARCH64_LD64_GOT_LO12_NC", 3, slot=True),
    )
}

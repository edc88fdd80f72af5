# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type that kernel objects in the A32 instruction set have."""

from __future__ import annotations

from kdiff.api import BitField, Howto, Overflow

R_ARM_ABS32 = 2

_PIPELINE = -8
"""The processor counts branches from two instructions on; the compiler's addend makes up for it."""
_BRANCH = BitField(0, 2, 24)


def _data(type: int, name: str, size: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    return Howto(type, name, size, (BitField(0, 0, 8 * size),), overflow, relative)


def _branch(type: int, name: str) -> Howto:
    return Howto(type, name, 4, (_BRANCH,), Overflow.SIGNED, pc_relative=True, bias=_PIPELINE)


def _move(type: int, name: str, drops: int, *, relative: bool = False) -> Howto:
    """`movw` and `movt`: the immediate's upper 4 bits stand apart."""
    fields = (BitField(0, drops, 12), BitField(16, drops + 12, 4))
    return Howto(type, name, 4, fields, Overflow.WRAP, relative, drops=drops)


HOWTOS = {
    row.type: row
    for row in (
        Howto(0, "R_ARM_NONE", 0, (), Overflow.UNSIGNED),
        _branch(1, "R_ARM_PC24"),
        _data(R_ARM_ABS32, "R_ARM_ABS32", 4, Overflow.WRAP),
        _data(3, "R_ARM_REL32", 4, Overflow.WRAP, relative=True),
        _data(5, "R_ARM_ABS16", 2, Overflow.EITHER),
        _data(8, "R_ARM_ABS8", 1, Overflow.EITHER),
        _branch(28, "R_ARM_CALL"),
        _branch(29, "R_ARM_JUMP24"),
        _data(38, "R_ARM_TARGET1", 4, Overflow.WRAP),
        Howto(40, "R_ARM_V4BX", 0, (), Overflow.UNSIGNED),
        Howto(42, "R_ARM_PREL31", 4, (BitField(0, 0, 31),), Overflow.SIGNED, pc_relative=True),
        _move(43, "R_ARM_MOVW_ABS_NC", 0),
        _move(44, "R_ARM_MOVT_ABS", 16),
        _move(45, "R_ARM_MOVW_PREL_NC", 0, relative=True),
        _move(46, "R_ARM_MOVT_PREL", 16, relative=True),
    )
}

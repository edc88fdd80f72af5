# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type of the psABI that a kernel object can have."""

from __future__ import annotations

from kdiff.api import BitField, Howto, Overflow
from kdiff_arch_x86_64.operands import around

R_X86_64_NONE = 0
R_X86_64_64 = 1
R_X86_64_PC32 = 2
R_X86_64_PLT32 = 4
R_X86_64_32 = 10
R_X86_64_32S = 11
R_X86_64_16 = 12
R_X86_64_PC16 = 13
R_X86_64_8 = 14
R_X86_64_PC8 = 15
R_X86_64_PC64 = 24


def _row(type: int, name: str, size: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    fields = (BitField(0, 0, 8 * size),) if size else ()
    return Howto(
        type, f"R_X86_64_{name}", size, fields, overflow, relative, end_relative=relative,
        around=around if relative and size == 4 else None,
    )  # fmt: skip


HOWTOS = {
    row.type: row
    for row in (
        _row(R_X86_64_NONE, "NONE", 0, Overflow.UNSIGNED),
        _row(R_X86_64_64, "64", 8, Overflow.WRAP),
        _row(R_X86_64_PC32, "PC32", 4, Overflow.SIGNED, relative=True),
        _row(R_X86_64_PLT32, "PLT32", 4, Overflow.SIGNED, relative=True),
        _row(R_X86_64_32, "32", 4, Overflow.UNSIGNED),
        _row(R_X86_64_32S, "32S", 4, Overflow.SIGNED),
        _row(R_X86_64_16, "16", 2, Overflow.EITHER),
        _row(R_X86_64_PC16, "PC16", 2, Overflow.SIGNED, relative=True),
        _row(R_X86_64_8, "8", 1, Overflow.EITHER),
        _row(R_X86_64_PC8, "PC8", 1, Overflow.SIGNED, relative=True),
        _row(R_X86_64_PC64, "PC64", 8, Overflow.WRAP, relative=True),
    )
}

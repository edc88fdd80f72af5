# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type of the psABI that a kernel object can have."""

from __future__ import annotations

from kdiff.api import BitField, Howto, Overflow

R_386_32 = 1


def _row(type: int, name: str, size: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    fields = (BitField(0, 0, 8 * size),) if size else ()
    return Howto(type, f"R_386_{name}", size, fields, overflow, relative, end_relative=relative)


HOWTOS = {
    row.type: row
    for row in (
        _row(0, "NONE", 0, Overflow.UNSIGNED),
        _row(R_386_32, "32", 4, Overflow.WRAP),
        _row(2, "PC32", 4, Overflow.WRAP, relative=True),
        _row(4, "PLT32", 4, Overflow.WRAP, relative=True),
        _row(20, "16", 2, Overflow.EITHER),
        _row(21, "PC16", 2, Overflow.SIGNED, relative=True),
        _row(22, "8", 1, Overflow.EITHER),
        _row(23, "PC8", 1, Overflow.SIGNED, relative=True),
    )
}

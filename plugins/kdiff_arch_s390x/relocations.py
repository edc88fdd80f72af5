# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type of the psABI that a kernel object can have."""

from __future__ import annotations

from kdiff.api import BitField, Howto, Overflow

R_390_64 = 22

_SIGNED, _UNSIGNED = Overflow.SIGNED, Overflow.UNSIGNED
_EITHER, _WRAP = Overflow.EITHER, Overflow.WRAP


def _row(type: int, name: str, bits: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    fields = (BitField(0, 0, bits),) if bits else ()
    return Howto(type, f"R_390_{name}", bits // 8, fields, overflow, relative)


def _double(type: int, name: str, size: int, bits: int, bias: int, *, slot: bool = False) -> Howto:
    """Half of a pc-relative value, `bias` bytes into its instruction."""
    fields = (BitField(0, 1, bits),)
    return Howto(type, f"R_390_{name}", size, fields, _SIGNED, True, bias=bias, slot=slot)


HOWTOS = {
    row.type: row
    for row in (
        _row(0, "NONE", 0, _UNSIGNED),
        _row(1, "8", 8, _EITHER),
        Howto(2, "R_390_12", 2, (BitField(0, 0, 12),), _UNSIGNED),
        _row(3, "16", 16, _EITHER),
        _row(4, "32", 32, _EITHER),
        _row(5, "PC32", 32, _SIGNED, relative=True),
        _row(8, "PLT32", 32, _SIGNED, relative=True),
        _row(16, "PC16", 16, _SIGNED, relative=True),
        _double(17, "PC16DBL", 2, 16, 2),
        _double(18, "PLT16DBL", 2, 16, 2),
        _double(19, "PC32DBL", 4, 32, 2),
        _double(20, "PLT32DBL", 4, 32, 2),
        _row(R_390_64, "64", 64, _WRAP),
        _row(23, "PC64", 64, _WRAP, relative=True),
        _row(25, "PLT64", 64, _WRAP, relative=True),
        _double(26, "GOTENT", 4, 32, 2, slot=True),
        Howto(57, "R_390_20", 4, (BitField(16, 0, 12), BitField(8, 12, 8)), _SIGNED),
        _double(62, "PC12DBL", 2, 12, 1),
        _double(63, "PLT12DBL", 2, 12, 1),
        _double(64, "PC24DBL", 3, 24, 3),
        _double(65, "PLT24DBL", 3, 24, 3),
    )
}

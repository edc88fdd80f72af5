# SPDX-License-Identifier: Apache-2.0
"""Every encoding of "do nothing" that a 32-bit kernel's text shows."""

from __future__ import annotations

_PLAIN = (
    *("90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000"),
    *("0f1f840000000000", "660f1f840000000000"),
)
"""The processor manuals' recommended forms, for i686 and later."""

_MOVES = ("89f6", "89ff", "8bc0")
"""`mov` of a register to itself."""

_LEAS = (
    *("8d7600", "8d742600", "8db600000000", "8db42600000000"),
    *("8d7f00", "8d7c2700", "8dbf00000000", "8dbc2700000000"),
    *("8d0420", "8d442000", "8d8000000000", "8d040500000000"),
)
"""`lea` of a register to itself: %esi (kernel, gas), %edi (gas), %eax (the kernel's K7 forms)."""

_SEGMENTS = ("2e", "3e")
"""Prefixes that lengthen a `lea`: cs (gas), ds (kernel)."""

_LONG = tuple("66" * count + "2e0f1f840000000000" for count in range(7))
"""gas and LLVM lengthen the 8-byte form by a cs prefix and operand-size prefixes, up to 15 bytes."""

_ENDBR_POISON = "660f1f00"
_SHORT = tuple("66" * count + "90" for count in range(2, 5))
_PREFIXED = tuple(segment + lea for segment in _SEGMENTS for lea in _LEAS)

NOPS = tuple(
    sorted(
        {bytes.fromhex(x) for x in (*_PLAIN, *_MOVES, *_LEAS, *_PREFIXED, *_LONG, _ENDBR_POISON, *_SHORT)},
        key=lambda nop: (-len(nop), nop),
    )
)
"""Longest first."""

# SPDX-License-Identifier: Apache-2.0
"""Every encoding of "do nothing" that a 32-bit kernel's text shows."""

from __future__ import annotations

from kdiff_x86.nops import nops

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

_PREFIXED = (segment + lea for segment in _SEGMENTS for lea in _LEAS)

NOPS = nops(bytes.fromhex(each) for each in (*_MOVES, *_LEAS, *_PREFIXED))

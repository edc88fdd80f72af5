# SPDX-License-Identifier: Apache-2.0
"""Relative branches: words whose displacement counts from the instruction itself.

Arm Architecture Reference Manual for A-profile, section C4.1.65 (Branches, Exception Generating and System
instructions). `bc.cond` of FEAT_HBC is not among them: no kernel is compiled with it.
"""

from __future__ import annotations

from kdiff.api import Branch

_SIZE = 4
_CONDITIONS = (
    *("eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"),
    *("al", "nv"),
)
_ALWAYS = ("b", "b.al", "b.nv")


def branch(code: bytes) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code."""
    if len(code) < _SIZE:
        return None
    word = int.from_bytes(code[:_SIZE], "little")
    found = _decode(word)
    if found is None:
        return None
    operation, lsb, width = found
    steps = word >> lsb & ((1 << width) - 1)
    if steps >> (width - 1):
        steps -= 1 << width
    return Branch(
        operation=operation,
        length=_SIZE,
        displacement=4 * steps - _SIZE,
        field_offset=0,
        field_size=_SIZE,
        call=operation == "bl",
        falls_through=operation not in _ALWAYS,
    )


def _decode(word: int) -> tuple[str, int, int] | None:
    """(operation with its operands, lowest bit and width of the displacement)."""
    if word >> 26 & 0x1F == 0b00101:
        return ("bl" if word >> 31 else "b"), 0, 26
    if word >> 24 == 0b01010100 and not word >> 4 & 1:
        return f"b.{_CONDITIONS[word & 0xF]}", 5, 19
    width, not_zero, register = "wx"[word >> 31], "n" if word >> 24 & 1 else "", word & 0x1F
    if word >> 25 & 0x3F == 0b011010:
        return f"cb{not_zero}z {width}{register}", 5, 19
    if word >> 25 & 0x3F == 0b011011:
        bit = word >> 31 << 5 | word >> 19 & 0x1F
        return f"tb{not_zero}z {width}{register} #{bit}", 5, 14
    return None

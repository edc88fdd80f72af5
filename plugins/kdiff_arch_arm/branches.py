# SPDX-License-Identifier: Apache-2.0
"""Relative branches: words whose displacement counts from 8 bytes behind the start of the instruction.

Arm Architecture Reference Manual for A-profile (AArch32), section F4.1.5: `cond 101 L imm24`. With condition
1111 it is `blx`, which changes to Thumb code; there is none, so it is not among them.
"""

from __future__ import annotations

from kdiff.api import Branch

_SIZE = 4
_PIPELINE = 8
_CONDITIONS = (
    *("eq", "ne", "hs", "lo", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"),
    "",
)


def branch(code: bytes) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code."""
    if len(code) < _SIZE:
        return None
    word = int.from_bytes(code[:_SIZE], "little")
    condition = word >> 28
    if word >> 25 & 0b111 != 0b101 or condition == 0xF:
        return None
    steps = word & 0xFFFFFF
    if steps >> 23:
        steps -= 1 << 24
    call = bool(word >> 24 & 1)
    return Branch(
        operation=("bl" if call else "b") + _CONDITIONS[condition],
        length=_SIZE,
        displacement=4 * steps + _PIPELINE - _SIZE,
        field_offset=0,
        field_size=_SIZE,
        call=call,
        falls_through=call or bool(_CONDITIONS[condition]),
    )

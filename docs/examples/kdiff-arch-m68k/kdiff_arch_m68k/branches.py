# SPDX-License-Identifier: Apache-2.0
"""Relative branches: `bra`, `bsr` and `bcc` in three widths, `dbcc` in one.

M68000 Family Programmer's Reference Manual, section 4. The low byte of the first word is the displacement;
00 says that it is the next word, ff the next two.
"""

from __future__ import annotations

from kdiff.api import Branch

_ALWAYS, _CALL = 0, 1
"""What stands for a condition in `bra` and `bsr`."""


def branch(code: bytes) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code."""
    if len(code) < 2:
        return None
    first, second = code[0], code[1]
    if first >> 4 == 6:
        condition = first & 15
        size, offset = {0x00: (2, 2), 0xFF: (4, 2)}.get(second, (1, 1))
        return _made(code, f"b{condition:x}", offset, size, condition)
    if first >> 4 == 5 and second & 0xF8 == 0xC8:
        return _made(code, f"db{first & 15:x} d{second & 7}", 2, 2, None)
    return None


def _made(code: bytes, operation: str, offset: int, size: int, condition: int | None) -> Branch | None:
    length = offset + size
    if len(code) < length:
        return None
    way = int.from_bytes(code[offset:length], "big", signed=True)
    return Branch(
        operation=operation,
        length=length,
        displacement=way + 2 - length,
        field_offset=offset,
        field_size=size,
        call=condition == _CALL,
        falls_through=condition != _ALWAYS,
    )

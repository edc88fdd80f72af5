# SPDX-License-Identifier: Apache-2.0
"""Relative branches: I-form (`b`, `bl`) and B-form (`bc`, `bcl`) with AA = 0.

Power ISA 3.1, book I, section 2.4: the displacement counts from the instruction.
"""

from __future__ import annotations

from kdiff.api import Branch

_LENGTH = 4
_ALWAYS = 0b10100
"""BO fields with these bits test neither the counter nor a condition."""


def branch(code: bytes) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code."""
    if len(code) < _LENGTH:
        return None
    word = int.from_bytes(code[:_LENGTH], "little")
    opcode, absolute, link = word >> 26, word >> 1 & 1, bool(word & 1)
    if absolute or opcode not in (16, 18):
        return None
    width = 26 if opcode == 18 else 16
    way = word & ((1 << width) - 4)
    way -= way >> (width - 1) << width
    chosen, bit = word >> 21 & 31, word >> 16 & 31
    always = opcode == 18 or chosen & _ALWAYS == _ALWAYS
    return Branch(
        operation=("bl" if link else "b") if opcode == 18 else f"bc{'l' * link} {chosen},{bit}",
        length=_LENGTH,
        displacement=way - _LENGTH,
        field_offset=0,
        field_size=_LENGTH,
        call=link,
        falls_through=link or not always,
    )

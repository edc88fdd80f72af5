# SPDX-License-Identifier: Apache-2.0
"""Relative branches: formats RI, RIL, RSI and RIE with an operand that counts halfwords.

z/Architecture Principles of Operation, chapter 7 and appendix B; it counts from the instruction.
"""

from __future__ import annotations

from typing import NamedTuple

from kdiff.api import Branch


class _Kind(NamedTuple):
    """How to take an instruction apart. `field`: offset and size of the displacement in bytes."""

    name: str
    length: int
    size: int
    call: bool = False


_FIELD = 2
"""Every displacement begins with the third byte."""

_BY_HALF = {
    (0xA7, 0x4): _Kind("brc", 4, 2),
    (0xA7, 0x5): _Kind("bras", 4, 2, True),
    (0xA7, 0x6): _Kind("brct", 4, 2),
    (0xA7, 0x7): _Kind("brctg", 4, 2),
    (0xC0, 0x4): _Kind("brc", 6, 4),
    (0xC0, 0x5): _Kind("bras", 6, 4, True),
    (0xCC, 0x6): _Kind("brcth", 6, 4),
}
"""By the first byte and the low half of the second, whose high half is a mask or register."""

_BY_BYTE = {0x84: _Kind("brxh", 4, 2), 0x85: _Kind("brxle", 4, 2)}

_BY_ENDS = {
    0x44: _Kind("brxhg", 6, 2),
    0x45: _Kind("brxlg", 6, 2),
    0x64: _Kind("cgrj", 6, 2),
    0x65: _Kind("clgrj", 6, 2),
    0x76: _Kind("crj", 6, 2),
    0x77: _Kind("clrj", 6, 2),
    0x7C: _Kind("cgij", 6, 2),
    0x7D: _Kind("clgij", 6, 2),
    0x7E: _Kind("cij", 6, 2),
    0x7F: _Kind("clij", 6, 2),
}
"""By the last byte of an instruction that begins with ec."""

_ALWAYS = "f"
"""The mask of `brc` that holds for every condition code."""


def branch(code: bytes) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code."""
    kind, operands = _kind(code)
    if kind is None or len(code) < kind.length:
        return None
    way = 2 * int.from_bytes(code[_FIELD : _FIELD + kind.size], "big", signed=True)
    return Branch(
        operation=f"{kind.name} {operands}",
        length=kind.length,
        displacement=way - kind.length,
        field_offset=_FIELD,
        field_size=kind.size,
        call=kind.call,
        falls_through=kind.call or (kind.name, operands) != ("brc", _ALWAYS),
    )


def _kind(code: bytes) -> tuple[_Kind | None, str]:
    """The kind of branch, and what else than the displacement its operands say."""
    if len(code) < 4:
        return None, ""
    first, second = code[0], code[1]
    if first == 0xEC:
        return (_BY_ENDS.get(code[5]), f"{second:02x}{code[4]:02x}") if len(code) >= 6 else (None, "")
    if first in _BY_BYTE:
        return _BY_BYTE[first], f"{second:02x}"
    return _BY_HALF.get((first, second & 15)), f"{second >> 4:x}"

# SPDX-License-Identifier: Apache-2.0
"""Relative branches, and the pair of a far call.

LoongArch Reference Manual, volume 1, section 2.2.5 and appendix B: opcodes are the six highest bits, and
displacements count words from the instruction. `pcaddu18i` with `jirl` of the same register has the operation
of the `b` or `bl` it may be relaxed to.
"""

from __future__ import annotations

from kdiff.api import Branch

_LENGTH, _PAIR = 4, 8
_ONE_REGISTER = {0x10: "beqz", 0x11: "bnez", 0x12: "bc"}
"""0x12: bceqz and bcnez, told apart by a bit beside the register."""
_TWO_REGISTERS = {0x16: "beq", 0x17: "bne", 0x18: "blt", 0x19: "bge", 0x1A: "bltu", 0x1B: "bgeu"}
_JIRL, _B, _BL = 0x13, 0x14, 0x15
_PCADDU18I = 0x0F
"""The seven highest bits."""


def branch(code: bytes) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code."""
    if len(code) < _LENGTH:
        return None
    word = int.from_bytes(code[:_LENGTH], "little")
    opcode, low = word >> 26, word >> 10 & 0xFFFF
    if opcode in (_B, _BL):
        return _branch("bl 1" if opcode == _BL else "bl 0", _LENGTH, _signed((word & 0x3FF) << 16 | low, 26))
    if opcode in _ONE_REGISTER:
        operation = f"{_ONE_REGISTER[opcode]} {word >> 5 & 31}"
        return _branch(operation, _LENGTH, _signed((word & 31) << 16 | low, 21))
    if opcode in _TWO_REGISTERS:
        operation = f"{_TWO_REGISTERS[opcode]} {word >> 5 & 31},{word & 31}"
        return _branch(operation, _LENGTH, _signed(low, 16))
    if word >> 25 == _PCADDU18I and len(code) >= _PAIR:
        return _pair(word, int.from_bytes(code[_LENGTH:_PAIR], "little"))
    return None


def _pair(first: int, second: int) -> Branch | None:
    if second >> 26 != _JIRL or second >> 5 & 31 != first & 31:
        return None
    words = (_signed(first >> 5 & 0xFFFFF, 20) << 16) + _signed(second >> 10 & 0xFFFF, 16)
    return _branch(f"bl {second & 31}", _PAIR, words)


def _signed(value: int, width: int) -> int:
    return value - (value >> (width - 1) << width)


def _branch(operation: str, length: int, words: int) -> Branch:
    name, _, operands = operation.partition(" ")
    call = name == "bl" and operands != "0"
    return Branch(
        operation=operation,
        length=length,
        displacement=4 * words - length,
        field_offset=0,
        field_size=length,
        call=call,
        falls_through=call or name != "bl",
    )

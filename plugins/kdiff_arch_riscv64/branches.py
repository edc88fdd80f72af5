# SPDX-License-Identifier: Apache-2.0
"""Relative branches: `jal`, conditional branches, their compressed forms, and the pair of a far call.

RISC-V Instruction Set Manual, volume I, "Control Transfer Instructions" and "C" extension. A compressed
branch has the operation of the instruction it stands for, and `auipc rd` with `jalr` of the same register
that of the `jal` it may be relaxed to.
"""

from __future__ import annotations

from kdiff.api import BitField, Branch
from kdiff_arch_riscv64.relocations import B_TYPE, CB_TYPE, CJ_TYPE, J_TYPE

_CONDITIONS = {0: "beq", 1: "bne", 4: "blt", 5: "bge", 6: "bltu", 7: "bgeu"}
_PAIR = 8


def branch(code: bytes) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code."""
    if len(code) < 2:
        return None
    half = int.from_bytes(code[:2], "little")
    if half & 3 != 3:
        return _compressed(half)
    if len(code) < 4:
        return None
    word = int.from_bytes(code[:4], "little")
    opcode = word & 0x7F
    if opcode == 0x6F:
        return _jump(word >> 7 & 31, 4, _signed(word, J_TYPE))
    if opcode == 0x63 and word >> 12 & 7 in _CONDITIONS:
        left, right = word >> 15 & 31, word >> 20 & 31
        return _conditional(_CONDITIONS[word >> 12 & 7], left, right, 4, _signed(word, B_TYPE))
    if opcode == 0x17 and len(code) >= _PAIR:
        return _pair(word, int.from_bytes(code[4:_PAIR], "little"))
    return None


def _compressed(half: int) -> Branch | None:
    """c.j, c.beqz and c.bnez: quadrant 1, functions 5 to 7."""
    function = half >> 13
    if half & 3 != 1 or function < 5:
        return None
    if function == 5:
        return _jump(0, 2, _signed(half, CJ_TYPE))
    return _conditional("beq" if function == 6 else "bne", 8 + (half >> 7 & 7), 0, 2, _signed(half, CB_TYPE))


def _pair(first: int, second: int) -> Branch | None:
    register = first >> 7 & 31
    if second & 0x707F != 0x67 or second >> 15 & 31 != register:
        return None
    high, low = first >> 12, second >> 20
    way = ((high ^ 0x80000) - 0x80000 << 12) + ((low ^ 0x800) - 0x800)
    return _jump(second >> 7 & 31, _PAIR, way)


def _signed(word: int, fields: tuple[BitField, ...]) -> int:
    way = 0
    for bits in fields:
        way |= (word >> bits.field_lsb & ((1 << bits.width) - 1)) << bits.value_lsb
    top = max(bits.value_lsb + bits.width for bits in fields)
    return way - (way >> (top - 1) << top)


def _jump(link: int, length: int, way: int) -> Branch:
    call = link != 0
    return Branch(f"jal {link}", length, way - length, 0, length, call, falls_through=call)


def _conditional(name: str, left: int, right: int, length: int, way: int) -> Branch:
    return Branch(f"{name} {left},{right}", length, way - length, 0, length, call=False, falls_through=True)

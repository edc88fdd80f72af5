# SPDX-License-Identifier: Apache-2.0
"""The instruction around a 32-bit pc-relative field, told by the bytes in front of the field.

Such a field is the displacement of a branch, the displacement of an operand in memory, or a constant (Intel
SDM volume 2, 2.2.1.6 and opcode maps A.2 and A.3). A branch has its opcode right in front. A displacement in
memory has its ModRM byte there (mod 00, rm 101), in front of that the opcode, and only a constant can follow
it, whose size the opcode tells if it is the same in all maps that the opcode may be in. A constant ends its
instruction; it has its opcode in front, or ModRM, SIB or a short displacement, which may look like the opcode
of a branch. Where prefixes may mean another map or another size, or where a constant may look like something
else, there is a doubt. Not told apart: a pc-relative constant of `add $constant, %eax` and its like behind an
instruction that ends in an opcode of _OPERANDS, and a pc-relative half of the eight bytes of `mov $constant`
or `mov address, %rax`; compilers do not write such constants.
"""

from __future__ import annotations

_SIZE = 4
_ALU = tuple(group + form for group in range(0x00, 0x40, 8) for form in range(4) if group + form != 0x0F)
"""add, or, adc, sbb, and, sub, xor, cmp."""
_OPERANDS: dict[tuple[int, int], int] = {
    (opcode, register): size
    for opcodes, registers, size in (
        (_ALU, range(8), 0),
        ((0x63, *range(0x85, 0x8C), 0x8D), range(8), 0),  # movsxd, test, xchg, mov, lea
        ((0xFE, 0xFF, 0xB6, 0xB7, 0xBE, 0xBF), range(8), 0),  # inc, dec, call, jmp, push, movzx, movsx
        ((0x80, 0x83), range(8), 1),
        ((0x81,), range(8), 4),
        ((0xC6, 0xF6), (0,), 1),  # mov, test
        ((0xC7, 0xF7), (0,), 4),
    )
    for opcode in opcodes
    for register in registers
}
"""Opcode and the register field of ModRM -> bytes of the constant behind an operand in memory.

In the one-byte map, and in those of 0f and 0f 38 if they have the opcode; those that take one there only if
no 0f, 0f 38 or VEX is in front.
"""


_CONSTANTS = frozenset((0x69, 0x81, 0xC7, 0xF7))
"""Opcodes with ModRM and a constant of four bytes: imul, add to cmp, mov, test."""
_MODRM = frozenset(
    (*_ALU, 0x62, 0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, *range(0xC4, 0xC8), *range(0xD0, 0xD4),
     *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF)
)  # fmt: skip
"""Opcodes with ModRM in the one-byte map, and what is a prefix in its place (62, 8f, c4, c5)."""

_PREFIXES = (0xC4, 0x8F)
"""Those of VEX and XOP, three bytes."""
_BEFORE_CONSTANTS = frozenset(
    each for each in range(256) if each in (0x69, 0x81) or each & 0xC7 in (0x04, 0x84) or each & 0xC0 == 0x40
)
"""What a byte must be in front of a constant's last one, if that looks like a branch's opcode."""


def around(code: bytes, field: int) -> tuple[int, bool] | None:
    """Tell the end of the instruction and whether the field is a branch's; None where only decoding tells."""
    if not field:
        return None
    before = code[field - 7 : field] if field > 6 else code[:field].rjust(7, b"\0")
    _, far, prefix, first, second, opcode, last = before
    if last == 0xE8 or last == 0xE9 or (opcode == 0x0F and last & 0xF0 == 0x80):
        if opcode in _BEFORE_CONSTANTS or second & 0xC7 == 0x44:
            return None if _may_be_constant(before) else (field + _SIZE, True)
        return field + _SIZE, True
    if last & 0xC7 != 0x05 or field < 2:
        return None
    constant = _OPERANDS.get((opcode, last >> 3))
    if constant is None or second == 0x3A or prefix in _PREFIXES or far == 0x62:
        return None
    if constant and (_is_prefixed(before[1:5], constant) or _has_index(first, second)):
        return None
    return field + _SIZE + constant, False


def _may_be_constant(before: bytes) -> bool:
    """Whether the last byte may be ModRM, SIB or a short displacement in front of what is no branch's."""
    first, second, third = before[3:6]
    short = second in _CONSTANTS and (third & 0xC0 == 0x40 or third & 0xC7 == 0x04)
    indexed = third & 0xC7 == 0x84 and (second in _MODRM or _is_prefixed(before[:4], 1))
    return third in (0x69, 0x81) or indexed or short or _has_index(first, second)


def _has_index(first: int, second: int) -> bool:
    """Whether the bytes may be opcode and ModRM, with SIB and a short displacement behind them."""
    return first in _CONSTANTS and second & 0xC7 == 0x44


def _is_prefixed(before: bytes, constant: int) -> bool:
    """Whether four bytes in front of the opcode may mean another map, or a constant of another size."""
    far, prefix, near, last = before
    if last == 0x3A or prefix in _PREFIXES or far == 0x62:
        return True
    return last in (0x0F, 0x38) or near == 0xC5 or (constant > 1 and 0x66 in before)

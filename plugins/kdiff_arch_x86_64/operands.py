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


def around(code: bytes, field: int) -> tuple[int, bool] | None:
    """Tell the end of the instruction and whether the field is a branch's; None where only decoding tells."""
    if not field:
        return None
    last, opcode = code[field - 1], code[field - 2] if field > 1 else 0
    if last == 0xE8 or last == 0xE9 or (opcode == 0x0F and last & 0xF0 == 0x80):
        return None if _may_be_constant(code[max(field - 7, 0) : field]) else (field + _SIZE, True)
    if last & 0xC7 != 0x05 or field < 2:
        return None
    constant = _OPERANDS.get((opcode, last >> 3))
    if constant is None or _is_prefixed(code[max(field - 6, 0) : field - 2], constant):
        return None
    if constant and _has_index(code[max(field - 4, 0) : field]):
        return None
    return field + _SIZE + constant, False


def _may_be_constant(before: bytes) -> bool:
    """Whether the last byte may be ModRM, SIB or a short displacement in front of what is no branch's."""
    *prefixes, second, third, _ = before.rjust(7, b"\0")
    short = second in _CONSTANTS and (third & 0xC0 == 0x40 or third & 0xC7 == 0x04)
    indexed = third & 0xC7 == 0x84 and (second in _MODRM or _is_prefixed(bytes(prefixes), 1))
    return third in (0x69, 0x81) or indexed or short or _has_index(before[-4:])


def _has_index(before: bytes) -> bool:
    """Whether the bytes may be opcode, ModRM, SIB and a short displacement in front of a constant."""
    first, second, _, _ = before.rjust(4, b"\0")
    return first in _CONSTANTS and second & 0xC7 == 0x44


def _is_prefixed(before: bytes, constant: int) -> bool:
    """Whether what is in front of the opcode may mean another map, or a constant of another size."""
    if before[-1:] == b"\x3a" or before[-3:-2] in (b"\xc4", b"\x8f") or before[-4:-3] == b"\x62":
        return True
    if not constant:
        return False
    other_map = before[-1:] in (b"\x0f", b"\x38") or before[-2:-1] == b"\xc5"
    return other_map or (constant > 1 and b"\x66" in before)

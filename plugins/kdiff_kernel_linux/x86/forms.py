# SPDX-License-Identifier: Apache-2.0
"""Opcodes, and forms made of them."""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.api import (
    Contains,
    EntryView,
    Field,
    Form,
    Holds,
    Listed,
    Literal,
    OneOf,
    Pad,
    Part,
    Place,
    Through,
    ToCode,
)

R_X86_64_PC32 = 2
R_X86_64_PC8 = 15

CALL = b"\xe8"
JUMP = b"\xe9"
JUMP_SHORT = b"\xeb"
INT3 = b"\xcc"
RET = b"\xc3"
NOP1 = b"\x90"
NOP2 = b"\x66\x90"
NOP5 = b"\x0f\x1f\x44\x00\x00"
CS_PREFIX = b"\x2e"
ENDBR = bytes.fromhex("f30f1efa")
ENDBR_POISON = bytes.fromhex("660f1f00")
"""gen_endbr_poison(), arch/x86/include/asm/ibt.h"""

NEAR = 5
"""Bytes of a call or jump with a 4-byte displacement."""

_LONGEST_NOP, _SHORT_BELOW = 11, 128
"""What add_nop() writes as one no-op, and jumps over with a 1-byte displacement."""

RETURN_THUNK = Place(None, "x86_return_thunk")
"""The pointer to the thunk that this processor needs (arch/x86/kernel/cpu/bugs.c)."""


def near(entry: EntryView, opcode: bytes, place: Place) -> Form:
    """A branch with a 4-byte displacement to a place."""
    return (Literal(opcode), Field(entry.architecture.howtos[R_X86_64_PC32], place, -4, bytes(4)))


def short(entry: EntryView, opcode: bytes, place: Place) -> Form:
    """A branch with a 1-byte displacement to a place."""
    return (Literal(opcode), Field(entry.architecture.howtos[R_X86_64_PC8], place, -1, bytes(1)))


def near_through(entry: EntryView, opcode: bytes, place: Place) -> Form:
    """A near branch to where the pointer at a place points."""
    return (Literal(opcode), Through(entry.architecture.howtos[R_X86_64_PC32], place, -4))


def where(pointer: Place, names: tuple[str, ...], form: Form) -> Form:
    """A form that is allowed only while a pointer leads to one of some symbols; the empty name: to none."""
    return (Holds(pointer, names), *form)


def near_one_of(entry: EntryView, opcode: bytes, names: tuple[str, ...]) -> Form:
    """A near branch to one of some symbols."""
    return (Literal(opcode), OneOf(entry.architecture.howtos[R_X86_64_PC32], names, -4))


def near_listed(entry: EntryView, opcode: bytes, owner: str, name: str) -> Form:
    """A near branch to code made at run time."""
    return (Literal(opcode), Listed(entry.architecture.howtos[R_X86_64_PC32], owner, name, -4))


def near_to_code(entry: EntryView, opcode: bytes, code: bytes) -> Form:
    """A near branch to code without a name, made at run time."""
    return (Literal(opcode), ToCode(entry.architecture.howtos[R_X86_64_PC32], code, -4))


def near_target(form: Form) -> Place | None:
    """Where a pre instruction branches to, if its last part is a relocated 4-byte displacement."""
    last = form[-1] if form else None
    if isinstance(last, Field) and last.howto.pc_relative and last.size == 4 and last.insn_addend == -4:
        return last.place
    return None


def joined(forms: Iterable[Form]) -> Form:
    """Put forms behind each other, their conditions first; adjacent pads and adjacent literals become one."""
    together = [each for form in forms for each in form]
    conditions = dict.fromkeys(each for each in together if isinstance(each, (Holds, Contains)))
    parts: list[Part] = []
    for part in (each for each in together if each.size):
        last = parts[-1] if parts else None
        if isinstance(last, Pad) and isinstance(part, Pad):
            parts[-1] = Pad(last.size + part.size)
        elif isinstance(last, Literal) and isinstance(part, Literal):
            parts[-1] = Literal(last.data + part.data)
        else:
            parts.append(part)
    return (*conditions, *parts)


def jumped(form: Form) -> Form:
    """add_nop(): since 6.5, no-ops longer than one instruction can be (ASM_NOP_MAX) are jumped over."""
    return joined(
        (_jump_over(part.size),) if isinstance(part, Pad) and part.size > _LONGEST_NOP else (part,)
        for part in form
    )


def _jump_over(size: int) -> Literal:
    """A jump to where `size` bytes end, and int3 behind it."""
    if size < _SHORT_BELOW:
        return Literal(JUMP_SHORT + bytes((size - 2,)) + INT3 * (size - 2))
    return Literal(JUMP + (size - NEAR).to_bytes(4, "little") + INT3 * (size - NEAR))


def length(form: Form) -> int:
    """The bytes a form covers."""
    return sum(part.size for part in form)


def padded(forms: Iterable[Form], size: int) -> tuple[Form, ...]:
    """Fill each form with no-ops up to `size`; forms that are longer cannot occur and are left out."""
    found = [joined((form, (Pad(size - length(form)),))) for form in forms if length(form) <= size]
    return tuple(dict.fromkeys(found))

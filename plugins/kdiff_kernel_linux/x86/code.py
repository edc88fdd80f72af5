# SPDX-License-Identifier: Apache-2.0
"""What becomes of a run of code by the rewrites that precede alternatives, and by joining its no-ops.

Paravirt calls, retpolines and returns stand inside alternatives, as originals and as replacements.
apply_alternatives finds and copies them in rewritten form, and its optimize_nops turns each run of one-byte
no-ops, whoever wrote them, into longer ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from kdiff.api import EntryView, Field, Form, Literal, Pad, Place
from kdiff_kernel_linux.x86.depth import COUNTED
from kdiff_kernel_linux.x86.forms import (
    CALL,
    CS_PREFIX,
    INT3,
    JUMP,
    JUMP_SHORT,
    NEAR,
    NOP1,
    RET,
    RETURN_THUNK,
    joined,
    near_one_of,
    near_target,
    near_through,
    near_to_code,
    padded,
    where,
)

PV_OPS = "pv_ops"
BUG = "BUG_func"
_RETURN = "__x86_return_thunk"
_INDIRECT_CALLS = (b"\xff\x15", b"\xff\x14\x25")
"""call *disp32(%rip), call *disp32"""
_THUNK = "__x86_indirect_thunk_"
_ITS_THUNK = "__x86_indirect_its_thunk_"
_THUNK_SIZE = 32
"""RETPOLINE_THUNK_SIZE, arch/x86/include/asm/nospec-branch.h"""
_REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
_LFENCE = b"\x0f\xae\xe8"


def rewritten(entry: EntryView, place: Place, size: int) -> tuple[Form, ...]:
    """All forms of the code at a place, the unchanged one first."""
    choices = []
    at = 0
    while at < size:
        here = Place(place.node, place.name, place.offset + at)
        step = min(entry.next_instruction(here), size - at)
        choices.append(tuple(_instruction(entry, here, step)))
        at += step
    return tuple(dict.fromkeys(joined(each) for each in product(*choices)))


def _instruction(entry: EntryView, place: Place, size: int) -> Iterator[Form]:
    code = entry.code(place, size)
    if code == NOP1:
        yield (Pad(1),)
        return
    unchanged = entry.parts(place, size)
    yield unchanged
    slot = _paravirt_slot(code, unchanged)
    if slot is not None:
        yield from paravirt_forms(entry, slot, size)
    yield from return_forms(entry, code, unchanged)
    yield from retpoline_forms(entry, code, unchanged)


def _paravirt_slot(code: bytes, unchanged: Form) -> Place | None:
    if not code.startswith(_INDIRECT_CALLS):
        return None
    fields = [part for part in unchanged if isinstance(part, Field)]
    return fields[0].place if len(fields) == 1 and fields[0].place.name == PV_OPS else None


def paravirt_forms(entry: EntryView, slot: Place, size: int) -> tuple[Form, ...]:
    """paravirt_patch(): a direct call of what the slot holds, nothing for _paravirt_nop, BUG for NULL.

    Since 6.8 it is alt_replace_call() of alternative.c, with other names.
    """
    bug = where(slot, ("",), near_one_of(entry, CALL, ("paravirt_BUG", BUG)))
    forms = (near_through(entry, CALL, slot), bug, where(slot, ("_paravirt_nop", "nop_func"), ()))
    return padded(forms, size)


def return_forms(entry: EntryView, code: bytes, unchanged: Form) -> tuple[Form, ...]:
    """patch_return(): the thunk this processor needs, or a plain return."""
    target = near_target(unchanged)
    if code[:-4] not in (JUMP, CS_PREFIX + JUMP) or target is None or target.name != _RETURN:
        return ()
    return returns(entry, len(code))


def returns(entry: EntryView, size: int = NEAR) -> tuple[Form, ...]:
    """The two ways to return, filled up with int3."""
    plain = (Literal(RET + INT3 * (size - len(RET))),)
    thunk = near_through(entry, JUMP, RETURN_THUNK)
    return plain, joined((thunk, (Literal(INT3 * (size - NEAR)),)))


def retpoline_forms(entry: EntryView, code: bytes, unchanged: Form) -> tuple[Form, ...]:
    """patch_retpoline(): the indirect branch itself, after lfence or without, or an ITS thunk.

    Each site gets a thunk of its own, in a page that has no name (its_init_thunk()); the kernel's own, which
    are listed, serve where there is no memory for one.
    """
    register = _thunk_register(near_target(unchanged))
    if register is None:
        return ()
    prefix = CS_PREFIX if code.startswith(CS_PREFIX) else b""
    opcode = code[len(prefix) : -4]
    if opcode not in (CALL, JUMP) and not _is_conditional(opcode):
        return ()
    # A conditional jump becomes the inverse short jump over an unconditional indirect one.
    head = bytes((0x70 | (opcode[1] & 0xF) ^ 1, len(code) - 2)) if _is_conditional(opcode) else b""
    bodies = [head + fence + _indirect(opcode, register) for fence in (b"", _LFENCE)]
    forms: list[Form] = []
    for body in bodies:
        stop = INT3 if opcode != CALL and len(body) < len(code) else b""
        forms.append((Literal(body + stop),))
    thunk = near_one_of(entry, code[:-4], (_ITS_THUNK + _REGISTERS[register],))
    made = near_to_code(entry, code[:-4], _indirect(JUMP, register) + INT3)
    kind = "call" if opcode == CALL else "jump"
    name = f"__x86_indirect_{kind}_thunk_{_REGISTERS[register]}"
    counting = where(RETURN_THUNK, COUNTED, near_one_of(entry, code[:-4], (name,)))
    return padded((*forms, thunk, made, counting), len(code))


def _thunk_register(target: Place | None) -> int | None:
    if target is None or not target.name.startswith(_THUNK):
        return None
    register = target.name.removeprefix(_THUNK)
    if register == "array":
        return target.offset // _THUNK_SIZE if target.offset % _THUNK_SIZE == 0 else None
    return _REGISTERS.index(register) if register in _REGISTERS and not target.offset else None


def _is_conditional(opcode: bytes) -> bool:
    return len(opcode) == 2 and opcode[0] == 0x0F and opcode[1] & 0xF0 == 0x80


def _indirect(opcode: bytes, register: int) -> bytes:
    """`call *%reg` or `jmp *%reg`."""
    rex = b"\x41" if register >= 8 else b""
    return rex + bytes((0xFF, (0xD0 if opcode == CALL else 0xE0) | register & 7))


def is_jump(code: bytes) -> bool:
    """Whether recompute_jump() would look at the code."""
    return code[:1] in (JUMP, JUMP_SHORT)

# SPDX-License-Identifier: Apache-2.0
"""Call depth tracking: arch/x86/kernel/callthunks.c, for processors of Skylake's family.

With `retbleed=stuff` each call of kernel code enters nine bytes in front of the function, in its padding,
where an instruction has been written that counts the call (patch_dest()). Jumps and ftrace's calls stay.
That the kernel does this shows in its return thunk, which counts returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kdiff.api import EntryView, Field, Form, Holds, Literal, OneOf, Place, Site, Through
from kdiff_kernel_linux.layout import Layout
from kdiff_kernel_linux.x86.forms import CALL, NEAR, NOP1, R_X86_64_PC32, RETURN_THUNK, where

COUNTED = ("call_depth_return_thunk",)
_NEVER = frozenset(
    (
        *("error_entry", "paranoid_entry", "xen_error_entry", "__switch_to_asm", "ret_from_fork"),
        *("soft_restart_cpu", "__fentry__"),
    )
)
"""skip_addr()"""
_HEAD, _SHIFT = bytes.fromhex("6548c13d"), b"\x05"
"""sarq $5, %gs:disp32(%rip): skl_call_thunk_template"""
SIZE = len(_HEAD) + 4 + len(_SHIFT)


def counted(forms: Iterable[Form]) -> Iterator[Form]:
    """Of forms that begin with a call, those in which it is counted."""
    for form in forms:
        code = [part for part in form if part.size]
        if len(code) < 2 or code[0] != Literal(CALL):
            continue
        target = code[1]
        if isinstance(target, Field) and target.place.name in _NEVER:
            continue
        if isinstance(target, (Field, Through, OneOf)):
            conditions = (part for part in form if isinstance(part, Holds))
            yield where(RETURN_THUNK, COUNTED, (*conditions, code[0], _earlier(target), *code[2:]))


def _earlier(target: Field | Through | OneOf) -> Field | Through | OneOf:
    """The same destination, reached by so many bytes less."""
    addend = target.insn_addend - SIZE
    if isinstance(target, Field):
        return target._replace(insn_addend=addend)
    if isinstance(target, Through):
        return Through(target.howto, target.place, addend)
    return OneOf(target.howto, target.names, addend)


def call_site(entry: EntryView) -> Iterator[Site]:
    """patch_call(): a direct call."""
    place = entry.place(0)
    if place is None or entry.code(place, 1) != CALL:
        return
    form = entry.parts(place, NEAR)
    forms = tuple(counted((form,))) or _of_itself(form, place.offset)
    if forms:
        yield Site(place.offset, NEAR, "call_depth", forms)


def _of_itself(form: Form, offset: int) -> tuple[Form, ...]:
    """A function's call of itself, whose displacement the assembler knows; `offset`: of the call."""
    code = b"".join(part.data for part in form if isinstance(part, Literal))
    if len(code) != NEAR or int.from_bytes(code[1:], "little", signed=True) != -(offset + NEAR):
        return ()
    return (where(RETURN_THUNK, COUNTED, (Literal(CALL + _displacement(-(offset + NEAR + SIZE))),)),)


def _displacement(distance: int) -> bytes:
    return distance.to_bytes(4, "little", signed=True)


def padding(layout: Layout, entry: EntryView) -> Iterator[Site]:
    """patch_dest(): the last no-ops in front of a function; `layout`: call_depth of pcpu_hot."""
    start = len(entry.data) - SIZE
    if start >= 0 and entry.data[start:] == NOP1 * SIZE:
        yield Site(start, SIZE, "call_depth", (counting(layout, entry),))


def counting(layout: Layout, entry: EntryView) -> Form:
    """The instruction that counts, where calls are counted; `layout` as for `padding`."""
    (depth,) = layout
    variable = Field(
        entry.architecture.howtos[R_X86_64_PC32], Place(None, "pcpu_hot", depth), -4 - len(_SHIFT), bytes(4)
    )
    return where(RETURN_THUNK, COUNTED, (Literal(_HEAD), variable, Literal(_SHIFT)))

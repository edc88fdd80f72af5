# SPDX-License-Identifier: Apache-2.0
"""Rewritten calls: static calls, paravirt calls, function entries."""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import EntryView, Form, Literal, Place, Site
from kdiff_kernel_linux.layout import Layout
from kdiff_kernel_linux.x86.code import PV_OPS, paravirt_forms, returns
from kdiff_kernel_linux.x86.depth import counted
from kdiff_kernel_linux.x86.forms import (
    CALL,
    JUMP,
    NEAR,
    NOP5,
    RET,
    RETURN_THUNK,
    near_listed,
    near_one_of,
    near_through,
    where,
)

_FLAGS = 3
"""STATIC_CALL_SITE_FLAGS of include/linux/static_call_types.h: the key's low bits."""
_CLEAR_RAX = bytes.fromhex("2e2e2e31c0")
"""In place of a call to _RETURN_0."""
_RETURN_0 = ("__static_call_return0",)
_NULL = ("",)
_TRAMPOLINE, _KEY = "__SCT__", "__SCK__"
_TRACERS = ("ftrace_caller", "ftrace_regs_caller")
_OWN_TRACERS = (("__builtin__ftrace", "ftrace_trampoline"), ("bpf", "bpf_trampoline_"))
"""Trampolines as kallsyms has them: kernel/trace/ftrace.c (ftrace_add_trampoline_to_kallsyms),
kernel/bpf/trampoline.c (bpf_tramp_image_alloc)."""


def static_call(layout: Layout, entry: EntryView) -> Iterator[Site]:
    """__static_call_transform() at one site; `layout`: addr and key of the site, func of the key.

    What the key's func holds decides (__sc_insn()): a function is called or jumped to, null is a no-op or a
    return. A module may know a key by its trampoline only (EXPORT_STATIC_CALL_TRAMP), which stands in its
    place until the module is loaded (static_call_add_module).
    """
    address, key, func = layout
    place, where = entry.place(address), entry.place(key)
    if place is None or where is None:
        return
    pointer = Place(where.node, where.name, (where.offset & ~_FLAGS) + func)
    if where.name.startswith(_TRAMPOLINE):
        pointer = _key_of(where.name, func)
    size = entry.next_instruction(place)
    forms = _static_call_forms(entry, entry.code(place, size), pointer)
    if forms:
        yield Site(place.offset, size, "static_call", forms)


def _static_call_forms(entry: EntryView, code: bytes, pointer: Place) -> tuple[Form, ...]:
    if len(code) == NEAR and (code[:1] == CALL or code in (NOP5, _CLEAR_RAX)):
        call = near_through(entry, CALL, pointer)
        return (
            call,
            *counted((call,)),
            where(pointer, _RETURN_0, (Literal(_CLEAR_RAX),)),
            where(pointer, _NULL, (Literal(NOP5),)),
        )
    if (len(code) == NEAR and code[:1] == JUMP) or code[:1] == RET:
        return _jump_or_return(entry, pointer)
    if len(code) == NEAR + 1 and code[0] == 0x0F and code[1] & 0xF0 == 0x80:
        returning = (
            near_one_of(entry, code[:2], ("__static_call_return",)),
            near_through(entry, code[:2], RETURN_THUNK),
        )
        return (
            near_through(entry, code[:2], pointer),
            *(where(pointer, _NULL, each) for each in returning),
        )
    return ()


def _jump_or_return(entry: EntryView, pointer: Place) -> tuple[Form, ...]:
    return (near_through(entry, JUMP, pointer), *(where(pointer, _NULL, each) for each in returns(entry)))


def static_call_trampoline(layout: Layout, entry: EntryView) -> Iterator[Site]:
    """A trampoline jumps where its key points, or returns; `layout`: func of the key."""
    (func,) = layout
    if not entry.name.startswith(_TRAMPOLINE) or entry.data[:1] not in (JUMP, RET):
        return
    pointer = _key_of(entry.name, func)
    yield Site(0, NEAR, "static_call", _jump_or_return(entry, pointer))


def _key_of(trampoline: str, func: int) -> Place:
    return Place(None, _KEY + trampoline.removeprefix(_TRAMPOLINE), func)


def paravirt(layout: Layout, entry: EntryView) -> Iterator[Site]:
    """apply_paravirt() at one site; `layout`: instr, type, len. The type counts pointers in pv_ops."""
    instruction, kind, length = layout
    place = entry.place(instruction)
    if place is None:
        return
    size = entry.data[length]
    slot = Place(None, PV_OPS, entry.data[kind] * entry.architecture.elf_class // 8)
    yield Site(place.offset, size, "paravirt", paravirt_forms(entry, slot, size))


def fentry(entry: EntryView) -> Iterator[Site]:
    """ftrace: a call of __fentry__ is a no-op since boot, and while traced a call of a tracer.

    One tracer alone is called through a trampoline of its own, several through ftrace_caller, a BPF program
    directly. All leave the function as it is: the kernel lets livepatch share its entry with them, or refuses
    the patch where one of them wants to redirect the function itself (__ftrace_hash_update_ipmodify(),
    prepare_direct_functions_for_ipmodify()). That no other live patch is behind the call is for the machine's
    own list of those to say, before the update is loaded.
    """
    place = entry.place(0)
    if place is None:
        return
    code = entry.code(place, NEAR)
    if code[:1] == CALL or code == NOP5:
        own = (near_listed(entry, CALL, owner, name) for owner, name in _OWN_TRACERS)
        forms = ((Literal(NOP5),), near_one_of(entry, CALL, _TRACERS), *own)
        yield Site(place.offset, NEAR, "fentry", forms)

# SPDX-License-Identifier: Apache-2.0
"""Rewritten jumps and single instructions: jump labels, retpolines, returns, lock prefixes, endbr."""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import EntryView, Literal, Site
from kdiff_kernel_linux.layout import Layout
from kdiff_kernel_linux.x86 import cfi
from kdiff_kernel_linux.x86.code import retpoline_forms, return_forms
from kdiff_kernel_linux.x86.forms import ENDBR, ENDBR_POISON, JUMP, JUMP_SHORT, NEAR, NOP2, NOP5, near, short

_SHORT = 2
_LOCK, _DS = b"\xf0", b"\x3e"


def jump_label(layout: Layout, entry: EntryView) -> Iterator[Site]:
    """__jump_label_patch(): a no-op or a jump, of the size the compiler chose; `layout`: code, target."""
    code, target = layout
    place, destination = entry.place(code), entry.place(target)
    if place is None or destination is None:
        return
    size = entry.next_instruction(place)
    if size == _SHORT:
        yield Site(
            place.offset, size, "jump_label", ((Literal(NOP2),), short(entry, JUMP_SHORT, destination))
        )
    elif size == NEAR:
        yield Site(place.offset, size, "jump_label", ((Literal(NOP5),), near(entry, JUMP, destination)))


def retpoline(entry: EntryView) -> Iterator[Site]:
    """apply_retpolines(): a branch to an indirect thunk."""
    place = entry.place(0)
    if place is None:
        return
    size = entry.next_instruction(place)
    forms = retpoline_forms(entry, entry.code(place, size), entry.parts(place, size))
    if forms:
        yield Site(place.offset, size, "retpoline", forms)
        yield from cfi.caller(entry, place)


def return_thunk(entry: EntryView) -> Iterator[Site]:
    """apply_returns(): a jump to the return thunk."""
    place = entry.place(0)
    if place is None:
        return
    size = entry.next_instruction(place)
    forms = return_forms(entry, entry.code(place, size), entry.parts(place, size))
    if forms:
        yield Site(place.offset, size, "return", forms)


def lock_prefix(entry: EntryView) -> Iterator[Site]:
    """alternatives_smp_unlock(): with a single processor the lock prefix becomes a harmless one."""
    place = entry.place(0)
    if place is not None and entry.code(place, 1) == _LOCK:
        yield Site(place.offset, 1, "smp_lock", ((Literal(_DS),),))


def endbr(entry: EntryView) -> Iterator[Site]:
    """apply_ibt_endbr(): an entry that nobody reaches indirectly is poisoned."""
    place = entry.place(0)
    if place is not None and entry.code(place, len(ENDBR)) == ENDBR:
        yield Site(place.offset, len(ENDBR), "endbr", ((Literal(ENDBR_POISON),),))

# SPDX-License-Identifier: Apache-2.0
"""Alternatives: apply_alternatives(), recompute_jump() and optimize_nops() of arch/x86/kernel/alternative.c.

A site keeps its original, whose one-byte no-ops become longer ones, or gets the replacement, filled up with
no-ops; since 6.5, many no-ops are a jump over int3. The kernel moves only a replacement of five bytes that is
a call or a jump, the jump perhaps into its short form, which is filled up with no-ops or, since 6.5, with
int3; objtool refuses any other relocation in a replacement.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import EntryView, Form, Literal, Place, Site
from kdiff_kernel_linux.layout import Layout
from kdiff_kernel_linux.x86.code import BUG, is_jump, rewritten
from kdiff_kernel_linux.x86.depth import counted
from kdiff_kernel_linux.x86.forms import INT3, JUMP_SHORT, NEAR, jumped, length, near_target, padded, short


def sites(layout: Layout, entry: EntryView) -> Iterator[Site]:
    """The site of one alt_instr; `layout`: instr_offset, repl_offset, instrlen, replacementlen."""
    instruction, replacement, instruction_length, replacement_length = layout
    place, other = entry.place(instruction), entry.place(replacement)
    size, length = entry.data[instruction_length], entry.data[replacement_length]
    if place is None or not size:
        return
    forms = padded(rewritten(entry, place, size), size)
    if not length:
        forms += padded(((),), size)
    elif other is not None:
        forms += padded(_replaced(entry, other, length), size)
    forms = tuple(dict.fromkeys((*forms, *map(jumped, forms))))
    yield Site(place.offset, size, "alternative", (*forms, *counted(forms)))


def _replaced(entry: EntryView, place: Place, size: int) -> tuple[Form, ...]:
    target = near_target(entry.parts(place, size))
    if target is not None and target.name == BUG:
        return ()  # stands for a direct call of what the original calls (alt_replace_call())
    forms = rewritten(entry, place, size)
    if size == NEAR and target is not None and is_jump(entry.code(place, size)):
        shortened = short(entry, JUMP_SHORT, target)
        return (*forms, shortened, (*shortened, Literal(INT3 * (NEAR - length(shortened)))))
    return forms

# SPDX-License-Identifier: Apache-2.0
"""kCFI and FineIBT: __apply_fineibt() and poison_cfi() of arch/x86/kernel/alternative.c, as in 6.12.

The compiler writes a hash of a function's type in front of it, and in front of each indirect call the code
that compares it; both lie in 16 and 14 bytes. A kernel with FineIBT mixes a seed into all hashes at boot,
and turns the comparison round, into the function's preamble, or off: `cfi_mode` says which. What nobody calls
indirectly is sealed. Hashes that assembly names by symbols are not described.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import Contains, EntryView, Form, Literal, Mixed, Place, Site
from kdiff_kernel_linux.layout import Layout
from kdiff_kernel_linux.x86 import depth
from kdiff_kernel_linux.x86.forms import ENDBR, ENDBR_POISON, NOP1, joined

_SEED = Place(None, "cfi_seed")
_OFF, _KCFI, _FINEIBT = (Contains(Place(None, "cfi_mode"), bytes((mode, 0, 0, 0))) for mode in (1, 2, 3))
"""enum cfi_mode, arch/x86/include/asm/cfi.h"""
_HASH = 4
_TO_EAX, _TO_R10, _SUB_R10 = b"\xb8", b"\x41\xba", bytes.fromhex("4181ea")
_PADDING = NOP1 * 11
_COMPARED = bytes.fromhex("450353f174020f0b")
"""addl -15(%r11),%r10d; je; ud2"""
_SKIPPED = b"\xeb\x0c"
_TRAPPED = bytes.fromhex("74030f0b90")
"""je; ud2; nop"""
_EARLIER = bytes.fromhex("4983eb100f1f4000")
"""sub $16,%r11; nop"""
_CALLER = len(_TO_R10) + _HASH + len(_COMPARED)


def preamble(layout: Layout | None, entry: EntryView) -> Iterator[Site]:
    """cfi_rand_preamble(), cfi_rewrite_preamble(), poison_cfi(): what lies in front of a function.

    The no-ops there may be the place of the instruction that counts calls, too; `layout` is that of `depth`.
    FineIBT leaves no room for it, and calls of such a function are not counted.
    """
    before, known, after = entry.data[:1], entry.data[1 : 1 + _HASH], entry.data[1 + _HASH :]
    if before != _TO_EAX or after != _PADDING or entry.place(1) is not None:
        return
    fine = (Literal(_SUB_R10), Mixed(known, _SEED), Literal(_TRAPPED))
    sealed = bytes(_HASH)
    tails: list[Form] = [(Literal(_PADDING),)]
    counted: tuple[Form, ...] = ()
    if layout is not None:
        tails.append((Literal(_PADDING[: -depth.SIZE]), *depth.counting(layout, entry)))
        counted = (joined(((_OFF, Literal(_TO_EAX + known)), tails[-1])),)
    forms: tuple[Form, ...] = (
        *(joined(((_KCFI, Literal(_TO_EAX), Mixed(known, _SEED)), tail)) for tail in tails),
        *(joined(((_KCFI, Literal(_TO_EAX + sealed)), tail)) for tail in tails),
        *counted,
        (_FINEIBT, Literal(ENDBR), *fine),
        (_FINEIBT, Literal(ENDBR_POISON + _SUB_R10 + sealed + _TRAPPED)),
    )
    yield Site(0, len(entry.data), "cfi", forms)


def entered(entry: EntryView) -> Iterator[Site]:
    """cfi_rewrite_endbr(): a function that is entered by its preamble is not entered here."""
    if entry.data.startswith(ENDBR):
        yield Site(0, len(ENDBR), "cfi", ((_FINEIBT, Literal(ENDBR_POISON)),))


def caller(entry: EntryView, call: Place) -> Iterator[Site]:
    """cfi_rand_callers(), cfi_rewrite_callers(), cfi_disable_callers(): what lies in front of a call."""
    if call.offset < _CALLER:
        return
    place = Place(call.node, call.name, call.offset - _CALLER)
    code = entry.code(place, _CALLER)
    held = code[len(_TO_R10) : -len(_COMPARED)]
    if code != _TO_R10 + held + _COMPARED or entry.parts(place, _CALLER) != (Literal(code),):
        return
    turned = (-int.from_bytes(held, "little") % (1 << 8 * _HASH)).to_bytes(_HASH, "little")
    forms: tuple[Form, ...] = (
        (_KCFI, Literal(_TO_R10), Mixed(held, _SEED, negated=True), Literal(_COMPARED)),
        (_OFF, Literal(_SKIPPED + held + _COMPARED)),
        (_FINEIBT, Literal(_TO_R10), Mixed(turned, _SEED), Literal(_EARLIER)),
    )
    yield Site(place.offset, _CALLER, "cfi", forms)

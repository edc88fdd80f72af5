# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type of the psABI that a kernel object can have."""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import BitField, Howto, Overflow

R_PPC64_ADDR64 = 38

_HALF_HIGH = 0x8000
"""Added before the low half is cut off, because the processor sign-extends it (`@ha`)."""
_PREFIXED = (BitField(32, 0, 16), BitField(0, 16, 18))
"""A 34-bit immediate: its high part in the prefix, which is the first word."""


def local_entry(other: int) -> int:
    """Bytes from a function's global entry to its local one, from st_other (its three highest bits)."""
    return (1 << (other >> 5 & 7)) >> 2 << 2


def _word(type: int, name: str, bits: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    return Howto(type, f"R_PPC64_{name}", bits // 8, (BitField(0, 0, bits),), overflow, relative)


def _branch(
    type: int, name: str, width: int, *, relative: bool, call: bool = False, toc: bool = True
) -> Howto:
    entry = local_entry if call else None
    fields = (BitField(2, 2, width),)
    return Howto(
        type, f"R_PPC64_{name}", 4, fields, Overflow.SIGNED, relative, entry=entry, call_only=call and toc
    )


def _low(
    type: int,
    name: str,
    *,
    scaled: bool = False,
    wrap: bool = True,
    relative: bool = False,
    toc: bool = False,
) -> Howto:
    """The low half of a value; `scaled`: of a DS-form instruction, whose two lowest bits are not its own."""
    fields = (BitField(2, 2, 14) if scaled else BitField(0, 0, 16),)
    overflow = Overflow.WRAP if wrap else Overflow.SIGNED
    return Howto(type, f"R_PPC64_{name}", 2, fields, overflow, relative, base=".TOC." if toc else "")


def _high(
    type: int,
    name: str,
    drops: int,
    overflow: Overflow,
    *,
    rounded: bool = False,
    relative: bool = False,
    toc: bool = False,
) -> Howto:
    """A 16-bit part above the lowest `drops` bits of a value."""
    return Howto(
        type,
        f"R_PPC64_{name}",
        2,
        (BitField(0, drops, 16),),
        overflow,
        relative,
        drops=drops,
        adjust=_HALF_HIGH if rounded else 0,
        base=".TOC." if toc else "",
    )


def _prefixed(type: int, name: str, *, relative: bool, slot: bool = False) -> Howto:
    return Howto(type, f"R_PPC64_{name}", 8, _PREFIXED, Overflow.SIGNED, relative, slot=slot)


def _hint(type: int, name: str) -> Howto:
    return Howto(type, f"R_PPC64_{name}", 0, (), Overflow.UNSIGNED)


def _rows() -> Iterator[Howto]:
    signed, either, wrap = Overflow.SIGNED, Overflow.EITHER, Overflow.WRAP
    yield _hint(0, "NONE")
    yield _word(1, "ADDR32", 32, either)
    yield _branch(2, "ADDR24", 24, relative=False)
    yield _low(3, "ADDR16", wrap=False)
    yield _low(4, "ADDR16_LO")
    yield _high(5, "ADDR16_HI", 16, signed)
    yield _high(6, "ADDR16_HA", 16, signed, rounded=True)
    yield _branch(7, "ADDR14", 14, relative=False)
    yield _branch(10, "REL24", 24, relative=True, call=True)
    yield _branch(11, "REL14", 14, relative=True, call=True)
    yield _word(24, "UADDR32", 32, either)
    yield _word(25, "UADDR16", 16, either)
    yield _word(26, "REL32", 32, signed, relative=True)
    yield _word(R_PPC64_ADDR64, "ADDR64", 64, wrap)
    yield _high(39, "ADDR16_HIGHER", 32, wrap)
    yield _high(40, "ADDR16_HIGHERA", 32, wrap, rounded=True)
    yield _high(41, "ADDR16_HIGHEST", 48, wrap)
    yield _high(42, "ADDR16_HIGHESTA", 48, wrap, rounded=True)
    yield _word(43, "UADDR64", 64, wrap)
    yield _word(44, "REL64", 64, wrap, relative=True)
    yield _low(47, "TOC16", wrap=False, toc=True)
    yield _low(48, "TOC16_LO", toc=True)
    yield _high(49, "TOC16_HI", 16, signed, toc=True)
    yield _high(50, "TOC16_HA", 16, signed, rounded=True, toc=True)
    yield _low(56, "ADDR16_DS", scaled=True, wrap=False)
    yield _low(57, "ADDR16_LO_DS", scaled=True)
    yield _low(63, "TOC16_DS", scaled=True, wrap=False, toc=True)
    yield _low(64, "TOC16_LO_DS", scaled=True, toc=True)
    yield _hint(109, "TOCSAVE")
    yield _high(110, "ADDR16_HIGH", 16, wrap)
    yield _high(111, "ADDR16_HIGHA", 16, wrap, rounded=True)
    yield _branch(116, "REL24_NOTOC", 24, relative=True, call=True, toc=False)
    yield _hint(118, "ENTRY")
    yield _hint(123, "PCREL_OPT")
    yield _branch(124, "REL24_P9NOTOC", 24, relative=True, call=True, toc=False)
    yield _prefixed(128, "D34", relative=False)
    yield _prefixed(132, "PCREL34", relative=True)
    yield _prefixed(133, "GOT_PCREL34", relative=True, slot=True)
    yield _high(240, "REL16_HIGH", 16, wrap, relative=True)
    yield _high(241, "REL16_HIGHA", 16, wrap, rounded=True, relative=True)
    yield _high(242, "REL16_HIGHER", 32, wrap, relative=True)
    yield _high(243, "REL16_HIGHERA", 32, wrap, rounded=True, relative=True)
    yield _high(244, "REL16_HIGHEST", 48, wrap, relative=True)
    yield _high(245, "REL16_HIGHESTA", 48, wrap, rounded=True, relative=True)
    yield _low(249, "REL16", wrap=False, relative=True)
    yield _low(250, "REL16_LO", relative=True)
    yield _high(251, "REL16_HI", 16, signed, relative=True)
    yield _high(252, "REL16_HA", 16, signed, rounded=True, relative=True)


HOWTOS = {row.type: row for row in _rows()}

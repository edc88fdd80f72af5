# SPDX-License-Identifier: Apache-2.0
"""Values that relocation records compute on a stack, as bits of one symbol's address.

LoongArch's first ABI pushes addresses and constants, combines them, and a last record pops the result into
an instruction. In: those operations, and the row that pops. Out: one ordinary row, its symbol and addend.
What assemblers write are branches, halves of a pc-relative address and quarters of an absolute one; any
other computation is not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from kdiff.arch import BitField, Howto, Overflow

Operation: TypeAlias = tuple[str, int, int]
"""What to do (`push`, `push pc`, `shift left`, `shift right`, `and`, `subtract`), symbol, addend."""

WORD = 64


class _Value(NamedTuple):
    """Bits `lsb` to `top` of symbol + addend (less the place where `relative`), moved up by `up` bits."""

    symbol: int
    addend: int
    relative: bool
    lsb: int = 0
    top: int = WORD
    up: int = 0


_Item: TypeAlias = "_Value | int"


def stored(pop: Howto, operations: Iterable[Operation]) -> tuple[Howto, int, int] | None:
    """The row, symbol and addend that equal the computation; None where there is none."""
    stack: list[_Item] = []
    for name, symbol, addend in operations:
        if name == "push" and not symbol:
            stack.append(addend)
        elif name in ("push", "push pc"):
            stack.append(_Value(symbol, addend, name == "push pc"))
        else:
            if len(stack) < 2:
                return None
            right, left = stack.pop(), stack.pop()
            combined = _combined(name, left, right)
            if combined is None:
                return None
            stack.append(combined)
    if len(stack) != 1 or isinstance(stack[0], int) or stack[0].up:
        return None
    value = stack[0]
    howto = _row(pop, value.relative, value.lsb, value.top)
    return howto, value.symbol, value.addend - howto.adjust


def _combined(name: str, left: _Item, right: _Item) -> _Value | None:
    if isinstance(left, int):
        return None
    if name == "subtract" and isinstance(right, _Value):
        return _low_part(left, right)
    if not isinstance(right, int) or not 0 <= right < 1 << WORD:
        return None
    if name == "shift left" and right < WORD and not left.up:
        return left._replace(top=min(left.top, left.lsb + WORD - right), up=right)
    if name == "shift right" and right < WORD:
        return left._replace(lsb=left.lsb + max(right - left.up, 0), up=max(left.up - right, 0))
    if name == "and" and not left.up and not right & (right + 1):
        return left._replace(top=min(left.top, left.lsb + right.bit_length()))
    return None


def _low_part(whole: _Value, rounded: _Value) -> _Value | None:
    """What is left of a value once it is rounded to a multiple of 2**up: a signed low part."""
    half = 1 << rounded.up >> 1
    wanted = whole._replace(addend=whole.addend + half, lsb=rounded.up, top=WORD, up=rounded.up)
    if whole.lsb or whole.up or not half or rounded != wanted:
        return None
    return whole._replace(top=rounded.up)


@lru_cache(maxsize=256)
def _row(pop: Howto, relative: bool, lsb: int, top: int) -> Howto:
    """The popping row for a value of which only some bits arrive."""
    fields = tuple(BitField(bits.field_lsb, bits.value_lsb + lsb, bits.width) for bits in pop.fields)
    return replace(
        pop,
        name=f"{pop.name}.{'relative' if relative else 'absolute'}.{lsb}.{top}",
        fields=fields,
        overflow=pop.overflow if top == WORD and (relative or not lsb) else Overflow.WRAP,
        pc_relative=relative,
        drops=lsb,
        adjust=1 << lsb >> 1 if relative else 0,
        bias=4 if relative and top < WORD else 0,
        stack="",
    )

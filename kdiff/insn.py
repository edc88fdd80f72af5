# SPDX-License-Identifier: Apache-2.0
"""Instruction boundaries, and instructions as text.

In: an `Architecture` and bytes of code. Out: `Instruction`s, or lines for a person. Bytes that decode to
nothing become one-byte instructions that are not `known`, so the result always covers the code gap by gap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import NamedTuple, cast

from kdiff.arch import Architecture, Howto
from kdiff.decoder import UNKNOWN, Texts, decoder


class Instruction(NamedTuple):
    """One instruction: `size` bytes at `offset` of the code. A tuple, because there are a million of them."""

    offset: int
    size: int
    known: bool = True
    """False for a byte that begins no instruction."""


_instruction = cast(Callable[[tuple[int, int, bool]], Instruction], partial(tuple.__new__, Instruction))
"""Instruction._make, which looks again at how many fields there are."""


def instructions(arch: Architecture, code: bytes) -> tuple[Instruction, ...]:
    """Cut `code` into instructions, without a gap."""
    if arch.capstone is None:
        return tuple([Instruction(at, size, text != UNKNOWN) for at, size, text, _ in _words(arch, code, 0)])
    found = list(map(_instruction, decoder(*arch.capstone).instructions(code)))
    end = found[-1].offset + found[-1].size if found else 0
    return (*found, *(Instruction(at, 1, False) for at in range(end, len(code))))


@lru_cache(maxsize=1 << 15)
def decoded(arch: Architecture, code: bytes) -> tuple[Instruction, ...]:
    """The same, kept for the next who asks."""
    return instructions(arch, code)


class Code:
    """The bytes of code, decoded only where a field's surroundings leave a doubt."""

    def __init__(self, arch: Architecture, data: bytes) -> None:
        self.arch, self.data = arch, data

    @cached_property
    def decoded(self) -> tuple[Instruction, ...]:
        return decoded(self.arch, self.data)

    @cached_property
    def _starts(self) -> list[int]:
        return [each.offset for each in self.decoded]

    def around(self, howto: Howto, field: int) -> tuple[int, bool]:
        """Where a field's instruction ends, and whether the field is a relative branch's displacement."""
        told = howto.around(self.data, field) if howto.around is not None else None
        return self._told(howto, field) if told is None else told

    def _told(self, howto: Howto, field: int) -> tuple[int, bool]:
        start, size, _ = self.decoded[bisect_right(self._starts, field) - 1]
        end = start + size
        if not howto.pc_relative:
            return end, False
        branch = self.arch.branch(self.data[start : max(end, field + howto.size)])
        return end, branch is not None and start + branch.field_offset == field


def boundaries(arch: Architecture, code: bytes) -> frozenset[int]:
    """The offsets at which an instruction begins."""
    return frozenset([each.offset for each in instructions(arch, code)])


def disassemble(arch: Architecture, code: bytes, address: int = 0) -> tuple[str, ...]:
    """One line for each instruction: address, bytes, text. `address` is that of the first byte."""
    return tuple(
        f"{at:x}: {code[at - address : at - address + size].hex(' '):<32} {mnemonic} {operands}".rstrip()
        for at, size, mnemonic, operands in _decoded(arch, code, address)
    )


def texts(arch: Architecture, code: bytes) -> tuple[tuple[int, int, str], ...]:
    """(offset, size, text) of each instruction; addresses in the text count from the start of `code`."""
    return tuple(
        (at, size, f"{name} {operands}".rstrip()) for at, size, name, operands in _decoded(arch, code, 0)
    )


def around(arch: Architecture, code: bytes, offset: int, address: int = 0, count: int = 3) -> tuple[str, ...]:
    """Lines for the instruction that holds `offset`, marked `>`, and `count` on either side of it."""
    starts = [each.offset for each in instructions(arch, code)]
    middle = max(bisect_right(starts, offset) - 1, 0)
    first = max(middle - count, 0)
    lines = disassemble(arch, code, address)[first : middle + count + 1]
    return tuple(f"{'>' if index == middle else ' '} {line}" for index, line in enumerate(lines, start=first))


def insn_addend(howto: Howto, field_offset: int, insn_end: int) -> int:
    """What an instruction's encoding adds to a reference: the (negative) way from its end back to the field.

    Both offsets count from the same place. Immediate operands behind the field are why this must be
    decoded: x86 has -4, -5 (`cmpb $1, flag(%rip)`) and -8 (`movl $5, counter(%rip)`).
    """
    return field_offset - insn_end if howto.end_relative else howto.bias


def _decoded(arch: Architecture, code: bytes, address: int) -> Texts:
    """(address, size, mnemonic, operands); words as data where capstone lacks the architecture."""
    if arch.capstone is None:
        return _words(arch, code, address)
    found = decoder(*arch.capstone).texts(code, address)
    end = found[-1][0] + found[-1][1] - address if found else 0
    return [*found, *_bytes(code, address, end)]


def _words(arch: Architecture, code: bytes, address: int) -> Texts:
    step = arch.instruction_size
    words = len(code) // step * step
    whole = [
        (address + at, step, ".word", f"{int.from_bytes(code[at : at + step], arch.byte_order):#010x}")
        for at in range(0, words, step)
    ]
    return [*whole, *_bytes(code, address, words)]


def _bytes(code: bytes, address: int, start: int) -> Texts:
    """Bytes from `start` on, which nobody decodes."""
    return [(address + at, 1, UNKNOWN, f"{code[at]:#04x}") for at in range(start, len(code))]

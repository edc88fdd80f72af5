# SPDX-License-Identifier: Apache-2.0
"""What the engine needs to know of an instruction set, as data.

A `Howto` is one relocation type: how a value is stored in a field, and therefore also how the value is
read back. The same row serves the writer, the matcher and the range check, so they cannot disagree.
An `Architecture` is a table of howtos and a few small functions; a plugin provides it and the engine
never asks which one it has. Facts about a relocation type that is not in the table are never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class BitField:
    """A run of bits: bit `value_lsb` of the value is stored at bit `field_lsb` of the container."""

    field_lsb: int
    value_lsb: int
    width: int

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.field_lsb


class Overflow(Enum):
    """Which values fit a field: the psABI's checks for a relocation type."""

    SIGNED = "signed"
    UNSIGNED = "unsigned"
    WRAP = "wrap"
    """The field takes the value modulo its width (full-width words)."""


@dataclass(frozen=True, slots=True)
class Howto:
    """How one relocation type stores a value.

    `value = destination + addend` (minus the address of the field where `pc_relative`), its bits spread
    over `fields` of a container of `size` bytes. Where `end_relative`, the processor counts from the end
    of the instruction, so the compiler's addend contains the distance from the field to that end.
    """

    type: int
    name: str
    size: int
    fields: tuple[BitField, ...]
    overflow: Overflow
    pc_relative: bool = False
    end_relative: bool = False

    @property
    def mask(self) -> int:
        """The container's bits that belong to the field."""
        mask = 0
        for bits in self.fields:
            mask |= bits.mask
        return mask

    @property
    def span(self) -> int:
        """The number of value bits that are stored, counted from bit 0 of the value."""
        return max((bits.value_lsb + bits.width for bits in self.fields), default=0)

    def insert(self, container: bytes, value: int, order: ByteOrder) -> bytes:
        """Return `container` (exactly `size` bytes) with `value` stored; OverflowError if it does not fit."""
        if self.extract(self._store(container, value, order), order) != self._canonical(value):
            raise OverflowError(f"{self.name} cannot hold {value:#x}")
        return self._store(container, value, order)

    def extract(self, container: bytes, order: ByteOrder) -> int:
        """Read the value back from `container`; the inverse of `insert`."""
        word = int.from_bytes(container, order)
        value = 0
        for bits in self.fields:
            value |= ((word & bits.mask) >> bits.field_lsb) << bits.value_lsb
        if self.overflow is not Overflow.UNSIGNED and value >> (self.span - 1) & 1:
            value -= 1 << self.span
        return value

    def _store(self, container: bytes, value: int, order: ByteOrder) -> bytes:
        word = int.from_bytes(container, order) & ~self.mask
        for bits in self.fields:
            word |= ((value >> bits.value_lsb) & ((1 << bits.width) - 1)) << bits.field_lsb
        return word.to_bytes(self.size, order)

    def _canonical(self, value: int) -> int:
        if self.overflow is Overflow.WRAP:
            value &= (1 << self.span) - 1
            if value >> (self.span - 1) & 1:
                value -= 1 << self.span
        return value


@dataclass(frozen=True, slots=True)
class Branch:
    """A relative branch as its architecture encodes it, freed of the width of its displacement.

    `operation` is equal for all encodings of one meaning (x86: the short and the near form of `jne`).
    The displacement counts from `length` bytes behind the start of the instruction.
    """

    operation: str
    length: int
    displacement: int
    field_offset: int
    field_size: int
    call: bool
    falls_through: bool


class Architecture(Protocol):
    """One instruction set and its psABI. Satisfied structurally; frozen, compared by identity."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """The kernel's UTS machine name: `x86_64`."""

    @property
    def elf_machine(self) -> int: ...

    @property
    def elf_class(self) -> Literal[32, 64]: ...

    @property
    def byte_order(self) -> ByteOrder: ...

    @property
    def howtos(self) -> Mapping[int, Howto]: ...

    @property
    def absolute_word(self) -> int:
        """The relocation type of a pointer-sized absolute field."""

    @property
    def capstone(self) -> tuple[str, tuple[str, ...]]:
        """Names of capstone's architecture and mode constants: `("CS_ARCH_X86", ("CS_MODE_64",))`."""

    @property
    def nops(self) -> tuple[bytes, ...]:
        """Every encoding of "do nothing" that compiler, assembler or kernel pads with, longest first."""

    @property
    def padding(self) -> frozenset[int]:
        """Byte values the linker may leave between functions."""

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""

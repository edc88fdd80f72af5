# SPDX-License-Identifier: Apache-2.0
"""What the engine needs to know of an instruction set, as data.

A `Howto` is one relocation type: how a value is stored in a field, and therefore also how the value is
read back. The same row serves the writer, the matcher and the range check, so they cannot disagree.
An `Architecture` is a table of howtos and a few small functions; a plugin provides it and the engine
never asks which one it has. Facts about a relocation type that is not in the table are never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from enum import Enum
from typing import Literal, Protocol, TypeAlias

from kdiff.values import dataclass

_WORD = re.compile(r"[%\w]+")
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
    EITHER = "either"
    """From -2**(n-1) up to 2**n - 1: what is stored does not tell which of two values was meant."""
    WRAP = "wrap"
    """The field takes the value modulo its width (full-width words)."""


@dataclass(frozen=True, slots=True)
class Howto:
    """How one relocation type stores a value.

    `value = destination + addend` (minus the address of the field where `pc_relative`), its bits spread
    over `fields` of a container of `size` bytes. Where `end_relative`, the processor counts from the end
    of the instruction, so the compiler's addend contains the distance from the field to that end; where it
    counts from a fixed distance, the addend contains `bias` (ARM's branches: -8).

    A field that stores a value's high part only throws its `drops` low bits away, after `adjust` was added
    to make up for a low part that is sign-extended (`@ha`, `%hi`). `paged`: the low bits of destination and
    place are dropped before the one is subtracted from the other (aarch64 `adrp`), not after.

    `flips`: the container's bits that are stored inverted, for values from 0 on and for negative ones
    (aarch64 turns `movz` into `movn` and stores the complement).

    `signed_low`: the value's so many low bits are stored as a signed part, and the bits above it make up for
    its sign (the two halves of riscv's `call`).

    `slot`: the field reaches a pointer, made by the linker, to the destination (GOT). `base`: the value
    counts from this symbol (`.TOC.`). `entry`: bytes from a function's address to where this kind of call
    enters it, by the st_other of its symbol.

    Some types mean something together only (kdiff.compound): `partner` is the type of a second record at the
    same place, a row that `subtracts` its symbol. `labelled`: the record's symbol is the place of the record
    that stores the high part; that one's target is meant, and values count from there. `uleb128`: the field
    is as long as its contents say. `stack`: an operation of a stack machine whose last record stores.
    `call_only`: jumps through the field must not leave their module, since only the instruction behind a
    call brings back a register that code of another module changes.

    `around`: for code and the offset of such a field in it, where the field's instruction ends and whether
    the field is the displacement of a relative branch; None where the bytes in front of the field leave a
    doubt. Without it, or in doubt, the code is decoded.

    A row without size stores nothing: it is a hint to the linker.
    """

    type: int
    name: str
    size: int
    fields: tuple[BitField, ...]
    overflow: Overflow
    pc_relative: bool = False
    end_relative: bool = False
    bias: int = 0
    drops: int = 0
    adjust: int = 0
    paged: bool = False
    flips: tuple[int, int] = (0, 0)
    signed_low: int = 0
    slot: bool = False
    base: str = ""
    entry: Callable[[int], int] | None = None
    partner: int | None = None
    subtracts: bool = False
    labelled: bool = False
    uleb128: bool = False
    stack: str = ""
    call_only: bool = False
    around: Callable[[bytes, int], tuple[int, bool] | None] | None = field(
        default=None, repr=False, compare=False
    )
    mask: int = field(init=False, repr=False, compare=False)
    """The container's bits that belong to the field."""
    span: int = field(init=False, repr=False, compare=False)
    """The number of value bits that are stored, counted from bit 0 of the value."""
    plain: bool = field(init=False, repr=False, compare=False)
    """The container is the value, as a number of its size."""
    complete: bool = field(init=False, repr=False, compare=False)
    """Whether the field and its place determine the destination, and not only some of its bits.

    False for high parts, for low parts that wrap, where two values store alike, for slots, for values that
    count from a symbol, and where nothing is stored. Such a field can be checked against a destination that
    is known, but none can be learned from it.
    """

    invertible: bool = field(init=False, repr=False, compare=False)
    """Whether a field's value, its place and the addend determine the destination."""
    alone: bool = field(init=False, repr=False, compare=False)
    """Whether a record of this type stores something, and says by itself what."""

    def __post_init__(self) -> None:
        """Compute once what is asked for each of a kernel's million fields."""
        mask = 0
        for bits in self.fields:
            mask |= bits.mask
        span = max((bits.value_lsb + bits.width for bits in self.fields), default=0)
        single = self.fields == (BitField(0, 0, 8 * self.size),)
        whole = self.overflow in (Overflow.SIGNED, Overflow.UNSIGNED)
        whole = whole or (self.overflow is Overflow.WRAP and span == 8 * self.size >= 32)
        known = bool(self.fields) and not self.drops and not self.slot and not self.base
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "span", span)
        object.__setattr__(self, "plain", single and not any(self.flips) and not self.signed_low)
        object.__setattr__(self, "complete", known and whole)
        together = self.partner is not None or self.subtracts or self.labelled or self.uleb128 or self.stack
        object.__setattr__(self, "alone", self.size > 0 and not together)
        moved = self.slot or self.base or self.entry is not None
        object.__setattr__(self, "invertible", known and whole and not together and not moved)

    @property
    def shape(self) -> Howto:
        """The row without its names: equal for types that store alike."""
        return replace(self, type=0, name="", overflow=Overflow.WRAP, entry=None, call_only=False)

    def value(self, destination: int, place: int, bits: int) -> int:
        """What a field at `place` stores to reach `destination` (S + A, instruction's share included).

        Computed modulo the size of a pointer in `bits`, and signed where the field is or may be.
        """
        destination += self.adjust
        low = (1 << self.drops) - 1
        if self.pc_relative:
            destination -= place & ~low if self.paged else place
        value = destination & ~low & ((1 << bits) - 1)
        negative = self.overflow in (Overflow.SIGNED, Overflow.EITHER) and value >> (bits - 1)
        return value - (1 << bits) if negative else value

    def addend(self, container: bytes, order: ByteOrder) -> int:
        """The addend that a REL record leaves in the field: unscaled where the field drops low bits."""
        return self.extract(container, order) >> self.drops

    def insert(self, container: bytes, value: int, order: ByteOrder) -> bytes:
        """Return `container` (exactly `size` bytes) with `value` stored; OverflowError if it does not fit."""
        if self.extract(self._store(container, value, order), order) != self._canonical(value):
            raise OverflowError(f"{self.name} cannot hold {value:#x}")
        return self._store(container, value, order)

    def extract(self, container: bytes, order: ByteOrder) -> int:
        """Read the value back from `container`; the inverse of `insert`."""
        if self.plain:
            return int.from_bytes(container, order, signed=self.overflow is not Overflow.UNSIGNED)
        word = int.from_bytes(container, order)
        value = self._gather(word ^ self.flips[1])
        return value if value < 0 or not any(self.flips) else self._gather(word ^ self.flips[0])

    def _gather(self, word: int) -> int:
        value = 0
        for bits in self.fields:
            value |= ((word & bits.mask) >> bits.field_lsb) << bits.value_lsb
        borrow = 1 << self.signed_low if self.signed_low and value >> (self.signed_low - 1) & 1 else 0
        if self.overflow is not Overflow.UNSIGNED and value >> (self.span - 1) & 1:
            value -= 1 << self.span
        return value - borrow

    def _store(self, container: bytes, value: int, order: ByteOrder) -> bytes:
        word = int.from_bytes(container, order) & ~self.mask
        above = value + (1 << self.signed_low >> 1)
        for bits in self.fields:
            part = above if bits.value_lsb >= self.signed_low else value
            word |= ((part >> bits.value_lsb) & ((1 << bits.width) - 1)) << bits.field_lsb
        word ^= self.flips[value < 0]
        return word.to_bytes(self.size, order)

    def _canonical(self, value: int) -> int:
        """The value as `extract` reads it, where the field can hold it."""
        top = 1 << self.span
        if self.overflow is Overflow.WRAP:
            value &= top - 1
        if self.overflow in (Overflow.WRAP, Overflow.EITHER) and top >> 1 <= value < top:
            value -= top
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


@dataclass(frozen=True, slots=True)
class ConstantLoad:
    """An instruction that puts a small constant into a register which may hold an argument of a call.

    It is `size` bytes, as a number in the architecture's byte order, of which the bits in `mask` are `match`.
    The register's number is `base` plus the bits of `register` (lowest bit, width), the constant in `fields`.
    With `source`, the same of a register that the constant is added to; without `fields` it is copied.
    """

    size: int
    mask: int
    match: int
    register: tuple[int, int]
    fields: tuple[BitField, ...]
    signed: bool = False
    base: int = 0
    source: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """A register that holds an argument, or keeps one for later.

    `register` is its number as in `ConstantLoad`, `names` are all its names in disassembly. Where there is
    no disassembly, `fields` are the places of register numbers in an instruction, by the instructions that
    have one there: (mask, match, lowest bit, width).
    """

    register: int
    names: frozenset[str] = frozenset()
    fields: tuple[tuple[int, int, int, int], ...] = ()

    def is_in(self, code: bytes, order: ByteOrder, text: str) -> bool:
        """Whether an instruction, spelled as `text`, has this register among its operands."""
        word = int.from_bytes(code, order)
        return not self.names.isdisjoint(_WORD.findall(text)) or any(
            word & mask == match and word >> lowest & (1 << width) - 1 == self.register
            for mask, match, lowest, width in self.fields
        )


@dataclass(frozen=True, slots=True)
class Root:
    """The physical address of the top one of `levels` page tables.

    `encrypted`: bits of an entry that belong to memory encryption and not to the address.
    """

    address: int
    levels: int
    encrypted: int = 0


@dataclass(frozen=True, slots=True)
class PageTables:
    """A radix tree of 64-bit little-endian entries.

    `image` is where the kernel's own code and data may lie, from the first address up to the one behind;
    `modules` where those of modules may. `roots` tells where the kernel's tables may be while a processor has
    these values in `registers`, in their order; nowhere if they are not in use. QEMU's note of a processor in
    a dump has them at the offsets `noted`, eight bytes each. `told` is the same by VMCOREINFO, whose lines it
    asks for by name and numerical base.
    """

    bits: int
    """Address bits that one table resolves."""
    page: int
    """Address bits within a page."""
    present: int
    """Bits of an entry that must all be set."""
    large: int
    """Bits that make an entry of a level above 0 a page."""
    large_levels: int
    """The highest level at which an entry can be a page; the lowest level is 0."""
    address: int
    """Bits of an entry that are a physical address."""
    image: tuple[int, int]
    modules: tuple[int, int]
    registers: tuple[str, ...]
    roots: Callable[..., tuple[Root, ...]]
    noted: tuple[int, ...]
    told: Callable[[Callable[[str, int], int | None]], tuple[Root, ...]]


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
    def capstone(self) -> tuple[str, tuple[str, ...]] | None:
        """Names of capstone's architecture and mode constants: `("CS_ARCH_X86", ("CS_MODE_64",))`.

        None where capstone lacks the architecture and all instructions have `instruction_size` bytes.
        """

    @property
    def instruction_size(self) -> int:
        """Bytes of every instruction; 0 where they vary."""

    @property
    def nops(self) -> tuple[bytes, ...]:
        """Every encoding of "do nothing" that compiler, assembler or kernel pads with, longest first."""

    @property
    def padding(self) -> frozenset[int]:
        """Byte values the linker may leave between functions."""

    @property
    def mapping_symbols(self) -> tuple[str, ...]:
        """How the names begin of symbols that only tell code from data (`$x`, `$d`); they name no node."""

    @property
    def pools(self) -> tuple[str, ...]:
        """Sections in which the compiler keeps addresses for code to load, a word for each (`.toc`)."""

    @property
    def branches(self) -> tuple[int, ...]:
        """The relocation types of relative branches, the one to be preferred first."""

    @property
    def constants(self) -> tuple[ConstantLoad, ...]:
        """How compilers load the small constants that are arguments; none where those go to the stack."""

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The registers for the first arguments of a call, in order."""

    @property
    def saved(self) -> tuple[Argument, ...]:
        """Registers that a call leaves alone and from which compilers move constants into arguments."""

    @property
    def page_tables(self) -> PageTables | None:
        """How the kernel's page tables lie; None where memory is never seen through them."""

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""


Architectures: TypeAlias = tuple[Architecture, ...]
"""Those of all plugins."""


def architecture_of(known: Architectures, machine: int, order: ByteOrder) -> Architecture | None:
    """The one of an ELF machine and byte order; None if no plugin has it."""
    return next((each for each in known if (each.elf_machine, each.byte_order) == (machine, order)), None)

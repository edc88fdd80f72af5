# SPDX-License-Identifier: Apache-2.0
"""m68k, big endian: relocation types, relative branches, no-ops.

The rows follow the System V ABI, Motorola 68000 Processor Family Supplement, chapter 4, "Relocation". RELA
only. The kernel is not position-independent and loads modules with types 32 and PC32 alone
(arch/m68k/kernel/module.c), so those that need a global offset table or a PLT have no row.

A displacement counts from two bytes behind the start of its instruction (M68000 Family Programmer's Reference
Manual, section 4, "Bcc"). Those of 16 and 32 bits lie there themselves; one of 8 bits is the byte in front,
so that its addend contains -1, the row's `bias`. gas resolves that one and leaves no record of it, but code
that shares its section with other functions has it.

`nop` is the one no-op. Functions begin at any even address; the linker and gas fill with zeros.
Tables of `switch` lie in the code without symbols that tell them apart, and are decoded as instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff.api import (
    Architecture,
    Argument,
    BitField,
    Branch,
    ByteOrder,
    ConstantLoad,
    Howto,
    Overflow,
    PageTables,
    hookimpl,
)
from kdiff_arch_m68k.branches import branch

R_68K_32, R_68K_PC32, R_68K_PC16, R_68K_PC8 = 1, 4, 5, 6


def _row(type: int, name: str, bits: int, overflow: Overflow, relative: bool = False, bias: int = 0) -> Howto:
    fields = (BitField(0, 0, bits),) if bits else ()
    return Howto(type, f"R_68K_{name}", bits // 8, fields, overflow, relative, bias=bias)


HOWTOS = {
    row.type: row
    for row in (
        _row(0, "NONE", 0, Overflow.UNSIGNED),
        _row(R_68K_32, "32", 32, Overflow.WRAP),
        _row(2, "16", 16, Overflow.EITHER),
        _row(3, "8", 8, Overflow.EITHER),
        _row(R_68K_PC32, "PC32", 32, Overflow.WRAP, True),
        _row(R_68K_PC16, "PC16", 16, Overflow.SIGNED, True),
        _row(R_68K_PC8, "PC8", 8, Overflow.SIGNED, True, bias=-1),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class M68k:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "m68k"
    elf_machine: int = 4
    elf_class: Literal[32, 64] = 32
    byte_order: ByteOrder = "big"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_68K_32
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_M68K", ("CS_MODE_BIG_ENDIAN", "CS_MODE_M68K_040"))
    instruction_size: int = 0
    nops: tuple[bytes, ...] = (bytes.fromhex("4e71"),)
    padding: frozenset[int] = frozenset({0})
    mapping_symbols: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (R_68K_PC32, R_68K_PC16, R_68K_PC8)
    constants: tuple[ConstantLoad, ...] = ()
    """Arguments go to the stack."""
    arguments: tuple[Argument, ...] = ()
    saved: tuple[Argument, ...] = ()
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code)


ARCHITECTURE = M68k()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide m68k."""
    return (ARCHITECTURE,)

# SPDX-License-Identifier: Apache-2.0
"""x86-64: relocation types, relative branches, no-ops.

The relocation rows follow the System V psABI for AMD64 (x86-64-ABI 1.0, section 4.4, table 4.9): S + A, or
S + A - P for pc-relative types; RELA only, so the field in the file is zero and a row may ignore it. Which
types a kernel object can have is what the kernel's module loader applies (arch/x86/kernel/module.c: NONE,
64, 32, 32S, PC32, PLT32, PC64) and what its boot image's relocs tool accepts besides (16, PC16, 8, PC8 of
real-mode code). The kernel has no PLT, so PLT32 is PC32. It has no global offset table either: the GOT
types reach a slot and not the symbol, so they have no row and are an error where they appear.

The processor counts a pc-relative displacement from the end of the instruction, the relocation from the
field. The compiler bridges the two in the addend: -4 where the field ends the instruction, -5 and -8 where
an immediate operand follows it. `end_relative` says so.

No-ops are what the kernel writes over instructions (arch/x86/include/asm/nops.h: 1 to 8 bytes; before 5.13
also the prefixed K8 forms), the poisoned `endbr64` (arch/x86/include/asm/ibt.h), and what gas and LLVM align
with. The linker fills .text with 0xcc (arch/x86/kernel/vmlinux.lds.S: `:text =0xcccc`); gas fills with 0x90.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff_x86.branches import branch
from kdiff_x86.nops import nops

from kdiff.api import Architecture, Argument, Branch, ByteOrder, ConstantLoad, Howto, PageTables, hookimpl
from kdiff_arch_x86_64.constants import ARGUMENTS, CONSTANTS
from kdiff_arch_x86_64.paging import PAGE_TABLES
from kdiff_arch_x86_64.relocations import HOWTOS, R_X86_64_64


@dataclass(frozen=True, slots=True, eq=False)
class X86_64:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "x86_64"
    elf_machine: int = 62
    elf_class: Literal[32, 64] = 64
    byte_order: ByteOrder = "little"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_X86_64_64
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_X86", ("CS_MODE_64",))
    nops: tuple[bytes, ...] = nops()
    padding: frozenset[int] = frozenset({0xCC, 0x90})
    mapping_symbols: tuple[str, ...] = ()
    instruction_size: int = 0
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (4, 15)
    """PLT32 and PC8."""
    constants: tuple[ConstantLoad, ...] = CONSTANTS
    arguments: tuple[Argument, ...] = ARGUMENTS
    saved: tuple[Argument, ...] = ()
    page_tables: PageTables | None = PAGE_TABLES

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code, "jrcxz")


ARCHITECTURE = X86_64()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide x86-64."""
    return (ARCHITECTURE,)

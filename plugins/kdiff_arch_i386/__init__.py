# SPDX-License-Identifier: Apache-2.0
"""i386: relocation types, relative branches, no-ops.

The relocation rows follow the System V psABI for the Intel386 architecture (version 1.1, section "Relocation
Types"): S + A, or S + A - P for pc-relative types. Objects are REL: the addend lies in the field. A word
wraps, because the address space does. Which types a kernel object can have is what the module loader applies
(arch/x86/kernel/module.c: 32, PC32, PLT32) and what the boot image's relocs tool accepts besides (16, PC16,
8, PC8 of real-mode code). The kernel has no PLT, so PLT32 is PC32. It is compiled without PIC: types that
reach the global offset table have no row and are an error where they appear.

The processor counts a displacement from the end of the instruction, the relocation from the field: the addend
of a call is -4 and `end_relative` says so. Only branches are pc-relative; other operands are absolute.

No-ops are what the kernel writes over instructions (arch/x86/include/asm/nops.h, 32-bit part; before 5.13
also the K7 forms), and what gas and LLVM align with. All of them leave registers as they are, which the `lea`
forms do in 32-bit code only. The linker fills .text with 0xcc, gas with 0x90.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff_x86.branches import branch

from kdiff.api import (
    Architecture,
    Argument,
    BitField,
    Branch,
    ByteOrder,
    ConstantLoad,
    Howto,
    PageTables,
    hookimpl,
)
from kdiff_arch_i386.nops import NOPS
from kdiff_arch_i386.relocations import HOWTOS, R_386_32


@dataclass(frozen=True, slots=True, eq=False)
class I386:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "i386"
    elf_machine: int = 3
    elf_class: Literal[32, 64] = 32
    byte_order: ByteOrder = "little"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_386_32
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_X86", ("CS_MODE_32",))
    nops: tuple[bytes, ...] = NOPS
    padding: frozenset[int] = frozenset({0xCC, 0x90})
    mapping_symbols: tuple[str, ...] = ()
    instruction_size: int = 0
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (4, 23)
    """PLT32 and PC8."""
    constants: tuple[ConstantLoad, ...] = (ConstantLoad(5, 0xF8, 0xB8, (0, 3), (BitField(8, 0, 32),)),)
    arguments: tuple[Argument, ...] = (
        Argument(0, frozenset(("eax", "ax", "al", "ah"))),
        Argument(2, frozenset(("edx", "dx", "dl", "dh"))),
        Argument(1, frozenset(("ecx", "cx", "cl", "ch"))),
    )
    """The kernel is built with -mregparm=3: eax, edx, ecx."""
    saved: tuple[Argument, ...] = ()
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code, "jecxz")


ARCHITECTURE = I386()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide i386."""
    return (ARCHITECTURE,)

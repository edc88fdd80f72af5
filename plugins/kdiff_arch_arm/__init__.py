# SPDX-License-Identifier: Apache-2.0
"""arm (A32, little-endian, EABI): relocation types, relative branches, no-ops.

The relocation rows follow the ELF for the Arm Architecture (AAELF32, section "Relocation"). Objects are REL:
the addend lies in the field. For `movw` and `movt` it is the 16-bit literal, sign-extended and not shifted,
the same in both halves of a pair (section "Addends and PC-bias"). A branch has the pipeline's -8 in its
addend. Which types a kernel object can have is what the module loader applies (arch/arm/kernel/module.c), and
8-bit and 16-bit data. TARGET1 is ABS32 on Linux; V4BX marks a `bx` for processors without one, and stores
nothing.

Two kinds have no row and are an error where they appear. The group relocations (ALU_PC_G0_NC, ALU_PC_G1_NC,
LDR_PC_G2), which hand-written sequences have (entry-armv.S; per-CPU accesses of kernels that run on ARMv6
too), store a rotation and not bits of the value. The Thumb types belong to a kernel with
CONFIG_THUMB2_KERNEL: its functions have addresses with bit 0 set, and instructions of two sizes;
distributions do not build one.

Each instruction has 4 bytes. No-ops are the hint of ARMv6K and later and `mov r0, r0` before; gas aligns with
either, the kernel writes either. The linker fills gaps in code with zeros. Mapping symbols (section "Mapping
symbols"): `$a` begins code, `$d` begins data (literal pools), `$t` Thumb code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff.api import Architecture, Argument, Branch, ByteOrder, ConstantLoad, Howto, PageTables, hookimpl
from kdiff_arch_arm.branches import branch
from kdiff_arch_arm.constants import ARGUMENTS, CONSTANTS
from kdiff_arch_arm.relocations import HOWTOS, R_ARM_ABS32

_NOP = bytes.fromhex("00f020e3")
_MOV_R0_R0 = bytes.fromhex("0000a0e1")


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "arm"
    elf_machine: int = 40
    elf_class: Literal[32, 64] = 32
    byte_order: ByteOrder = "little"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_ARM_ABS32
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_ARM", ("CS_MODE_ARM", "CS_MODE_V8"))
    nops: tuple[bytes, ...] = (_NOP, _MOV_R0_R0)
    padding: frozenset[int] = frozenset({0})
    mapping_symbols: tuple[str, ...] = ("$a", "$d", "$t")
    instruction_size: int = 0
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (29,)
    """JUMP24."""
    constants: tuple[ConstantLoad, ...] = CONSTANTS
    arguments: tuple[Argument, ...] = ARGUMENTS
    saved: tuple[Argument, ...] = ()
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code)


ARCHITECTURE = Arm()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide arm."""
    return (ARCHITECTURE,)

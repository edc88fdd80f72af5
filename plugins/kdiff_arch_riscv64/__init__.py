# SPDX-License-Identifier: Apache-2.0
"""64-bit RISC-V: relocation types, relative branches, no-ops.

The rows follow the RISC-V ABIs Specification (RISC-V International, version 1.0 and its later additions:
riscv-elf.adoc, "Relocations"). RELA only.

High and low parts. An address takes two instructions: 20 high bits, then 12 low ones that the processor
sign-extends, for which the high part makes up (0x800 is added before the low bits are dropped). Relative to
the pc the low part counts from the instruction with the high one as well: the symbol of a PCREL_LO12 record
is a label at that instruction, and what it reaches is in the record there (`labelled`). CALL and CALL_PLT are
both halves at once, in eight bytes. GOT_HI20 reaches a pointer that the linker makes.

Sums. Distances are pairs of records of one place, ADDn or SETn with one symbol and SUBn with the other. A
distance to the field itself (`.long target - .`) is such a pair too, with a label at the field.

Relaxation. RELAX tells the linker that it may shorten the instruction, ALIGN that it must choose the number
of no-ops at its place. While they may move code, assemblers leave every branch to a label and every label in
the object: `.L` symbols name nothing here. The kernel compiles modules with -mno-relax and links itself with
--no-relax where it must find its own code again (arch/riscv/Makefile), so lengths are those of the object,
but for the no-ops that ALIGN takes away. Its module loader applies what has a row here
(arch/riscv/kernel/module.c). Thread-local storage has no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff.api import Architecture, Argument, Branch, ByteOrder, ConstantLoad, Howto, PageTables, hookimpl
from kdiff_arch_riscv64.branches import branch
from kdiff_arch_riscv64.constants import ARGUMENTS, CONSTANTS, SAVED
from kdiff_arch_riscv64.relocations import HOWTOS, R_RISCV_64


@dataclass(frozen=True, slots=True, eq=False)
class Riscv64:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "riscv64"
    elf_machine: int = 243
    elf_class: Literal[32, 64] = 64
    byte_order: ByteOrder = "little"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_RISCV_64
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_RISCV", ("CS_MODE_RISCV64", "CS_MODE_RISCVC"))
    nops: tuple[bytes, ...] = (bytes.fromhex("13000000"), bytes.fromhex("0100"))
    padding: frozenset[int] = frozenset({0})
    mapping_symbols: tuple[str, ...] = ("$x", "$d", ".L")
    instruction_size: int = 0
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (17, 16, 45, 44)
    """JAL, BRANCH, RVC_JUMP, RVC_BRANCH."""
    constants: tuple[ConstantLoad, ...] = CONSTANTS
    arguments: tuple[Argument, ...] = ARGUMENTS
    saved: tuple[Argument, ...] = SAVED
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code)


ARCHITECTURE = Riscv64()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide riscv64."""
    return (ARCHITECTURE,)

# SPDX-License-Identifier: Apache-2.0
"""64-bit LoongArch: relocation types, relative branches, no-ops.

The rows follow the ELF for the LoongArch Architecture specification (Loongson, version 2.30; the stack
machine: version 1.00). RELA only.

High and low parts. `pcalau12i` adds 20 high bits to the page of the pc (PCALA_HI20); the low part of 12 bits
is the destination's own (PCALA_LO12), and the processor sign-extends it, for which the high part makes up.
`lu12i.w` and `ori` need no such rounding, nor do the two upper quarters of an absolute address. The upper
quarters of a page-relative address (PCALA64_*) depend on all bits below them and on an instruction before;
no compiler writes them for the kernel, and they have no row. GOT types reach a pointer that the linker makes.
CALL36 is two instructions, `pcaddu18i` and `jirl`.

Sums, as on RISC-V: ADDn and SUBn of one place. RELAX and ALIGN are hints; modules are compiled with
-mno-relax (arch/loongarch/Makefile). While code may move, labels stay in the object: `.L` symbols name
nothing here.

Stack machine. binutils up to 2.39 write SOP_PUSH_* of symbols and constants, operators, and SOP_POP_* of the
result into an instruction. What they compute are the same halves and quarters (kdiff.stackvalue). The
kernel's module loader applies both kinds (arch/loongarch/kernel/module.c).

Capstone 5 does not know the instruction set; every instruction has four bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff.api import Architecture, Argument, Branch, ByteOrder, ConstantLoad, Howto, PageTables, hookimpl
from kdiff_arch_loongarch64.branches import branch
from kdiff_arch_loongarch64.constants import ARGUMENTS, CONSTANTS
from kdiff_arch_loongarch64.relocations import HOWTOS, R_LARCH_64


@dataclass(frozen=True, slots=True, eq=False)
class Loongarch64:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "loongarch64"
    elf_machine: int = 258
    elf_class: Literal[32, 64] = 64
    byte_order: ByteOrder = "little"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_LARCH_64
    capstone: tuple[str, tuple[str, ...]] | None = None
    nops: tuple[bytes, ...] = ((0x03400000).to_bytes(4, "little"),)
    padding: frozenset[int] = frozenset({0})
    mapping_symbols: tuple[str, ...] = (".L",)
    instruction_size: int = 4
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (66, 65, 64)
    """B26, B21, B16."""
    constants: tuple[ConstantLoad, ...] = CONSTANTS
    arguments: tuple[Argument, ...] = ARGUMENTS
    saved: tuple[Argument, ...] = ()
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code)


ARCHITECTURE = Loongarch64()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide loongarch64."""
    return (ARCHITECTURE,)

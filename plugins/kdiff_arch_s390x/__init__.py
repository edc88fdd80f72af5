# SPDX-License-Identifier: Apache-2.0
"""s390x, big endian: relocation types, relative branches, no-ops.

The rows follow the ELF Application Binary Interface s390x Supplement (IBM, version 1.6.1, section 3.3, table
3.11). RELA only. Instructions are halfword-aligned, so types named DBL store half of the value; such a field
lies two bytes into its instruction (one and three for the two of `bprp`), while the processor counts from the
instruction: `bias` is that distance, which the compiler's addend contains.

The kernel has no PLT, so PLT types are their PC counterparts. GOTENT reaches a pointer that the linker makes
(`lgrl` of a symbol of another unit, where code is compiled position-independent); GNU ld turns the load into
`larl` where it can, which is another instruction. Types that count from the start of the global offset table
have no row: kernel code does not set up a register for it.

No-ops: what gas aligns with (`nopr %r7`), the kernel's `jgnop` (arch/s390/include/asm/ftrace.h) and the other
branches whose mask is never fulfilled. The linker fills .text with 0x0700 (arch/s390/kernel/vmlinux.lds.S).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff.api import Architecture, Argument, Branch, ByteOrder, ConstantLoad, Howto, PageTables, hookimpl
from kdiff_arch_s390x.branches import branch
from kdiff_arch_s390x.constants import ARGUMENTS, CONSTANTS
from kdiff_arch_s390x.relocations import HOWTOS, R_390_64


@dataclass(frozen=True, slots=True, eq=False)
class S390x:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "s390x"
    elf_machine: int = 22
    elf_class: Literal[32, 64] = 64
    byte_order: ByteOrder = "big"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_390_64
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_SYSZ", ("CS_MODE_BIG_ENDIAN",))
    nops: tuple[bytes, ...] = tuple(
        bytes.fromhex(each) for each in ("c00400000000", "47000000", "a7040000", "0700", "0707")
    )
    padding: frozenset[int] = frozenset({0x07, 0x00})
    mapping_symbols: tuple[str, ...] = ()
    instruction_size: int = 0
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (17, 19)
    """PC16DBL and PC32DBL."""
    constants: tuple[ConstantLoad, ...] = CONSTANTS
    arguments: tuple[Argument, ...] = ARGUMENTS
    saved: tuple[Argument, ...] = ()
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code)


ARCHITECTURE = S390x()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide s390x."""
    return (ARCHITECTURE,)

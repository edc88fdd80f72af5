# SPDX-License-Identifier: Apache-2.0
"""aarch64 (little-endian): relocation types, relative branches, no-ops.

The relocation rows follow the ELF for the Arm 64-bit Architecture (AAELF64), sections "Static miscellaneous
relocations" (type 256 is the withdrawn number of the null relocation), "Static Data relocations" and "Static
AArch64 relocations". RELA only. Which types a kernel object can have is what the module loader applies
(arch/arm64/kernel/module.c), and three GOT types: compilers load the address of a weak symbol that may stay
undefined from a slot, for which the kernel's image has a .got section (arch/arm64/kernel/vmlinux.lds.S). A
module cannot have them.

A reference to data is a pair: `adrp` has the distance between two 4 KiB pages, and `add` or a load has the
low 12 bits of the address, scaled by the size of the access. Neither half tells the address alone, so their
rows are not `complete`. An unaligned destination of a scaled load cannot be encoded and is an error. For
16-bit and 32-bit data the ABI allows each value that fits signed or unsigned; the module loader and ld take
relative ones as signed, and absolute ones are addresses and unsigned. The signed `movw` groups change their
instruction: `movz` becomes `movn` with the complement where the value is negative.

Each instruction has 4 bytes, and a displacement counts from the instruction itself. The only no-op is `hint
#0`: other hints (`bti`, `paciasp`) mean something. The linker fills gaps in code with zeros, which are `udf
#0`. Mapping symbols (section "Mapping symbols"): `$x` begins code, `$d` begins data, with or without a
suffix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff.api import Architecture, Argument, Branch, ByteOrder, ConstantLoad, Howto, PageTables, hookimpl
from kdiff_arch_aarch64.branches import branch
from kdiff_arch_aarch64.constants import ARGUMENTS, CONSTANTS, SAVED
from kdiff_arch_aarch64.relocations import HOWTOS, R_AARCH64_ABS64

_NOP = bytes.fromhex("1f2003d5")


@dataclass(frozen=True, slots=True, eq=False)
class Aarch64:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "aarch64"
    elf_machine: int = 183
    elf_class: Literal[32, 64] = 64
    byte_order: ByteOrder = "little"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_AARCH64_ABS64
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_ARM64", ("CS_MODE_ARM",))
    nops: tuple[bytes, ...] = (_NOP,)
    padding: frozenset[int] = frozenset({0})
    mapping_symbols: tuple[str, ...] = ("$x", "$d")
    instruction_size: int = 4
    pools: tuple[str, ...] = ()
    branches: tuple[int, ...] = (283, 280, 279)
    """CALL26, CONDBR19, TSTBR14."""
    constants: tuple[ConstantLoad, ...] = CONSTANTS
    arguments: tuple[Argument, ...] = ARGUMENTS
    saved: tuple[Argument, ...] = SAVED
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code)


ARCHITECTURE = Aarch64()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide aarch64."""
    return (ARCHITECTURE,)

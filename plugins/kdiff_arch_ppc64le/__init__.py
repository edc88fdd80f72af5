# SPDX-License-Identifier: Apache-2.0
"""Little-endian 64-bit Power: relocation types, relative branches, no-ops.

The rows follow the Power Architecture 64-Bit ELF V2 ABI (OpenPOWER, revision 1.5, section 3.5, relocation
types). RELA only. A field of an instruction has the address of the instruction, since the low half of a
little-endian word comes first.

TOC. Code reaches data through r2, which points into the module's table of contents: `@toc@ha` and `@toc@l`
count from the symbol `.TOC.`, and so do the rows with that `base`. gcc and clang write the addresses of
symbols of other units into the section .toc, a word for each. A function that needs r2 and can be called from
another module sets it up at its global entry, from its own address in r12 (`REL16_HA` and `REL16_LO` against
`.TOC.`).

Local entry. A function's own module calls it behind that set-up. How many bytes behind is in st_other of its
symbol (section 3.4.1), and `entry` says so for the types of calls. Where a call leaves the module
the linker or the module loader puts a stub between the two, and writes `ld r2,24(r1)` over the no-op behind
the call. The stub has saved r2 there, in the caller's frame. A jump at a function's end (a sibling call) has
neither a no-op nor a frame of its own: its stub would overwrite what the caller's caller saved, hence
`call_only`. The types without TOC need none of it.

Power10 code reaches everything relative to itself by prefixed instructions, eight bytes whose immediate has
18 bits in the first word and 16 in the second (PCREL34); GOT_PCREL34 reaches a pointer the linker makes.
The kernel's module loader applies what gcc and clang emit for it (arch/powerpc/kernel/module_64.c); its
assembly adds the quarters of absolute addresses. Thread-local storage, PLT sequences and the types that ask
the linker to predict a branch have no row, nor has TOC, the base as a word, which function descriptors of the
first ABI have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from kdiff.api import Architecture, Argument, Branch, ByteOrder, ConstantLoad, Howto, PageTables, hookimpl
from kdiff_arch_ppc64le.branches import branch
from kdiff_arch_ppc64le.constants import ARGUMENTS, CONSTANTS
from kdiff_arch_ppc64le.relocations import HOWTOS, R_PPC64_ADDR64

_NOPS = (
    0x60000000,  # ori 0,0,0
    0x60210000,  # ori 1,1,0: ends a dispatch group on POWER6
    0x60420000,  # ori 2,2,0: on POWER7
    0x68000000,  # xori 0,0,0
)
_PREFIXED_NOP = (0x07000000).to_bytes(4, "little") + bytes(4)


@dataclass(frozen=True, slots=True, eq=False)
class Ppc64le:
    """Satisfies `kdiff.api.Architecture`; there is one instance, compared by identity."""

    name: str = "ppc64le"
    elf_machine: int = 21
    elf_class: Literal[32, 64] = 64
    byte_order: ByteOrder = "little"
    howtos: Mapping[int, Howto] = field(default_factory=lambda: MappingProxyType(HOWTOS))
    absolute_word: int = R_PPC64_ADDR64
    capstone: tuple[str, tuple[str, ...]] = ("CS_ARCH_PPC", ("CS_MODE_64", "CS_MODE_LITTLE_ENDIAN"))
    nops: tuple[bytes, ...] = (_PREFIXED_NOP, *(nop.to_bytes(4, "little") for nop in _NOPS))
    padding: frozenset[int] = frozenset({0})
    mapping_symbols: tuple[str, ...] = ()
    instruction_size: int = 0
    pools: tuple[str, ...] = (".toc",)
    branches: tuple[int, ...] = (10, 11)
    """REL24 and REL14."""
    constants: tuple[ConstantLoad, ...] = CONSTANTS
    arguments: tuple[Argument, ...] = ARGUMENTS
    saved: tuple[Argument, ...] = ()
    page_tables: PageTables | None = None

    def branch(self, code: bytes) -> Branch | None:
        """Decode the instruction that `code` starts with if it is a relative branch."""
        return branch(code)


ARCHITECTURE = Ppc64le()


@hookimpl
def kdiff_architectures() -> Iterable[Architecture]:
    """Provide ppc64le."""
    return (ARCHITECTURE,)

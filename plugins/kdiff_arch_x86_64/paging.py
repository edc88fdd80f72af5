# SPDX-License-Identifier: Apache-2.0
"""Page tables.

Intel SDM volume 3, section 4.5. The windows, with KASLR: Documentation/arch/x86/x86_64/mm.rst of the kernel.
What VMCOREINFO says: Documentation/admin-guide/kdump/vmcoreinfo.rst. QEMU's note: struct QEMUCPUState of its
x86 target, with cr0 to cr4 behind version, size, 18 registers and 10 segments of 24 bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from kdiff.api import PageTables, Root

_ADDRESS = 0x000F_FFFF_FFFF_F000
_PAGING, _FIVE_LEVELS = 1 << 31, 1 << 12
"""Bits of cr0 and cr4."""
_USER = 0x1000
_IMAGE = 0xFFFF_FFFF_8000_0000
_CONTROL = 392


def roots(cr0: int, cr3: int, cr4: int) -> tuple[Root, ...]:
    """Where the kernel's tables may be while a processor has these control registers.

    While user code runs, page table isolation has it use the upper one of two tables that lie side by side.
    """
    if not cr0 & _PAGING:
        return ()
    levels = 5 if cr4 & _FIVE_LEVELS else 4
    table = cr3 & _ADDRESS
    return tuple(Root(address, levels) for address in dict.fromkeys((table & ~_USER, table)))


def told(number: Callable[[str, int], int | None]) -> tuple[Root, ...]:
    """Where they were by the lines of VMCOREINFO, if it has them."""
    table, base = number("SYMBOL(swapper_pg_dir)", 16), number("NUMBER(phys_base)", 10)
    if table is None or base is None:
        return ()
    levels = 5 if number("NUMBER(pgtable_l5_enabled)", 10) else 4
    physical = (table - _IMAGE + base) & (1 << 64) - 1
    return (Root(physical, levels, number("NUMBER(sme_mask)", 10) or 0),)


PAGE_TABLES = PageTables(
    bits=9,
    page=12,
    present=1,
    large=0x80,
    large_levels=2,
    address=_ADDRESS,
    image=(_IMAGE, 0xFFFF_FFFF_C000_0000),
    modules=(0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_FF00_0000),
    registers=("cr0", "cr3", "cr4"),
    roots=roots,
    noted=(_CONTROL, _CONTROL + 24, _CONTROL + 32),
    told=told,
)

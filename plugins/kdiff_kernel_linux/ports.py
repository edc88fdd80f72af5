# SPDX-License-Identifier: Apache-2.0
"""The special sections of architectures other than x86, one row per table.

What the kernel writes at the sites these tables name is not described yet, so they serve comparing only:
arch/*/include/asm/alternative*.h; powerpc's feature-fixups.h; s390's nospec-insn.h; arm's assembler.h,
pgtable and unwind tables (arch/arm/include/asm/memory.h, unwind.h, smp_plat.h).
"""

from __future__ import annotations

from kdiff.api import Keep, KernelFacts, SpecialSection
from kdiff_kernel_linux.layout import RELATIVE_WORD, first, size

_FIXUPS = ("__ftr_fixup", "__mmu_ftr_fixup", "__fw_ftr_fixup", "__lwsync_fixup")
"""`struct fixup_entry`: a mask and a value, then where the code and its replacement begin and end. The lwsync
table has the place alone."""

_WORDS = (
    *("__barrier_nospec_fixup", "__btb_flush_fixup", "__entry_flush_fixup", "__rfi_flush_fixup"),
    *("__scv_entry_flush_fixup", "__spec_barrier_fixup", "__stf_entry_barrier_fixup"),
    *("__stf_exit_barrier_fixup", "__uaccess_flush_fixup"),
)
"""powerpc's arrays of self-relative places, a long each (FTR_ENTRY_OFFSET)."""

_S390 = (".s390_indirect", ".s390_return", ".nospec_call_table", ".nospec_return_table")


def _alternatives(facts: KernelFacts) -> tuple[SpecialSection, ...]:
    return (
        SpecialSection(
            ".altinstructions",
            size(facts, "alt_instr"),
            Keep.OWNER,
            owner=first(facts, "alt_instr", "orig_offset", "instr_offset"),
            pieces=(".altinstr_replacement", ".altinstr_aux"),
            structure="alt_instr",
            fields=2,
        ),
    )


def _powerpc(facts: KernelFacts) -> tuple[SpecialSection, ...]:
    long = 8
    return (
        *(
            SpecialSection(
                name,
                size(facts, "fixup_entry"),
                Keep.OWNER,
                owner=2 * long,
                pieces=("__ftr_alt_",),
                structure="fixup_entry",
                fields=4,
            )
            for name in _FIXUPS[:3]
        ),
        *(SpecialSection(name, long, Keep.OWNER, owner=0) for name in (_FIXUPS[3], *_WORDS)),
    )


def _s390(facts: KernelFacts) -> tuple[SpecialSection, ...]:
    return (
        *_alternatives(facts),
        *(SpecialSection(name, RELATIVE_WORD, Keep.OWNER, owner=0, prefix=True) for name in _S390),
    )


def _riscv(facts: KernelFacts) -> tuple[SpecialSection, ...]:
    return (
        SpecialSection(
            ".alternative", size(facts, "alt_entry"), Keep.OWNER, owner=0, structure="alt_entry", fields=2
        ),
    )


def _arm(facts: KernelFacts) -> tuple[SpecialSection, ...]:
    return (
        SpecialSection(".alt.smp.init", 2 * RELATIVE_WORD, Keep.OWNER, owner=0),
        SpecialSection(".pv_table", RELATIVE_WORD, Keep.OWNER, owner=0),
        SpecialSection(".ARM.exidx", 2 * RELATIVE_WORD, Keep.OWNER, owner=0, prefix=True),
    )


_BY_MACHINE = {
    "ppc64le": _powerpc,
    "s390x": _s390,
    "aarch64": _alternatives,
    "loongarch64": _alternatives,
    "riscv64": _riscv,
    "arm": _arm,
}


def rows(facts: KernelFacts) -> tuple[SpecialSection, ...]:
    """The tables that only this machine has."""
    made = _BY_MACHINE.get(facts.machine)
    return made(facts) if made is not None else ()

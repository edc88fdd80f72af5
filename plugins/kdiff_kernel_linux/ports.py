# SPDX-License-Identifier: Apache-2.0
"""The special sections of architectures other than x86, one row per table.

What the kernel writes at the sites these tables name is not described yet, so they serve comparing only:
arch/*/include/asm/alternative*.h; powerpc's feature-fixups.h; s390's nospec-insn.h; arm's assembler.h,
pgtable and unwind tables (arch/arm/include/asm/memory.h, unwind.h, smp_plat.h). Tables that the module loader
reads (module_finalize) travel with their code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kdiff.api import EntryView, Keep, KernelFacts, Site, SpecialSection
from kdiff_kernel_linux import shapes
from kdiff_kernel_linux.layout import RELATIVE_WORD, first, members, size, width

Sites = Callable[[EntryView], Iterable[Site]]
Rows = tuple[SpecialSection, ...]

_PLACES = (
    *("__lwsync_fixup", "__barrier_nospec_fixup", "__spec_barrier_fixup", "__rfi_flush_fixup"),
    *("__stf_entry_barrier_fixup", "__stf_exit_barrier_fixup", "__stf_barrier_fixup"),
    *("__entry_flush_fixup", "__scv_entry_flush_fixup", "__uaccess_flush_fixup", "__btb_flush_fixup"),
)
"""powerpc's arrays of self-relative places, a long each (FTR_ENTRY_OFFSET)."""

_READ_ONCE = {
    "arm": (".arch.info.init", ".proc.info.init", ".taglist.init"),
    "loongarch64": (".la_abs",),
    "ppc64": ("__soft_mask_table", "__restart_table"),
    "ppc64le": ("__soft_mask_table", "__restart_table"),
    "riscv64": ("__soc_early_init_table", "__soc_builtin_dtb_table"),
    "s390x": (".amode31.ex_table", ".amode31.refs", ".dma.ex_table"),
}
"""Tables for vmlinux only: of machines, absolute addresses, powerpc's entry code (asm/ppc_asm.h), and s390's
code below 2 GB."""

_S390 = (".s390_indirect", ".s390_return", ".nospec_call_table", ".nospec_return_table")
"""Branches that expolines make, an s32 each; `.nospec_*` in the first kernels that had them."""


def rows(facts: KernelFacts) -> Rows:
    """The tables that only this machine has."""
    made = _BY_MACHINE.get(facts.machine)
    once = (SpecialSection(name, 0, Keep.NEVER) for name in _READ_ONCE.get(facts.machine, ()))
    return (*(made(facts) if made is not None else ()), *once)


def alternatives(facts: KernelFacts, sites: Sites | None = None, counted: bool = False) -> SpecialSection:
    """struct alt_instr, whose first member has had two names. `counted`: a replacement may be empty."""
    lengths = members(facts, "alt_instr", "repl_offset", "replacementlen")
    return SpecialSection(
        ".altinstructions",
        size(facts, "alt_instr"),
        Keep.OWNER,
        owner=first(facts, "alt_instr", "instr_offset", "orig_offset"),
        pieces=(".altinstr_replacement", ".altinstr_aux"),
        sites=sites,
        structure="alt_instr",
        shapes=shapes.alternatives(counted),
        counts=((lengths[0], lengths[1]),) if counted and lengths is not None else (),
    )


def _arm64(facts: KernelFacts) -> Rows:
    return (alternatives(facts),)


def _arm(facts: KernelFacts) -> Rows:
    """asm/assembler.h: ALT_UP writes an address and an instruction; asm/memory.h: __pv_stub an address."""
    return (
        SpecialSection(".alt.smp.init", 2 * RELATIVE_WORD, Keep.OWNER, owner=0),
        _array(".pv_table"),
        SpecialSection(".ARM.exidx", 2 * RELATIVE_WORD, Keep.OWNER, owner=0, prefix=True),
    )


def _loongarch(facts: KernelFacts) -> Rows:
    return (
        alternatives(facts),
        SpecialSection(".orc_unwind_ip", RELATIVE_WORD, Keep.OWNER, owner=0, runs=True),
        SpecialSection(
            ".orc_unwind",
            size(facts, "orc_entry"),
            Keep.OWNER,
            parallel=".orc_unwind_ip",
            structure="orc_entry",
            runs=True,
        ),
    )


def _powerpc(facts: KernelFacts) -> Rows:
    """asm/feature-fixups.h: all addresses count from the start of their entry (`label1b-label5b`)."""
    word = width(facts)
    features = (
        SpecialSection(
            name,
            size(facts, "fixup_entry"),
            Keep.OWNER,
            owner=first(facts, "fixup_entry", "start_off") or 2 * word,
            pieces=("__ftr_alt_*",),
            structure="fixup_entry",
            shapes=shapes.features(facts),
            from_start=True,
        )
        for name in ("__ftr_fixup", "__mmu_ftr_fixup", "__fw_ftr_fixup")
    )
    return *features, *(_array(name, word) for name in _PLACES)


def _riscv(facts: KernelFacts) -> Rows:
    return (
        SpecialSection(
            ".alternative",
            size(facts, "alt_entry"),
            Keep.OWNER,
            owner=first(facts, "alt_entry", "old_offset", "old_ptr"),
            structure="alt_entry",
            shapes=shapes.riscv_alternatives(),
        ),
    )


def _s390(facts: KernelFacts) -> Rows:
    families = (SpecialSection(name, RELATIVE_WORD, Keep.OWNER, owner=0, prefix=True) for name in _S390)
    return alternatives(facts), *families


def _array(name: str, entry_size: int = RELATIVE_WORD) -> SpecialSection:
    """A table of one address each, of what owns it."""
    return SpecialSection(name, entry_size, Keep.OWNER, owner=0)


_BY_MACHINE: Mapping[str, Callable[[KernelFacts], Rows]] = {
    "aarch64": _arm64,
    "arm": _arm,
    "loongarch64": _loongarch,
    "ppc64": _powerpc,
    "ppc64le": _powerpc,
    "riscv64": _riscv,
    "s390x": _s390,
}

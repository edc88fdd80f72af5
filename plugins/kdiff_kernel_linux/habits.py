# SPDX-License-Identifier: Apache-2.0
"""What names in Linux's objects mean: sections by what becomes of them, statics of macros, line numbers.

Sections: include/linux/init.h, cache.h, percpu-defs.h and asm-generic/vmlinux.lds.h, sections.h. Statics:
linux/once_lite.h, once.h, printk.h, ratelimit.h, lockdep.h, asm-generic/bug.h; C11 6.4.2.2 for `__func__`;
the compilers' own for tables of a switch and for UBSAN (lib/ubsan.h: `source_location` is a pointer, a line
and a column), and for constants with pointers where code may be moved (gcc/varasm.cc, `.data.rel.ro`), which
the kernel's linker scripts put among its read-only data (arch/powerpc/kernel/vmlinux.lds.S).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdiff.api import (
    CodeAhead,
    ConstantSection,
    Habit,
    Intrusion,
    KernelFacts,
    LineTaker,
    ReadOnlyMemory,
    RemadeData,
    SectionClass,
    Standing,
)
from kdiff_kernel_linux.layout import width

_ORDINARY = (
    *(".text", ".data", ".rodata", ".bss", ".sdata", ".sbss", ".srodata", ".tdata", ".tbss", ".toc", ".opd"),
    *(
        ".fixup",
        ".altinstr",
        ".ref",
        ".sched",
        ".cpuidle",
        ".noinstr",
        ".entry",
        ".irqentry",
        ".softirqentry",
    ),
    *(".kprobes", ".spinlock", ".static_call", ".init_array", ".eh_frame", ".note", ".comment", ".stub"),
    *("__tracepoints", "__tracepoint", "__ksymtab_strings", "__bpf_raw_tp", ".ARM.ext", "__ftr_alt_", ".got"),
    *(".plt", ".BTF_ids", ".printk_index", ".ftrace", ".hyp", ".idmap", ".rel.ro", "_ftrace", "__syscalls"),
    *(
        "__idle_sched_class",
        "__fair_sched_class",
        "__rt_sched_class",
        "__dl_sched_class",
        "__stop_sched_class",
    ),
    *(".vvar_", ".mmuoff.data", ".boot.preserved.data", ".dma.", ".amode31.", ".tcm.", ".machine.desc"),
    *(".builtin_fw", ".kexec_relocate.text", ".hibernate_exit.text", ".tramp.ftrace", ".vectors"),
    *(".lrodata", ".ldata", ".lbss", ".cvt", ".comm", ".kunit", ".vsyscall", ".lowtext"),
)
"""Code and data that nothing but their own references describe."""

_STANDING = {
    Standing.ORDINARY: _ORDINARY,
    Standing.BOOT: (".init", ".meminit", ".cpuinit", ".devinit", ".head.text", ".boot.data"),
    Standing.EXIT: (".exit", ".memexit", ".cpuexit", ".devexit"),
    Standing.PER_CPU: (".data..percpu", ".data.percpu", ".bss..percpu"),
    Standing.PROTECTED: (".data..ro_after_init", ".data.ro_after_init", ".bss..ro_after_init"),
}
"""Those with `cpu` and `dev` are of kernels before 3.11."""

_STATICS = (
    *("__func__", "__FUNCTION__", "__PRETTY_FUNCTION__"),
    *("__warned", "__already_done", "__print_once", "___done", "___once_key"),
    *("__key", "_rs", "_entry", "_entry_ptr"),
    *("CSWTCH", "switch.table"),
)

_ONCE = (".data.once", ".data..once", ".data.unlikely", ".data..unlikely")
"""Flags of WARN_ONCE and its relatives; two dots since commit dbefa1f31a91 ("Rename .data.once ...")."""

_UBSAN = (".data..Lubsan_data", ".data.rel.local..Lubsan_data", ".data.rel..Lubsan_data")
_ALLOC_TAGS = ("alloc_tags", ".codetag.")
"""linux/alloc_tag.h, codetag.h since 6.10: a counter for each place that allocates, and its line."""
_UBSAN_TYPES = (".data..Lubsan_type", ".rodata..Lubsan_type")

_AHEAD = ("__cfi_", "__pfx_")
"""clang's for the hash of a function's type (-fsanitize=kcfi), objtool's for no-ops since 6.2."""

_LINE_TAKERS = {
    1: (
        *("__might_sleep", "___might_sleep", "__might_resched", "__might_fault"),
        *("__cant_sleep", "__cant_migrate"),
        *("warn_slowpath_fmt", "warn_slowpath_fmt_taint", "warn_slowpath_null"),
        *("lockdep_rcu_suspicious", "lockdep_rcu_dereference"),
        *("__ext4_journal_start_sb", "__ext4_journal_start_reserved", "__ext4_journal_stop"),
        *("__ext4_journal_get_write_access", "__ext4_journal_get_create_access", "__ext4_forget"),
        *("__ext4_handle_dirty_metadata", "__ext4_grp_locked_error", "__ext4_check_dir_entry"),
        *("__ext4_ext_check", "__ext4_ext_dirty", "__read_extent_tree_block", "ext4_check_blockref"),
    ),
    2: (
        *("__btrfs_panic", "__btrfs_handle_fs_error", "__btrfs_abort_transaction", "btrfs_assertfail"),
        *("__ext4_error", "__ext4_error_inode", "__ext4_error_file", "__ext4_std_error"),
        *("__ext4_warning", "__ext4_warning_inode", "__check_block_validity", "xdp_warn"),
        *("__invalid_creds", "__validate_process_creds"),
    ),
    3: (
        *("__ext4_mark_inode_dirty", "__dump_mmp_msg", "__ext4_xattr_check_block"),
        *("xfs_errortag_test", "xfs_do_force_shutdown", "assfail", "asswarn", "__jbd2_debug"),
        *("gfs2_consist_i", "gfs2_consist_inode_i", "gfs2_consist_rgrpd_i", "gfs2_io_error_i"),
    ),
    4: (
        *("__ext4_iget", "__ext4_read_dirblock", "__xattr_check_inode", "xfs_error_report"),
        *("gfs2_io_error_bh_i", "gfs2_assert_withdraw_i", "gfs2_assert_warn_i", "gfs2_meta_check_ii"),
    ),
}
"""By the argument that is the line, from 0: linux/kernel.h, rcupdate.h, asm-generic/bug.h, cred.h, jbd2.h;
net/xdp.h; the headers of fs/ext4, xfs, gfs2 and btrfs. (5.10 to 6.1; from 6.2 on __ext4_journal_start_sb has
a pointer there.)"""

_PROBE = "remove the probe and match again"
_X86_INTRUSIONS = (
    Intrusion("breakpoint", b"\xcc", "a breakpoint is set, perhaps a kprobe's,", _PROBE),
    Intrusion(
        "optimized", b"\xe9", "an optimized kprobe is set", _PROBE,
        owner="__builtin__kprobes", symbol="kprobe_optinsn_page",
    ),
    Intrusion("jump", b"\xe9", "a jump leads out of the kernel, perhaps an optimized kprobe's,", _PROBE),
    Intrusion(
        "bpf", b"\xe8", "a BPF program is attached", "detach the program", "fentry", "bpf", "bpf_trampoline_"
    ),
    Intrusion(
        "traced", b"\xe8", "a tracer or a live patch is attached", "stop the tracer, or undo the patch",
        "fentry",
    ),
)  # fmt: skip
"""What replaces an instruction: arch/x86/kernel/kprobes/core.c and opt.c, ftrace.c, net/bpf_jit_comp.c; the
names of their pages in kallsyms: kernel/kprobes.c, kernel/bpf/trampoline.c."""


def rows(facts: KernelFacts, ahead: Mapping[str, CodeAhead]) -> Iterator[Habit]:
    """All rows for one machine; `ahead`: an architecture's own of what lies in front of functions."""
    pointer = width(facts)
    for standing, names in _STANDING.items():
        yield from (SectionClass(name, standing) for name in names)
    yield ConstantSection(".data.rel.ro")
    yield ReadOnlyMemory("__start_rodata", "__end_rodata")
    yield from (RemadeData(name) for name in _STATICS)
    yield from (RemadeData(name, section=True) for name in (*_ONCE, *_UBSAN_TYPES))
    yield from (RemadeData(name, section=True, ignored=((pointer, 8),)) for name in _UBSAN)
    yield from (RemadeData(name, section=True, ignored=((4, 4),)) for name in _ALLOC_TAGS)
    yield from (SectionClass(name, Standing.ORDINARY) for name in _ALLOC_TAGS)
    yield from (ahead.get(name, CodeAhead(name)) for name in _AHEAD)
    for argument, takers in _LINE_TAKERS.items():
        yield from (LineTaker(name, argument) for name in takers)
    if facts.machine == "x86_64":
        yield from _X86_INTRUSIONS

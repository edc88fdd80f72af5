# SPDX-License-Identifier: Apache-2.0
"""The special sections that all architectures share, one row per table (include/asm-generic/vmlinux.lds.h).

Three questions decide a row. Does the module loader of the running kernel read such a table of a module
(kernel/module/main.c, find_module_sections)? Then its entries travel with the code they are about. Is it
read only while the kernel boots, or does it publish something that vmlinux publishes already? Then never.
Does a difference in an entry mean that the function it belongs to behaves differently? Line numbers do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from kdiff.api import EntryView, Keep, KernelFacts, Meaning, Site, SpecialSection, Without
from kdiff_kernel_linux import shapes
from kdiff_kernel_linux.layout import RELATIVE_WORD, first, members, size, width

Sites = Callable[[EntryView], Iterable[Site]]

_EXPORT = Meaning(
    "review.export_changed", "an export", "and modules find those of the running kernel only",
    "leave exports as they are", may_come=True,
)  # fmt: skip
_PARAMETER = Meaning(
    "review.parameter_changed", "a module parameter", "and the kernel publishes those only at boot",
    "leave module parameters as they are, and use a constant or another parameter",
)  # fmt: skip
_INITCALL = Meaning(
    "review.initcall_changed", "an initcall", "and the running kernel has made these calls",
    "leave initcalls as they are, and move what must still happen into code that runs",
)  # fmt: skip
_EXITCALL = Meaning(
    "review.exitcall_changed", "an exit call", "and the kernel knows those it was started with only",
    "leave exit calls as they are",
)  # fmt: skip
_BOOT_OPTION = Meaning(
    "review.boot_option_changed", "a boot option", "and the running kernel has read its command line",
    "leave boot options as they are",
)  # fmt: skip

_OTHER_TOOL = Meaning(
    "review.other_tool", "an instruction for kpatch", "which kdiff does not carry out",
    "leave its macros out: kdiff calls nothing back, and judges by itself what may change",
)  # fmt: skip

_READ_ONCE = (".early_lsm_info.init", ".lsm_info.init", ".static_call_tramp_key")
"""Read while vmlinux boots, or published under a name. An update's are never looked at, or would be published
a second time: so none travels, and a patch that adds, removes or changes an entry cannot be applied live."""

_READ_ONCE_WITH = {
    ".con_initcall.init": _INITCALL,
    ".exitcall.exit": _EXITCALL,
    ".export_symbol": _EXPORT,
    ".init.setup": _BOOT_OPTION,
    "__earlycon_table": _BOOT_OPTION,
    "__ksymtab": _EXPORT,
    "__ksymtab_gpl": _EXPORT,
    "__ksymtab_gpl_future": _EXPORT,
    "__ksymtab_unused": _EXPORT,
    "__ksymtab_unused_gpl": _EXPORT,
    "__param": _PARAMETER,
}
"""The same, and what their entries are. `.export_symbol` is what modpost makes the tables of exports of since
commit ddb5cdbafaaa ("kbuild: generate KSYMTAB entries by modpost")."""

_BOOT_TABLES = (
    *("__clk_of_table", "__cpu_method_of_table", "__cpuidle_method_of_table", "__iommu_of_table"),
    *("__irqchip_of_table", "__reservedmem_of_table", "__timer_of_table", "__governor_thermal_table"),
    *("__irqchip_acpi_probe_table", "__timer_acpi_probe_table", ".pci_fixup"),
)
"""The same: what drivers that start early are found by, and quirks of devices."""

_READ_ONCE_FAMILIES = {
    ".initcall": _INITCALL,
    ".kpatch.ignore.functions": _OTHER_TOOL,
    ".security_initcall": _INITCALL,
    "___kcrctab": _EXPORT,
    "___kflagstab": _EXPORT,
    "___ksymtab": _EXPORT,
    "__kcrctab": _EXPORT,
    "__kflagstab": _EXPORT,
}
"""The same for whole families of sections. `__ksymtab_strings` is none of them: text tells what it holds."""

RUNTIME_CONSTANTS = ("runtime_ptr_", "runtime_shift_")
"""asm/runtime-const.h since 6.11: where constants stand in code. The rest of the name is a variable's, whose
value runtime_const_init() puts there."""

_UNREAD = (
    *(".modinfo", ".printk_index", "__modver", "__syscalls_metadata", "__tracepoint_str"),
    *(".tracedata", ".eh_frame"),
)
"""Read by tools or by tracing, for information: an update does without, and a change does no harm."""

_UNREAD_FAMILIES = (".discard", ".kpatch", ".note")
"""The same for families; .discard is for objtool and dropped by the linker. The rest of what the macros of
kpatch write is permissions and names of patched functions."""


def rows(
    facts: KernelFacts, rewrites: Mapping[str, Sites], without: Mapping[str, Without] = MappingProxyType({})
) -> tuple[SpecialSection, ...]:
    """All rows; `rewrites` and `without` are an architecture's functions by section name."""
    word = width(facts)
    relative = facts.config.get("CONFIG_HAVE_ARCH_PREL32_RELOCATIONS") == "y"
    return (
        SpecialSection(
            "__bug_table",
            size(facts, "bug_entry"),
            Keep.OWNER,
            owner=first(facts, "bug_entry", "bug_addr_disp", "bug_addr"),
            ignored=_range(facts, "bug_entry", "line", 2),
            structure="bug_entry",
            shapes=shapes.bugs(facts),
        ),
        SpecialSection(
            "__ex_table",
            size(facts, "exception_table_entry"),
            Keep.OWNER,
            owner=first(facts, "exception_table_entry", "insn"),
            pieces=(".fixup", ".text.fixup") if facts.machine == "arm" else (".fixup",),
            structure="exception_table_entry",
            shapes=shapes.exceptions(facts),
        ),
        SpecialSection(
            "__jump_table",
            size(facts, "jump_entry"),
            Keep.OWNER,
            owner=first(facts, "jump_entry", "code"),
            sites=rewrites.get("__jump_table"),
            without=without.get("__jump_table"),
            structure="jump_entry",
            shapes=shapes.jumps(facts),
        ),
        SpecialSection(
            ".static_call_sites",
            size(facts, "static_call_site"),
            Keep.OWNER,
            owner=first(facts, "static_call_site", "addr"),
            sites=rewrites.get(".static_call_sites"),
            spare=True,  # a call of the trampoline goes where the key points, too
            structure="static_call_site",
            shapes=shapes.static_calls(),
        ),
        SpecialSection(
            "_error_injection_whitelist",
            size(facts, "error_injection_entry"),
            Keep.OWNER,
            owner=first(facts, "error_injection_entry", "addr"),
            structure="error_injection_entry",
            shapes=shapes.injections(facts),
        ),
        _array("__mcount_loc", word, rewrites),
        replace(_array("__patchable_function_entries", word, rewrites), ahead=True),
        _array("_kprobe_blacklist", word, rewrites),
        _array("_ftrace_events", word, rewrites),
        _array("_ftrace_eval_map", word, rewrites),
        _array("___srcu_struct_ptrs", word, rewrites),
        SpecialSection(
            "__tracepoints_ptrs",
            RELATIVE_WORD if relative else word if "CONFIG_64BIT" in facts.config else 0,
            Keep.OWNER,
            owner=0,
            shapes=shapes.addresses(facts),
        ),
        SpecialSection(
            "__bpf_raw_tp_map",
            size(facts, "bpf_raw_event_map"),
            Keep.OWNER,
            owner=0,
            structure="bpf_raw_event_map",
            shapes=shapes.raw_tracepoints(facts),
        ),
        _array(".kcfi_traps", RELATIVE_WORD, rewrites),
        *(
            SpecialSection(
                name,
                RELATIVE_WORD,
                Keep.NEVER,
                owner=0,
                prefix=True,
                finishes=True,
                sites=rewrites.get(name),
            )
            for name in RUNTIME_CONSTANTS
        ),
        SpecialSection("__trace_printk_fmt", word, Keep.REFERENCED),
        *(
            SpecialSection(
                name,
                size(facts, "_ddebug"),
                Keep.REFERENCED,
                ignored=_range(facts, "_ddebug", "lineno", shapes.LINENO),
                structure="_ddebug",
                shapes=shapes.debugs(facts),
            )
            for name in ("__dyndbg", "__verbose")
        ),
        SpecialSection(
            "__dyndbg_classes",
            size(facts, "ddebug_class_map"),
            Keep.REFERENCED,
            structure="ddebug_class_map",
            shapes=shapes.debug_classes(facts),
        ),
        SpecialSection(".kpatch.callbacks", word, Keep.ADDED, prefix=True, meaning=_OTHER_TOOL),
        *(SpecialSection(name, 0, Keep.NEVER) for name in _READ_ONCE),
        *(SpecialSection(name, 0, Keep.NEVER, meaning=each) for name, each in _READ_ONCE_WITH.items()),
        *(SpecialSection(name, 0, Keep.NEVER, prefix=True) for name in _BOOT_TABLES),
        *(
            SpecialSection(name, 0, Keep.NEVER, prefix=True, meaning=each)
            for name, each in _READ_ONCE_FAMILIES.items()
        ),
        *(SpecialSection(name, 0, Keep.NEVER, compared=False) for name in _UNREAD),
        *(SpecialSection(name, 0, Keep.NEVER, compared=False, prefix=True) for name in _UNREAD_FAMILIES),
    )


def _array(name: str, entry_size: int, rewrites: Mapping[str, Sites]) -> SpecialSection:
    """A table whose entries are one address each, of what owns them."""
    return SpecialSection(name, entry_size, Keep.OWNER, owner=0, sites=rewrites.get(name))


def _range(facts: KernelFacts, structure: str, member: str, width: int) -> tuple[tuple[int, int], ...]:
    found = members(facts, structure, member)
    return ((found[0], width),) if found is not None else ()

# SPDX-License-Identifier: Apache-2.0
"""x86: tables of its own, and what the kernel writes over its code at boot and later.

Each rewrite is described after the source that does it, below arch/x86/kernel: alternative.c
(alternatives, paravirt calls, retpolines, return thunks, lock prefixes, endbr), static_call.c, jump_label.c,
ftrace.c, callthunks.c; and include/asm/runtime-const.h. The order there matters: paravirt calls, retpolines
and returns are rewritten before alternatives are, which then copy rewritten code and join the no-ops;
`code.py` composes the forms in that order. Calls are counted last. Which of the forms a machine has depends
on its processor, so all that some processor would get are allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from kdiff.api import CodeAhead, Keep, KernelFacts, SpecialSection, Without
from kdiff_kernel_linux import shapes
from kdiff_kernel_linux.layout import RELATIVE_WORD, first, members, size
from kdiff_kernel_linux.ports import alternatives as alternative_row
from kdiff_kernel_linux.tables import RUNTIME_CONSTANTS, Sites
from kdiff_kernel_linux.x86 import alternatives, branches, calls, cfi, constants, depth, keytests

_BOOT_ONLY = (".apicdrivers", ".orc_header", ".x86_cpu_dev.init", ".x86_intel_mid_dev.init")


def rewrites(facts: KernelFacts) -> Mapping[str, Sites]:
    """`sites` functions for tables that all architectures share."""
    found: dict[str, Sites] = {"__mcount_loc": calls.fentry}
    if facts.machine == "x86_64":
        pointer, shift = RUNTIME_CONSTANTS
        found |= {
            pointer: partial(constants.runtime, pointer, 8),
            shift: partial(constants.runtime, shift, 1),
        }
    jump = members(facts, "jump_entry", "code", "target")
    if jump is not None:
        found["__jump_table"] = partial(branches.jump_label, jump)
    call, key = members(facts, "static_call_site", "addr", "key"), members(facts, "static_call_key", "func")
    if call is not None and key is not None:
        found[".static_call_sites"] = partial(calls.static_call, call + key)
    return found


def ahead(facts: KernelFacts) -> Mapping[str, CodeAhead]:
    """What the kernel writes in front of functions, and because of it at their start, by names."""
    depth_at = members(facts, "pcpu_hot", "call_depth")
    counting = partial(depth.padding, depth_at) if depth_at is not None else None
    hash_of_type = partial(cfi.preamble, depth_at)
    found = (CodeAhead("__cfi_", hash_of_type, cfi.entered), CodeAhead("__pfx_", counting))
    return {row.name: row for row in found}


def without(facts: KernelFacts) -> Mapping[str, Without]:
    """How code does without entries of tables that all architectures share."""
    key = members(facts, "static_key", "enabled")
    if key is None or facts.machine != "x86_64":
        return {}
    return {"__jump_table": partial(keytests.without_entries, key)}


def rows(facts: KernelFacts) -> tuple[SpecialSection, ...]:
    """The tables only x86 has."""
    alternative = members(facts, "alt_instr", "instr_offset", "repl_offset", "instrlen", "replacementlen")
    paravirt = members(facts, "paravirt_patch_site", "instr", "type", "len")
    key = members(facts, "static_call_key", "func")
    return (
        alternative_row(
            facts,
            partial(alternatives.sites, alternative) if alternative is not None else None,
            counted=True,
        ),
        SpecialSection(
            ".parainstructions",
            size(facts, "paravirt_patch_site"),
            Keep.OWNER,
            owner=first(facts, "paravirt_patch_site", "instr"),
            sites=partial(calls.paravirt, paravirt) if paravirt is not None else None,
            structure="paravirt_patch_site",
            shapes=shapes.paravirt(facts),
        ),
        SpecialSection(".smp_locks", RELATIVE_WORD, Keep.OWNER, owner=0, sites=branches.lock_prefix),
        SpecialSection(".retpoline_sites", RELATIVE_WORD, Keep.OWNER, owner=0, sites=branches.retpoline),
        SpecialSection(".return_sites", RELATIVE_WORD, Keep.OWNER, owner=0, sites=branches.return_thunk),
        SpecialSection(".call_sites", RELATIVE_WORD, Keep.OWNER, owner=0, sites=depth.call_site),
        SpecialSection(".cfi_sites", RELATIVE_WORD, Keep.OWNER, owner=0),
        SpecialSection(
            ".ibt_endbr_seal", RELATIVE_WORD, Keep.NEVER, owner=0, compared=False, sites=branches.endbr
        ),
        SpecialSection(".orc_unwind_ip", RELATIVE_WORD, Keep.OWNER, owner=0, runs=True),
        SpecialSection(
            ".orc_unwind",
            size(facts, "orc_entry"),
            Keep.OWNER,
            parallel=".orc_unwind_ip",
            structure="orc_entry",
            runs=True,
        ),
        SpecialSection(
            ".static_call.text",
            0,
            Keep.REFERENCED,
            code=True,
            sites=partial(calls.static_call_trampoline, key) if key is not None else None,
        ),
        *(SpecialSection(name, 0, Keep.NEVER, compared=False) for name in _BOOT_ONLY),
    )

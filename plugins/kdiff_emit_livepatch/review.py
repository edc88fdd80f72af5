# SPDX-License-Identifier: Apache-2.0
"""What livepatch cannot redirect, or write.

Livepatch enters a function through its ftrace site (`ftrace_location` in kernel/livepatch/patch.c), so a
function without one (noinstr, notrace, assembly) stays as it is. In the object, the compiler lists a site in
`__mcount_loc` or `__patchable_function_entries`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdiff.api import Keep, KernelFacts, Refusal

if TYPE_CHECKING:
    from kdiff.api import Plan, SectionGraph

SITE_TABLES = ("__mcount_loc", "__patchable_function_entries")
ENTRY_SECTIONS = (".noinstr.text", ".entry.text")
"""Where the kernel keeps code that must not be traced (include/linux/compiler_types.h, asm/linkage.h)."""
EM_X86_64 = 62
LOADED_TYPES = {EM_X86_64: frozenset((0, 1, 2, 4, 10, 11, 24))}
"""By machine, the types of relocations that the kernel applies to modules, where that is not all there are.

Those of apply_relocate_add in arch/x86/kernel/module.c, which livepatch uses as well.
"""
ENTRY_REACH = 16
"""How many bytes behind a function's entry its site may lie: past endbr64 or bti, or ppc64le's TOC setup."""


def review(plan: Plan, facts: KernelFacts) -> Iterator[Refusal]:
    """Yield every reason; an unknown configuration (no facts) is no reason."""
    for item in plan.in_place:
        node = plan.pre.nodes[item.pre]
        yield Refusal(
            "emit.in_place",
            plan.pre.where(node),
            f"constant {node.label} must get new contents where it lies, and livepatch cannot write to data",
            "leave the constant as it is and change the code that uses it, or reboot into a fixed kernel",
        )
    for index in plan.carried:
        node = plan.post.nodes[index]
        if node.table is not None and node.table.keep is Keep.ADDED:
            yield Refusal(
                "emit.other_tool",
                plan.post.where(node),
                f"the patch adds {node.table.meaning.what} in {node.section_name}, {node.table.meaning.why}",
                node.table.meaning.remedy,
            )
    yield from _short_branches(plan)
    if not plan.replaced:
        return
    if facts.config and facts.config.get("CONFIG_LIVEPATCH") != "y":
        yield Refusal(
            "livepatch.not_supported",
            facts.release or "the kernel's configuration",
            "this kernel was built without CONFIG_LIVEPATCH",
            "use a kernel with livepatch, or reboot into a fixed kernel",
        )
    for pre, _ in plan.replaced:
        node = plan.pre.nodes[pre]
        if has_site(plan.pre, pre):
            continue
        if node.section_name.startswith(ENTRY_SECTIONS):
            yield Refusal(
                "livepatch.noinstr",
                plan.pre.where(node),
                f"{node.label} lies in {node.section_name}: it is entry code, or noinstr, which may run while"
                " nothing can be traced, so it has no ftrace site and livepatch cannot redirect it",
                "make the change in the ordinary functions that it calls, or reboot into a fixed kernel",
            )
        else:
            yield Refusal(
                "livepatch.no_fentry",
                plan.pre.where(node),
                f"{node.label} has no ftrace site (it is notrace, boot or exit code, or assembly),"
                " so livepatch cannot redirect it",
                "make the change in the functions that call it, or reboot into a fixed kernel",
            )


def _short_branches(plan: Plan) -> Iterator[Refusal]:
    """Branches between functions that are too short for a module, whose functions lie anywhere."""
    types = LOADED_TYPES.get(plan.post.obj.machine)
    if types is None:
        return
    for index in plan.carried:
        node = plan.post.nodes[index]
        for reference in plan.post.references[index]:
            if reference.howto.type not in types:
                yield Refusal(
                    "emit.relocation",
                    plan.post.where(node, reference.offset),
                    f"{node.label} refers to {plan.post.nodes[reference.target].label} by"
                    f" {reference.howto.name}, which the kernel does not take in modules",
                    "let another function than these two, which lie side by side, do the change",
                )


def has_site(graph: SectionGraph, function: int) -> bool:
    """Whether a function of a pre graph has an ftrace site."""
    return any(
        reference.target == function and 0 <= reference.addend <= ENTRY_REACH
        for entry in graph.entries.get(function, ())
        if graph.nodes[entry].section_name in SITE_TABLES
        for reference in graph.references[entry]
    )

# SPDX-License-Identifier: Apache-2.0
"""The Linux kernel's special sections, and what the kernel itself rewrites in its code.

`tables.py` lists the tables that every architecture has, `x86/` adds those of x86 and the functions that say
what run memory may hold at the sites an entry names; `habits.py` says what names mean. Sizes and offsets come
from the type information of the kernel at hand (`layout.py`); only arrays of a single word have theirs from
the kernel's declaration. `ports.py` has the tables of the other architectures; one whose rewrites are
described becomes a package beside `x86/`. Without a kernel, `shapes.py` lists what entries have been.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.api import Habit, KernelFacts, SpecialSection, hookimpl
from kdiff_kernel_linux import habits, ports, tables, x86


@hookimpl
def kdiff_special_sections(facts: KernelFacts) -> Iterable[SpecialSection]:
    """Provide the special sections of the kernel these facts describe."""
    if facts.machine in ("x86_64", "i386"):
        return (*tables.rows(facts, x86.rewrites(facts), x86.without(facts)), *x86.rows(facts))
    return (*tables.rows(facts, {}), *ports.rows(facts))


@hookimpl
def kdiff_habits(facts: KernelFacts) -> Iterable[Habit]:
    """Provide what names mean in the objects of the kernel these facts describe."""
    return habits.rows(facts, x86.ahead(facts) if facts.machine == "x86_64" else {})

# SPDX-License-Identifier: Apache-2.0
"""Run-time constants: include/asm/runtime-const.h, since 6.11.

The compiler writes some number where runtime_const_ptr() and runtime_const_shift_right_32() name a variable;
runtime_const_init() puts its value, or the lowest byte of that, in the place at boot, before anybody runs the
code. The variable is not changed afterwards (fs/dcache.c, arch/x86/kernel/cpu/common.c).
"""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import EntryView, Mixed, Place, Site


def runtime(family: str, size: int, entry: EntryView) -> Iterator[Site]:
    """The site of one entry; the section's name is that of a family and the variable's."""
    place = entry.place(0)
    if place is not None:
        variable = Place(None, entry.section.removeprefix(family))
        yield Site(place.offset, size, "runtime_const", ((Mixed(bytes(size), variable),),))

# SPDX-License-Identifier: Apache-2.0
"""Tell whether two objects that one compiler wrote hold the same code and data.

Debugging sections, and all else that is not loaded, may differ. Equal means equal byte by byte: the same
sections in the same order, the same symbols, the same relocations. Anything else is for the later stages.
"""

from __future__ import annotations

import numpy as np

from kdiff.elf.read import SHF_ALLOC, SHT_SYMTAB, Object, read_bytes

_HEADERS = ("type", "flags", "align", "entsize", "link", "info")


def same_code(pre: bytes, post: bytes) -> bool:
    """Whether the objects differ at most in what is not loaded."""
    if pre == post:
        return True
    first, second = read_bytes(pre, "pre"), read_bytes(post, "post")
    if len(first.sections) != len(second.sections) or (first.machine, first.flags) != (
        second.machine,
        second.flags,
    ):
        return False
    loaded = (first.sections["flags"] & SHF_ALLOC) != 0
    sized = loaded | (first.sections["type"] == SHT_SYMTAB)
    return (
        all(np.array_equal(first.sections[each], second.sections[each]) for each in _HEADERS)
        and np.array_equal(first.sections["size"][sized], second.sections["size"][sized])
        and _names(first) == _names(second)
        and np.array_equal(first.symbols, second.symbols)
        and first.contents(first.symbol_names) == second.contents(second.symbol_names)
        and first.relocations.equals(second.relocations)
        and all(first.contents(each) == second.contents(each) for each in np.flatnonzero(loaded).tolist())
    )


def _names(obj: Object) -> list[str]:
    return [obj.section_name(index) for index in range(len(obj.sections))]

# SPDX-License-Identifier: Apache-2.0
"""Special sections: which row of the plugins' table a section has, and how its bytes are cut into entries.

The kernel's own type information (`SpecialSection.entry_size`) decides. Where nothing is known of the kernel,
the object must show the size itself, and what it shows must agree: sh_entsize, the symbols of its entries,
the table that runs parallel, its debugging information, and the pattern in which relocations repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kdiff.elf.read import RESERVED, SHF_EXECINSTR, Column, Object
from kdiff.errors import KdiffError
from kdiff.kernel import SpecialSection

Sizes = Callable[[str], int]
"""The size of a C structure in the object's debugging information, 0 if it is not there."""


def row_of(name: str, special: Mapping[str, SpecialSection]) -> SpecialSection | None:
    """The table row for a section name: its own, or that of the longest prefix row."""
    exact = special.get(name)
    if exact is not None:
        return None if exact.code else exact
    families = [row for key, row in special.items() if row.prefix and name.startswith(key)]
    return max(families, key=lambda row: len(row.name), default=None)


def entry_size(obj: Object, section: int, row: SpecialSection, sizes: Sizes = lambda name: 0) -> int:
    """The size of the section's entries in bytes; 0 where the section is one opaque entry.

    A table whose size is no multiple of what the kernel says is an error, never rounded. What the object
    says by itself counts only where all of it agrees. The last entry may lack its padding.
    """
    total = int(obj.sections["size"][section])
    if row.entry_size:
        if total % row.entry_size:
            raise KdiffError(
                "tables.entry_size",
                f"{obj.section_name(section)} has {total} bytes, no multiple of its {row.entry_size}-byte"
                " entries",
                place=obj.path,
                remedy="the object was built for another kernel than the one at hand",
            )
        return row.entry_size
    said = {size for size in _evidence(obj, section, row, total) if size}
    if len(said) != 1 and row.structure:
        declared = sizes(row.structure)
        said = {declared} if declared and total % declared == 0 else said
    return said.pop() if len(said) == 1 else 0


def _evidence(obj: Object, section: int, row: SpecialSection, total: int) -> list[int]:
    declared = int(obj.sections["entsize"][section])
    return [
        declared if declared > 1 and total % declared == 0 else 0,
        _symbol_size(obj, section, total),
        _parallel(obj, row, total),
        _stride(obj, section, row, total),
    ]


def _symbol_size(obj: Object, section: int, total: int) -> int:
    """The size of the symbols that cover the section, if all have the same."""
    inside = (obj.symbols["section"] == section) & (obj.symbols["size"] > 0)
    found = obj.symbols["size"][inside]
    size = int(found[0]) if len(found) and np.all(found == found[0]) else 0
    return size if size and len(found) * size == total else 0


def _parallel(obj: Object, row: SpecialSection, total: int) -> int:
    """What is left for each entry of the table that runs parallel, whose entries are words."""
    names = [index for index in range(1, len(obj.sections)) if obj.section_name(index) == row.parallel]
    if not row.parallel or len(names) != 1:
        return 0
    low, high = obj.relocation_bounds[names[0] : names[0] + 2].tolist()
    count = len(np.unique(obj.relocations["offset"][low:high]))
    return total // count if count and total % count == 0 else 0


def _stride(obj: Object, section: int, row: SpecialSection, total: int) -> int:
    """The distance at which the pattern of relocations repeats: types, offsets, and which reach code."""
    low, high = obj.relocation_bounds[section], obj.relocation_bounds[section + 1]
    relocations = obj.relocations[low:high]
    kinds = relocations["type"].astype("u8") << np.uint64(8) | _into_code(obj, relocations)
    offsets = relocations["offset"].astype("i8")
    for count in range(row.fields, len(relocations) + 1):
        if len(relocations) % count:
            continue
        groups = len(relocations) // count
        step = int(offsets[count] - offsets[0]) if groups > 1 else total
        if not 0 < step <= total or not (groups - 1) * step < total <= groups * step:
            continue
        by_row = offsets.reshape(groups, count)
        alike = by_row == by_row[0] + step * np.arange(groups)[:, None]
        if alike.all() and np.all(kinds.reshape(groups, count) == kinds[:count]) and by_row[0][-1] < step:
            return step
    return 0


def _into_code(obj: Object, relocations: Column) -> Column:
    """Whether each relocation reaches code of this object."""
    section = obj.symbols["section"][relocations["symbol"]].astype("i8")
    known = np.where(section < min(RESERVED, len(obj.sections)), section, 0)
    return ((obj.sections["flags"][known] & SHF_EXECINSTR) > 0).astype("u8")

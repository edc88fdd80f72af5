# SPDX-License-Identifier: Apache-2.0
"""Special sections: which row of the plugins' table a section has, and how large its entries are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdiff.elf.read import Object
from kdiff.errors import KdiffError
from kdiff.kernel import SpecialSection


def row_of(name: str, special: Mapping[str, SpecialSection]) -> SpecialSection | None:
    """The table row for a section name: its own, or that of the longest prefix row."""
    exact = special.get(name)
    if exact is not None:
        return None if exact.code else exact
    families = [row for key, row in special.items() if row.prefix and name.startswith(key)]
    return max(families, key=lambda row: len(row.name), default=None)


def entry_size(obj: Object, section: int, row: SpecialSection) -> int:
    """The size of the section's entries in bytes; 0 where the section is one opaque entry.

    The kernel's own type information (`row.entry_size`) and what the object itself shows must agree:
    a table whose size is no multiple of its entry is an error, never rounded.
    """
    total = int(obj.sections["size"][section])
    size = row.entry_size or _stride(obj, section)
    if size and total % size:
        raise KdiffError(
            "tables.entry_size",
            f"{obj.section_name(section)} has {total} bytes, no multiple of its {size}-byte entries",
            place=obj.path,
            remedy="the object was built for another kernel than the one at hand",
        )
    return size


def _stride(obj: Object, section: int) -> int:
    """sh_entsize, else the constant distance at which the pattern of relocations repeats, else 0."""
    total, declared = int(obj.sections["size"][section]), int(obj.sections["entsize"][section])
    if declared > 1 and total % declared == 0:
        return declared
    low, high = obj.relocation_bounds[section], obj.relocation_bounds[section + 1]
    relocations = obj.relocations[low:high]
    for count in range(1, len(relocations) + 1):
        if len(relocations) % count:
            continue
        groups = len(relocations) // count
        if total % groups or not groups:
            continue
        step = total // groups
        offsets = relocations["offset"].astype("i8").reshape(groups, count)
        kinds = relocations["type"].reshape(groups, count)
        expected = offsets[0] + step * np.arange(groups)[:, None]
        if np.array_equal(offsets, expected) and np.all(kinds == kinds[0]) and offsets[0][-1] < step:
            return step
    return 0

# SPDX-License-Identifier: Apache-2.0
"""What must hold of an object's columns, so that later stages need not ask.

In: columns as they were read. Out: nothing, or a KdiffError. Also bounds what a small file may claim: without
these, overlapping sections, zeros, and a thousand relocations of one place cost the later stages time and
memory that grow faster than the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdiff.errors import KdiffError

Column = NDArray[Any]

SHT_NULL, SHT_NOBITS = 0, 8
SHF_ALLOC, SHF_COMPRESSED = 2, 0x800
MOST_ZEROS = 1 << 28
"""Bytes of all sections of zeros together: a kernel's .bss is some MiB."""
MOST_AT_ONE_PLACE = 256
"""Relocations: the longest computation of loongarch's stack machine has some ten."""


def check_sections(sections: Column, size: int, path: str) -> None:
    """Check the headers of all sections of a file of `size` bytes."""
    kinds = sections["type"]
    empty = kinds == SHT_NOBITS
    stored = ~empty & (kinds != SHT_NULL)
    offsets, sizes = sections["offset"][stored], sections["size"][stored]
    if np.count_nonzero(offsets > size) or np.count_nonzero(sizes > size - offsets):
        raise KdiffError("elf.truncated", "a section reaches beyond the end of the file", place=path)
    filled = sizes > 0
    _disjoint(offsets[filled], sizes[filled], path)
    zeros = sections["size"][empty]
    if np.count_nonzero(zeros > MOST_ZEROS) or zeros.sum() > MOST_ZEROS:
        raise KdiffError("elf.zeros", f"sections without contents claim over {MOST_ZEROS} bytes", place=path)
    align = sections["align"]
    if np.count_nonzero(align & (align - (align > 0))):
        raise KdiffError("elf.alignment", "a section's alignment is no power of two", place=path)
    if np.count_nonzero(sections["flags"] & (SHF_COMPRESSED | SHF_ALLOC) == SHF_COMPRESSED | SHF_ALLOC):
        raise KdiffError("elf.compressed", "a loaded section is compressed", place=path)


def _disjoint(offsets: Column, sizes: Column, path: str) -> None:
    if np.count_nonzero(offsets[1:] < offsets[:-1]):
        order = np.argsort(offsets, kind="stable")
        offsets, sizes = offsets[order], sizes[order]
    if np.count_nonzero(offsets[:-1] + sizes[:-1] > offsets[1:]):
        raise KdiffError("elf.overlap", "two sections share bytes of the file", place=path)


def check_relocations(
    section: Column, offset: Column, symbol: Column, bounds: Column, sections: Column, symbols: int, path: str
) -> None:
    """Check all records, which are sorted by the section they change and by offset.

    `bounds`: where those of each section begin; `symbols`: how many there are.
    """
    if not len(offset):
        return
    changed = (bounds[1:] > bounds[:-1]).nonzero()[0]
    last, sizes = offset[bounds[changed + 1] - 1], sections["size"][changed]
    outside = changed[last >= sizes]
    if symbol.max() >= symbols or np.count_nonzero(sections["flags"][outside] & SHF_COMPRESSED == 0):
        raise _wrong("a relocation points outside of the object", path)
    if np.count_nonzero(sections["type"][changed] == SHT_NOBITS):
        raise _wrong("a relocation changes a section without contents", path)
    again = (offset[:-MOST_AT_ONE_PLACE] == offset[MOST_AT_ONE_PLACE:]).nonzero()[0]
    if np.count_nonzero(section[again] == section[again + MOST_AT_ONE_PLACE]):
        raise _wrong(f"over {MOST_AT_ONE_PLACE} relocations change one place", path)


def _wrong(message: str, path: str) -> KdiffError:
    return KdiffError("elf.relocations", message, place=path)

# SPDX-License-Identifier: Apache-2.0
"""What a file has in common with another, so that it need not be read again.

Two builds of a unit often differ in the contents of some sections only: then their headers, symbols and
relocations are the same bytes at the same places. In: two files. Out: which sections differ.
"""

from __future__ import annotations

import numpy as np

from kdiff.elf.checks import SHT_NOBITS, Column

_ELF_HEADER = 64
"""Bytes, or more than it has."""
_AT_ONCE = 1 << 16
"""Bytes that are compared in one step: they stay in the processor's cache."""


def same_headers(one: memoryview, other: memoryview, start: int, size: int) -> bool:
    """Whether both have one length, one ELF header, and the same `size` bytes of section headers."""
    spans = slice(_ELF_HEADER), slice(start, start + size)
    return len(one) == len(other) and all(bytes(one[each]) == bytes(other[each]) for each in spans)


def differing(one: memoryview, other: memoryview, sections: Column) -> Column:
    """By section, whether its bytes differ; both files have these `sections`, which share no byte.

    A byte between two sections counts for the one in front of it.
    """
    stored = ((sections["type"] != SHT_NOBITS) & (sections["size"] > 0)).nonzero()[0]
    stored = stored[sections["offset"][stored].argsort()]
    starts, found = sections["offset"][stored], np.zeros(len(sections), bool)
    ours, theirs = np.frombuffer(one, "u1"), np.frombuffer(other, "u1")
    for at in range(0, len(ours), _AT_ONCE):
        places = (ours[at : at + _AT_ONCE] != theirs[at : at + _AT_ONCE]).nonzero()[0]
        if len(places) and len(stored):
            found[stored[starts.searchsorted(places + at, "right") - 1]] = True
    return found

# SPDX-License-Identifier: Apache-2.0
"""An architecture's relocation types as columns, for questions about many records at a time.

In: an `Architecture`. Out: its `Howtos`, a row for each number of a type; the last row stands for all types
that are not known.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kdiff.arch import Architecture, Howto
from kdiff.elf.read import Column
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Howtos:
    """`size`, `bias`, `invertible`, `pc_relative`, `end_relative`: as in `Howto`; 0 or False for no type.

    `alone`: whether a record means something by itself, and counts from nothing else. `share`: what an
    instruction adds, if the field of an `end_relative` type ends it.
    """

    rows: tuple[Howto | None, ...]
    size: Column
    bias: Column
    share: Column
    alone: Column
    invertible: Column
    pc_relative: Column
    end_relative: Column

    def number(self, types: Column) -> Column:
        """The row of each type."""
        found: Column = np.minimum(types, len(self.rows) - 1)
        return found


@lru_cache(maxsize=64)
def howtos_of(arch: Architecture) -> Howtos:
    """The rows of an architecture."""
    rows = tuple([arch.howtos.get(each) for each in range(max(arch.howtos, default=0) + 2)])
    size, bias = (
        np.array([0 if row is None else getattr(row, name) for row in rows], "i8")
        for name in ("size", "bias")
    )
    alone = np.array([row is not None and row.alone and not row.base and row.entry is None for row in rows])
    invertible, pc_relative, end_relative = (
        np.array([row is not None and getattr(row, name) for row in rows], bool)
        for name in ("invertible", "pc_relative", "end_relative")
    )
    share = np.where(end_relative, -size, bias)
    return Howtos(rows, size, bias, share, alone, invertible, pc_relative, end_relative)

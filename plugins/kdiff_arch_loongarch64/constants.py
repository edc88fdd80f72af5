# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `addi.w` or `ori` from zero, or `lu12i.w` and `ori`.

LoongArch Reference Manual, volume 1, sections 2.2.1.5 and 2.2.1.7; arguments: a0 to a7 (ELF psABI).
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

CONSTANTS = (
    ConstantLoad(4, 0xFFC003E0, 0x02800000, (0, 5), (BitField(10, 0, 12),), signed=True),
    ConstantLoad(4, 0xFFC003E0, 0x03800000, (0, 5), (BitField(10, 0, 12),)),
    ConstantLoad(4, 0xFFC00000, 0x03800000, (0, 5), (BitField(10, 0, 12),), source=(5, 5)),
    ConstantLoad(4, 0xFE000000, 0x14000000, (0, 5), (BitField(5, 12, 20),)),
)
_OPERANDS = (
    (0, 0, 0, 5),
    (0, 0, 5, 5),
    (0xFFC00000, 0, 10, 5),
    (0xFC000000, 0x38000000, 10, 5),
)
"""rd and rj, whatever else some instructions have there; rk of arithmetic and of memory accesses."""
ARGUMENTS = tuple(Argument(number, fields=_OPERANDS) for number in range(4, 12))
"""Without names: there is no disassembly."""

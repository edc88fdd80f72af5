# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `mov` of eight bits, rotated or not, and `movw` (Arm ARM for ARMv7, A8.8.102).

Arguments: r0 to r3 (AAPCS32, section 6.4). What is always executed only.
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

CONSTANTS = (
    ConstantLoad(4, 0xFFFF0F00, 0xE3A00000, (12, 4), (BitField(0, 0, 8),)),
    *(
        ConstantLoad(4, 0xFFFF0F00, 0xE3A00000 | (16 - way) << 8, (12, 4), (BitField(0, 2 * way, 8),))
        for way in range(1, 5)
    ),
    ConstantLoad(4, 0xFFF00000, 0xE3000000, (12, 4), (BitField(0, 0, 12), BitField(16, 12, 4))),
)
ARGUMENTS = tuple(Argument(number, frozenset((f"r{number}",))) for number in range(4))

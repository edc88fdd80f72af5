# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `movz` of a W register without shift (Arm ARM, C6.2, MOVZ); `mov` of a register.

Arguments: x0 to x7, registers that calls keep: x19 to x28 (AAPCS64, sections 6.8.2 and 6.1.1).
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

CONSTANTS = (
    ConstantLoad(4, 0xFFE00000, 0x52800000, (0, 5), (BitField(5, 0, 16),)),
    ConstantLoad(4, 0x7FE0FFE0, 0x2A0003E0, (0, 5), (), source=(16, 5)),
)
ARGUMENTS = tuple(Argument(number, frozenset((f"x{number}", f"w{number}"))) for number in range(8))
SAVED = tuple(Argument(number, frozenset((f"x{number}", f"w{number}"))) for number in range(19, 29))

# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `movz` of a W register without shift (Arm ARM, C6.2, MOVZ).

Arguments: x0 to x7 (AAPCS64, section 6.8.2).
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

CONSTANTS = (ConstantLoad(4, 0xFFE00000, 0x52800000, (0, 5), (BitField(5, 0, 16),)),)
ARGUMENTS = tuple(Argument(number, frozenset((f"x{number}", f"w{number}"))) for number in range(8))

# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `lghi` and `lhi` (Principles of Operation, LOAD HALFWORD IMMEDIATE).

Arguments: r2 to r6 (s390x ELF ABI supplement, section 1.2.5).
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

CONSTANTS = tuple(
    ConstantLoad(4, 0xFF0F0000, match, (20, 4), (BitField(0, 0, 16),), signed=True)
    for match in (0xA7090000, 0xA7080000)
)
ARGUMENTS = tuple(Argument(number, frozenset((f"%r{number}",))) for number in range(2, 7))

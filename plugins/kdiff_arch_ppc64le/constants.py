# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `li`, which is `addi` to no register (Power ISA, book I, section 3.3.9).

Arguments: r3 to r10 (Power ELFv2 ABI, section 2.2.3).
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

CONSTANTS = (ConstantLoad(4, 0xFC1F0000, 0x38000000, (21, 5), (BitField(0, 0, 16),), signed=True),)
ARGUMENTS = tuple(Argument(number, frozenset((f"r{number}",))) for number in range(3, 11))

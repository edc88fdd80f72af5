# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `mov r32, imm32` (Intel SDM, volume 2, MOV, opcode B8+rd; REX.B or not).

Arguments: rdi, rsi, rdx, rcx, r8, r9 (System V psABI for AMD64, section 3.2.3).
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

CONSTANTS = (
    ConstantLoad(5, 0xF8, 0xB8, (0, 3), (BitField(8, 0, 32),)),
    ConstantLoad(6, 0xF8FF, 0xB841, (8, 3), (BitField(16, 0, 32),), base=8),
)
ARGUMENTS = tuple(
    Argument(number, frozenset(names.split()))
    for number, names in (
        (7, "rdi edi di dil"),
        (6, "rsi esi si sil"),
        (2, "rdx edx dx dl dh"),
        (1, "rcx ecx cx cl ch"),
        (8, "r8 r8d r8w r8b"),
        (9, "r9 r9d r9w r9b"),
    )
)

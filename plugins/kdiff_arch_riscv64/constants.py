# SPDX-License-Identifier: Apache-2.0
"""Loads of small constants: `li` as the assembler expands it, `addi` from zero, or `lui` and `addi(w)`; `mv`.

RISC-V Instruction Set Manual, volume I, chapters "RV32I" and "C"; arguments: a0 to a7, registers that
calls keep: s0 to s11 (psABI, "Integer Calling Convention").
"""

from __future__ import annotations

from kdiff.api import Argument, BitField, ConstantLoad

_IMMEDIATE = (BitField(20, 0, 12),)
_REGISTER = (7, 5)

_SHORT = (BitField(2, 0, 5), BitField(12, 5, 1))

CONSTANTS = (
    ConstantLoad(4, 0x000FF07F, 0x00000013, _REGISTER, _IMMEDIATE, signed=True),
    ConstantLoad(4, 0x0000707F, 0x00000013, _REGISTER, _IMMEDIATE, signed=True, source=(15, 5)),
    ConstantLoad(4, 0x0000707F, 0x0000001B, _REGISTER, _IMMEDIATE, signed=True, source=(15, 5)),
    ConstantLoad(4, 0x0000007F, 0x00000037, _REGISTER, (BitField(12, 12, 20),)),
    ConstantLoad(2, 0xE003, 0x4001, _REGISTER, _SHORT, signed=True),
    ConstantLoad(2, 0xE003, 0x0001, _REGISTER, _SHORT, signed=True, source=_REGISTER),
    ConstantLoad(2, 0xE003, 0x2001, _REGISTER, _SHORT, signed=True, source=_REGISTER),
    ConstantLoad(2, 0xF003, 0x8002, _REGISTER, (), source=(2, 5)),
    ConstantLoad(2, 0xE003, 0x6001, _REGISTER, (BitField(2, 12, 5), BitField(12, 17, 1)), signed=True),
)
ARGUMENTS = tuple(Argument(10 + number, frozenset((f"a{number}",))) for number in range(8))
SAVED = (
    Argument(8, frozenset(("s0", "fp"))),
    Argument(9, frozenset(("s1",))),
    *(Argument(16 + number, frozenset((f"s{number}",))) for number in range(2, 12)),
)

# SPDX-License-Identifier: Apache-2.0
"""One row for each relocation type of the psABI that a kernel object can have."""

from __future__ import annotations

from collections.abc import Iterator

from kdiff.api import BitField, Howto, Overflow

R_LARCH_64 = 2

_SIGNED, _UNSIGNED, _WRAP = Overflow.SIGNED, Overflow.UNSIGNED, Overflow.WRAP

K16 = (BitField(10, 2, 16),)
K21 = (BitField(10, 2, 16), BitField(0, 18, 5))
K26 = (BitField(10, 2, 16), BitField(0, 18, 10))
_CALL36 = (BitField(5, 18, 20), BitField(32 + 10, 2, 16))

_SUMS = {6: (105, 106), 8: (47, 52), 16: (48, 53), 32: (50, 55), 64: (51, 56)}
"""Types that add and subtract, by the bits they have."""
_ULEB128 = (107, 108)

_OPERATIONS = {
    "PUSH_PCREL": (22, "push pc"),
    "PUSH_ABSOLUTE": (23, "push"),
    "PUSH_PLT_PCREL": (29, "push pc"),
    "SUB": (32, "subtract"),
    "SL": (33, "shift left"),
    "SR": (34, "shift right"),
    "AND": (36, "and"),
}
_POPS = {
    "POP_32_S_10_5": (38, (BitField(10, 0, 5),), _SIGNED),
    "POP_32_U_10_12": (39, (BitField(10, 0, 12),), _UNSIGNED),
    "POP_32_S_10_12": (40, (BitField(10, 0, 12),), _SIGNED),
    "POP_32_S_10_16": (41, (BitField(10, 0, 16),), _SIGNED),
    "POP_32_S_10_16_S2": (42, K16, _SIGNED),
    "POP_32_S_5_20": (43, (BitField(5, 0, 20),), _SIGNED),
    "POP_32_S_0_5_10_16_S2": (44, K21, _SIGNED),
    "POP_32_S_0_10_10_16_S2": (45, K26, _SIGNED),
    "POP_32_U": (46, (BitField(0, 0, 32),), _UNSIGNED),
}


def _word(type: int, name: str, bits: int, overflow: Overflow, *, relative: bool = False) -> Howto:
    return Howto(type, f"R_LARCH_{name}", bits // 8, (BitField(0, 0, bits),), overflow, relative)


def _branch(type: int, name: str, fields: tuple[BitField, ...]) -> Howto:
    return Howto(type, f"R_LARCH_{name}", 4, fields, _SIGNED, True)


def _page(type: int, name: str, *, slot: bool) -> Howto:
    fields = (BitField(5, 12, 20),)
    return Howto(
        type, f"R_LARCH_{name}", 4, fields, _SIGNED, True, drops=12, adjust=0x800, paged=True, slot=slot
    )


def _low(type: int, name: str, *, slot: bool = False) -> Howto:
    return Howto(type, f"R_LARCH_{name}", 4, (BitField(10, 0, 12),), _WRAP, slot=slot)


def _quarter(
    type: int, name: str, lsb: int, width: int, drops: int, overflow: Overflow, *, slot: bool = False
) -> Howto:
    fields = (BitField(lsb, drops, width),)
    return Howto(type, f"R_LARCH_{name}", 4, fields, overflow, drops=drops, slot=slot)


def _hint(type: int, name: str) -> Howto:
    return Howto(type, f"R_LARCH_{name}", 0, (), _UNSIGNED)


def _sums() -> Iterator[Howto]:
    for bits, (add, subtract) in _SUMS.items():
        size, fields = (bits + 7) // 8, (BitField(0, 0, bits),)
        yield Howto(add, f"R_LARCH_ADD{bits}", size, fields, _WRAP, partner=subtract)
        yield Howto(subtract, f"R_LARCH_SUB{bits}", size, fields, _WRAP, subtracts=True)
    add, subtract = _ULEB128
    fields = (BitField(0, 0, 7),)
    yield Howto(add, "R_LARCH_ADD_ULEB128", 1, fields, _UNSIGNED, partner=subtract, uleb128=True)
    yield Howto(subtract, "R_LARCH_SUB_ULEB128", 1, fields, _UNSIGNED, subtracts=True, uleb128=True)


def _stack() -> Iterator[Howto]:
    for name, (number, operation) in _OPERATIONS.items():
        yield Howto(number, f"R_LARCH_SOP_{name}", 0, (), _UNSIGNED, stack=operation)
    for name, (number, fields, overflow) in _POPS.items():
        yield Howto(number, f"R_LARCH_SOP_{name}", 4, fields, overflow, stack="pop")


def _rows() -> Iterator[Howto]:
    yield _hint(0, "NONE")
    yield _word(1, "32", 32, _WRAP)
    yield _word(R_LARCH_64, "64", 64, _WRAP)
    yield _hint(20, "MARK_LA")
    yield _hint(21, "MARK_PCREL")
    yield _branch(64, "B16", K16)
    yield _branch(65, "B21", K21)
    yield _branch(66, "B26", K26)
    yield _quarter(67, "ABS_HI20", 5, 20, 12, _WRAP)
    yield _low(68, "ABS_LO12")
    yield _quarter(69, "ABS64_LO20", 5, 20, 32, _WRAP)
    yield _quarter(70, "ABS64_HI12", 10, 12, 52, _WRAP)
    yield _page(71, "PCALA_HI20", slot=False)
    yield _low(72, "PCALA_LO12")
    yield _page(75, "GOT_PC_HI20", slot=True)
    yield _low(76, "GOT_PC_LO12", slot=True)
    yield _quarter(79, "GOT_HI20", 5, 20, 12, _WRAP, slot=True)
    yield _low(80, "GOT_LO12", slot=True)
    yield _quarter(81, "GOT64_LO20", 5, 20, 32, _WRAP, slot=True)
    yield _quarter(82, "GOT64_HI12", 10, 12, 52, _WRAP, slot=True)
    yield _word(99, "32_PCREL", 32, _SIGNED, relative=True)
    yield _hint(100, "RELAX")
    yield _hint(102, "ALIGN")
    yield Howto(103, "R_LARCH_PCREL20_S2", 4, (BitField(5, 2, 20),), _SIGNED, True)
    yield _word(109, "64_PCREL", 64, _WRAP, relative=True)
    yield Howto(110, "R_LARCH_CALL36", 8, _CALL36, _SIGNED, True, signed_low=18)
    yield from _sums()
    yield from _stack()


HOWTOS = {row.type: row for row in _rows()}

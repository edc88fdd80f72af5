# SPDX-License-Identifier: Apache-2.0
"""Laws of `kdiff.arch.Howto`, for the rows of every architecture here and for shapes others have."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.arch import BitField, ByteOrder, Howto, Overflow

SPLIT = Howto(1, "split", 4, (BitField(29, 0, 2), BitField(5, 2, 19)), Overflow.SIGNED, True)
"""Two runs of bits, as in aarch64's ADR."""
SHIFTED = Howto(2, "shifted", 4, (BitField(0, 2, 26),), Overflow.SIGNED, True)
"""The value's low bits are implied, as in aarch64's and ppc64's branches."""
HIGH_HALF = Howto(3, "high", 2, (BitField(0, 16, 16),), Overflow.UNSIGNED)

ROWS = (*ARCHITECTURE.howtos.values(), SPLIT, SHIFTED, HIGH_HALF)
STORING = tuple(row for row in ROWS if row.size)

orders: st.SearchStrategy[ByteOrder] = st.sampled_from(("little", "big"))
values = st.integers(-(1 << 65), 1 << 65) | st.integers(-(1 << 33), 1 << 33) | st.integers(-300, 300)


def containers(row: Howto) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=row.size, max_size=row.size)


def fits(row: Howto, value: int) -> bool:
    """The psABI's range check, written the other way round: by the range and not by storing."""
    if row.overflow is Overflow.WRAP:
        return True
    step = 1 << min(bits.value_lsb for bits in row.fields)
    low = 0 if row.overflow is Overflow.UNSIGNED else -(1 << (row.span - 1))
    return low <= value < low + (1 << row.span) and value % step == 0


@given(st.sampled_from(STORING), orders, values, st.data())
def test_what_is_inserted_is_extracted_or_overflows(
    row: Howto, order: ByteOrder, value: int, data: st.DataObject
) -> None:
    container = data.draw(containers(row))
    if not fits(row, value):
        with pytest.raises(OverflowError, match=row.name):
            row.insert(container, value, order)
        return
    found = row.extract(row.insert(container, value, order), order)
    assert (found - value) % (1 << row.span) == 0
    assert row.overflow is Overflow.WRAP or found == value


@given(st.sampled_from(ROWS), orders, st.data())
def test_inserting_what_was_extracted_changes_nothing(
    row: Howto, order: ByteOrder, data: st.DataObject
) -> None:
    container = data.draw(containers(row))
    assert row.insert(container, row.extract(container, order), order) == container


@given(st.sampled_from(STORING), orders, values, st.data())
def test_bits_outside_of_the_field_are_kept(
    row: Howto, order: ByteOrder, value: int, data: st.DataObject
) -> None:
    assume(fits(row, value))
    container = data.draw(containers(row))
    before = int.from_bytes(container, order)
    after = int.from_bytes(row.insert(container, value, order), order)
    assert (before ^ after) & ~row.mask == 0


@given(st.sampled_from(STORING), orders, st.data())
def test_a_flipped_bit_of_the_field_changes_the_value(
    row: Howto, order: ByteOrder, data: st.DataObject
) -> None:
    container = data.draw(containers(row))
    bit = data.draw(st.sampled_from([n for n in range(8 * row.size) if row.mask >> n & 1]))
    flipped = (int.from_bytes(container, order) ^ 1 << bit).to_bytes(row.size, order)
    assert row.extract(flipped, order) != row.extract(container, order)


def test_the_edges_of_a_signed_field_fit_and_their_neighbours_do_not() -> None:
    row = ARCHITECTURE.howtos[2]
    for value in (-(1 << 31), (1 << 31) - 1):
        assert row.extract(row.insert(bytes(4), value, "little"), "little") == value
    for value in (-(1 << 31) - 1, 1 << 31):
        with pytest.raises(OverflowError):
            row.insert(bytes(4), value, "little")


def test_a_value_whose_implied_low_bits_are_not_zero_overflows() -> None:
    assert SHIFTED.extract(SHIFTED.insert(bytes(4), -8, "little"), "little") == -8
    with pytest.raises(OverflowError):
        SHIFTED.insert(bytes(4), -6, "little")


def test_an_empty_field_holds_nothing_but_zero() -> None:
    none = ARCHITECTURE.howtos[0]
    assert none.insert(b"", 0, "little") == b""
    assert none.extract(b"", "little") == 0
    with pytest.raises(OverflowError):
        none.insert(b"", 1, "little")

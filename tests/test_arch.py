# SPDX-License-Identifier: Apache-2.0
"""Laws of `kdiff.arch.Howto`, for the rows of every architecture here and for shapes others have."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kdiff_arch_aarch64 import ARCHITECTURE as AARCH64
from kdiff_arch_arm import ARCHITECTURE as ARM
from kdiff_arch_i386 import ARCHITECTURE as I386
from kdiff_arch_loongarch64 import ARCHITECTURE as LOONGARCH64
from kdiff_arch_ppc64le import ARCHITECTURE as PPC64LE
from kdiff_arch_riscv64 import ARCHITECTURE as RISCV64
from kdiff_arch_s390x import ARCHITECTURE as S390X
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.arch import BitField, ByteOrder, Howto, Overflow

SPLIT = Howto(1, "split", 4, (BitField(29, 0, 2), BitField(5, 2, 19)), Overflow.SIGNED, True)
"""Two runs of bits, as in aarch64's ADR."""
SHIFTED = Howto(2, "shifted", 4, (BitField(0, 2, 26),), Overflow.SIGNED, True)
"""The value's low bits are implied, as in aarch64's and ppc64's branches."""
HIGH_HALF = Howto(3, "high", 2, (BitField(0, 16, 16),), Overflow.UNSIGNED)

ARCHITECTURES = (ARCHITECTURE, AARCH64, ARM, I386, LOONGARCH64, PPC64LE, RISCV64, S390X)
ROWS = (
    *(row for each in ARCHITECTURES for row in each.howtos.values()),
    *(SPLIT, SHIFTED, HIGH_HALF),
)
STORING = tuple(row for row in ROWS if row.size)

orders: st.SearchStrategy[ByteOrder] = st.sampled_from(("little", "big"))
values = st.integers(-(1 << 65), 1 << 65) | st.integers(-(1 << 33), 1 << 33) | st.integers(-300, 300)


def containers(row: Howto) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=row.size, max_size=row.size)


def fits(row: Howto, value: int) -> bool:
    """The psABI's range check, written the other way round: by the range and not by storing."""
    step = 1 << min(bits.value_lsb for bits in row.fields)
    if row.overflow is Overflow.WRAP:
        return value % step == 0
    if row.overflow is Overflow.EITHER:
        return -(1 << (row.span - 1)) <= value < 1 << row.span and value % step == 0
    low = 0 if row.overflow is Overflow.UNSIGNED else -(1 << (row.span - 1)) - (1 << row.signed_low >> 1)
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
    assert row.overflow in (Overflow.WRAP, Overflow.EITHER) or found == value


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


def test_a_field_for_either_sign_takes_both_ranges_and_tells_no_value() -> None:
    row = ARM.howtos[5]
    assert row.insert(bytes(2), -0x8000, "little") == row.insert(bytes(2), 0x8000, "little") == b"\0\x80"
    assert row.value(0xFFFFFFF8, 0, 32) == -8
    for value in (-0x8001, 0x10000):
        with pytest.raises(OverflowError):
            row.insert(bytes(2), value, "little")
    assert not row.complete
    assert not row.invertible


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


def test_a_page_is_counted_from_page_to_page() -> None:
    page = AARCH64.howtos[275]
    for destination, place, pages in ((0x2000, 0x1FFC, 1), (0x2FFF, 0x2000, 0), (0x1FFF, 0x2000, -1)):
        assert page.value(destination, place, 64) == pages << 12
    assert AARCH64.howtos[289].value(0x2FFFF, 0x10000, 64) == 0x10000


def test_a_value_is_counted_modulo_the_size_of_a_pointer() -> None:
    signed, word, relative = AARCH64.howtos[272], ARCHITECTURE.howtos[10], I386.howtos[2]
    assert signed.value(0xFFFF800012345678, 0, 64) == -0x8000 << 32
    assert word.value(-1, 0, 64) == (1 << 64) - 1
    assert relative.insert(bytes(4), relative.value(0x10, 0xC0000000, 32), "little").hex() == "10000040"


def test_a_signed_move_stores_the_complement_of_a_negative_value() -> None:
    move = AARCH64.howtos[270]
    movz, movn = (move.insert(bytes.fromhex("000080d2"), value, "little") for value in (5, -5))
    assert (movz.hex(), movn.hex()) == ("a00080d2", "80008092")
    assert (move.extract(movz, "little"), move.extract(movn, "little")) == (5, -5)


def test_a_row_is_complete_where_the_field_determines_the_destination() -> None:
    for row in (*ARCHITECTURE.howtos.values(), *I386.howtos.values()):
        assert row.complete == (bool(row.size) and row.overflow is not Overflow.EITHER)
    assert [row.complete for row in (SPLIT, SHIFTED)] == [True, True]
    assert not any(
        row.complete for row in AARCH64.howtos.values() if "LO12" in row.name or "_PG_" in row.name
    )


@given(st.integers(-(1 << 15), (1 << 15) - 1))
def test_the_addend_of_a_rel_record_is_not_scaled_by_what_the_field_drops(addend: int) -> None:
    for row in (ARM.howtos[43], ARM.howtos[44]):
        container = row.insert(bytes(4), addend << row.drops, "little")
        assert row.addend(container, "little") == addend
    branch = ARM.howtos[28]
    assert branch.addend(branch.insert(bytes(4), 4 * addend, "little"), "little") == 4 * addend

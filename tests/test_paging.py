# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_x86_64.paging import PAGE_TABLES as X86_64

from kdiff.arch import Root
from kdiff.errors import KdiffError
from kdiff.paging import Run, Translation, find_kernel

PAGE = 4096
FIRST, LAST = X86_64.image


class Tables:
    """Page tables as a kernel makes them, and the memory they lie in. `shift`: 12, 21 or 30 bits a page."""

    def __init__(self, levels: int = 4, extra: int = 0) -> None:
        self.levels, self.extra = levels, extra
        self.frames: dict[int, list[int]] = {}
        self.root = self.new()

    def new(self) -> int:
        address = (len(self.frames) + 1) * PAGE
        self.frames[address] = [0] * 512
        return address

    def map(self, virtual: int, physical: int, shift: int = 12) -> None:
        table = self.root
        for level in range(self.levels - 1, -1, -1):
            index = virtual >> 12 + 9 * level & 511
            if 12 + 9 * level == shift:
                self.frames[table][index] = physical | self.extra | (0x80 if level else 0) | 3
                return
            if not self.frames[table][index]:
                self.frames[table][index] = self.new() | self.extra | 3
            table = self.frames[table][index] & ~self.extra & ~0xFFF

    def read(self, address: int, size: int) -> bytes | None:
        if size == PAGE and address in self.frames:
            return struct.pack("<512Q", *self.frames[address])
        return address.to_bytes(8, "little") * (size // 8) + bytes(size % 8) if address >= 1 << 24 else None

    def translation(self) -> Translation:
        return Translation(X86_64, self.read, Root(self.root, self.levels, self.extra), "tables")


SIZES = st.sampled_from((12, 21))
PLACES = st.lists(st.tuples(st.integers(0, 511), st.integers(16, 600), SIZES), max_size=12)


@given(PLACES, st.sampled_from((4, 5)), st.sampled_from((0, 1 << 47)))
def test_every_mapped_address_is_translated_and_no_other(
    places: list[tuple[int, int, int]], levels: int, encrypted: int
) -> None:
    tables = Tables(levels, encrypted)
    expected: dict[int, tuple[int, int]] = {}
    for at, frame, shift in places:
        block = FIRST + (at << 21)
        if any(start >> 21 == block >> 21 for start in expected):
            continue
        start = block if shift == 21 else block + (frame % 512 << 12)
        tables.map(start, frame << 21, shift)
        expected[start] = frame << 21, 1 << shift
    space = tables.translation()
    for start, (physical, size) in expected.items():
        for inside in (0, 1, size - 1):
            assert space.physical(start + inside) == (physical + inside, size - inside)
        assert space.physical(start - 1) is None or any(
            a <= start - 1 < a + b[1] for a, b in expected.items()
        )
    found = {
        run.address + at: run.physical + at for run in space.runs(FIRST, LAST) for at in (0, run.size - 1)
    }
    covered = sum(run.size for run in space.runs(FIRST, LAST))
    assert covered == sum(size for _, size in expected.values())
    for address, physical in found.items():
        assert space.physical(address) is not None
        assert space.physical(address)[0] == physical  # type: ignore[index]


def test_neighbours_are_one_run_only_if_they_are_neighbours_on_both_sides() -> None:
    tables = Tables()
    for number, frame in enumerate((100, 101, 103, 102)):
        tables.map(FIRST + number * PAGE, (1 << 24) + frame * PAGE)
    runs = tables.translation().runs(FIRST, LAST)
    assert [(run.address - FIRST, run.size) for run in runs] == [
        (0, 2 * PAGE),
        (2 * PAGE, PAGE),
        (3 * PAGE, PAGE),
    ]


def test_a_run_begins_and_ends_where_it_is_asked_to() -> None:
    tables = Tables()
    tables.map(FIRST, 1 << 30, 30)
    runs = tables.translation().runs(FIRST + 5 * PAGE, FIRST + 9 * PAGE)
    assert runs == (Run(FIRST + 5 * PAGE, 4 * PAGE, (1 << 30) + 5 * PAGE),)


def test_bytes_are_read_across_pages_that_lie_apart() -> None:
    tables = Tables()
    tables.map(FIRST, 1 << 25)
    tables.map(FIRST + PAGE, 1 << 26)
    read = tables.translation().virtual(FIRST + PAGE - 8, 16)
    assert read == ((1 << 25) + PAGE - 8).to_bytes(8, "little") + (1 << 26).to_bytes(8, "little")
    assert tables.translation().virtual(FIRST + 2 * PAGE - 8, 16) is None


def test_a_table_that_is_not_there_maps_nothing() -> None:
    space = Translation(X86_64, lambda address, size: None, Root(PAGE, 4), "tables")
    assert space.physical(FIRST) is None
    assert space.runs(FIRST, LAST) == ()


def test_of_two_address_spaces_the_one_with_the_whole_kernel_is_taken() -> None:
    """Page table isolation: what user code runs on maps the way into the kernel only."""
    tables = Tables()
    kernel, user = tables.root, tables.new()
    for number in range(4):
        tables.map(FIRST + number * PAGE, (1 << 24) + number * PAGE)
    tables.root = user
    tables.map(FIRST, 1 << 24)
    for order in ((kernel, user), (user, kernel)):
        found = find_kernel(X86_64, tables.read, [Root(each, 4) for each in order], "tables")
        assert found is not None
        assert found[0].root.address == kernel
    assert find_kernel(X86_64, tables.read, [Root(1 << 23, 4)], "tables") is None


def test_registers_tell_both_tables_and_how_many_levels_there_are() -> None:
    paging = 1 << 31
    both = (Root(0x1234_4000, 4), Root(0x1234_5000, 4))
    assert X86_64.roots(paging, 0x8000_0000_1234_5ABC, 0) == both
    assert X86_64.roots(paging, 0x4000, 1 << 12) == (Root(0x4000, 5),)
    assert X86_64.roots(0, 0x4000, 0) == ()


def test_tables_without_an_end_are_an_error_with_their_place() -> None:
    tables = Tables()
    tables.frames[tables.root] = [tables.root | 3] * 512
    with pytest.raises(KdiffError) as caught:
        tables.translation().runs(FIRST, LAST)
    assert (caught.value.key, caught.value.place) == ("memory.page_tables", "tables")

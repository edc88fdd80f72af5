# SPDX-License-Identifier: Apache-2.0
"""Special sections: which row a section has, and how large its entries are."""

from __future__ import annotations

import pytest
from elfwriter import Reloc, Sec, elf

from kdiff.elf.read import read_bytes
from kdiff.errors import KdiffError
from kdiff.kernel import Keep, SpecialSection
from kdiff.tables import entry_size, row_of


def row(name: str, size: int = 0, prefix: bool = False, code: bool = False) -> SpecialSection:
    return SpecialSection(name, size, Keep.OWNER, prefix=prefix, code=code)


def rows(*listed: SpecialSection) -> dict[str, SpecialSection]:
    return {each.name: each for each in listed}


def size(data: bytes, relocs: tuple[Reloc, ...] = (), known: int = 0, declared: int = 0) -> int:
    obj = read_bytes(elf(Sec("__table", data, "a", 8, entry_size=declared, relocs=relocs)))
    return entry_size(obj, 1, row("__table", known))


def relocs(step: int, count: int, *offsets: int) -> tuple[Reloc, ...]:
    return tuple((step * i + at, 2, "f", 0) for i in range(count) for at in offsets)


def test_a_section_has_the_row_of_its_name() -> None:
    assert row_of("__bug_table", rows(row("__bug_table"))) == row("__bug_table")


def test_a_section_nobody_named_has_no_row() -> None:
    assert row_of("__bug_table_of_another", rows(row("__bug_table"))) is None


def test_a_family_covers_every_section_that_begins_like_it() -> None:
    known = rows(row(".discard", prefix=True))
    assert row_of(".discard.reachable", known) == row(".discard", prefix=True)
    assert row_of(".discar", known) is None


def test_the_longest_family_wins() -> None:
    long, short = row(".discard.unreachable", prefix=True), row(".discard", prefix=True)
    for known in (rows(short, long), rows(long, short)):
        assert row_of(".discard.unreachable.x", known) == long


def test_an_exact_name_wins_over_a_family() -> None:
    known = rows(row(".discard", prefix=True), row(".discard.x"))
    assert row_of(".discard.x", known) == row(".discard.x")


def test_code_that_is_rewritten_as_a_whole_is_no_table() -> None:
    assert row_of(".static_call.text", rows(row(".static_call.text", code=True))) is None


def test_the_kernels_own_size_counts() -> None:
    assert size(bytes(36), relocs(12, 3, 0), known=12) == 12


def test_a_table_that_is_no_multiple_of_its_entry_is_an_error() -> None:
    with pytest.raises(KdiffError) as caught:
        size(bytes(36), known=16)
    assert caught.value.key == "tables.entry_size"
    assert "36 bytes" in caught.value.message


def test_the_size_the_compiler_declared_counts_next() -> None:
    assert size(bytes(32), declared=8) == 8


def test_a_declared_size_that_cannot_be_is_not_used() -> None:
    assert size(bytes(32), relocs(16, 2, 0), declared=5) == 16
    assert size(bytes(32), relocs(16, 2, 0), declared=1) == 16


def test_the_pattern_of_relocations_tells_the_size_of_unknown_entries() -> None:
    assert size(bytes(48), relocs(12, 4, 0, 4)) == 12
    assert size(bytes(48), relocs(16, 3, 8)) == 16


def test_one_entry_is_as_large_as_its_table() -> None:
    assert size(bytes(12), relocs(12, 1, 0, 4)) == 12


def test_entries_that_follow_no_pattern_are_one_opaque_entry() -> None:
    assert size(bytes(48), ()) == 0
    assert size(bytes(40), ((0, 2, "f", 0), (12, 2, "f", 0), (16, 2, "f", 0))) == 40
    assert size(bytes(48), ((0, 2, "f", 0), (20, 1, "f", 0))) == 48


def test_relocations_of_other_types_do_not_repeat() -> None:
    mixed = ((0, 2, "f", 0), (12, 1, "f", 0))
    assert size(bytes(24), mixed) == 24


def test_the_last_entry_may_lack_its_padding() -> None:
    assert size(bytes(44), relocs(16, 3, 0)) == 16


def test_an_entry_has_at_least_the_relocations_its_row_says() -> None:
    pairs = SpecialSection("__table", 0, Keep.OWNER, fields=2)
    obj = read_bytes(elf(Sec("__table", bytes(32), "a", 8, relocs=relocs(4, 8, 0))))
    assert entry_size(obj, 1, pairs) == 8


def test_evidence_that_disagrees_is_none_unless_the_structure_is_declared() -> None:
    row = SpecialSection("__table", 0, Keep.OWNER, structure="entry")
    obj = read_bytes(elf(Sec("__table", bytes(48), "a", 8, entry_size=8, relocs=relocs(16, 3, 0))))
    assert entry_size(obj, 1, row) == 0
    assert entry_size(obj, 1, row, lambda name: {"entry": 16}[name]) == 16

# SPDX-License-Identifier: Apache-2.0
"""Special sections: which row a section has, and how large its entries are."""

from __future__ import annotations

from elfwriter import LOCAL, OBJECT, Reloc, Sec, Sym, elf
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.elf.read import read_bytes
from kdiff.kernel import Keep, Shape, SpecialSection
from kdiff.sectionrows import row_of
from kdiff.tables import rows_in, tables_of

ABS64, PC32 = 1, 2


def row(name: str, size: int = 0, prefix: bool = False, code: bool = False) -> SpecialSection:
    return SpecialSection(name, size, Keep.OWNER, owner=0, prefix=prefix, code=code)


def rows(*listed: SpecialSection) -> dict[str, SpecialSection]:
    return {each.name: each for each in listed}


def settled(
    data: bytes,
    relocs: tuple[Reloc, ...] = (),
    known: int = 0,
    declared: int = 0,
    shapes: tuple[Shape, ...] = (),
    typed: int = 0,
    owner: int | None = 0,
) -> SpecialSection:
    """The row of a table of these bytes; `f` is code of the object, other names are another object's."""
    obj = read_bytes(
        elf(
            Sec("f", bytes(64), "ax"),
            Sec("__table", data, "a", 8, entry_size=declared, relocs=relocs),
        )
    )
    listed = SpecialSection("__table", known, Keep.OWNER, owner=owner, shapes=shapes, structure="entry")
    (found,) = tables_of(obj, ARCHITECTURE, rows(listed), {"entry": typed}.__getitem__).values()
    return found


def size(data: bytes, relocs: tuple[Reloc, ...] = (), known: int = 0, declared: int = 0) -> int:
    return settled(data, relocs, known, declared, owner=None).entry_size


def relocs(step: int, count: int, *offsets: int, type: int = PC32) -> tuple[Reloc, ...]:
    return tuple((step * i + at, type, "f", 0) for i in range(count) for at in offsets)


def shape(size: int, *offsets: int, width: int = 4, least: int = 0, named: tuple[int, ...] = ()) -> Shape:
    return Shape(size, tuple((offset, width) for offset in offsets), least=least, named=named)


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


def test_the_last_entry_may_lack_its_padding_only() -> None:
    assert [rows_in(total, 16, 10) for total in (10, 16, 26, 28, 32)] == [1, 1, 2, 2, 2]
    assert [rows_in(total, 16, 10) for total in (9, 17, 25)] == [0, 0, 0]
    assert rows_in(28, 16) == 0


def test_the_kernels_own_size_counts() -> None:
    assert size(bytes(36), relocs(12, 3, 0), known=12) == 12


def test_a_table_that_is_no_multiple_of_its_entry_is_in_doubt() -> None:
    found = settled(bytes(36), relocs(12, 3, 0), known=16)
    assert "36 bytes, no multiple of its 16-byte entries" in found.opaque
    assert (found.entry_size, found.owner) == (0, None)


def test_relocations_that_contradict_the_kernels_size_are_told() -> None:
    found = settled(bytes(48), relocs(12, 4, 0, 4), known=16, shapes=(shape(12, 0, 4), shape(16, 0, 4)))
    assert "16 bytes by its type, 12 by its relocations" in found.opaque


def test_the_size_the_compiler_declared_counts_next() -> None:
    assert size(bytes(32), declared=8) == 8


def test_a_declared_size_that_cannot_be_is_not_used() -> None:
    assert size(bytes(32), relocs(16, 2, 0), declared=5) == 16
    assert size(bytes(32), relocs(16, 2, 0), declared=1) == 16


def test_a_declared_size_that_relocations_contradict_is_told() -> None:
    found = settled(bytes(48), relocs(12, 4, 0, 4), declared=16, shapes=(shape(12, 0, 4),))
    assert "12 bytes by its relocations, 16 by sh_entsize" in found.opaque


def test_the_only_layout_that_all_relocations_fit_is_taken() -> None:
    known = (shape(8, 0, 4), shape(12, 0, 4), shape(16, 0, 4))
    for step in (8, 12, 16):
        for count in (1, 2, 3, 13):
            found = settled(bytes(step * count), relocs(step, count, 0, 4), shapes=known)
            assert (found.entry_size, found.owner, found.opaque) == (step, 0, "")


def test_pointers_and_relative_addresses_are_told_apart() -> None:
    known = (shape(16, 0, 4), shape(16, 0, 8, width=8))
    relative = settled(bytes(32), relocs(16, 2, 0, 4), shapes=known)
    pointers = settled(bytes(32), relocs(16, 2, 0, 8, type=ABS64), shapes=known)
    assert (relative.opaque, pointers.opaque) == ("", "")


def test_a_layout_may_ask_for_a_global_name() -> None:
    """Three entries of eight bytes and two of twelve have relocations at the same places."""
    known = (shape(8, 0, 4), shape(12, 0, 4, 8, named=(8,)))
    plain = relocs(4, 6, 0)
    handled = tuple((at, PC32, "handler" if at % 12 == 8 else "f", 0) for at in range(0, 24, 4))
    assert settled(bytes(24), plain, shapes=known).entry_size == 8
    assert settled(bytes(24), handled, shapes=known).entry_size == 12


def test_layouts_that_fit_equally_are_in_doubt() -> None:
    found = settled(bytes(24), relocs(12, 2, 0, 4), shapes=(shape(12, 0, 4), shape(24, 0, 4, 12, 16)))
    assert "12 or 24 bytes by its relocations" in found.opaque


def test_a_layout_nobody_described_is_taken_from_its_repetition() -> None:
    found = settled(bytes(60), relocs(20, 3, 0, 4), shapes=(shape(12, 0, 4),))
    assert (found.entry_size, found.owner, found.ignored) == (20, 0, ())


def test_a_single_entry_of_an_unknown_layout_is_in_doubt() -> None:
    assert "no known layout" in settled(bytes(20), relocs(20, 1, 0, 4), shapes=(shape(12, 0, 4),)).opaque


def test_entries_of_an_unknown_layout_must_all_name_their_code() -> None:
    found = settled(bytes(60), relocs(20, 3, 4), shapes=(shape(12, 0, 4),))
    assert "not all of them name their code" in found.opaque


def test_a_table_has_as_many_entries_as_the_one_beside_it() -> None:
    def unwind(data: bytes, known: int = 0) -> SpecialSection:
        obj = read_bytes(
            elf(
                Sec("f", bytes(64), "ax"),
                Sec("__places", bytes(12), relocs=relocs(4, 3, 0)),
                Sec("__unwind", data),
            )
        )
        beside = SpecialSection("__unwind", known, Keep.OWNER, parallel="__places")
        _, found = tables_of(obj, ARCHITECTURE, rows(row("__places", 4), beside)).values()
        return found

    assert unwind(bytes(18)).entry_size == 6
    assert unwind(bytes(24)).entry_size == 8
    assert unwind(bytes(18), known=6).opaque == ""
    assert "4 entries of 6 bytes, and __places has 3" in unwind(bytes(24), known=6).opaque
    assert "__places has 3" in unwind(bytes(20)).opaque


def test_the_pattern_of_relocations_tells_the_size_of_unknown_entries() -> None:
    assert size(bytes(48), relocs(12, 4, 0, 4)) == 12
    assert size(bytes(48), relocs(16, 3, 8)) == 16


def test_entries_that_follow_no_pattern_are_one_opaque_entry() -> None:
    assert size(bytes(48), ()) == 0
    assert size(bytes(12), relocs(12, 1, 0, 4)) == 0
    assert size(bytes(40), ((0, 2, "f", 0), (12, 2, "f", 0), (16, 2, "f", 0))) == 0


def test_relocations_of_other_sizes_do_not_repeat() -> None:
    mixed = ((0, PC32, "f", 0), (12, ABS64, "f", 0))
    assert size(bytes(24), mixed) == 0


def test_debugging_information_decides_between_layouts_that_fit_equally() -> None:
    known = (shape(12, 0, 4), shape(24, 0, 4, 12, 16))
    assert settled(bytes(24), relocs(12, 2, 0, 4), shapes=known, typed=12).entry_size == 12
    assert settled(bytes(24), relocs(12, 2, 0, 4), shapes=known, typed=8).opaque


def test_debugging_information_tells_of_layouts_nobody_described() -> None:
    known = (shape(12, 0, 4),)
    assert settled(bytes(20), relocs(20, 1, 0, 4, 12), shapes=known, typed=20).entry_size == 20
    found = settled(bytes(60), relocs(20, 3, 0, 4), shapes=known, typed=30)
    assert "30 by its type, 20 by its relocations" in found.opaque


def test_symbols_that_cover_a_table_tell_its_entries() -> None:
    obj = read_bytes(
        elf(
            Sec("__table", bytes(48)),
            *(Sym(f"entry{i}", "__table", 16 * i, 16, OBJECT, LOCAL) for i in range(3)),
        )
    )
    listed = SpecialSection("__table", 0, Keep.REFERENCED)
    (found,) = tables_of(obj, ARCHITECTURE, rows(listed)).values()
    assert found.entry_size == 16


def test_entries_of_a_known_size_must_all_name_their_code() -> None:
    found = settled(bytes(48), relocs(16, 2, 0), known=16)
    assert (found.entry_size, found.owner) == (0, None)
    assert "16 bytes, and not all of them name their code" in found.opaque
    assert settled(bytes(48), relocs(16, 2, 0), known=16, owner=None).entry_size == 16

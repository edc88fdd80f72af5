# SPDX-License-Identifier: Apache-2.0
"""Cutting sections into pieces."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from compiled import ASSEMBLY, REST, UNIT, WHOLE, compiled, obj
from elfwriter import FUNC, GLOBAL, LOCAL, NOBITS, NOTE, NOTYPE, OBJECT, WEAK, Sec, Sym, elf
from hypothesis import given, settings
from kdiff_arch_x86_64 import ARCHITECTURE
from strategies import units

from kdiff.elf.read import SHF_ALLOC, Object, read_bytes
from kdiff.elf.stack import Stack
from kdiff.kernel import Keep, SpecialSection
from kdiff.labels import labels_in
from kdiff.split import Kind, Piece, only_nops, sections_in, split


def cut(found: Object, special: Mapping[str, SpecialSection]) -> list[Piece]:
    """All of an object."""
    stack = Stack.of([found])
    labels = labels_in(stack, ARCHITECTURE, [sections_in(found, None)])
    (pieces,) = split(stack, ARCHITECTURE, special, [None], (), labels)
    return pieces


def pieces(*parts: Sec | Sym, rows: tuple[SpecialSection, ...] = ()) -> list[Piece]:
    return cut(read_bytes(elf(*parts)), {row.name: row for row in rows})


def ranges(found: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.start, piece.size) for piece in found]


def names(obj: Object, piece: Piece) -> list[str]:
    return [each.name for each in piece.labels]


# Every byte in one piece -----------------------------------------------------------------------------


def covered(obj: Object) -> None:
    """No two pieces overlap, and what lies in none is padding."""
    by_section: dict[int, list[Piece]] = {}
    for piece in cut(obj, {}):
        by_section.setdefault(piece.section, []).append(piece)
    for section, found in by_section.items():
        position = 0
        for piece in found:
            assert piece.start >= position
            left = bytes(obj.contents(section)[position : piece.start])
            assert not any(left) or only_nops(ARCHITECTURE, left)
            position = piece.start + piece.size
        assert position <= obj.sections["size"][section]


@pytest.mark.parametrize("form", [(UNIT,), (UNIT, WHOLE), (REST,), (REST, WHOLE)])
def test_pieces_of_compiled_code_never_overlap_and_leave_out_padding_only(form: tuple[str, ...]) -> None:
    covered(obj(*form))


@given(units())
@settings(deadline=None, max_examples=10)
def test_pieces_of_any_unit_never_overlap(text: str) -> None:
    covered(obj(text, WHOLE))


@pytest.mark.parametrize("options", [(), (WHOLE,)])
def test_every_function_is_a_piece_with_function_sections_and_without(options: tuple[str, ...]) -> None:
    found = obj(UNIT, *options)
    functions = [
        names(found, piece)[0] for piece in cut(found, {}) if piece.kind is Kind.FUNCTION and piece.labels
    ]
    assert sorted(functions) == ["choose", "entry", "helper", "tail", "weak_one"]


# Kinds -----------------------------------------------------------------------------------------------


def test_flags_of_a_section_tell_the_kind_of_its_pieces() -> None:
    found = pieces(
        Sec(".text", b"\xc3", "ax"), Sec(".rodata", b"\1", "a"), Sec(".data", b"\1", "wa"),
        Sec(".rodata.str", b"a\0", "aMS", entry_size=1), Sec(".comment", b"x", ""),
    )  # fmt: skip
    assert [piece.kind for piece in found] == [Kind.FUNCTION, Kind.CONSTANT, Kind.DATA, Kind.STRING]


def test_notes_are_no_pieces() -> None:
    assert pieces(Sec(".note.x", b"\1", "a", type=NOTE)) == []


def test_a_section_of_strings_is_cut_into_strings() -> None:
    found = pieces(Sec(".rodata.str1.1", b"one\0\0three\0", "aMS", entry_size=1))
    assert ranges(found) == [(0, 4), (4, 1), (5, 6)]


def test_a_string_without_an_end_is_a_piece_too() -> None:
    assert ranges(pieces(Sec(".rodata.str1.1", b"one\0two", "aMS", entry_size=1))) == [(0, 4), (4, 3)]


def test_a_section_of_constants_is_cut_by_their_size() -> None:
    found = pieces(Sec(".rodata.cst8", bytes(24), "aM", 8, entry_size=8))
    assert ranges(found) == [(0, 8), (8, 8), (16, 8)]
    assert {piece.kind for piece in found} == {Kind.CONSTANT}


def test_constants_whose_size_does_not_divide_their_section_stay_whole() -> None:
    assert ranges(pieces(Sec(".rodata.cst8", bytes(20), "aM", 4, entry_size=8))) == [(0, 20)]


# Symbols ---------------------------------------------------------------------------------------------


def test_a_section_is_cut_at_every_sized_symbol() -> None:
    found = pieces(
        Sec(".text", b"\xc3" * 8, "ax"), Sym("f", ".text", 0, 3, FUNC), Sym("g", ".text", 3, 5, FUNC)
    )
    assert ranges(found) == [(0, 3), (3, 5)]


def test_a_symbol_inside_of_a_sized_one_does_not_cut_it() -> None:
    found = pieces(
        Sec(".text", b"\xc3" * 8, "ax"), Sym("f", ".text", 0, 8, FUNC), Sym("inner", ".text", 3, 2, FUNC)
    )
    assert ranges(found) == [(0, 8)]


def test_aliases_are_one_piece_and_the_name_a_person_knows_comes_first() -> None:
    data = elf(
        Sec(".text", b"\xc3" * 4, "ax"),
        Sym("label", ".text", 0, 0, NOTYPE, LOCAL),
        Sym("local", ".text", 0, 4, FUNC, LOCAL),
        Sym("known", ".text", 0, 4, FUNC, GLOBAL),
        Sym("weak", ".text", 0, 4, FUNC, WEAK),
    )
    found = read_bytes(data)
    (piece,) = cut(found, {})
    assert names(found, piece) == ["known", "weak", "local", "label"]


def test_code_between_symbols_is_a_piece_of_its_own() -> None:
    found = pieces(
        Sec(".text", b"\xc3\xcc\x90\x0f\x0b\xc3", "ax"),
        Sym("f", ".text", 0, 1, FUNC),
        Sym("g", ".text", 5, 1, FUNC),
    )
    assert ranges(found) == [(0, 1), (1, 4), (5, 1)]


def test_padding_between_functions_is_no_piece() -> None:
    code = b"\xc3" + bytes.fromhex("660f1f440000") + b"\xcc\x90" + b"\xc3"
    found = pieces(Sec(".text", code, "ax"), Sym("f", ".text", 0, 1, FUNC), Sym("g", ".text", 9, 1, FUNC))
    assert ranges(found) == [(0, 1), (9, 1)]


def test_zeros_between_data_are_no_piece_unless_something_is_stored_there() -> None:
    symbols = (Sym("a", ".data", 0, 4, OBJECT), Sym("b", ".data", 8, 4, OBJECT))
    assert ranges(pieces(Sec(".data", bytes(12), "wa"), *symbols)) == [(0, 4), (8, 4)]
    filled = Sec(".data", bytes(12), "wa", relocs=((4, 10, "x", 0),))
    assert ranges(pieces(filled, *symbols)) == [(0, 4), (4, 4), (8, 4)]


def test_a_symbol_that_claims_more_than_its_section_is_cut_off() -> None:
    found = pieces(Sec(".text", b"\xc3" * 4, "ax"), Sym("f", ".text", 0, 100, FUNC))
    assert ranges(found) == [(0, 4)]


def test_an_empty_section_is_a_piece_only_where_a_symbol_names_it() -> None:
    assert pieces(Sec(".text", b"", "ax")) == []
    found = pieces(Sec(".bss.empty", b"", "wa"), Sym("nothing", ".bss.empty", 0, 0, OBJECT))
    assert ranges(found) == [(0, 0)]


def test_a_section_without_bits_is_cut_like_any_other() -> None:
    found = pieces(
        Sec(".bss", type=NOBITS, size=16, flags="wa"),
        Sym("a", ".bss", 0, 8, OBJECT), Sym("b", ".bss", 8, 8, OBJECT),
    )  # fmt: skip
    assert ranges(found) == [(0, 8), (8, 8)]


# Tables ----------------------------------------------------------------------------------------------


def test_a_table_is_cut_into_numbered_entries() -> None:
    row = SpecialSection("__table", 4, Keep.REFERENCED)
    found = pieces(Sec("__table", bytes(12), "a"), rows=(row,))
    assert [(piece.start, piece.row, piece.kind, piece.table) for piece in found] == [
        (0, 0, Kind.ENTRY, row), (4, 1, Kind.ENTRY, row), (8, 2, Kind.ENTRY, row),
    ]  # fmt: skip


def test_a_table_of_unknown_entries_is_one_entry() -> None:
    found = pieces(Sec("__table", bytes(12), "a"), rows=(SpecialSection("__table", 0, Keep.NEVER),))
    assert ranges(found) == [(0, 12)]


def test_an_entry_keeps_its_name() -> None:
    row = SpecialSection("__table", 4, Keep.REFERENCED)
    found = pieces(Sec("__table", bytes(8), "a"), Sym("second", "__table", 4, 4, OBJECT, LOCAL), rows=(row,))
    assert [len(piece.labels) for piece in found] == [0, 1]


def test_a_section_that_entries_point_into_is_cut_where_they_do() -> None:
    row = SpecialSection("__table", 8, Keep.OWNER, owner=0, pieces=(".payload",))
    table = Sec(
        "__table", bytes(16), "a",
        relocs=((0, 2, "f", 0), (4, 2, ".payload", 0), (8, 2, "f", 2), (12, 2, ".payload", 3)),
    )  # fmt: skip
    found = pieces(
        Sec(".text", b"\xc3" * 4, "ax"), Sec(".payload", b"\x90" * 7, "ax"), table,
        Sym("f", ".text", 0, 4, FUNC), rows=(row,),
    )  # fmt: skip
    assert ranges(found)[1:3] == [(0, 3), (3, 4)]


@pytest.mark.parametrize(
    ("code", "answer"),
    [("", True), ("90cc", True), ("0f1f440000", True), ("0f1f44", False), ("c3", False), ("90c3", False)],
)
def test_only_no_ops_and_padding_bytes_are_padding(code: str, answer: bool) -> None:
    assert only_nops(ARCHITECTURE, bytes.fromhex(code)) is answer


def test_assembly_without_sizes_is_one_piece_per_section() -> None:
    found = read_bytes(compiled(".text\nf: ret\ng: nop\nret\n", ASSEMBLY))
    text = [p for p in cut(found, {}) if found.section_name(p.section) == ".text"]
    assert ranges(text) == [(0, 3)]
    assert found.sections["flags"][text[0].section] & SHF_ALLOC


@pytest.mark.parametrize(("table", "cuts"), [("__table", [(0, 2), (2, 6)]), ("__sites", [(0, 8)])])
def test_code_for_entries_of_a_table_is_cut_where_that_table_points(
    table: str, cuts: list[tuple[int, int]]
) -> None:
    """A table of sites may point into such code, too, where it holds a branch that is rewritten."""
    rows = (
        SpecialSection("__table", 4, Keep.OWNER, pieces=("replacement",)),
        SpecialSection("__sites", 4, Keep.OWNER),
    )
    entry = f'.section {table},"a"\n.long replacement + 2 - .\n'
    text = entry + '.section replacement,"ax"\nthere: .fill 8, 1, 0xf4\n'
    found = read_bytes(compiled(text, ASSEMBLY))
    parts = cut(found, {row.name: row for row in rows})
    assert ranges([each for each in parts if found.section_name(each.section) == "replacement"]) == cuts


# What broken files claim -----------------------------------------------------------------------------


def test_a_symbol_behind_the_end_of_its_section_cuts_nothing() -> None:
    found = pieces(
        Sec(".data", bytes(16), "wa"),
        Sym("a", ".data", 0, 8, OBJECT),
        Sym("far", ".data", 1 << 62, 8, OBJECT),
        Sym("end", ".data", 16),
    )
    assert ranges(found) == [(0, 8)]


def test_a_symbol_behind_the_end_of_its_section_leaves_the_rest_a_piece() -> None:
    found = pieces(
        Sec(".data", b"\1" * 16, "wa"), Sym("a", ".data", 0, 8, OBJECT), Sym("far", ".data", 99, 1, OBJECT)
    )
    assert ranges(found) == [(0, 8), (8, 8)]


@pytest.mark.parametrize("flags", ["aM", "aMS", "wa"])
def test_zeros_are_no_table_and_no_constants(flags: str) -> None:
    zeros = Sec("__table", type=NOBITS, size=1 << 28, flags=flags, entry_size=1)
    assert ranges(pieces(zeros)) == [(0, 1 << 28)]
    row = SpecialSection("__table", 4, Keep.OWNER)
    assert ranges(pieces(zeros, rows=(row,))) == [(0, 1 << 28)]

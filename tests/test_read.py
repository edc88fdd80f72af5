# SPDX-License-Identifier: Apache-2.0
"""Stage 1: objects as columns. Real objects are held against readelf and against lief."""

from __future__ import annotations

import re
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from compiled import REST, UNIT, WHOLE, compiled
from elfwriter import ABS, COMMON, FUNC, LOCAL, NOBITS, OBJECT, PPC, S390, X86_64, Sec, Sym, elf
from hypothesis import given, settings
from hypothesis import strategies as st
from kdiff_arch_x86_64 import ARCHITECTURE
from liefreader import Seen
from strategies import damaged

from kdiff.elf.read import (
    RESERVED,
    SHF_ALLOC,
    SHN_LORESERVE,
    SHT_NOBITS,
    SHT_SYMTAB_SHNDX,
    STB_GLOBAL,
    Object,
    read,
    read_bytes,
)
from kdiff.elf.relocations import Raw, _stretches
from kdiff.errors import KdiffError, Refusal
from kdiff.graph import build

SAMPLE = (
    Sec(".text.f", b"\xe8\0\0\0\0\xc3", "ax", 16, relocs=((1, 4, "g", -4), (5, 0, "", 0))),
    Sec(".bss.b", type=NOBITS, size=4096, flags="wa", align=64),
    Sec(".data.d", bytes(16), "wa", 8, relocs=((8, 1, ".text.f", 2), (0, 1, "f", -3))),
    Sym("f", ".text.f", 0, 6, FUNC),
    Sym("local", ".data.d", 8, 4, OBJECT, LOCAL),
    Sym("absolute", ABS, 0x1234),
    Sym("shared", COMMON, 8, 4),
)
FLAVOURS = [(X86_64, 64, "little"), (S390, 64, "big"), (X86_64, 32, "little"), (PPC, 32, "big")]
FORMS = [(UNIT,), (UNIT, WHOLE), (UNIT, "-g"), (REST,)]


def key(data: bytes) -> str:
    """The key of the error that reading raises."""
    with pytest.raises(KdiffError) as caught:
        read_bytes(data, "odd.o")
    assert caught.value.place == "odd.o"
    return caught.value.key


def header(data: bytes, offset: int, form: str, value: int) -> bytes:
    """The file with one number overwritten."""
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, offset, value)
    return bytes(changed)


def section_header(data: bytes, index: int) -> int:
    """Where a section header lies in a 64-bit little-endian file."""
    return int(struct.unpack_from("<Q", data, 40)[0]) + 64 * index


def section(obj: Object, name: str) -> int:
    (found,) = (i for i in range(1, len(obj.sections)) if obj.section_name(i) == name)
    return found


# What is in a sound object ---------------------------------------------------------------------------


@pytest.mark.parametrize(("machine", "elf_class", "order"), FLAVOURS)
def test_every_class_and_byte_order_reads_alike(machine: int, elf_class: int, order: str) -> None:
    obj = read_bytes(elf(*SAMPLE, machine=machine, elf_class=elf_class, byte_order=order))
    assert (obj.elf_class, obj.byte_order, obj.machine) == (elf_class, order, machine)
    assert bytes(obj.contents(section(obj, ".text.f"))) == b"\xe8\0\0\0\0\xc3"
    symbols = {obj.symbol_name(i): obj.symbols[i].tolist() for i in range(1, len(obj.symbols))}
    assert symbols["local"][1:3] == (8, 4)
    assert symbols["absolute"][-1] == RESERVED + ABS
    assert symbols["shared"][-1] == RESERVED + COMMON
    assert symbols["g"][-1] == 0
    found = [
        (obj.section_name(r[0]), r[1], r[2], obj.symbol_name(r[3]) if r[3] else "", r[4], r[5])
        for r in obj.relocations.rows()
    ]
    assert found == [
        (".text.f", 1, 4, "g", -4, False),
        (".text.f", 5, 0, "", 0, False),
        (".data.d", 0, 1, "f", -3, False),
        (".data.d", 8, 1, ".text.f", 2, False),
    ]


def test_relocations_are_sorted_by_place_and_bounded_by_section() -> None:
    obj = read_bytes(elf(*SAMPLE))
    for index in range(len(obj.sections)):
        low, high = obj.relocation_bounds[index : index + 2]
        assert set(obj.relocations["section"][low:high].tolist()) <= {index}
        offsets = obj.relocations["offset"][low:high]
        assert np.all(offsets[1:] >= offsets[:-1])
    assert obj.relocation_bounds[-1] == len(obj.relocations)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=30),
    st.sampled_from((("<u8", 3), ("<u4", 2))),
    st.booleans(),
)
def test_tables_of_records_are_read_wherever_they_lie(
    tables: list[tuple[int, int]], form: tuple[str, int], aligned: bool
) -> None:
    word, words = form
    width = np.dtype(word).itemsize
    starts, sizes, at = [], [], 0
    for gap, count in tables:
        at += gap // width * width if aligned else gap
        starts.append(at)
        sizes.append(count * words * width)
        at += sizes[-1]
    data = (bytes(range(256)) * 64)[: at + 3]
    found = _stretches(memoryview(data), word, np.array(starts, "u8"), np.array(sizes, "u8"))
    expected = b"".join(data[start : start + size] for start, size in zip(starts, sizes, strict=True))
    assert b"".join(each.tobytes() for each in found) == expected


def test_columns_cannot_be_written_to() -> None:
    obj = read_bytes(elf(*SAMPLE))
    for column in (obj.sections, obj.symbols, obj.relocations["addend"], obj.relocation_bounds):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = column[0]


def test_a_section_without_bits_has_a_size_and_no_contents() -> None:
    obj = read_bytes(elf(*SAMPLE))
    index = section(obj, ".bss.b")
    assert obj.sections["type"][index] == SHT_NOBITS
    assert (int(obj.sections["size"][index]), bytes(obj.contents(index))) == (4096, b"")


def test_a_section_symbol_is_called_like_its_section() -> None:
    obj = read_bytes(elf(*SAMPLE))
    assert ".text.f" in {obj.symbol_name(i) for i in range(1, len(obj.symbols))}


def test_an_object_without_symbols_is_sound() -> None:
    obj = read_bytes(elf(Sec(".text", b"\xc3", "ax")))
    assert (len(obj.relocations), [obj.symbol_name(i) for i in range(1, len(obj.symbols))]) == (0, [])


def test_more_sections_than_a_short_can_count_are_read() -> None:
    count = SHN_LORESERVE + 40
    parts = [Sec(f".text.{number}", b"\xc3", "ax") for number in range(count)]
    obj = read_bytes(
        elf(*parts, Sym("first", ".text.3"), Sym("last", f".text.{count - 1}"), Sym("absolute", ABS, 7))
    )
    assert len(obj.sections) > count
    assert np.any(obj.sections["type"] == SHT_SYMTAB_SHNDX)
    where = {obj.symbol_name(i): int(obj.symbols["section"][i]) for i in range(1, len(obj.symbols))}
    assert obj.section_name(where["last"]) == f".text.{count - 1}"
    assert obj.section_name(where["first"]) == ".text.3"
    assert where["absolute"] == RESERVED + ABS


def rel_object() -> bytes:
    """An object whose relocations keep their addends in the fields they change."""
    data = elf(Sec(".data.d", struct.pack("<QQ", 0, 0x11), "wa", 8, relocs=((8, 1, "g", 0), (0, 1, "h", 0))))
    obj = read_bytes(data)
    table = next(i for i in range(len(obj.sections)) if obj.section_name(i) == ".rela.data.d")
    place, offset = section_header(data, table), int(obj.sections["offset"][table])
    records = [data[offset + 24 * i : offset + 24 * i + 16] for i in range(2)]
    data = data[:offset] + b"".join(records) + data[offset + 32 :]
    return header(header(header(data, place + 4, "I", 9), place + 32, "Q", 32), place + 56, "Q", 16)


def test_relocations_without_addends_are_marked_and_the_graph_reads_them_from_the_field() -> None:
    obj = read_bytes(rel_object())
    assert obj.relocations["implicit"].tolist() == [True, True]
    assert obj.relocations["offset"].tolist() == [0, 8]
    graph = build(obj, ARCHITECTURE, {})
    (node,) = (each for each in graph.nodes if each.section_name == ".data.d")
    assert [(graph.nodes[r.target].name, r.addend) for r in graph.references[node.id]] == [
        ("h", 0),
        ("g", 0x11),
    ]


def test_records_of_debugging_information_are_read_when_they_are_asked_for() -> None:
    data = compiled(UNIT, "-g")
    obj = read_bytes(data, "unit.o")
    assert len(obj.relocations)
    assert np.all(obj.sections["flags"][obj.relocations["section"]] & SHF_ALLOC)
    info, table = (obj.names_of_sections().index(name) for name in (".debug_info", ".rela.debug_info"))
    size = len(obj.contents(table)) // 24
    assert len(obj.records(info)) == size > 10
    place = int(obj.sections["offset"][table])
    broken = read_bytes(data[:place] + bytes(7) + b"\xff" + data[place + 8 :], "broken.o", obj)
    assert broken.relocations is obj.relocations
    with pytest.raises(KdiffError, match="points outside of the object") as error:
        broken.records(info)
    assert error.value.place == "broken.o"


def test_a_file_reads_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "unit.o"
    path.write_bytes(compiled(UNIT))
    mapped, given_ = read(path), read_bytes(compiled(UNIT))
    assert mapped.path == str(path)
    assert np.array_equal(mapped.sections, given_.sections)
    assert mapped.relocations.equals(given_.relocations)


# Held against others ---------------------------------------------------------------------------------


def every_record(obj: Object) -> list[Raw]:
    """The records of all sections, loaded or not."""
    return [row for index in range(len(obj.sections)) for row in obj.records(index).rows()]


def readelf(path: Path, option: str) -> str:
    return subprocess.run(
        ["readelf", option, "-W", str(path)], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form[1:]) or "plain")
def test_readelf_sees_the_same_sections_symbols_and_relocations(
    tmp_path: Path, form: tuple[str, ...]
) -> None:
    path = tmp_path / "unit.o"
    path.write_bytes(compiled(*form))
    obj = read(path)
    rows = re.findall(
        r"^\s*\[\s*(\d+)\] (\S*)\s+\S+\s+[0-9a-f]{16} ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)",
        readelf(path, "-S"),
        re.M,
    )
    assert len(rows) >= 10
    for number, name, offset, size, entry in rows:
        if int(number) and name:
            row = obj.sections[int(number)]
            assert obj.section_name(int(number)) == name
            assert (row["offset"], row["size"], row["entsize"]) == (
                int(offset, 16),
                int(size, 16),
                int(entry, 16),
            )
    symbols = re.findall(
        r"^\s*(\d+): ([0-9a-f]{16})\s+(\d+|0x[0-9a-f]+) (\S+)\s+(\S+)\s+\S+\s+(\S+)(?: (\S*))?$",
        readelf(path, "-s"), re.M,
    )  # fmt: skip
    assert len(symbols) == len(obj.symbols)
    for number, value, size, _, binding, index, name in symbols:
        row = obj.symbols[int(number)]
        assert obj.symbol_name(int(number)) == name if int(number) else not name
        assert (row["value"], row["size"]) == (int(value, 16), int(size, 0))
        assert (row["binding"] == STB_GLOBAL) == (binding == "GLOBAL")
        if index.isdigit():
            assert row["section"] == int(index)
    listed = re.findall(r"^([0-9a-f]{16})  ([0-9a-f]{16}) R_", readelf(path, "-r"), re.M)
    assert sorted((int(a, 16), int(b, 16)) for a, b in listed) == sorted(
        (r[1], r[3] << 32 | r[2]) for r in every_record(obj)
    )


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form[1:]) or "plain")
def test_an_independent_reader_sees_the_same_relocations(form: tuple[str, ...]) -> None:
    data = compiled(*form)
    obj, other = read_bytes(data), Seen(data)
    ours = sorted(
        (obj.section_name(r[0]), r[1], r[2], obj.symbol_name(r[3]), r[4]) for r in every_record(obj)
    )
    theirs = sorted((r.section, r.offset, r.type, r.symbol, r.addend) for r in other.relocations)
    assert len(ours) > 3 or form == (REST,)
    assert ours == theirs
    assert [each.name for each in other.sections] == [
        obj.section_name(i) if i else "" for i in range(len(obj.sections))
    ]


# Broken files ----------------------------------------------------------------------------------------


COLUMNS = "sections", "symbols", "relocation_bounds"


@pytest.mark.parametrize("flavour", FLAVOURS)
@given(st.data())
def test_what_is_taken_from_a_twin_is_what_would_be_read(
    flavour: tuple[int, int, str], data: st.DataObject
) -> None:
    machine, elf_class, order = flavour
    one = elf(*SAMPLE, machine=machine, elf_class=elf_class, byte_order=order)
    other = bytearray(one)
    for at in data.draw(st.lists(st.integers(0, len(one) - 1), min_size=1, max_size=3)):
        other[at] ^= data.draw(st.integers(1, 255))
    twin, found, errors = read_bytes(one, "unit.o"), [], []
    for given_twin in (twin, None):
        try:
            found.append(read_bytes(bytes(other), "unit.o", given_twin))
        except KdiffError as error:
            errors.append(str(error))
    assert len(found) != 1
    assert len(set(errors)) <= 1
    if found:
        with_twin, alone = found
        assert all(np.array_equal(getattr(with_twin, name), getattr(alone, name)) for name in COLUMNS)
        assert with_twin.relocations.equals(alone.relocations)
        assert (with_twin.symtab, with_twin.section_names, with_twin.symbol_names) == (
            alone.symtab, alone.section_names, alone.symbol_names
        )  # fmt: skip


def test_objects_that_differ_in_contents_share_their_columns() -> None:
    data = elf(*SAMPLE)
    one = read_bytes(data)
    text = int(one.sections["offset"][one.names_of_sections().index(".text.f")])
    other = read_bytes(data[:text] + b"\x90" + data[text + 1 :], twin=one)
    assert other.contents(1) != one.contents(1)
    assert all(getattr(one, name) is getattr(other, name) for name in (*COLUMNS, "relocations"))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.o").write_bytes(b"")
    with pytest.raises(KdiffError, match="empty"):
        read(tmp_path / "empty.o")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        read(tmp_path / "none.o")
    assert caught.value.key == "elf.unreadable"


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError):
        read(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh" * 20, b"\x7fEXE" + bytes(100)])
def test_what_is_no_elf_file_is_an_error(data: bytes) -> None:
    assert key(data) == "elf.not_elf"


@pytest.mark.parametrize("offset", [4, 5])
def test_an_unknown_class_or_byte_order_is_an_error(offset: int) -> None:
    assert key(header(elf(*SAMPLE), offset, "B", 3)) == "elf.class"


def test_an_executable_is_an_error() -> None:
    assert key(header(elf(*SAMPLE), 16, "H", 2)) == "elf.not_relocatable"


@pytest.mark.parametrize("size", [56, 64, 100, -1, -64])
def test_a_truncated_object_is_an_error(size: int) -> None:
    assert key(elf(*SAMPLE)[:size]) == "elf.truncated"


def test_a_count_of_sections_beyond_the_file_is_an_error() -> None:
    assert key(header(elf(*SAMPLE), 60, "H", 0xFE00)) == "elf.truncated"


def test_a_section_that_reaches_beyond_the_file_is_an_error() -> None:
    data = elf(*SAMPLE)
    assert key(header(data, section_header(data, 1) + 32, "Q", len(data))) == "elf.truncated"
    assert key(header(data, section_header(data, 1) + 24, "Q", (1 << 64) - 8)) == "elf.truncated"


def test_the_null_section_is_null_whatever_its_header_says() -> None:
    data = elf(*SAMPLE)
    for kind in (2, 4, 8):
        obj = read_bytes(header(data, section_header(data, 0) + 4, "I", kind))
        assert not any(obj.sections[0].tolist())
    assert key(
        header(header(data, section_header(data, 0) + 4, "I", 8), section_header(data, 1) + 32, "Q", 1 << 40)
    ) == ("elf.truncated")


def test_the_null_symbol_is_null_whatever_its_record_says() -> None:
    data = elf(*SAMPLE)
    symtab = int(read_bytes(data).sections["offset"][read_bytes(data).symtab])
    assert not any(read_bytes(header(data, symtab + 6, "H", 1)).symbols[0].tolist())


def test_sections_that_share_bytes_are_an_error() -> None:
    data = elf(*SAMPLE)
    shared = section_header(data, section(read_bytes(data), ".data.d"))
    where = int(read_bytes(data).sections["offset"][1])
    assert key(header(data, shared + 24, "Q", where + 5)) == "elf.overlap"
    assert key(header(data, shared + 24, "Q", where)) == "elf.overlap"


def test_a_section_inside_another_is_found_behind_one_that_ends_before() -> None:
    data = elf(Sec(".a", bytes(64)), Sec(".b", bytes(8)), Sec(".c", bytes(8)))
    first, third = section_header(data, 1), section_header(data, 3)
    offset = int(struct.unpack_from("<Q", data, first + 24)[0])
    assert key(header(data, third + 24, "Q", offset + 32)) == "elf.overlap"


def test_an_alignment_that_is_no_power_of_two_is_an_error() -> None:
    data = elf(*SAMPLE)
    assert key(header(data, section_header(data, 1) + 48, "Q", 24)) == "elf.alignment"
    assert key(header(data, section_header(data, 1) + 48, "Q", (1 << 64) - 1)) == "elf.alignment"
    assert read_bytes(header(data, section_header(data, 1) + 48, "Q", 0)).sections["align"][1] == 0


def test_a_wrong_table_of_section_names_is_an_error() -> None:
    assert key(header(elf(*SAMPLE), 62, "H", 1)) == "elf.names"
    assert key(header(elf(*SAMPLE), 62, "H", 0x7FFF)) == "elf.names"


def test_a_compressed_loaded_section_is_an_error() -> None:
    data = elf(*SAMPLE)
    assert key(header(data, section_header(data, 1) + 8, "Q", 0x802)) == "elf.compressed"


def test_a_second_symbol_table_is_an_error() -> None:
    data = elf(*SAMPLE)
    assert key(header(data, section_header(data, 1) + 4, "I", 2)) == "elf.symtab"


def test_a_symbol_in_a_section_that_does_not_exist_is_an_error() -> None:
    data = elf(*SAMPLE)
    symtab = int(read_bytes(data).sections["offset"][read_bytes(data).symtab])
    assert key(header(data, symtab + 24 + 6, "H", 0x100)) == "elf.symtab"


def test_an_extended_section_index_without_its_table_is_an_error() -> None:
    data = elf(*SAMPLE)
    symtab = int(read_bytes(data).sections["offset"][read_bytes(data).symtab])
    assert key(header(data, symtab + 24 + 6, "H", 0xFFFF)) == "elf.xindex"


@pytest.mark.parametrize(("field", "value"), [(0, 6), (0, 1 << 63), (12, 0x7FFFFFFF)])
def test_a_relocation_that_points_outside_is_an_error(field: int, value: int) -> None:
    data = elf(*SAMPLE)
    obj = read_bytes(data)
    table = int(obj.sections["offset"][section(obj, ".rela.text.f")])
    assert key(header(data, table + field, "Q" if not field else "I", value)) == "elf.relocations"


def test_a_relocation_of_a_section_without_contents_is_an_error() -> None:
    data = elf(*SAMPLE)
    place = section_header(data, section(read_bytes(data), ".text.f"))
    assert key(header(data, place + 4, "I", NOBITS)) == "elf.relocations"


def test_relocations_that_pile_up_at_one_place_are_an_error() -> None:
    assert len(read_bytes(elf(Sec(".a", bytes(8), relocs=((0, 0, "", 0),) * 256))).relocations) == 256
    assert key(elf(Sec(".a", bytes(8), relocs=((0, 0, "", 0),) * 257))) == "elf.relocations"


def test_symbol_names_from_a_section_that_holds_no_strings_are_an_error() -> None:
    data = elf(*SAMPLE)
    link = section_header(data, read_bytes(data).symtab) + 40
    for other in (0, 1, section(read_bytes(data), ".bss.b")):
        assert key(header(data, link, "I", other)) == "elf.symtab"


def test_a_relocation_section_about_nothing_is_an_error() -> None:
    data = elf(*SAMPLE)
    place = section_header(data, section(read_bytes(data), ".rela.text.f"))
    assert key(header(data, place + 44, "I", 0)) == "elf.relocations"
    assert key(header(data, place + 44, "I", 0xFFFF)) == "elf.relocations"
    assert key(header(data, place + 40, "I", 1)) == "elf.relocations"
    assert key(header(data, place + 32, "Q", 23)) == "elf.relocations"


def test_a_name_without_an_end_is_an_error() -> None:
    data = elf(*SAMPLE)
    obj = read_bytes(data)
    changed = bytearray(data)
    start, size = (int(obj.sections[column][obj.symbol_names]) for column in ("offset", "size"))
    changed[start : start + size] = b"x" * size
    broken = read_bytes(bytes(changed))
    with pytest.raises(KdiffError) as caught:
        broken.symbol_name(1)
    assert caught.value.key == "elf.string"


def test_a_name_may_be_long_but_not_endless() -> None:
    assert read_bytes(elf(Sym("n" * 4000))).symbol_name(1) == "n" * 4000
    with pytest.raises(KdiffError) as caught:
        read_bytes(elf(Sym("n" * 5000))).symbol_name(1)
    assert caught.value.key == "elf.string"


def test_a_name_outside_of_its_table_is_an_error() -> None:
    data = elf(*SAMPLE)
    broken = read_bytes(header(data, section_header(data, 1), "I", 0x7FFFFFFF))
    with pytest.raises(KdiffError) as caught:
        broken.section_name(1)
    assert caught.value.key == "elf.string"


def read_whole(data: bytes) -> None:
    """Read an object and all its names, and make its graph."""
    obj = read_bytes(data, "odd.o")
    for index in range(len(obj.sections)):
        obj.section_name(index)
        obj.contents(index)
    for index in range(len(obj.symbols)):
        obj.symbol_name(index)
    build(obj, ARCHITECTURE, {})


@given(damaged(compiled(UNIT)))
@settings(deadline=None, max_examples=300)
def test_a_damaged_object_is_read_or_an_error_of_kdiff(data: bytes) -> None:
    with suppress(KdiffError):
        read_whole(data)


@given(st.binary(max_size=200))
def test_bytes_that_begin_like_an_object_are_read_or_an_error_of_kdiff(tail: bytes) -> None:
    start = elf(*SAMPLE)[:64]
    for data in (start + tail, start[:16] + tail):
        with suppress(KdiffError):
            read_whole(data)


def test_a_section_of_zeros_that_no_memory_could_hold_is_an_error() -> None:
    with pytest.raises(KdiffError) as caught:
        read_bytes(elf(Sec(".bss.huge", type=NOBITS, size=1 << 60, flags="wa")), "huge.o")
    assert caught.value.key == "elf.zeros"


def test_sections_of_zeros_that_are_too_large_together_are_an_error() -> None:
    half = [Sec(f".bss.{i}", type=NOBITS, size=1 << 27, flags="wa") for i in range(3)]
    assert read_bytes(elf(*half[:2]))
    assert key(elf(*half)) == "elf.zeros"
    assert key(elf(*(Sec(f".b{i}", type=NOBITS, size=1 << 62) for i in range(5)))) == "elf.zeros"


def test_names_in_broken_files_do_not_break_the_line_of_an_error() -> None:
    error = KdiffError("elf.string", "no end", place=".te\nxt\x1b[31m\udc80")
    assert str(error) == ".te\\nxt\\x1b[31m\\udc80: no end"
    assert str(Refusal("review.unknown", ".te\nxt", "why")) == "review.unknown: .te\\nxt: why"

# SPDX-License-Identifier: Apache-2.0
import struct
import subprocess
from pathlib import Path

import pytest
from elfwriter import Sec
from elfwriter import elf as relocatable
from fakeimage import build_id_note, elf

from kdiff.elf.image import (
    image_sections,
    image_symbols,
    note_build_id,
    open_image,
    read_program_headers,
)
from kdiff.errors import KdiffError

LOW, HIGH = 0x1000, 0xFFFFFFFF81000000
IMAGE = elf([(HIGH, b"kernel text", 0x20), (LOW, b"per-cpu", 0)])
OBJECT = relocatable(Sec(".text", b"\xc3", "ax"))


def key_of(data: bytes) -> str:
    with pytest.raises(KdiffError) as caught:
        open_image(data, "vmlinux")
    assert caught.value.place == "vmlinux"
    return caught.value.key


def test_memory_is_read_at_its_address() -> None:
    image = open_image(IMAGE, "vmlinux")
    assert image.read(HIGH, 6) == b"kernel"
    assert image.read(HIGH + 7, 4) == b"text"
    assert image.read(LOW, 7) == b"per-cpu"
    assert (image.machine, image.elf_class, image.byte_order) == (62, 64, "little")


def test_what_an_image_leaves_out_of_its_file_is_zero() -> None:
    assert open_image(IMAGE, "vmlinux").read(HIGH + 8, 8) == b"ext" + bytes(5)
    assert open_image(IMAGE, "vmlinux").read(HIGH + 0x20, 4) == bytes(4)


def test_what_a_core_leaves_out_of_its_file_is_unknown() -> None:
    core = open_image(elf([(HIGH, b"kernel text", 0x20)], kind=4), "core")
    assert core.read(HIGH, 6) == b"kernel"
    assert core.read(HIGH + 8, 8) is None


@pytest.mark.parametrize("place", [0, LOW - 1, LOW + 4, HIGH - 1, HIGH + 0x28, 1 << 64])
def test_memory_outside_of_all_segments_does_not_exist(place: int) -> None:
    assert open_image(IMAGE, "vmlinux").read(place, 8) is None


def test_big_endian_images_are_read() -> None:
    image = open_image(elf([(LOW, b"text", 0)], order="big", machine=22), "vmlinux")
    assert (image.byte_order, image.machine, image.read(LOW, 4)) == ("big", 22, b"text")


def test_a_file_that_is_no_elf_file_is_an_error() -> None:
    for data in (b"", b"\x7fELF", b"MZ" + bytes(100), b"\x7fELF\x07\x01" + bytes(100)):
        assert key_of(data) == "image.not_elf"


def test_an_object_file_is_no_image() -> None:
    assert key_of(OBJECT) == "image.type"


def test_an_image_cut_off_anywhere_is_an_error() -> None:
    for size in range(64, len(IMAGE)):
        assert key_of(IMAGE[:size]) == "image.truncated"


def test_program_headers_are_read_where_their_memory_is_elsewhere() -> None:
    head = bytearray(IMAGE[: 64 + 2 * 56])
    struct.pack_into("<Q", head, 64 + 8, 1 << 55)
    assert read_program_headers(bytes(head), "kcore").segments[1].offset == 1 << 55


def test_the_build_id_is_found_behind_other_notes() -> None:
    assert note_build_id(build_id_note(b"\xeb\x4f"), "little") == "eb4f"
    assert note_build_id(build_id_note(b"\xeb\x4f", "big"), "big") == "eb4f"


def test_notes_without_a_build_id_have_none() -> None:
    note = build_id_note(b"\xeb\x4f")
    for data in (b"", note[:24], note[:-1], b"\xff" * 40):
        assert note_build_id(data, "little") == ""


def test_symbols_and_sections_of_a_linked_image_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.s").write_text(
        ".globl start, table, word\n.weak maybe\n.type start,@function\nstart: ret\nmaybe: ret\nlocal: ret\n"
        ".section .rodata\ntable: .long 1\n.data\nword: .long 2\n.bss\nroom: .skip 8\n"
    )
    subprocess.run(["as", "-o", "a.o", "a.s"], cwd=tmp_path, check=True)
    subprocess.run(["ld", "-e", "start", "-o", "a", "a.o"], cwd=tmp_path, check=True)
    image = open_image((tmp_path / "a").read_bytes(), "a")
    kinds = {name: kind for name, _, kind, _ in image_symbols(image)}
    assert {name: kinds[name] for name in ("start", "maybe", "local", "table", "word", "room")} == {
        "start": "T",
        "maybe": "W",
        "local": "t",
        "table": "R",
        "word": "D",
        "room": "b",
    }
    addresses = [address for _, address, _, _ in image_symbols(image)]
    assert addresses == sorted(addresses)
    assert {".text", ".rodata", ".data"} <= {section.name for section in image_sections(image)}

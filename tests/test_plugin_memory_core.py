# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import lzallright
import pytest
import zstandard
from fakedump import PAGE, ROOT, FakeMachine, flattened
from fakeimage import BASE, CODE, build_id_note, elf
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_aarch64 import ARCHITECTURE as AARCH64
from kdiff_arch_x86_64 import ARCHITECTURE as X86_64
from kdiff_memory_core import kdiff_memory_schemes
from kdiff_memory_core.flattened import Flattened

from kdiff.api import KdiffError, MemorySource
from kdiff.cli.main import run_command

KNOWN = (X86_64, AARCH64)
"""The architectures that memory is opened with."""

MACHINE = FakeMachine()


def opened(tmp_path: Path, data: bytes) -> MemorySource:
    (tmp_path / "dump").write_bytes(data)
    (scheme,) = kdiff_memory_schemes()
    return scheme.open(str(tmp_path / "dump"), KNOWN)


def refused(tmp_path: Path, data: bytes) -> KdiffError:
    with pytest.raises(KdiffError) as caught:
        opened(tmp_path, data).address_book()
    assert caught.value.place.endswith("dump")
    return caught.value


def holds_the_kernel(memory: MemorySource, machine: FakeMachine = MACHINE) -> bool:
    """The whole kernel is there, at the addresses of this boot."""
    book, facts, data = memory.address_book(), memory.facts(), machine.kernel()
    assert book.address("_stext") == machine.base
    assert (facts.release, facts.machine, facts.build_id) == ("6.1.0-test", "x86_64", "eb4fbcd0")
    assert not memory.pristine
    (extent,) = memory.extents()
    assert (extent.address, extent.size) == (machine.base, len(data))
    assert memory.read(machine.base + 0x40, len(CODE)) == CODE
    return memory.read(machine.base, len(data)) == data


def lzo(data: bytes) -> bytes:
    return bytes(lzallright.LZOCompressor().compress(data))


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("kept", [{"info": False}, {"state": False}, {}], ids=str)
def test_a_core_of_physical_memory_is_read_through_the_kernels_page_tables(
    tmp_path: Path, levels: int, kept: dict[str, bool]
) -> None:
    machine = FakeMachine(levels=levels)
    memory = opened(tmp_path, machine.elf(**kept))
    assert holds_the_kernel(memory, machine)
    assert memory.name == f"core:{tmp_path / 'dump'}"


def test_a_core_of_virtual_memory_needs_no_page_tables(tmp_path: Path) -> None:
    assert holds_the_kernel(opened(tmp_path, MACHINE.elf(virtual=True, info=False, state=False)))


def test_of_another_architecture_only_a_kernel_that_the_dump_points_at_is_read(tmp_path: Path) -> None:
    memory = opened(tmp_path, MACHINE.elf(virtual=True, machine=183))
    assert memory.facts().machine == "aarch64"
    assert memory.read(MACHINE.base, len(MACHINE.kernel())) == MACHINE.kernel()
    assert refused(tmp_path, MACHINE.elf(virtual=True, machine=183, info=False)).key == "core.machine"


def test_more_program_headers_than_the_elf_header_can_count_are_read(tmp_path: Path) -> None:
    assert holds_the_kernel(opened(tmp_path, MACHINE.elf(virtual=True, many=True)))


@pytest.mark.parametrize(
    "pack, flag",
    [(zlib.compress, 1), (lzo, 2), (zstd, 0x20), (lambda page: page, 1)],
    ids=("1", "2", "20", "0"),
)
def test_a_compressed_dump_is_read_whatever_packed_its_pages(
    tmp_path: Path, pack: Callable[[bytes], bytes], flag: int
) -> None:
    assert holds_the_kernel(opened(tmp_path, MACHINE.kdump(pack, flag)))


@pytest.mark.parametrize("data", [MACHINE.elf(), MACHINE.kdump()], ids=("elf", "kdump"))
def test_a_flattened_dump_is_put_in_order(tmp_path: Path, data: bytes) -> None:
    assert holds_the_kernel(opened(tmp_path, flattened(data)))


@given(st.lists(st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=12)), max_size=12))
def test_flattened_records_overwrite_each_other_as_writes_do(records: list[tuple[int, bytes]]) -> None:
    expected = bytearray()
    stream = (b"makedumpfile".ljust(16, b"\0") + struct.pack(">QQ", 1, 1)).ljust(4096, b"\0")
    for offset, data in records:
        expected.extend(bytes(max(0, offset + len(data) - len(expected))))
        expected[offset : offset + len(data)] = data
        stream += struct.pack(">qq", offset, len(data)) + data
    file = Flattened(stream + struct.pack(">qq", -1, -1), "dump")  # type: ignore[arg-type]
    assert file[:] == expected
    for start in range(len(expected)):
        assert file[start : start + 5] == expected[start : start + 5]


def test_a_person_is_told_which_kernel_is_in_it_and_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dump").write_bytes(MACHINE.elf())
    assert run_command("memory", [f"core:{tmp_path / 'dump'}", "--json"], "kdiff memory") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["release"], found["build_id"], found["text"]) == ("6.1.0-test", "eb4fbcd0", MACHINE.base)
    assert found["extents"] == [[MACHINE.base, len(MACHINE.kernel())]]
    assert found["symbols"] > 700
    assert found["modules"] == {}
    assert not found["pristine"]
    assert run_command("memory", [f"core:{tmp_path / 'dump'}"], "kdiff memory") == 0
    out = capsys.readouterr().out
    assert f"text at   {MACHINE.base:#x}" in out
    assert "Linux version 6.1.0-test" in out
    assert "has run" in out


def test_what_does_not_exist_or_was_left_out_is_not_read(tmp_path: Path) -> None:
    frames = len(MACHINE.physical()) // PAGE
    first = 2 * 16 + len(MACHINE.kernel()) // PAGE - 1 - 16
    memory = opened(tmp_path, MACHINE.kdump(left_out=[first - 1, frames - 1]))
    assert memory.read(MACHINE.base, PAGE) == MACHINE.kernel()[:PAGE]
    assert memory.read(MACHINE.base + PAGE, 1) is None
    assert memory.read(MACHINE.base + PAGE - 1, 2) is None
    assert memory.read(MACHINE.base + 2 * PAGE, 8) == MACHINE.kernel()[2 * PAGE : 2 * PAGE + 8]
    assert [each.address - MACHINE.base for each in memory.extents()] == [0, 2 * PAGE]
    for address in (0, BASE - 8, MACHINE.base + len(MACHINE.kernel()) - 4, 1 << 63):
        assert memory.read(address, 8) is None


def test_pages_that_the_dump_lists_but_does_not_hold_do_not_exist(tmp_path: Path) -> None:
    """makedumpfile leaves pages out of an ELF core by a file size below the size in memory."""
    data = bytearray(MACHINE.elf())
    whole = struct.unpack_from("<Q", data, 64 + 56 + 32)[0]
    struct.pack_into("<Q", data, 64 + 56 + 32, whole - 2 * PAGE)
    memory = opened(tmp_path, bytes(data))
    assert memory.read(MACHINE.base, 8) is None
    assert memory.extents()[0].address == MACHINE.base + PAGE


def test_a_kernel_that_says_otherwise_than_its_dump_is_refused(tmp_path: Path) -> None:
    for line in ("OSRELEASE=6.1.0-other", f"SYMBOL(_stext)={BASE:x}"):
        error = refused(tmp_path, FakeMachine(info=(line,)).elf())
        assert error.key == "core.contradiction"
        assert error.remedy
    assert refused(tmp_path, FakeMachine(info=("NUMBER(phys_base)=zz",)).elf()).key == "core.vmcoreinfo"


def test_a_dump_in_which_nothing_is_mapped_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    error = refused(tmp_path, MACHINE.elf(info=False, state=False))
    assert error.key == "core.untranslatable"
    assert "-device vmcoreinfo" in error.remedy
    assert "dump-guest-memory -p" in error.remedy
    error = refused(tmp_path, MACHINE.elf(machine=183))
    assert error.key == "core.machine"
    assert "183" in error.message


def test_a_kernel_without_symbols_is_an_error(tmp_path: Path) -> None:
    data = build_id_note(b"\1\2").ljust(3 * PAGE, b"\x90")
    assert refused(tmp_path, FakeMachine(contents=data).elf()).key == "memory.no_kernel"


def test_compressed_dumps_that_cannot_be_read_name_the_way_out(tmp_path: Path) -> None:
    error = refused(tmp_path, MACHINE.kdump(flag=4))
    assert error.key == "core.codec"
    assert "snappy" in error.message
    assert "makedumpfile -E" in error.remedy
    error = refused(tmp_path, MACHINE.kdump(name=b"s390x"))
    assert error.key == "core.machine"
    assert "makedumpfile -E" in error.remedy
    assert refused(tmp_path, MACHINE.kdump(status=8)).key == "core.incomplete"
    error = refused(tmp_path, MACHINE.kdump(split=1))
    assert error.key == "core.split"
    assert "makedumpfile --reassemble" in error.remedy


def test_page_tables_that_lead_in_circles_end(tmp_path: Path) -> None:
    """Each entry of each table is the table itself: every address is mapped, and none is a kernel's."""
    physical = bytearray(MACHINE.physical())
    physical[ROOT : ROOT + PAGE] = struct.pack("<Q", ROOT | 3) * 512
    data = MACHINE.elf()
    data = data[: -len(physical)] + bytes(physical)
    assert refused(tmp_path, data).key in ("memory.no_kernel", "memory.page_tables", "core.untranslatable")


def test_what_is_no_dump_is_an_error(tmp_path: Path) -> None:
    assert refused(tmp_path, b"").key == "core.truncated"
    assert refused(tmp_path, b"hello" * 200).key == "core.unknown"
    assert refused(tmp_path, b"KDUMP   " + bytes(100)).key == "core.truncated"
    assert refused(tmp_path, b"makedumpfile\0\0\0\0" + bytes(5000)).key == "core.flattened"
    assert refused(tmp_path, elf([(BASE, bytes(100), 0)], kind=2)).key == "core.image"
    (scheme,) = kdiff_memory_schemes()
    with pytest.raises(KdiffError) as caught:
        scheme.open(str(tmp_path / "absent"), KNOWN)
    assert caught.value.key == "core.unreadable"


@pytest.mark.parametrize(
    "data", [MACHINE.elf(), MACHINE.kdump(), flattened(MACHINE.kdump())], ids=("elf", "kdump", "flattened")
)
def test_a_dump_cut_off_anywhere_is_an_error(tmp_path: Path, data: bytes) -> None:
    for size in range(8, len(data) - 8, max(1, len(data) // 12)):
        error = refused(tmp_path, data[:size])
        assert error.key in (
            "core.truncated",
            "core.flattened",
            "image.truncated",
            "image.not_elf",
            "core.unknown",
        )


@pytest.mark.parametrize("data", [MACHINE.elf(), MACHINE.kdump()], ids=("elf", "kdump"))
def test_damaged_headers_are_errors_or_do_no_harm(tmp_path: Path, data: bytes) -> None:
    random = Random(20261126)
    keys = set()
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(random.randint(1, 4)):
            broken[random.choice((random.randrange(1200), random.randrange(5 * PAGE)))] = random.randrange(
                256
            )
        try:
            memory = opened(tmp_path, bytes(broken))
            memory.address_book()
            memory.facts()
        except KdiffError as error:
            keys.add(error.key.partition(".")[0])
    assert keys
    assert keys <= {"core", "image", "memory", "btf"}

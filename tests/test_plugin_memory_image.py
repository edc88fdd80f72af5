# SPDX-License-Identifier: Apache-2.0
import bz2
import gzip
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import lz4.block
import pytest
import zstandard
from fakeimage import BANNER, BASE, CODE, LAYOUTS, build_id_note, bzimage, elf, memory, rows, tables, vmlinux
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdiff_arch_s390x import ARCHITECTURE as S390X
from kdiff_arch_x86_64 import ARCHITECTURE as X86_64
from kdiff_memory_image import kdiff_memory_schemes, store
from kdiff_memory_image.unpack import unpack

from kdiff import registry
from kdiff.api import KdiffError, MemorySource
from kdiff.distribution import KernelSetup

KNOWN = (X86_64, S390X)
"""The architectures that memory is opened with."""

VMLINUX = vmlinux()


def sized(packed: bytes, size: int = len(VMLINUX)) -> bytes:
    """Packed data with the length that x86's Makefile appends."""
    return packed + struct.pack("<I", size)


def lz4_legacy(data: bytes) -> bytes:
    pieces = [data[at : at + (8 << 20)] for at in range(0, len(data), 8 << 20)]
    packed = [lz4.block.compress(piece, store_size=False) for piece in pieces]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(each)) + each for each in packed)


def xz(data: bytes) -> bytes:
    return lzma.compress(data, check=lzma.CHECK_CRC32)


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


def zstd(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor(level=19).compressobj()
    return stream.compress(data) + stream.flush()


def lzo(data: bytes) -> bytes:
    """By lzop itself, as the kernel's Makefiles do."""
    return subprocess.run(["lzop", "-9", "-c"], input=data, capture_output=True, check=True).stdout


PACKERS = (xz, lzma_alone, bz2.compress, zstd, lz4_legacy, lzo)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def opened(tmp_path: Path, data: bytes, suffix: str = "") -> MemorySource:
    (tmp_path / "file").write_bytes(data)
    (scheme,) = kdiff_memory_schemes()
    return scheme.open(f"{tmp_path / 'file'}{suffix}", KNOWN)


def refused(tmp_path: Path, data: bytes) -> KdiffError:
    with pytest.raises(KdiffError) as caught:
        opened(tmp_path, data)
    assert caught.value.place == str(tmp_path / "file")
    return caught.value


def knows_the_kernel(source: MemorySource) -> bool:
    address = source.address_book().address("tcp_v4_rcv")
    return address is not None and source.read(address, len(CODE)) == CODE


def test_a_vmlinux_is_opened_with_its_symbols_and_facts(tmp_path: Path) -> None:
    source = opened(tmp_path, VMLINUX)
    facts = source.facts()
    assert knows_the_kernel(source)
    assert source.pristine
    assert source.name == f"image:{tmp_path / 'file'}"
    assert (facts.release, facts.version, facts.machine) == ("6.1.0-test", BANNER, "x86_64")
    assert facts.build_id == "eb4fbcd0"
    assert facts.structures["alt_instr"].members["cpuid"] == 8
    assert dict(facts.config) == {}


@pytest.mark.parametrize("pack", PACKERS, ids=lambda pack: pack.__name__)
def test_a_vmlinuz_is_unpacked_whatever_packed_it(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    source = opened(tmp_path, bzimage(sized(pack(VMLINUX))))
    assert knows_the_kernel(source)
    assert source.pristine


def test_a_vmlinuz_with_gzip_or_without_compression_is_unpacked() -> None:
    assert unpack(bzimage(gzip.compress(VMLINUX)), "vmlinuz")[0] == VMLINUX
    assert unpack(bzimage(VMLINUX), "vmlinuz")[0] == VMLINUX


@pytest.mark.parametrize("pack", [*PACKERS, gzip.compress], ids=lambda pack: pack.__name__)
def test_a_payload_without_a_setup_header_is_found(pack: Callable[[bytes], bytes]) -> None:
    decoy = b"\x1f\x8b\x08 \xfd7zXZ\0 \x28\xb5\x2f\xfd BZh \x5d\0\0"
    assert unpack(b"MZ" + bytes(600) + decoy + pack(VMLINUX), "zboot")[0] == VMLINUX
    assert unpack(pack(VMLINUX), "vmlinux.packed")[0] == VMLINUX


def test_lz4_kernels_of_several_blocks_are_unpacked() -> None:
    large = VMLINUX + bytes(range(256)) * 70_000
    assert unpack(bzimage(sized(lz4_legacy(large), len(large))), "vmlinuz")[0] == large


@pytest.mark.parametrize("pack", [*PACKERS, gzip.compress], ids=lambda pack: pack.__name__)
def test_a_vmlinuz_cut_off_anywhere_is_an_error(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(VMLINUX)
    whole = bzimage(packed if pack is gzip.compress else sized(packed))
    for size in range(0x206, len(whole) - 5, 509):
        with pytest.raises(KdiffError) as caught:
            unpack(whole[:size], "vmlinuz")
        assert caught.value.key in ("image.payload", "image.unknown")


@pytest.mark.parametrize("pack", PACKERS, ids=lambda pack: pack.__name__)
def test_a_payload_that_is_shorter_than_it_says_is_an_error(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    error = refused(tmp_path, bzimage(sized(pack(VMLINUX[:-64]))))
    assert error.key == "image.payload"


def test_no_damaged_byte_of_an_lzo_payload_changes_the_kernel() -> None:
    """A match may be found at several distances, so a changed one need not be wrong."""
    payload, harmless = sized(lzo(VMLINUX)), 0
    for place in range(9, len(payload) - 8, 61):
        damaged = payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
        try:
            assert unpack(bzimage(damaged), "vmlinuz")[0] == VMLINUX
            harmless += 1
        except KdiffError as error:
            assert error.key == "image.payload"  # noqa: PT017  # there are two ways to be right
    assert harmless < len(payload) // 61 // 2


@given(st.integers(0, 1 << 20), st.integers(1, 255))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_damaged_byte_of_an_xz_payload_goes_unnoticed(place: int, change: int) -> None:
    payload = sized(xz(VMLINUX))
    place %= len(payload)
    damaged = payload[:place] + bytes([payload[place] ^ change]) + payload[place + 1 :]
    with pytest.raises(KdiffError) as caught:
        unpack(bzimage(damaged), "vmlinuz")
    assert caught.value.key in ("image.payload", "image.codec")


def test_an_unknown_compression_is_named_with_a_way_out(tmp_path: Path) -> None:
    error = refused(tmp_path, bzimage(b"\x89LZP\0" + bytes(100)))
    assert error.key == "image.codec"
    assert "extract-vmlinux" in error.remedy


def test_a_boot_protocol_without_payload_is_an_error(tmp_path: Path) -> None:
    assert refused(tmp_path, bzimage(sized(xz(VMLINUX)), version=0x207)).key == "image.payload"


def test_a_flat_image_wants_to_be_told_its_address(tmp_path: Path) -> None:
    flat = bytes(56) + b"ARM\x64" + bytes(64)
    for data in (flat, gzip.compress(flat)):
        error = refused(tmp_path, data)
        assert error.key == "image.flat"
        assert "@0x" in error.remedy


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_module_is_no_memory_by_itself(tmp_path: Path, order: Literal["little", "big"]) -> None:
    error = refused(tmp_path, elf([(BASE, b"hello", 0)], kind=1, order=order))
    assert error.key == "image.object"
    assert "--module" in error.remedy


def test_what_is_no_kernel_is_an_error(tmp_path: Path) -> None:
    assert refused(tmp_path, b"").key == "image.truncated"
    assert refused(tmp_path, b"hello" * 200).key == "image.unknown"
    assert refused(tmp_path, elf([(BASE, b"hello", 0)])).key == "image.not_kernel"
    assert refused(tmp_path, VMLINUX[:-100]).key == "image.truncated"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (scheme,) = kdiff_memory_schemes()
    for place in (tmp_path / "absent", tmp_path):
        with pytest.raises(KdiffError) as caught:
            scheme.open(str(place), KNOWN)
        assert caught.value.key == "image.unreadable"


def test_a_kernel_without_symbols_is_an_error_when_they_are_asked_for(tmp_path: Path) -> None:
    source = opened(tmp_path, elf([(BASE, BANNER.encode(), 0)]))
    with pytest.raises(KdiffError) as caught:
        source.address_book()
    assert caught.value.key == "kallsyms.not_found"


def test_a_vmlinux_without_kallsyms_is_known_by_its_symbol_table(tmp_path: Path) -> None:
    (tmp_path / "a.s").write_text(f'.globl late, early\nearly: ret\nlate: .asciz "{BANNER}"\n')
    subprocess.run(["as", "-o", "a.o", "a.s"], cwd=tmp_path, check=True)
    subprocess.run(["ld", "-e", "early", "-o", "vmlinux", "a.o"], cwd=tmp_path, check=True)
    book = opened(tmp_path, (tmp_path / "vmlinux").read_bytes()).address_book()
    names = [entry.name for entry in book.entries]
    assert names.index("early") < names.index("late")


def test_a_core_is_not_an_image(tmp_path: Path) -> None:
    error = refused(tmp_path, elf([(BASE, memory(), 0)], kind=4))
    assert error.key == "image.core"
    assert error.remedy == f"give it as core:{tmp_path / 'file'}"


@pytest.mark.parametrize("layout", LAYOUTS[:8], ids=lambda layout: layout.name)
def test_a_raw_dump_is_read_at_the_base_it_is_given(tmp_path: Path, layout: object) -> None:
    chosen = next(each for each in LAYOUTS if each is layout)
    source = opened(tmp_path, memory(chosen), f"@{BASE:#x}")
    assert knows_the_kernel(source)
    assert not source.pristine
    assert source.name.endswith("@0xffffffff81000000")
    assert source.facts().release == "6.1.0-test"


def test_a_big_endian_kernel_is_opened(tmp_path: Path) -> None:
    layout = LAYOUTS[8]
    base = 0x3FFE0000000
    data = bytes(0x4000) + BANNER.encode()
    data += bytes(-len(data) % 8)
    symbols = [*rows(base=base), ("linux_banner", base + 0x4000, "R")]
    notes_at = base + len(data)
    data += build_id_note(b"\x01\x02", "big")
    symbols += [("__start_notes", notes_at, "R"), ("__stop_notes", base + len(data), "R")]
    data += tables(symbols, layout, base + len(data))
    source = opened(tmp_path, elf([(base, data, 0)], order="big", machine=22))
    facts = source.facts()
    assert (facts.machine, facts.release, facts.build_id) == ("s390x", "6.1.0-test", "0102")


def test_the_embedded_configuration_is_read(tmp_path: Path) -> None:
    text = b'CONFIG_X86_64=y\n# CONFIG_BAR is not set\nCONFIG_TEXT="a=b"\nCONFIG_HZ=250\n'
    data = VMLINUX.replace(
        b"\x90" * 400, (b"IKCFG_ST" + gzip.compress(text) + b"IKCFG_ED").ljust(400, b"\x90"), 1
    )
    assert dict(opened(tmp_path, data).facts().config) == {
        "CONFIG_X86_64": "y",
        "CONFIG_TEXT": '"a=b"',
        "CONFIG_HZ": "250",
    }


def test_a_file_is_opened_once_until_it_changes(tmp_path: Path) -> None:
    first = opened(tmp_path, VMLINUX)
    (scheme,) = kdiff_memory_schemes()
    assert scheme.open(str(tmp_path / "file"), KNOWN) is first
    (tmp_path / "file").write_bytes(VMLINUX.replace(b"6.1.0-test", b"6.1.1-test"))
    os.utime(tmp_path / "file", (1, 1))
    assert scheme.open(str(tmp_path / "file"), KNOWN).facts().release == "6.1.1-test"


def test_what_was_slow_to_unpack_is_kept_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path, bzimage(sized(xz(VMLINUX))))
    (kept,) = store.directory().iterdir()
    assert kept.read_bytes() == VMLINUX
    monkeypatch.setattr("kdiff_memory_image.source.unpack", None)
    os.utime(tmp_path / "file", (1, 1))
    (scheme,) = kdiff_memory_schemes()
    assert knows_the_kernel(scheme.open(str(tmp_path / "file"), KNOWN))


def test_a_kept_image_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    source = opened(tmp_path, bzimage(sized(xz(VMLINUX))))
    (kept,) = store.directory().iterdir()
    kept.write_bytes(VMLINUX.replace(CODE, bytes(len(CODE))))
    os.utime(tmp_path / "file", (1, 1))
    (scheme,) = kdiff_memory_schemes()
    again = scheme.open(str(tmp_path / "file"), KNOWN)
    assert again is not source
    assert knows_the_kernel(again)
    assert kept.read_bytes() == VMLINUX


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("a file where a directory is wanted")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    assert knows_the_kernel(opened(tmp_path, bzimage(sized(xz(VMLINUX)))))


def test_the_cache_keeps_a_bounded_number_of_images() -> None:
    for number in range(12):
        store.keep(f"{number:064x}", bytes([number]))
        for path in store.directory().glob(f"{number:064x}.*"):
            os.utime(path, (number, number))
    kept = sorted(int(path.name[:64], 16) for path in store.directory().iterdir())
    assert kept == list(range(4, 12))


@pytest.mark.kernel
def test_a_real_vmlinuz_is_opened_with_everything_that_is_known_of_it(kernel: KernelSetup) -> None:
    source = registry.load().open_memory(f"image:{kernel.image / 'vmlinuz'}")
    book, facts = source.address_book(), source.facts()
    assert facts.release == kernel.abi
    assert facts.machine == "x86_64"
    assert facts.version.startswith(f"Linux version {kernel.abi} ")
    assert len(facts.build_id) == 40
    assert book.address("_text") == 0xFFFFFFFF81000000
    assert source.read(0, 0x1000) is not None
    assert source.read(0xFFFFFFFFFFFFF000, 1) is None

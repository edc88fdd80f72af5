# SPDX-License-Identifier: Apache-2.0
import errno
import gzip
import os
from pathlib import Path

import pytest
from fakeimage import BANNER, BASE, CODE, TYPES, build_id_note, elf
from kdiff_arch_x86_64 import ARCHITECTURE
from kdiff_memory_kcore import kdiff_memory_schemes

from kdiff.api import KdiffError, MemorySource

KNOWN = (ARCHITECTURE,)
"""The architectures that memory is opened with."""

KALLSYMS = f"{BASE:016x} T _text\n{BASE + 0x40:016x} T tcp_v4_rcv\n{BASE + 0x9000:016x} t init\t[ext4]\n"
TEXT = b"\x90" * 0x40 + CODE


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    (tmp_path / "kcore").write_bytes(
        elf([(0xFFFF888000000000, b"direct map", 0), (BASE, TEXT, 0x40)], kind=4)
    )
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    (tmp_path / "version").write_text(BANNER + "\n")
    (tmp_path / "notes").write_bytes(build_id_note(b"\xeb\x4f"))
    (tmp_path / "btf").write_bytes(TYPES)
    (tmp_path / "arch").write_text("x86_64\n")
    return tmp_path


def opened(directory: Path | str) -> MemorySource:
    (scheme,) = kdiff_memory_schemes()
    return scheme.open(str(directory), KNOWN)


def refused(directory: Path | str) -> KdiffError:
    with pytest.raises(KdiffError) as caught:
        opened(directory)
    return caught.value


def test_memory_symbols_and_facts_of_a_running_kernel_are_read(copies: Path) -> None:
    source = opened(copies)
    facts = source.facts()
    assert source.read(BASE + 0x40, len(CODE)) == CODE
    assert source.read(0xFFFF888000000007, 3) == b"map"
    assert source.address_book().address("tcp_v4_rcv") == BASE + 0x40
    assert [entry.owner for entry in source.address_book().named("init", "ext4")] == ["ext4"]
    assert (facts.release, facts.version, facts.machine) == ("6.1.0-test", BANNER, "x86_64")
    assert facts.build_id == "eb4f"
    assert facts.structures["alt_instr"].size == 12
    assert not source.pristine
    assert source.name == f"kcore:{copies}"


@pytest.mark.parametrize("address", [0, BASE - 1, BASE + 0x41 + len(CODE) + 0x40, BASE + len(TEXT) - 2])
def test_memory_that_kcore_does_not_hold_does_not_exist(copies: Path, address: int) -> None:
    assert opened(copies).read(address, 8) is None


def test_memory_that_may_not_be_read_does_not_exist(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(copies)

    def fault(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EFAULT, "Bad address")

    monkeypatch.setattr(os, "pread", fault)
    assert source.read(BASE, 8) is None


def test_a_read_that_stops_short_is_continued(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(copies)
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: whole(descriptor, min(size, 3), offset))
    assert source.read(BASE + 0x40, len(CODE)) == CODE


def test_the_configuration_is_read_where_the_kernel_shows_it(copies: Path) -> None:
    assert dict(opened(copies).facts().config) == {}
    (copies / "config.gz").write_bytes(gzip.compress(b"CONFIG_LIVEPATCH=y\n# CONFIG_X is not set\n"))
    assert dict(opened(copies).facts().config) == {"CONFIG_LIVEPATCH": "y"}


def test_facts_without_type_information_have_no_structures(copies: Path) -> None:
    (copies / "btf").unlink()
    (copies / "arch").unlink()
    facts = opened(copies).facts()
    assert dict(facts.structures) == {}
    assert facts.machine == os.uname().machine


def test_hidden_addresses_are_an_error_when_symbols_are_asked_for(copies: Path) -> None:
    (copies / "kallsyms").write_text("0000000000000000 T _text\n")
    with pytest.raises(KdiffError) as caught:
        opened(copies).address_book()
    assert caught.value.key == "kallsyms.hidden"


def test_a_missing_kcore_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert error.key == "kcore.missing"
    assert "CONFIG_PROC_KCORE" in error.remedy


@pytest.mark.parametrize(
    ("user", "key", "remedy"), [(0, "kcore.lockdown", "lockdown"), (1000, "kcore.denied", "run as root")]
)
def test_a_kcore_that_may_not_be_opened_is_an_error_with_a_remedy(
    copies: Path, monkeypatch: pytest.MonkeyPatch, user: int, key: str, remedy: str
) -> None:
    def denied(path: Path, flags: int) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    error = refused(copies)
    assert error.key == key
    assert remedy in error.remedy


def test_a_kcore_that_is_no_core_is_an_error(copies: Path) -> None:
    (copies / "kcore").write_bytes(b"")
    assert refused(copies).key == "image.not_elf"
    (copies / "kcore").write_bytes(elf([(BASE, TEXT, 0)], kind=4)[:100])
    assert refused(copies).key == "image.truncated"


def test_missing_notes_are_an_error_with_their_place(copies: Path) -> None:
    (copies / "notes").unlink()
    with pytest.raises(KdiffError) as caught:
        opened(copies).facts()
    assert caught.value.place == str(copies / "notes")

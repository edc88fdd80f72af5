# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakemachine import core

from kdiff.errors import KdiffError
from kdiff.target.kcore import Kcore

RANGES = {0x1000: b"first " * 10, 0xF000: b"second " * 10}


def opened(tmp_path: Path, data: bytes) -> Kcore:
    (tmp_path / "kcore").write_bytes(data)
    return Kcore(str(tmp_path / "kcore"))


@pytest.mark.parametrize("order, name", [("<", "little"), (">", "big")])
@pytest.mark.parametrize("word", [4, 8])
def test_memory_is_read_by_address(tmp_path: Path, order: str, name: str, word: int) -> None:
    memory = opened(tmp_path, core(RANGES, order, word))
    assert memory.read(0x1006, 5) == b"first"
    assert memory.read(0xF000, 70) == RANGES[0xF000]
    assert (memory.word, memory.order) == (word, name)
    memory.close()


@pytest.mark.parametrize(
    "address, size", [(0xFFF, 4), (0x1000, 61), (0x103C, 1), (0, 1), (0xFFFFFFFFFFFFFFFF, 1)]
)
def test_memory_that_does_not_exist_is_none(tmp_path: Path, address: int, size: int) -> None:
    memory = opened(tmp_path, core(RANGES))
    assert memory.read(address, size) is None
    memory.close()


def test_memory_that_ends_early_is_none(tmp_path: Path) -> None:
    memory = opened(tmp_path, core(RANGES)[:-3])
    assert memory.read(0xF000, 70) is None
    memory.close()


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"MZ" + bytes(100), b"\x7fELF\x09\x01" + bytes(90), core(RANGES)[:80]]
)
def test_what_is_no_core_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(KdiffError) as caught:
        opened(tmp_path, data)
    assert caught.value.key == "target.no_kcore"


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError, match="CONFIG_PROC_KCORE") as caught:
        Kcore(str(tmp_path / "kcore"))
    assert caught.value.key == "target.no_kcore"


def test_a_file_the_kernel_guards_means_lockdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(path: str, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "open", guarded)
    with pytest.raises(KdiffError) as caught:
        Kcore(str(tmp_path / "kcore"))
    assert caught.value.key == "target.lockdown"

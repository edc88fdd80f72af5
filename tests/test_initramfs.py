# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from kdiff.errors import KdiffError
from kdiff.initramfs import DIRECTORY, EXECUTABLE, PLAIN, Entry, archive, modules


def module(depends: str) -> bytes:
    return b"\x7fELF....\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, depends in (
        ("kernel/fs/9p/9p.ko", "9pnet,netfs"),
        ("kernel/net/9p/9pnet.ko", ""),
        ("kernel/fs/netfs/netfs.ko", "9pnet"),
        ("kernel/drivers/virtio-rng.ko", "virtio"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(module(depends))
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    return tmp_path


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is the independent reader")
def test_cpio_unpacks_what_archive_writes(tmp_path: Path) -> None:
    entries = [
        Entry("bin", DIRECTORY),
        Entry("bin/tool", EXECUTABLE, b"#!/bin/sh\n"),
        Entry("odd", PLAIN, b"abcde"),
        Entry("empty", PLAIN),
    ]
    subprocess.run(["cpio", "-i", "--quiet"], input=archive(entries), cwd=tmp_path, check=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "odd").read_bytes() == b"abcde"
    assert (tmp_path / "empty").read_bytes() == b""


def test_modules_come_after_what_they_depend_on(tree: Path) -> None:
    assert [name for name, _ in modules(tree, ["9p"])] == ["9pnet", "netfs", "9p"]


def test_a_built_in_module_is_left_out(tree: Path) -> None:
    assert [name for name, _ in modules(tree, ["virtio_rng"])] == ["virtio_rng"]


def test_a_module_that_is_nowhere_is_an_error(tree: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        modules(tree, ["overlay"])
    assert caught.value.key == "guest.module"
    assert "overlay" in str(caught.value)


def test_a_compressed_module_is_unpacked(tree: Path) -> None:
    (tree / "kernel/overlay.ko.xz").write_bytes(lzma.compress(module("")))
    assert modules(tree, ["overlay"]) == (("overlay", module("")),)

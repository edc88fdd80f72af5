# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fakemachine import ID, package
from hypothesis import given, settings
from hypothesis import strategies as st

from kdiff.errors import KdiffError
from kdiff.package import write
from kdiff.target import tarball

Files = dict[str, bytes]
TOP = f"ksplice-{ID}"


def files() -> Files:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(write(package())))) as read:
        return {
            each.name.partition("/")[2]: read.extractfile(each).read()  # type: ignore[union-attr]  # regular files
            for each in read.getmembers()
            if each.isreg()
        }


def hashed(content: Files) -> Files:
    """Bring the manifest up to date."""
    others = {name: data for name, data in content.items() if name != "manifest.json"}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in others.items()}
    return {**others, "manifest.json": json.dumps({"files": hashes}).encode()}


def packed(
    content: Files,
    folder: str = TOP,
    more: tuple[tarfile.TarInfo, ...] = (),
    format: int = tarfile.USTAR_FORMAT,
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return gzip.compress(out.getvalue())


def refused(tmp_path: Path, data: bytes) -> KdiffError:
    path = tmp_path / "update.tar.gz"
    path.write_bytes(data)
    with pytest.raises(KdiffError) as caught:
        tarball.read(str(path))
    error = caught.value
    assert str(path) in str(error)
    assert error.remedy
    assert "\n" not in str(error)
    return error


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, ...]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return (info,)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_a_tarball_that_was_packed_again_is_read(tmp_path: Path, format: int) -> None:
    (tmp_path / "again").write_bytes(packed(files(), format=format))
    assert tarball.read(str(tmp_path / "again")).id == ID


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError, match="No such file") as caught:
        tarball.read(str(tmp_path / "nothing"))
    assert caught.value.key == "package.unreadable"


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError, match="directory") as caught:
        tarball.read(str(tmp_path))
    assert caught.value.key == "package.unreadable"


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x7fELF" + bytes(100), gzip.compress(b""), gzip.compress(b"text" * 400)]
)
def test_what_is_not_a_tarball_is_an_error(tmp_path: Path, data: bytes) -> None:
    assert refused(tmp_path, data).key == "package.not_tarball"


@given(length=st.integers(2, len(write(package())) - 1))
@settings(max_examples=60)
def test_a_truncated_tarball_is_an_error(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    error = refused(tmp_path_factory.mktemp("cut"), write(package())[:length])
    assert error.key == "package.truncated"


@pytest.mark.parametrize("length", [1000, 1024, 1500, 4096])
def test_a_truncated_archive_inside_whole_compression_is_an_error(tmp_path: Path, length: int) -> None:
    data = gzip.compress(gzip.decompress(write(package()))[:length])
    assert refused(tmp_path, data).key == "package.truncated"


@given(place=st.integers(10, len(write(package())) - 1), bit=st.integers(0, 7))
@settings(max_examples=100)
def test_a_flipped_bit_anywhere_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    data = bytearray(write(package()))
    data[place] ^= 1 << bit
    assert refused(tmp_path_factory.mktemp("flip"), bytes(data)).key.startswith("package.")


def test_a_wrong_header_checksum_is_an_error(tmp_path: Path) -> None:
    data = bytearray(gzip.decompress(write(package())))
    data[512 + 1] ^= 1
    assert refused(tmp_path, gzip.compress(bytes(data))).key == "package.corrupt"


def test_something_behind_the_archive_is_an_error(tmp_path: Path) -> None:
    data = gzip.decompress(write(package()))
    assert refused(tmp_path, gzip.compress(data + b"more")).key == "package.corrupt"
    assert refused(tmp_path, write(package()) + b"more").key == "package.corrupt"


def test_an_archive_without_files_is_an_error(tmp_path: Path) -> None:
    assert refused(tmp_path, packed({})).key == "package.missing"


@pytest.mark.parametrize("name", sorted(files().keys() - {"description"}))
def test_a_missing_member_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    content = files()
    del content[name]
    error = refused(tmp_path, packed(content))
    assert error.key == "package.missing"
    assert name in str(error)


def test_a_surplus_member_is_an_error_that_names_it(tmp_path: Path) -> None:
    error = refused(tmp_path, packed(hashed({**files(), "postinst": b"#!/bin/sh"})))
    assert error.key == "package.extra"
    assert "postinst" in str(error)


def test_a_member_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    assert refused(tmp_path, packed(files(), more=special(f"{TOP}/patch", tarfile.REGTYPE))).key == (
        "package.repeated"
    )


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../evil", f"{TOP}/../evil", f"{TOP}/sub/file", "other/file", f"{TOP}/..", "file"]
)
def test_a_path_outside_the_update_is_an_error(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, packed(files(), more=special(name, tarfile.REGTYPE)))
    assert error.key == "package.path"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_member_that_is_no_plain_file_is_an_error(tmp_path: Path, kind: bytes) -> None:
    error = refused(tmp_path, packed(files(), more=special(f"{TOP}/link", kind, "/etc/passwd")))
    assert error.key == "package.kind"


@pytest.mark.parametrize("name", sorted(files().keys() - {"manifest.json", "api-version"}))
def test_a_changed_member_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    content = files()
    content[name] += b" "
    error = refused(tmp_path, packed(content))
    assert error.key == "package.tampered"
    assert name in str(error)


def test_a_removed_optional_member_is_an_error(tmp_path: Path) -> None:
    content = files()
    del content["description"]
    assert refused(tmp_path, packed(content)).key == "package.tampered"


def test_an_unknown_api_version_is_an_error_before_anything_else_is_missed(tmp_path: Path) -> None:
    error = refused(tmp_path, packed({"api-version": b"4\n", "novelty": b""}))
    assert error.key == "package.api_version"
    assert "'4'" in str(error)
    assert "3" in error.message


@pytest.mark.parametrize("folder", ["ksplice-", "ksplice-a b", "update", f"ksplice-{'a' * 33}"])
def test_a_directory_that_names_no_id_is_an_error(tmp_path: Path, folder: str) -> None:
    assert refused(tmp_path, packed(files(), folder)).key == "package.id"


@pytest.mark.parametrize(
    "edit, key",
    [
        (lambda f: {**f, "contents": b"change a/b ksplice_abcd1234 ksplice_abcd1234.ko\n"}, "contents"),
        (lambda f: {**f, "contents": b""}, "contents"),
        (lambda f: {**f, "contents": 2 * b"change ext4 ksplice_abcd1234 ksplice_abcd1234.ko\n"}, "contents"),
        (lambda f: {**f, "contents": b"change vmlinux other other.ko\n"}, "contents"),
        (lambda f: {**f, "utsname": b"Linux\n"}, "metadata"),
        (lambda f: {**f, "timestamp": b"today\n"}, "metadata"),
        (lambda f: {**f, "description": b"\xff\n"}, "metadata"),
    ],
)
def test_a_malformed_member_is_an_error(tmp_path: Path, edit: Callable[[Files], Files], key: str) -> None:
    assert refused(tmp_path, packed(hashed(edit(files())))).key == f"package.{key}"


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'"files"', b'{"files": 3}', b"[" * 100_000, b"\xff"])
def test_a_manifest_that_is_none_is_an_error(tmp_path: Path, text: bytes) -> None:
    assert refused(tmp_path, packed({**files(), "manifest.json": text})).key == "package.manifest"


def test_an_archive_that_unpacks_without_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarball, "LARGEST", 1 << 20)
    assert refused(tmp_path, gzip.compress(bytes(2 << 20))).key == "package.too_large"

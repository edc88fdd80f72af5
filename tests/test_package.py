# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fakemachine import ID, PATCH, package
from hypothesis import given
from hypothesis import strategies as st

from kdiff.emit import EmittedModule
from kdiff.errors import KdiffError
from kdiff.package import creation_time, save, write
from kdiff.target import layout, tarball


def archive(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)))


def refused(**changes: Any) -> str:
    with pytest.raises(KdiffError) as caught:
        write(package(**changes))
    return caught.value.key


def test_equal_packages_have_equal_bytes() -> None:
    assert write(package()) == write(package())


def test_the_order_of_the_manifest_does_not_show() -> None:
    assert write(package(manifest={"a": 1, "b": 2})) == write(package(manifest={"b": 2, "a": 1}))


def test_a_standard_tar_reads_it_as_plain_files_of_root_at_the_given_time() -> None:
    with archive(write(package())) as read:
        members = read.getmembers()
    assert [member.name for member in members] == [
        f"ksplice-{ID}",
        *sorted(f"ksplice-{ID}/{name}" for name in (*layout.REQUIRED, "description", f"ksplice_{ID}.ko")),
    ]
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in members} == {
        (0, 0, "", "", 1_700_000_000)
    }
    assert all(member.isreg() for member in members[1:])


def test_the_compressed_file_names_neither_time_nor_file() -> None:
    assert write(package())[3:8] == bytes(5)


def test_the_manifest_has_the_hash_of_every_other_file() -> None:
    with archive(write(package())) as read:
        files = {
            each.name.partition("/")[2]: read.extractfile(each).read()  # type: ignore[union-attr]  # regular files
            for each in read.getmembers()
            if each.isreg()
        }
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["kernel"] == "6.1.0-56-amd64"
    assert manifest["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    update = tarball.read(str(save(package(), tmp_path)))
    assert update.id == ID
    assert update.patch == PATCH
    assert update.description == "drop what nobody wants"
    assert update.release == "6.1.0-56-amd64"
    assert update.timestamp == 1_700_000_000
    assert update.module == b"\x7fELF and so on"


@given(
    patch=st.binary(max_size=2000),
    module=st.binary(max_size=2000),
    description=st.text(st.characters(exclude_categories=("C", "Z")), max_size=40),
    id=st.text("abcXYZ019_", min_size=1, max_size=32),
)
def test_any_package_is_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, patch: bytes, module: bytes, description: str, id: str
) -> None:
    modules = (EmittedModule(("vmlinux",), f"ksplice_{id}", f"ksplice_{id}.ko", module),)
    made = package(id=id, patch=patch, description=description, modules=modules)
    update = tarball.read(str(save(made, tmp_path_factory.mktemp("any"))))
    assert (update.id, update.patch, update.module, update.description) == (id, patch, module, description)


def test_without_a_description_there_is_no_such_file() -> None:
    with archive(write(package(description=""))) as read:
        assert f"ksplice-{ID}/description" not in read.getnames()


@pytest.mark.parametrize("id", ["", "a b", "../x", "a" * 33, "é", "a-b"])
def test_an_id_that_is_no_word_is_an_error(id: str) -> None:
    assert refused(id=id) == "update.id"


def test_a_module_of_another_name_is_an_error() -> None:
    assert refused(modules=(EmittedModule(("vmlinux",), "other", "other.ko", b""),)) == "package.modules"


def test_a_description_of_two_lines_is_an_error() -> None:
    assert refused(description="one\ntwo") == "package.description"


def test_the_time_is_source_date_epoch_where_that_is_set() -> None:
    assert creation_time({"SOURCE_DATE_EPOCH": "1234"}) == 1234
    assert creation_time({}) > 1_600_000_000


def test_a_source_date_epoch_that_is_no_number_is_an_error() -> None:
    with pytest.raises(KdiffError) as caught:
        creation_time({"SOURCE_DATE_EPOCH": "yesterday"})
    assert caught.value.key == "package.time"


def test_a_full_disk_is_an_error_and_leaves_no_piece_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(KdiffError) as caught:
        save(package(), tmp_path)
    assert caught.value.key == "package.unwritable"
    assert "No space left on device" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        save(package(), tmp_path / "nowhere")
    assert caught.value.key == "package.unwritable"

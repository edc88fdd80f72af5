# SPDX-License-Identifier: Apache-2.0
"""kdiff's own reader of entry points says what importlib.metadata says."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

from kdiff.entry_points import entry_points

TEXT = """
# what comes with it
[console_scripts]
tool = collections:deque

[kdiff]
plain = collections
one = collections:OrderedDict
# two = gone
deep = collections : OrderedDict.fromkeys  [extra]
"""
Install = Callable[[Path, str, str], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def installed(folder: Path, name: str, text: str) -> None:
        place = folder / f"{name}.dist-info"
        place.mkdir(parents=True)
        (place / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.partition('-')[0]}\nVersion: 1\n"
        )
        (place / "entry_points.txt").write_text(text)
        if str(folder) not in sys.path:
            monkeypatch.syspath_prepend(str(folder))

    return installed


def both(group: str = "kdiff") -> tuple[list[tuple[str, object]], list[tuple[str, object]]]:
    """(name, what it loads) by either reader, in order of names."""
    ours, theirs = (
        sorted(((each.name, each.load()) for each in found), key=lambda each: each[0])
        for found in (entry_points(group), metadata.entry_points(group=group))
    )
    return ours, theirs


def test_installed_plugins_are_those_of_the_standard_library() -> None:
    ours, theirs = both()
    assert ours == theirs
    assert "arch_x86_64" in [name for name, _ in ours]


def test_names_values_and_comments_are_read_alike(tmp_path: Path, install: Install) -> None:
    install(tmp_path, "mine-1", TEXT)
    ours, theirs = both()
    assert ours == theirs
    assert dict(ours)["deep"] == OrderedDict.fromkeys
    assert {"plain", "one"} <= set(dict(ours))
    assert "tool" not in dict(ours)


def test_of_two_copies_of_a_package_the_first_one_counts(tmp_path: Path, install: Install) -> None:
    install(tmp_path / "behind", "my.package-1", "[kdiff]\nold = collections\n")
    install(tmp_path / "ahead", "My_Package-2", "[kdiff]\nnew = collections\n")
    ours, theirs = both()
    assert ours == theirs
    assert "new" in dict(ours)
    assert "old" not in dict(ours)


def test_a_package_in_a_zip_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ZipFile(tmp_path / "packages.zip", "w") as file:
        file.writestr("zipped-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1\n")
        file.writestr("zipped-1.dist-info/entry_points.txt", "[kdiff]\nzipped = collections\n")
    monkeypatch.syspath_prepend(str(tmp_path / "packages.zip"))
    ours, theirs = both()
    assert ours == theirs
    assert "zipped" in dict(ours)


def test_a_folder_that_is_not_there_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = both()[0]
    monkeypatch.syspath_prepend(str(tmp_path / "gone"))
    assert both() == (before, before)

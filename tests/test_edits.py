# SPDX-License-Identifier: Apache-2.0
"""What patches make of a source tree: files that come, go, and change their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdiff.edits import patch_texts, versions
from kdiff.errors import KdiffError
from kdiff.patch import parse_patch

NEW = "--- /dev/null\n+++ b/net/new.c\n@@ -0,0 +1,2 @@\n+int a;\n+int b;\n"
GONE = "--- a/net/a.c\n+++ /dev/null\n@@ -1,3 +0,0 @@\n-one\n-two\n-three\n"
RENAME = (
    "diff --git a/net/a.c b/net/b.c\nsimilarity index 90%\nrename from net/a.c\nrename to net/b.c\n"
    "--- a/net/a.c\n+++ b/net/b.c\n@@ -1,3 +1,4 @@\n one\n+new\n two\n three\n"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/a.c").write_text("one\ntwo\nthree\n")
    return tmp_path


def files(tree: Path, text: str) -> dict[str, bytes | None]:
    """What the compiler is shown, line numbers pinned."""
    return dict(versions(patch_texts(tree, parse_patch(text.encode(), "x.patch")))[0])


def error(tree: Path, text: str) -> str:
    with pytest.raises(KdiffError) as caught:
        files(tree, text)
    return caught.value.key


def test_a_new_file_holds_what_the_patch_says(tree: Path) -> None:
    assert files(tree, NEW) == {"net/new.c": b"int a;\nint b;\n"}


def test_a_deleted_file_is_gone(tree: Path) -> None:
    assert files(tree, GONE) == {"net/a.c": None}


def test_a_renamed_file_keeps_its_lines_and_says_what_it_was_called(tree: Path) -> None:
    shown = files(tree, RENAME)
    assert shown == {"net/a.c": None, "net/b.c": b'#line 1 "net/a.c"\none\nnew\n#line 2\ntwo\nthree\n'}


def test_a_copied_file_is_new_and_its_origin_stays(tree: Path) -> None:
    copy = RENAME.replace("rename", "copy")
    assert files(tree, copy) == {"net/b.c": b"one\nnew\ntwo\nthree\n"}


def test_a_new_file_can_be_changed_by_a_later_part(tree: Path) -> None:
    more = "--- a/net/new.c\n+++ b/net/new.c\n@@ -1,2 +1,2 @@\n int a;\n-int b;\n+int c;\n"
    assert files(tree, NEW + more) == {"net/new.c": b"int a;\nint c;\n"}


def test_what_the_tree_has_or_has_not_got_is_an_error(tree: Path) -> None:
    assert error(tree, NEW.replace("new.c", "a.c")) == "patch.file_exists"
    assert error(tree, GONE.replace("a.c", "no.c")) == "patch.no_such_file"
    assert error(tree, GONE.replace("1,3", "1,2").replace("-three\n", "")) == "patch.does_not_apply"
    assert error(tree, GONE + RENAME) == "patch.no_such_file"


def test_no_compiler_is_shown_what_kconfig_reads(tree: Path) -> None:
    (tree / "net/Kconfig").write_text("one\ntwo\nthree\n")
    patch = "--- a/net/Kconfig\n+++ b/net/Kconfig\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
    assert files(tree, patch) == {}

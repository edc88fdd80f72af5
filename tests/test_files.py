# SPDX-License-Identifier: Apache-2.0
"""Patches that add, delete and rename files, or change makefiles and Kconfig, against a stock kernel."""

from __future__ import annotations

import pytest
from updates import PATCHES, make

from kdiff.distribution import KernelSetup
from kdiff.errors import NothingChanged

pytestmark = pytest.mark.kernel


def replaced(kernel: KernelSetup, name: str, said: list[str]) -> dict[str, str]:
    """Functions that the update of a patch replaces, and the target of each."""
    rows = make(kernel, PATCHES / f"{name}.patch", said.append).manifest["replaced"]
    assert isinstance(rows, list)
    return {each["name"]: each["target"] for each in rows}


@pytest.mark.parametrize(
    "name, functions, line",
    [
        ("new_file", {"cmdline_proc_show": "vmlinux"}, ""),
        (
            "new_file_unused",
            {"cmdline_proc_show": "vmlinux"},
            "left out of the update: fs/proc/kdiff_greet.c",
        ),
        ("new_file_of_module", {"br_dev_setup": "bridge"}, ""),
        ("renamed_file", {"cmdline_proc_show": "vmlinux"}, ""),
        (
            "deleted_file",
            {"cmdline_proc_show": "vmlinux"},
            "fs/proc/util.c is deleted: what is in the kernel",
        ),
        ("makefile_flags", {"name_to_int": "vmlinux"}, ""),
        ("kconfig_words", {"cmdline_proc_show": "vmlinux"}, "asking Kconfig whether the configuration stays"),
    ],
)
def test_a_patch_of_this_shape_becomes_an_update(
    kernel: KernelSetup, name: str, functions: dict[str, str], line: str
) -> None:
    said: list[str] = []
    assert replaced(kernel, name, said) == functions
    assert any(each.startswith(line) for each in said)


def test_a_makefile_that_changes_in_words_only_changes_nothing(kernel: KernelSetup) -> None:
    with pytest.raises(NothingChanged):
        make(kernel, PATCHES / "makefile_comment.patch")

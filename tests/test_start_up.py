# SPDX-License-Identifier: Apache-2.0
"""A command does not wait for libraries that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compiled import UNIT, compiled

from kdiff import api
from kdiff.btf import structures
from kdiff.cli.main import keep_memory
from kdiff.elf.image import open_image

SLOW = ("lief", "networkx", "rich", "elftools")
UNUSED = (
    "kdiff.btf", "kdiff.cli.batch", "kdiff.elf.image", "kdiff.elf.write", "kdiff.emit", "kdiff.kallsyms",
    "kdiff.observe", "kdiff.paging", "kdiff.update", "kdiff_distro_debian.apt", "kdiff_emit_livepatch.module",
    "kdiff_memory_core.source", "kdiff_memory_gdb.source", "kdiff_memory_image.source",
    "kdiff_memory_kcore.source", "concurrent.futures", "hashlib", "lz4", "lzallright",
)  # fmt: skip
"""What comparing two objects has no use for: memory, images, updates, packages, and their libraries."""
CODE = """
import sys
from kdiff.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print("imported", [name for name in {slow} if name in sys.modules], status, file=sys.stderr)
"""


def imported(*arguments: str) -> str:
    done = subprocess.run(
        (sys.executable, "-c", CODE.format(slow=(*SLOW, *UNUSED, "numpy", "capstone")), *arguments),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return next(line for line in done.stderr.splitlines() if line.startswith("imported"))


def test_help_needs_none_of_them() -> None:
    assert imported("--help") == "imported [] 0"


@pytest.mark.parametrize("changed", [False, True])
def test_comparing_two_objects_needs_arrays_and_at_most_a_disassembler(tmp_path: Path, changed: bool) -> None:
    before, after = tmp_path / "before.o", tmp_path / "after.o"
    before.write_bytes(compiled(UNIT))
    after.write_bytes(compiled(UNIT.replace("a * limit", "a ^ limit") if changed else UNIT))
    found = imported("diff", str(before), str(after))
    assert not any(f"'{name}'" in found for name in (*SLOW, *UNUSED)), found
    assert "'numpy'" in found
    assert found.endswith(" 0" if changed else " 66")


def test_each_name_that_plugins_may_import_is_found_where_it_lives() -> None:
    found = {name: getattr(api, name) for name in api.__all__}
    assert found["open_image"] is open_image
    assert found["btf_structures"] is structures
    with pytest.raises(AttributeError, match="no attribute 'open_door'"):
        api.open_door  # noqa: B018


def test_a_c_library_that_cannot_keep_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_memory()
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_memory()

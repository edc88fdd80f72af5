# SPDX-License-Identifier: Apache-2.0
"""A command does not wait for libraries that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compiled import UNIT, compiled

SLOW = ("lief", "networkx", "rich", "elftools")
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
        (sys.executable, "-c", CODE.format(slow=(*SLOW, "numpy", "capstone")), *arguments),
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
    assert not any(f"'{name}'" in found for name in SLOW), found
    assert found.endswith(" 0" if changed else " 66")

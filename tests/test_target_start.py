# SPDX-License-Identifier: Apache-2.0
"""What the target side costs before it does anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_MODULES = 100
"""Python's own included; each costs 10 ms and more where a processor is emulated."""
HEAVY = (
    "dataclasses",
    "inspect",
    "asyncio",
    "subprocess",
    "tarfile",
    "pathlib",
    "shutil",
    "ctypes",
    "tempfile",
)


def modules(*imports: str) -> list[str]:
    """The modules a fresh interpreter has after the imports; `-S` keeps this machine's own additions out."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport {', '.join(imports)}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture(scope="module")
def everything() -> list[str]:
    found = (ROOT / "kdiff/target").glob("*.py")
    return modules(*(f"kdiff.target.{file.stem}" for file in sorted(found) if not file.stem.startswith("__")))


def test_only_the_standard_library_is_imported(everything: list[str]) -> None:
    foreign = {name.partition(".")[0] for name in everything} - sys.stdlib_module_names - {"kdiff"}
    assert foreign <= {"__main__"}


def test_of_kdiff_only_the_errors_and_the_target_are_imported(everything: list[str]) -> None:
    own = {name for name in everything if name.startswith("kdiff")}
    assert {name for name in own if not name.startswith("kdiff.target")} == {"kdiff", "kdiff.errors"}


def test_nothing_heavy_is_imported(everything: list[str]) -> None:
    assert not set(HEAVY) & set(everything)


def test_nothing_heavy_is_imported_to_read_arguments() -> None:
    code = (
        "import sys\nfrom kdiff.target.main import run_apply\nrun_apply(['no.tar.gz'])\nprint(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "kdiff.target.apply" in done.stdout.split()
    assert not set(HEAVY) & set(done.stdout.split())


def test_few_modules_are_imported(everything: list[str]) -> None:
    assert len(everything) < MOST_MODULES


def test_view_does_not_pay_for_apply() -> None:
    loaded = modules("kdiff.target.main")
    assert "hashlib" not in loaded
    assert not {f"kdiff.target.{name}" for name in ("apply", "verify", "proof_reader", "tarball")} & set(
        loaded
    )


def run(*arguments: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdiff.target", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def test_the_commands_run_from_a_source_directory() -> None:
    assert "ksplice-ID.tar.gz" in run("apply", "--help").stdout
    assert run("view", "--file", "/nowhere").returncode == 1
    assert run("undo", "--api-version").stdout == "3\n"


@pytest.mark.parametrize("arguments", [[], ["create"]])
def test_an_unknown_command_is_status_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "apply|view|undo" in done.stderr

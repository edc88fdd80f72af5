# SPDX-License-Identifier: Apache-2.0
"""Tests of docs/examples/kdiff-arch-m68k: a whole architecture, installed as its reader installs it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import linkoracle
import pytest
from compiled import UNIT
from hypothesis import given
from hypothesis import strategies as st
from linkoracle import Cross, changed_functions, compiled, differs, graph, howtos_used, link, mismatches
from rangeoracle import compare, wrong

from kdiff import registry
from kdiff.insn import disassemble, instructions

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "kdiff-arch-m68k"

EVERY_TYPE = """
.text
.reloc ., R_68K_NONE, near
jsr far
move.l far + 5, %d0
lea near(%pc), %a0
bra.w near
bne.l away
bsr.l away + 6
bra.s close
dbf %d1, near
.section .data.words, "aw"
.long far + 3
.long away - .
.short bits16 + 1
.short beside - .
.byte bits8
.byte closer - .
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example, installed from its source without a network."""
    source, site = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    shutil.copytree(EXAMPLE, source, dirs_exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-index", "--no-build-isolation", "--no-deps", "--target", str(site), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return site


@pytest.fixture(scope="module")
def architecture(site: Path) -> Iterator[Any]:
    """The architecture that kdiff finds once the example is installed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(site))
        importlib.invalidate_caches()
        yield registry.load().architecture(4, "big", "unit.o")
    for name in [name for name in sys.modules if name.split(".")[0] == "kdiff_arch_m68k"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def cross(architecture: Any) -> Cross:
    found = Cross(architecture, "m68k-linux-gnu-", ("-m68040",), 0x100000, 0x180000, 0x1C0000)
    missing = [tool for tool in found.commands if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    return found


def kdiff(site: Path | None, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site or "")}
    command = [sys.executable, "-c", "import sys, kdiff.cli.main as m; sys.exit(m.main())"]
    command += map(str, arguments)
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def written(folder: Path, cross: Cross, *texts: str) -> list[Path]:
    paths = [folder / f"{index}.o" for index in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(compiled(cross, text))
    return paths


def test_it_imports_the_interface_for_plugins_and_itself() -> None:
    for file in EXAMPLE.rglob("*.py"):
        text = file.read_text()
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
        modules = re.findall(r"^(?:from|import) (kdiff\S*)", text, re.MULTILINE)
        assert all(each == "kdiff.api" or each.startswith("kdiff_arch_m68k") for each in modules)


def test_the_linker_stores_what_every_row_stores(cross: Cross) -> None:
    places = {
        "far": 0xDEADBEEE, "away": 0x7A5C3B12, "near": 0x10712E, "bits16": 0x7A5C, "bits8": 0x5A,
        "beside": 0x180ABC, "close": 0x100040, "closer": 0x18002D,
    }  # fmt: skip
    linked = link(cross, compiled(cross, EVERY_TYPE, language="assembler"), places)
    assert not mismatches(linked)
    rows = cross.architecture.howtos.values()
    assert howtos_used(linked) == {row.name for row in rows if row.fields}


def test_each_row_takes_what_the_linker_takes(cross: Cross) -> None:
    texts = {
        "R_68K_32": ".long {}", "R_68K_16": ".short {}", "R_68K_8": ".byte {}", "R_68K_PC32": ".long {} - .",
        "R_68K_PC16": ".short {} - .", "R_68K_PC8": ".byte {} - .",
    }  # fmt: skip
    assert not wrong(cross, compare(cross, texts, (0x100000, 0xC0000000)))


@pytest.mark.parametrize("options", [(), ("-Os",), ("-O0",), ("-pg",), ("-fpatchable-function-entry=4,2",)])
def test_the_linker_stores_what_is_computed_for_compiled_code(cross: Cross, options: tuple[str, ...]) -> None:
    linked = link(cross, compiled(cross, UNIT, *options))
    assert not mismatches(linked)
    assert "R_68K_32" in howtos_used(linked)


@given(st.integers(0x50, 0x6F), st.binary(min_size=5, max_size=5))
def test_capstone_agrees_with_every_branch(architecture: Any, opcode: int, rest: bytes) -> None:
    code = bytes((opcode,)) + rest
    branch, first = architecture.branch(code), instructions(architecture, code)[0]
    text = disassemble(architecture, code, 0x1000000)[0]
    found = re.search(r" (?:bra|bsr|b[a-z]{2}|db[a-z]{1,2})(?:\.[bwl])? (?:d\d, )?\$([0-9a-f]+)$", text)
    assert (branch is None) == (found is None)
    if branch is not None and found is not None:
        assert first.size == branch.length
        assert int(found[1], 16) == (0x1000000 + branch.length + branch.displacement) & 0xFFFFFFFF


def test_the_widths_of_a_branch_are_one_operation(architecture: Any) -> None:
    short, word, long = (
        architecture.branch(bytes.fromhex(code)) for code in ("6610", "66000010", "66ff00000010")
    )
    assert short.operation == word.operation == long.operation
    assert [each.length for each in (short, word, long)] == [2, 4, 6]
    assert {each.length + each.displacement for each in (short, word, long)} == {0x12}
    assert {each.falls_through for each in (short, word, long)} == {True}


def test_calls_are_told_from_jumps(architecture: Any) -> None:
    call, jump = (architecture.branch(bytes.fromhex(code)) for code in ("61000010", "60000010"))
    assert (call.call, call.falls_through, jump.call, jump.falls_through) == (True, True, False, False)


@pytest.mark.parametrize("code", ["", "60", "6000", "60ff0000", "57c8ff", "4e75", "4eb900001000"])
def test_what_is_no_whole_relative_branch_is_none(architecture: Any, code: str) -> None:
    assert architecture.branch(bytes.fromhex(code)) is None


def test_each_no_op_is_one_instruction(architecture: Any) -> None:
    for nop in architecture.nops:
        (only,) = instructions(architecture, nop)
        assert only.known


def test_an_object_does_not_differ_from_itself(cross: Cross) -> None:
    found = graph(cross, compiled(cross, UNIT))
    assert not differs(found, found)


@pytest.mark.parametrize("old, new, name", linkoracle.EDITS)
def test_the_edited_function_and_no_other_changed(cross: Cross, old: str, new: str, name: str) -> None:
    before, after = (graph(cross, compiled(cross, text)) for text in (UNIT, UNIT.replace(old, new)))
    assert changed_functions(before, after) == [name]


def test_diff_names_the_changed_function_once_the_example_is_installed(
    site: Path, cross: Cross, tmp_path: Path
) -> None:
    old, new, name = linkoracle.EDITS[1]
    pre, post = written(tmp_path, cross, UNIT, UNIT.replace(old, new))
    done = kdiff(site, "diff", "--json", pre, post)
    assert not done.returncode, done.stderr
    shown = json.loads(done.stdout)
    assert [(each["name"], each["kind"]) for each in shown["changed"]] == [(name, "function")]
    assert (shown["added"], shown["removed"]) == ([], [])
    assert kdiff(site, "diff", pre, pre).returncode == 66


def test_diff_refuses_the_architecture_without_the_example(cross: Cross, tmp_path: Path) -> None:
    (pre,) = written(tmp_path, cross, UNIT)
    done = kdiff(None, "diff", pre, pre)
    assert done.returncode == 1
    assert "no plugin for ELF machine 4 (big endian)" in done.stderr
    assert len(done.stderr.splitlines()) == 1

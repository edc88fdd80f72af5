# SPDX-License-Identifier: Apache-2.0
"""The shape of the source: who imports whom, how large files are, what they may mention."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENGINE = sorted((ROOT / "kdiff").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = (
    *ENGINE,
    *PLUGINS,
    *TESTS,
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "examples").rglob("*.py")),
)
TEXTS = tuple(
    path
    for folder in ("kdiff", "plugins", "tests", "benchmarks", "docs", "examples")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".c", ".h", ".S", ".sh", ".md", ".toml", ".json", ".patch")
) + tuple(
    path
    for path in (
        ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
    )
    if path.exists()
)

LAYERS = (
    {
        "errors",
        "arch",
        "values",
        "addressbook",
        "kernel",
        "habits",
        "naming",
        "memory",
        "distribution",
        "emit",
        "update",
        "elf",
    },
    set(),
    {"package", "manifest", "target"},
    {"hookspecs", "registry", "pipeline", "compare", "coverage", "rehearse", "setup", "api"},
    {"cli"},
)
"""Values; stages, which are all not listed here; package and target; registry and pipeline; command lines."""
STAGES = 1
STANDARD = frozenset(sys.stdlib_module_names)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Full names of the modules a file imports; with `at_run_time` not those for type checking only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if at_run_time and isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name(path)} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{each.name}" for each in node.names)


def part(module: str) -> str:
    """`graph` for kdiff.graph, `elf` for kdiff.elf.read."""
    return [*module.split("."), "", ""][1]


def layer(module: str) -> int:
    return next((index for index, parts in enumerate(LAYERS) if part(module) in parts), STAGES)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# Imports ---------------------------------------------------------------------------------------------


def test_layers_name_modules_that_exist() -> None:
    assert set().union(*LAYERS) - {part(module_of(path)) for path in ENGINE} == set()


def test_imports_go_down_only() -> None:
    upward = [
        (own, each)
        for own, path in ((module_of(path), path) for path in ENGINE)
        for each in imports(path, at_run_time=True)
        if each.startswith("kdiff.") and each != "kdiff.__version__" and layer(each) > layer(own)
    ]
    assert [pair for pair in upward if pair[0] != "kdiff" and not is_package_format(*pair)] == []


def is_package_format(importer: str, imported: str) -> bool:
    """The format of packages lies with its reader, and what writes packages may use it."""
    return part(importer) in ("package", "proof", "manifest") and imported.startswith("kdiff.target.layout")


DOORS = {
    "lief": {"kdiff/elf/image.py"},
    "capstone": {"kdiff/decoder.py"},
    "networkx": {"kdiff/topology.py"},
    "elftools": set(),
    "pluggy": {"kdiff/hookspecs.py", "kdiff/registry.py"},
}


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_one_door(library: str) -> None:
    users = {
        name(path)
        for path in (*ENGINE, *PLUGINS)
        if any(each.split(".")[0] == library for each in imports(path))
    }
    assert users == DOORS[library]


def test_what_runs_on_the_machine_that_is_updated_needs_the_standard_library_only() -> None:
    allowed = ("kdiff.errors", "kdiff.target", "kdiff.__version__")
    foreign = [
        (name(path), each)
        for path in sorted((ROOT / "kdiff/target").rglob("*.py"))
        for each in imports(path)
        if each.split(".")[0] not in STANDARD and each != "kdiff" and not each.startswith(allowed)
    ]
    assert foreign == []


def test_nothing_but_the_registry_calls_hooks() -> None:
    for path in ENGINE:
        if "hookspecs" in path.name:
            continue
        if any(each in ("kdiff.hookspecs", "kdiff.hookspecs.kdiff_architectures") for each in imports(path)):
            assert name(path) in ("kdiff/registry.py", "kdiff/api.py")


def loaded_by(module: str) -> set[str]:
    """What importing a module costs, as a fresh interpreter sees it."""
    text = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
    )  # fmt: skip
    return {each.split(".")[0] for each in done.stdout.split()}


def test_starting_the_command_line_costs_no_library() -> None:
    found = loaded_by("kdiff.cli.main")
    assert found & {"lief", "networkx", "numpy", "rich", "capstone", "unidiff", "pluggy"} == set()


def test_starting_the_target_s_commands_costs_neither_libraries_nor_slow_modules() -> None:
    found = loaded_by("kdiff.target.main")
    assert "kdiff" in found
    assert found & {"dataclasses", "inspect", "typing_extensions", "numpy", "asyncio", "pathlib"} == set()


# Files -----------------------------------------------------------------------------------------------


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_no_file_has_more_than_four_hundred_lines() -> None:
    assert [(name(path), lines(path)) for path in (*ENGINE, *PLUGINS) if lines(path) > 400] == []


def test_most_files_are_short() -> None:
    lengths = sorted(lines(path) for path in (*ENGINE, *PLUGINS))
    assert lengths[len(lengths) // 2] < 150


def test_no_file_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "core", "base", "manager", "misc"}
    assert [name(path) for path in SOURCES if path.stem in empty or path.parent.name in empty] == []


def test_every_source_file_names_its_licence() -> None:
    first = "# SPDX-License-Identifier: Apache-2.0\n"
    assert [
        name(path) for path in SOURCES if path.stat().st_size and not path.read_text().startswith(first)
    ] == []


def test_code_that_is_compiled_into_a_kernel_names_its_licence() -> None:
    wrong = [
        name(path)
        for folder in ("kdiff", "plugins")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".c", ".h", ".S")
        and "SPDX-License-Identifier: GPL-2.0-only" not in path.read_text()
    ]
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        name(path)
        for path in (*ENGINE, *PLUGINS)
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


ISSUES = re.compile(r"(?i)\bissues?\s+#?\d+\b|\(#\d+\)|\bsession\s+\d+\b")
PATHS = re.compile(r"/work/(main|lab|shared)\b|/root/\.|/home/\w")


def test_no_file_mentions_issues_or_paths_of_one_machine() -> None:
    found = [
        (name(path), match.group())
        for path in TEXTS
        if path.resolve() != Path(__file__).resolve()
        for pattern in (ISSUES, PATHS)
        for match in pattern.finditer(path.read_text())
    ]
    assert found == []


def test_no_code_leaves_work_for_later_or_swallows_every_error() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|except Exception\b|except:")
    assert [name(path) for path in (*ENGINE, *PLUGINS) if pattern.search(path.read_text())] == []


PRINTERS = ("kdiff/target/main.py", "kdiff/target/report.py", "kdiff/target/__main__.py")


def test_only_command_lines_print_and_exit() -> None:
    found = [
        name(path)
        for path in (*ENGINE, *PLUGINS)
        if not path.is_relative_to(ROOT / "kdiff/cli") and name(path) not in PRINTERS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit")
    ]
    assert found == []

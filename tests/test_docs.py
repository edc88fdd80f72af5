# SPDX-License-Identifier: Apache-2.0
"""Tests that the documents say what the code does: keys, options, hooks, files, links, and the example."""

from __future__ import annotations

import argparse
import ast
import fnmatch
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kdiff import api, arch, distribution, emit, errors, hookspecs, kernel, memory, registry
from kdiff.cli import main
from kdiff.kernel import KernelFacts
from kdiff.target import layout

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
WRITTEN_HERE = ("architecture", "cli", "glossary", "plugins", "safety", "support")
RAISERS = frozenset(("KdiffError", "Refusal", "Trouble", "failure"))
"""What is called with a dotted key as its first argument."""
FILE_NAMES = (".c", ".gz", ".h", ".json", ".ko", ".o", ".part", ".py")
KEY = re.compile(r"[a-z]+\.[a-z_]+")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-[a-zA-Z?])(?![\w-])")
PROGRAMS = {
    name: f"ksplice-{name}" if name in {"create", *main.ON_TARGET} else f"kdiff {name}"
    for name in main.COMMANDS
}


@cache
def document(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def section(name: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", document(name), re.MULTILINE)
    assert found, f"docs/{name}.md has no heading {heading!r}"
    rest = document(name)[found.end() :]
    following = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def code_spans(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


@cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    files = sorted([*ROOT.glob("kdiff/**/*.py"), *ROOT.glob("plugins/**/*.py")])
    return tuple((file, ast.parse(file.read_text())) for file in files)


# Keys ------------------------------------------------------------------------------------------------


def called(node: ast.Call) -> str:
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def raised(tree: ast.AST) -> Iterator[ast.expr]:
    """The first arguments of all calls that make an error, a refusal or a complaint."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in RAISERS and node.args:
            yield node.args[0]


@cache
def families() -> frozenset[str]:
    """What stands before the dot."""
    literal = {
        argument.value.partition(".")[0]
        for _, tree in trees()
        for argument in raised(tree)
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }
    return frozenset(literal | {prefix.rstrip(".") for _, prefix, _ in makers()})


def makers() -> Iterator[tuple[ast.Module, str, str]]:
    """(module, prefix, name) of each function that puts a prefix before the key it is called with."""
    for _, tree in trees():
        for function in (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)):
            for argument in raised(function):
                if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
                    yield tree, str(argument.values[0].value), function.name


@cache
def keys_in_code() -> frozenset[str]:
    known = families()
    found = {
        node.value
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and KEY.fullmatch(node.value)
        and node.value.partition(".")[0] in known
        and not node.value.endswith(FILE_NAMES)
    }
    for tree, prefix, name in makers():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called(node) == name and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(prefix + first.value)
    return frozenset(found)


def keys_in_tables() -> list[str]:
    """The first cells of the rows of all tables that list keys."""
    rows = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", document("cli") + document("safety"), re.MULTILINE)
    return [key for key in rows if key.partition(".")[0] in families()]


def test_every_key_in_the_source_has_a_row_in_the_documents() -> None:
    assert len(keys_in_code()) > 100
    assert sorted(keys_in_code() - set(keys_in_tables())) == []


def test_every_key_in_the_documents_is_in_the_source() -> None:
    assert sorted(set(keys_in_tables()) - keys_in_code()) == []


def test_no_key_is_explained_twice() -> None:
    listed = keys_in_tables()
    assert sorted(key for key in set(listed) if listed.count(key) > 1) == []


def test_what_exits_with_status_3_is_explained_as_a_refusal() -> None:
    refusals = {
        node.args[0].value
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) == "Refusal" and isinstance(node.args[0], ast.Constant)
    }
    explained = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", document("safety"), re.MULTILINE))
    assert sorted(refusals - explained) == []


# Commands --------------------------------------------------------------------------------------------


class Caught(Exception):
    """Carries a parser out of the command that made it."""


def parser_of(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    def catch(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Caught(parser)

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(Caught) as caught:
            main.run_command(command, [], PROGRAMS[command])
    parser = caught.value.args[0]
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_option_of_a_command_is_documented_and_no_other(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = parser_of(command, monkeypatch)
    options = {option for action in parser._actions for option in action.option_strings}
    text = section("cli", PROGRAMS[command])
    rows = [row.split(" | ")[0] for row in text.splitlines() if row.startswith("| `-")]
    assert {option for row in rows for option in OPTION.findall(row)} == options


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_argument_of_a_command_is_documented(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = section("cli", PROGRAMS[command])
    for action in parser_of(command, monkeypatch)._actions:
        if not action.option_strings:
            assert str(action.metavar) in text


def test_every_console_script_is_documented() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for script in project["scripts"]:
        assert f"`{script}`" in document("cli")


def test_every_exit_status_is_documented() -> None:
    text = section("cli", "Exit statuses")
    statuses = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == statuses | {130}


def test_every_environment_variable_is_documented() -> None:
    source = "".join(file.read_text() for file, _ in trees())
    read = set(re.findall(r"environ(?:ment)?(?:\.get\(|\[)\"([A-Z_]+)\"", source))
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", section("cli", "Environment variables"), re.MULTILINE))
    assert read
    assert documented == read


def test_every_raw_error_code_is_documented() -> None:
    from kdiff.target.report import CODES

    families = {main.raw_code(key) for key in keys_in_code()}
    assert {*CODES.values(), *families, "OTHER"} <= code_spans(section("cli", "--raw-errors"))


def test_every_file_of_a_tarball_is_documented() -> None:
    spans = code_spans(document("package"))
    for name in (*layout.REQUIRED, *layout.OPTIONAL):
        assert name in spans


# Plugins ---------------------------------------------------------------------------------------------


def test_every_hook_has_a_heading() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("kdiff_")}
    assert hooks
    headings = set(re.findall(r"^#+ `(kdiff_\w+)`$", document("plugins"), re.MULTILINE))
    assert headings == hooks


def test_every_name_a_plugin_may_import_is_explained() -> None:
    spans = {name for span in code_spans(document("plugins")) for name in re.findall(r"\w+", span)}
    assert sorted(set(api.__all__) - spans) == []


@pytest.mark.parametrize(
    "value",
    [arch.Architecture, arch.Howto, kernel.SpecialSection, memory.MemorySource, memory.MemoryScheme,
     emit.Emitter, emit.Workshop, emit.EmittedModule, distribution.Distribution, distribution.KernelSetup],
)  # fmt: skip
def test_every_field_of_what_a_plugin_provides_is_explained(value: type) -> None:
    spans = {name for span in code_spans(document("plugins")) for name in re.findall(r"\w+", span)}
    given = getattr(value, "__dataclass_fields__", {})
    fields = {name for name, each in given.items() if each.init} or {
        name for name, each in vars(value).items() if isinstance(each, property) or inspect.isfunction(each)
    }
    assert sorted(name for name in fields if not name.startswith("_") and name not in spans) == []


def test_every_architecture_is_in_the_support_matrix() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {name for name in project["entry-points"]["kdiff"] if name.startswith("arch_")}
    rows = re.findall(r"\| `(arch_\w+)` \|", section("support", "Architectures"))
    assert sorted(listed - set(rows)) == []
    assert all((ROOT / "plugins" / f"kdiff_{row}").is_dir() for row in rows)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document("plugins"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example of docs/plugins.md, installed as its reader would install it; its entry point's name."""
    code = next(block for block in blocks("python") if "def kdiff_memory_schemes" in block)
    points = next(block for block in blocks("toml") if "entry-points.kdiff" in block)
    ((name, module),) = tomllib.loads(points)["project"]["entry-points"]["kdiff"].items()
    site = tmp_path / "site"
    installed = site / f"{module}-1.dist-info"
    installed.mkdir(parents=True)
    (site / f"{module}.py").write_text(code)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[kdiff]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield name
    sys.modules.pop(module, None)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """What the example reads: two pages and a list of symbols."""
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "ffffffff81000000").write_bytes(bytes(range(256)) * 16)
    (folder / "ffffffff81001000").write_bytes(bytes(4096))
    (folder / "System.map").write_text(
        "ffffffff81000000 T _text\nffffffff81000010 t helper\nffffffff81001000 D _end\n"
    )
    return folder


def opened(name: str, text: str) -> Any:
    others = {point.name for point in registry.entry_points(group="kdiff")} - {name}
    return registry.load(disabled=others).open_memory(text)


def test_the_example_plugin_reads_memory(example: str, pages: Path) -> None:
    memory = opened(example, f"pages:{pages}")
    assert memory.read(0xFFFFFFFF81000010, 3) == b"\x10\x11\x12"
    assert memory.read(0xFFFFFFFF81000FFF, 2) == b"\xff\x00"
    assert memory.read(0xFFFFFFFF81001FFF, 2) is None
    assert memory.address_book().address("helper") == 0xFFFFFFFF81000010
    assert memory.facts() == KernelFacts(machine="x86_64")
    assert memory.pristine is False
    assert memory.name == f"pages:{pages}"


def test_the_example_plugin_says_what_is_wrong(example: str, tmp_path: Path) -> None:
    with pytest.raises(errors.KdiffError, match="no such directory"):
        opened(example, f"pages:{tmp_path / 'nowhere'}")


# Everything else -------------------------------------------------------------------------------------


def test_the_architecture_names_every_file_of_kdiff_and_no_other() -> None:
    files = {
        str(file.relative_to(ROOT))
        for file in ROOT.glob("kdiff/**/*")
        if file.suffix in {".py", ".sh"} and not file.name.startswith("__")
    }
    named = set(re.findall(r"`(kdiff/[\w/]+\.(?:py|sh))`", document("architecture")))
    assert sorted(files - named) == []
    assert sorted(named - files - {"kdiff/target/__main__.py"}) == []


def test_the_architecture_names_every_plugin_and_no_other() -> None:
    folders = {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("plugins/*/__init__.py")}
    named = set(re.findall(r"^\| `(plugins/[\w*]+)` \|", document("architecture"), re.MULTILINE))
    assert folders == {folder for each in named for folder in fnmatch.filter(folders, each)}
    assert all(fnmatch.filter(folders, each) for each in named)


def test_every_stage_of_the_pipeline_is_in_the_architecture() -> None:
    _, tree = next(each for each in trees() if each[0].name == "pipeline.py")
    create = next(each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "create")
    assert create
    table = section("architecture", "The pipeline")
    stages = {
        function.name
        for file in ("correlate", "diff", "plan", "review", "solve", "bind", "proof", "graph", "kbuild")
        for path, module in trees()
        if path == ROOT / "kdiff" / f"{file}.py"
        for function in module.body
        if isinstance(function, ast.FunctionDef)
        and any(
            isinstance(node, ast.ImportFrom)
            and node.module == f"kdiff.{file}"
            and function.name in {each.name for each in node.names}
            for node in tree.body
        )
    }
    assert stages
    for stage in stages:
        assert f"`{stage}" in table


def test_every_link_in_the_documents_leads_somewhere() -> None:
    for file in [*DOCS.glob("*.md"), *ROOT.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_every_licence_a_file_names_is_there() -> None:
    texts = {file.stem for file in (ROOT / "LICENSES").iterdir()}
    files = [file for folder in ("kdiff", "plugins", "tests") for file in (ROOT / folder).rglob("*")]
    named = {
        found[1]
        for file in files
        if file.suffix in {".py", ".c", ".sh"}
        for found in [re.match(r"(?:#!.*\n)?\S+ SPDX-License-Identifier: (\S+)\n", file.read_text())]
        if found
    }
    assert named == texts


def test_every_python_file_begins_with_its_licence() -> None:
    for file, _ in trees():
        text = file.read_text()
        assert not text or text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), file


def test_every_rewrite_is_in_the_table_of_rewrites_and_no_other() -> None:
    rewrites = {
        node.args[2].value
        for file, tree in trees()
        if file.is_relative_to(ROOT / "plugins")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) == "Site" and isinstance(node.args[2], ast.Constant)
    }
    table = section("safety", "Rewrites")
    assert rewrites
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == rewrites

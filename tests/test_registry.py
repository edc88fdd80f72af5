# SPDX-License-Identifier: Apache-2.0
"""Tests of `kdiff.registry`, and of the rule that plugins come through its door."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff import registry
from kdiff.api import Keep, KernelFacts, MemoryScheme, SpecialSection, hookimpl
from kdiff.errors import KdiffError

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "plugins"


@dataclass(frozen=True)
class Point:
    """What importlib.metadata says of one installed plugin."""

    name: str
    load: Callable[[], ModuleType]


def plugin(name: str, **functions: Callable[..., Any]) -> Point:
    module = ModuleType(name)
    for hook, function in functions.items():
        setattr(module, hook, function)
    return Point(name, lambda: module)


def implement(*values: object) -> Callable[[], tuple[object, ...]]:
    return hookimpl(lambda: values)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.delenv("KDIFF_DISABLE_PLUGINS", raising=False)

    def installed(*points: Point) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "kdiff" else ())

    return installed


def scheme(name: str) -> MemoryScheme:
    return MemoryScheme(
        name, "for tests", lambda text, known: SimpleNamespace(name=f"{name}:{text}", known=known)
    )


def test_what_plugins_return_is_found_under_its_key(install: Callable[..., None]) -> None:
    install(
        plugin("arch", kdiff_architectures=implement(ARCHITECTURE)),
        plugin("memory", kdiff_memory_schemes=implement(scheme("one"), scheme("two"))),
    )
    found = registry.load()
    assert found.architecture(62, "little", "a.o") is ARCHITECTURE
    assert sorted(found.memory_schemes) == ["one", "two"]
    assert found.open_memory("two:rest").name == "two:rest"
    assert found.open_memory("two:rest").known == tuple(found.architectures.values())


def test_a_registry_cannot_be_changed(install: Callable[..., None]) -> None:
    install(plugin("arch", kdiff_architectures=implement(ARCHITECTURE)))
    with pytest.raises(TypeError):
        registry.load().architectures[1, "big"] = ARCHITECTURE  # type: ignore[index]


def test_hooks_are_asked_once(install: Callable[..., None]) -> None:
    calls = []

    @hookimpl
    def schemes() -> tuple[MemoryScheme, ...]:
        calls.append(1)
        return (scheme("one"),)

    install(plugin("memory", kdiff_memory_schemes=schemes))
    found = registry.load()
    found.open_memory("one:a")
    found.open_memory("one:b")
    assert calls == [1]


def test_a_repeated_key_is_an_error_that_names_both_plugins(install: Callable[..., None]) -> None:
    install(
        plugin("first", kdiff_memory_schemes=implement(scheme("same"))),
        plugin("second", kdiff_memory_schemes=implement(scheme("same"))),
    )
    with pytest.raises(KdiffError) as error:
        registry.load()
    assert error.value.key == "plugin.repeated"
    assert all(word in str(error.value) for word in ("'same'", "first", "second", "KDIFF_DISABLE_PLUGINS"))


def test_one_plugin_repeating_its_own_key_is_an_error(install: Callable[..., None]) -> None:
    install(plugin("only", kdiff_memory_schemes=implement(scheme("same"), scheme("same"))))
    with pytest.raises(KdiffError) as error:
        registry.load()
    assert error.value.key == "plugin.repeated"


@pytest.mark.parametrize("mark", [hookimpl, lambda function: function], ids=["marked", "unmarked"])
def test_a_misspelt_hook_is_an_error_that_names_it(
    install: Callable[..., None], mark: Callable[..., Any]
) -> None:
    install(plugin("typo", kdiff_memory_scheme=mark(lambda: ())))
    with pytest.raises(KdiffError) as error:
        registry.load()
    assert error.value.key == "plugin.broken"
    assert all(word in str(error.value) for word in ("plugin typo", "kdiff_memory_scheme"))


def test_a_hook_with_an_argument_that_does_not_exist_is_an_error(install: Callable[..., None]) -> None:
    install(plugin("arguments", kdiff_special_sections=hookimpl(lambda kernel: ())))
    with pytest.raises(KdiffError) as error:
        registry.load()
    assert error.value.key == "plugin.broken"
    assert "plugin arguments" in str(error.value)


@pytest.mark.parametrize("problem", [ImportError("no module named zstd"), SyntaxError("invalid syntax")])
def test_a_plugin_that_cannot_be_imported_is_an_error_with_a_way_out(
    install: Callable[..., None], problem: Exception
) -> None:
    def load() -> ModuleType:
        raise problem

    install(Point("broken", load))
    with pytest.raises(KdiffError) as error:
        registry.load()
    assert error.value.key == "plugin.broken"
    assert str(problem) in str(error.value)
    assert "KDIFF_DISABLE_PLUGINS=broken" in error.value.remedy


def test_a_disabled_plugin_is_not_even_imported(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> ModuleType:
        raise ImportError("must not be tried")

    install(Point("broken", load), plugin("arch", kdiff_architectures=implement(ARCHITECTURE)))
    monkeypatch.setenv("KDIFF_DISABLE_PLUGINS", "other,broken")
    assert len(registry.load().architectures) == 1


def test_the_caller_can_disable_plugins_too(install: Callable[..., None]) -> None:
    install(plugin("arch", kdiff_architectures=implement(ARCHITECTURE)))
    assert not registry.load(disabled=["arch"]).architectures


def test_an_unknown_machine_is_an_error_that_lists_the_known_ones(install: Callable[..., None]) -> None:
    install(plugin("arch", kdiff_architectures=implement(ARCHITECTURE)))
    with pytest.raises(KdiffError) as error:
        registry.load().architecture(183, "little", "a.o")
    assert error.value.key == "plugin.architecture"
    assert str(error.value).startswith("a.o: ")
    assert "x86_64" in str(error.value)


@pytest.mark.parametrize("text", ["none:x", "one", ""])
def test_an_unknown_memory_scheme_is_an_error_that_lists_the_known_ones(
    install: Callable[..., None], text: str
) -> None:
    install(plugin("memory", kdiff_memory_schemes=implement(scheme("one"))))
    with pytest.raises(KdiffError) as error:
        registry.load().open_memory(text)
    assert error.value.key == "memory.scheme"
    assert "one:" in str(error.value)


def test_special_sections_are_asked_with_the_facts(install: Callable[..., None]) -> None:
    @hookimpl
    def sections(facts: KernelFacts) -> tuple[SpecialSection, ...]:
        return (SpecialSection(f"table.{facts.machine}", 4, Keep.OWNER),)

    install(plugin("kernel", kdiff_special_sections=sections))
    found = registry.load().special_sections(KernelFacts(machine="m68k"))
    assert list(found) == ["table.m68k"]


# The plugins of this repository ----------------------------------------------------------------------


def folders() -> list[Path]:
    return sorted(path for path in PLUGINS.iterdir() if any(path.glob("*.py")))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
            if node.module == "kdiff":
                names |= {f"kdiff.{alias.name}" for alias in node.names}
    return names


def points() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return dict(project["project"]["entry-points"]["kdiff"])


def shared() -> list[Path]:
    """What several plugins have in common: folders without an entry point."""
    return [folder for folder in folders() if folder.name not in points().values()]


def forbidden(names: set[str], own: str, shared: set[str]) -> set[str]:
    """What a plugin may not import; `shared` are none of the libraries' business."""
    libraries = shared if own not in shared else set()
    return {
        name
        for name in names
        if name.split(".")[0].startswith("kdiff")
        and name != "kdiff.api"
        and name.split(".")[0] not in {own, *libraries}
        and not (name == "kdiff" and "kdiff.api" in names)
    }


@pytest.mark.parametrize("folder", folders(), ids=lambda path: path.name)
def test_a_plugin_imports_nothing_of_kdiff_but_its_api_and_what_plugins_share(folder: Path) -> None:
    for path in folder.rglob("*.py"):
        assert not forbidden(imported(path), folder.name, {each.name for each in shared()}), path


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("from kdiff.api import Howto", set()),
        ("from kdiff_x.table import ROWS", set()),
        ("import kdiff.graph", {"kdiff.graph"}),
        ("from kdiff import api, graph", {"kdiff.graph"}),
        ("def f():\n    from kdiff.elf.read import read", {"kdiff.elf.read"}),
        ("import kdiff_y", {"kdiff_y"}),
        ("from kdiff_z.table import ROWS", set()),
    ],
)
def test_the_rule_about_imports_can_fail(tmp_path: Path, source: str, bad: set[str]) -> None:
    (tmp_path / "a.py").write_text(source)
    assert forbidden(imported(tmp_path / "a.py"), "kdiff_x", {"kdiff_z"}) == bad
    (tmp_path / "a.py").write_text("import kdiff_x")
    assert forbidden(imported(tmp_path / "a.py"), "kdiff_z", {"kdiff_x", "kdiff_z"}) == {"kdiff_x"}


def test_every_entry_point_is_a_plugin_folder() -> None:
    assert set(points().values()) <= {folder.name for folder in folders()}
    assert all(module == f"kdiff_{name}" for name, module in points().items())


def test_a_folder_without_an_entry_point_has_several_users_and_no_hooks() -> None:
    for library in shared():
        users = {
            folder.name
            for folder in folders()
            for path in folder.rglob("*.py")
            if any(name.split(".")[0] == library.name for name in imported(path))
        }
        assert len(users - {library.name}) > 1
        assert not [path for path in library.rglob("*.py") if "hookimpl" in path.read_text()]


def test_loading_the_plugins_does_not_load_the_image_reader() -> None:
    """`import lief` costs three quarters of a second, which every command would pay."""
    code = "import sys, kdiff.registry as r; r.load(); sys.exit('lief' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

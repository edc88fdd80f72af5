# SPDX-License-Identifier: Apache-2.0
"""The entry points of installed packages, which say what plugins there are.

In: a group. Out: what `importlib.metadata.entry_points` returns for it, with its names and `load`. Importing
that takes longer than comparing a hundred objects: it brings what reads mail, zip files and CSV. Packages are
folders of `sys.path`, so it is asked only where something else could be one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Any, NamedTuple, Protocol


class Point(Protocol):
    """What both ways return."""

    @property
    def name(self) -> str: ...

    def load(self) -> Any: ...


class _Point(NamedTuple):
    name: str
    value: str

    def load(self) -> Any:
        module, _, attributes = self.value.partition("[")[0].strip().partition(":")
        found: Any = import_module(module.strip())
        for attribute in filter(None, attributes.strip().split(".")):
            found = getattr(found, attribute)
        return found


def entry_points(group: str) -> Iterable[Point]:
    """All of a group, of any package once: that which is first on `sys.path` counts."""
    if not _is_plain():
        from importlib import metadata

        return metadata.entry_points(group=group)
    seen: set[str] = set()
    return [point for folder in sys.path for point in _within(folder or ".", group, seen)]


def _is_plain() -> bool:
    """Whether packages are folders of folders: no zip file, no egg, no finder that knows of others."""
    others = (each for each in sys.meta_path if each is not PathFinder)
    if any(hasattr(each, "find_distributions") for each in others):
        return False
    return not any(os.path.isfile(each) or each.endswith(".egg") for each in sys.path)


def _within(folder: str, group: str, seen: set[str]) -> Iterator[Point]:
    """Of the packages of a folder that are not yet `seen`."""
    try:
        found = os.listdir(folder)
    except OSError:
        return
    for child in found:
        if not child.lower().endswith((".dist-info", ".egg-info")):
            continue
        package = re.sub(r"[-_.]+", "-", child.lower().rpartition(".")[0].partition("-")[0])
        if package in seen:
            continue
        seen.add(package)
        try:
            with open(os.path.join(folder, child, "entry_points.txt"), encoding="utf-8") as file:
                yield from _of_group(file.read(), group)
        except OSError:
            continue


def _of_group(text: str, group: str) -> Iterator[Point]:
    """What stands in the section of that name."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == group and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield _Point(name.strip(), value.strip())

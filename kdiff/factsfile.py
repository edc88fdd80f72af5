# SPDX-License-Identifier: Apache-2.0
"""Facts of a kernel that is not at hand, from a file that a person wrote: TOML, or JSON of the same shape.

In: a path. Out: `KernelFacts`. What the file does not say stays unknown; what it says wrongly is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdiff.errors import KdiffError
from kdiff.kernel import KernelFacts, Structure

_TEXTS = ("release", "version", "machine", "build_id")
_TABLES = ("config", "structures")
_LARGEST = 1 << 20
"""Bytes of an entry; and of a place in one."""


def read_facts(path: Path) -> KernelFacts:
    """Read a file of facts; KdiffError if it cannot be read or says what no fact can be."""
    import tomllib

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KdiffError("facts.unreadable", f"cannot be read: {error}", place=str(path)) from error
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise KdiffError("facts.malformed", f"neither TOML nor JSON: {error}", place=str(path)) from error
    file = _File(str(path))
    file.check(found, "the file", (*_TEXTS, *_TABLES))
    config = file.table(found, "config")
    structures = file.table(found, "structures")
    return KernelFacts(
        **{name: file.text(found.get(name, ""), name) for name in _TEXTS},
        config={name: file.text(value, f"config.{name}") for name, value in config.items()},
        structures={name: file.structure(name, each) for name, each in structures.items()},
    )


class _File:
    """Values of one file, with its name for messages."""

    def __init__(self, place: str) -> None:
        self._place = place

    def check(self, value: object, name: str, known: tuple[str, ...]) -> dict[str, Any]:
        """Complain about what is no table, and about names that mean nothing: they are misspelt."""
        if not isinstance(value, dict):
            raise self._wrong(f"{name} is no table")
        for key in value:
            if key not in known:
                raise self._wrong(f"{name} has {key!r}, which is none of {', '.join(known)}")
        return value

    def table(self, within: Mapping[str, Any], name: str) -> dict[str, Any]:
        value = within.get(name, {})
        if not isinstance(value, dict):
            raise self._wrong(f"{name} is no table")
        return value

    def text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise self._wrong(f"{name} is no text")
        return value

    def number(self, value: object, name: str, least: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
            raise self._wrong(f"{name} is no number of bytes")
        return value

    def structure(self, name: str, value: object) -> Structure:
        where = f"structures.{name}"
        found = self.check(value, where, ("size", "members"))
        size = self.number(found.get("size"), f"{where}.size", 1)
        members = self.table(found, "members")
        places = {key: self.number(at, f"{where}.members.{key}", 0) for key, at in members.items()}
        for key, at in places.items():
            if at >= size:
                raise self._wrong(f"{where}.members.{key} is at {at}, behind its {size} bytes")
        return Structure(size, places)

    def _wrong(self, what: str) -> KdiffError:
        return KdiffError("facts.malformed", what, place=self._place)

# SPDX-License-Identifier: Apache-2.0
"""What became of each candidate: one JSON file for each and each phase, so that a run can stop and go on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from releaselab import say

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Reason:
    """One refusal or error, as kdiff words it."""

    key: str
    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Created:
    """What `create` made of a candidate.

    `result`: `update`; `nothing` (no object code changes); `refused`; `error`; `uncompilable` (the patched
    source does not compile, so this hunk does not stand alone); `crash` (an exception that kdiff did not
    mean to raise); `slow` (given up after the time that a run allows). Seconds of this process and of its
    compilers are apart.
    """

    id: str
    result: str
    reasons: tuple[Reason, ...] = ()
    units: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    """What the update changes: `vmlinux` and modules."""
    functions: tuple[str, ...] = ()
    """The functions it replaces, or would had it not been refused, each `TARGET:NAME`; no boot code."""
    fresh: tuple[str, ...] = ()
    """Modules that must be loaded after the update and unloaded before it is undone."""
    wall: float = 0
    own: float = 0
    compilers: float = 0

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(reason.key for reason in self.reasons))


@dataclass(frozen=True, slots=True)
class Tried:
    """What happened to an update in a guest.

    `result`: `held` (applied, seen, smoke, undone, log clean), or what did not: `apply`, `smoke`, `view`,
    `unload`, `undo`, `log`, `died`. `apply` and `undo` are seconds.
    """

    id: str
    result: str
    detail: str = ""
    loaded: tuple[str, ...] = ()
    """Those of its modules that were in memory, so that code really was redirected there."""
    missing: tuple[str, ...] = ()
    """Those that would not load without their hardware."""
    apply: float = 0
    undo: float = 0


def save(folder: Path, outcome: Created | Tried) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{outcome.id}.part"
    part.write_text(json.dumps(asdict(outcome), indent=1) + "\n")
    part.rename(folder / f"{outcome.id}.json")


def created(folder: Path) -> dict[str, Created]:
    """All outcomes of the first phase, by id."""
    found = {}
    for fields in _read(folder):
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        lists["reasons"] = tuple(Reason(**reason) for reason in fields["reasons"])
        found[fields["id"]] = Created(**{**fields, **lists})
    return found


def tried(folder: Path) -> dict[str, Tried]:
    """All outcomes of the second phase, by id."""
    return {
        fields["id"]: Tried(
            **{**fields, "loaded": tuple(fields["loaded"]), "missing": tuple(fields["missing"])}
        )
        for fields in _read(folder)
    }


def _read(folder: Path) -> Iterator[dict[str, object]]:
    for file in sorted(folder.glob("*.json")):
        yield json.loads(file.read_text())


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The items, with a line for every one that says how far the run is and how long it may still take."""
    items = tuple(items)
    began = time.monotonic()
    for number, item in enumerate(items):
        if number:
            left = (time.monotonic() - began) / number * (len(items) - number)
            say(f"{what}: {number} of {len(items)}, {left / 60:.0f} minutes left")
        yield item

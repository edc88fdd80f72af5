# SPDX-License-Identifier: Apache-2.0
"""What the author of a patch says about pairs, in a small TOML file: which to make, which never to make.

    pin = [["kernel/fork.c", "count.1", "count.3"]]
    forbid = [["last.0", "last.2"]]

In: the file, and for one unit its two graphs. Out: `Wishes` as node ids. Each entry is a name before and a
name after the patch, with compilers' numbers; in front of them may stand the unit it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath

from kdiff.errors import KdiffError
from kdiff.graph import Node, SectionGraph
from kdiff.split import Kind
from kdiff.values import dataclass

_LISTS = ("pin", "forbid")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the file. `unit` is empty where it is about every unit that is compared."""

    unit: str
    pre: str
    post: str

    def __str__(self) -> str:
        names = f"{self.pre} and {self.post}"
        return f"{names} of {self.unit}" if self.unit else names


@dataclass(frozen=True, slots=True)
class PairsFile:
    """A file that was read; its names have not been looked up."""

    place: str
    pin: tuple[Entry, ...]
    forbid: tuple[Entry, ...]

    def as_json(self) -> dict[str, list[list[str]]]:
        """What the manifest of an update records."""
        lists = (("pin", self.pin), ("forbid", self.forbid))
        return {name: [[each.unit, each.pre, each.post] for each in rows] for name, rows in lists}


@dataclass(frozen=True, slots=True)
class Wishes:
    """Pins and forbidden pairs of one unit: (pre id, post id)."""

    pinned: Mapping[int, int] = field(default_factory=dict)
    forbidden: frozenset[tuple[int, int]] = frozenset()


def read_pairs(path: Path) -> PairsFile:
    """Read a file of pairs; KdiffError if it cannot be read or says what no pair can be."""
    import tomllib

    place = str(path)
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise KdiffError("pairs.unreadable", f"cannot be read: {error}", place=place) from error
    except (ValueError, RecursionError) as error:
        raise KdiffError("pairs.malformed", f"no TOML: {error}", place=place) from error
    for name in found:
        if name not in _LISTS:
            raise KdiffError("pairs.malformed", f"has {name!r}, which is none of pin, forbid", place=place)
    pin, forbid = (tuple(_entries(found.get(name, []), name, place)) for name in _LISTS)
    return PairsFile(place, pin, forbid)


def _entries(rows: object, name: str, place: str) -> Iterable[Entry]:
    if not isinstance(rows, list):
        raise KdiffError("pairs.malformed", f"{name} is no list", place=place)
    for number, row in enumerate(rows, start=1):
        texts = isinstance(row, list) and len(row) in (2, 3) and all(isinstance(x, str) and x for x in row)
        if not texts:
            raise KdiffError(
                "pairs.malformed",
                f"{name}, entry {number} is neither [pre name, post name] nor [unit, pre name, post name]",
                place=place,
            )  # fmt: skip
        yield Entry(*row) if len(row) == 3 else Entry("", *row)


def object_unit(entry: Entry, path: Path) -> bool:
    """Whether an entry is about the unit of an object file: `fork.o` is that of any `fork.c`."""
    return not entry.unit or PurePosixPath(entry.unit).stem == path.stem


def check_units(file: PairsFile, built: Iterable[str]) -> None:
    """Complain about entries for units that the patch does not reach."""
    known = sorted(built)
    for entry in (*file.pin, *file.forbid):
        if entry.unit and entry.unit not in known:
            raise KdiffError(
                "pairs.unit", f"{entry}: the patch reaches no such unit, only {', '.join(known)}",
                place=file.place,
            )  # fmt: skip


def beside(patch: Path) -> Path | None:
    """The file of pairs that belongs to a patch by its name, if there is one."""
    found = patch.with_name(f"{patch.name}.pairs.toml")
    return found if found.exists() else None


def wishes(file: PairsFile, chosen: Iterable[Entry], pre: SectionGraph, post: SectionGraph) -> Wishes:
    """Look up the names of the chosen entries; KdiffError for what is unknown, unlike or contradictory."""
    wanted = frozenset(chosen)
    pinned: dict[int, int] = {}
    taken: set[int] = set()
    forbidden = frozenset(_found(file, each, pre, post) for each in file.forbid if each in wanted)
    for entry in file.pin:
        if entry not in wanted:
            continue
        one, other = _found(file, entry, pre, post)
        if one in pinned or other in taken:
            raise KdiffError("pairs.repeated", f"one of {entry} is pinned already", place=file.place)
        if (one, other) in forbidden:
            raise KdiffError("pairs.contradiction", f"{entry} are pinned and forbidden", place=file.place)
        pinned[one] = other
        taken.add(other)
    return Wishes(pinned, forbidden)


def _found(file: PairsFile, entry: Entry, pre: SectionGraph, post: SectionGraph) -> tuple[int, int]:
    one, other = _named(file, entry.pre, pre, "before"), _named(file, entry.post, post, "after")
    if one.kind is not other.kind:
        kinds = f"{entry.pre} is {one.kind.value}, {entry.post} is {other.kind.value}"
        raise KdiffError("pairs.kind", f"{kinds}: they are no pair", place=file.place)
    return one.id, other.id


def _named(file: PairsFile, name: str, graph: SectionGraph, when: str) -> Node:
    found = [node for node in graph.nodes if name in node.names and node.kind is not Kind.EXTERN]
    if len(found) != 1:
        what = "no function or variable" if not found else f"{len(found)} functions or variables"
        raise KdiffError(
            "pairs.unknown", f"{what} of {graph.obj.path} ({when} the patch) are called {name}"
            if found else f"{what} of {graph.obj.path} ({when} the patch) is called {name}",
            place=file.place, remedy="use the name with its number, as in the object's symbol table",
        )  # fmt: skip
    return found[0]

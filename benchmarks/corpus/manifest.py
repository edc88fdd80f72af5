# SPDX-License-Identifier: Apache-2.0
"""The list of candidates as a file: one line each, in the order in which they are taken; no line of a patch.

Columns: id, kind, when it runs, number of hunks, lines added, lines removed, CVE ids, paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus.changelog import Entry
from corpus.split import Candidate

COLUMNS = ("id", "kind", "runs", "hunks", "added", "removed", "cves", "paths")


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate. `runs`: `boot` if its text says that nothing of it is left once the kernel is up."""

    id: str
    kind: str
    runs: str
    hunks: int
    added: int
    removed: int
    cves: tuple[str, ...]
    paths: tuple[str, ...]


def rows(candidates: Iterable[Candidate], about: Mapping[str, Sequence[Entry]]) -> tuple[Row, ...]:
    """What the manifest says of candidates, by path."""
    found = [
        Row(
            id=each.id,
            kind=each.kind,
            runs="boot" if each.boot_only else "later",
            hunks=len(each.hunks),
            added=each.added,
            removed=each.removed,
            cves=tuple(sorted({cve for entry in about.get(each.id, ()) for cve in entry.cves})),
            paths=each.paths,
        )
        for each in candidates
    ]
    return tuple(sorted(found, key=lambda row: (row.paths, row.id)))


def placed(listed: Sequence[Row], earlier: Sequence[Row]) -> tuple[Row, ...]:
    """The rows in the order in which they are taken.

    What an earlier list has keeps its place in it, as a share of its length. The rest goes where its id says.
    So all places are drawn blindly, and a new cut leaves most of what was done in use.
    """
    place = {row.id: at / len(earlier) for at, row in enumerate(earlier)}
    drawn = {row.id: int(hashlib.sha256(row.id.encode()).hexdigest()[:12], 16) / 16**12 for row in listed}
    return tuple(sorted(listed, key=lambda row: (place.get(row.id, drawn[row.id]), row.id)))


def write(path: Path, listed: Iterable[Row]) -> None:
    lines = [
        "\t".join((each.id, each.kind, each.runs, str(each.hunks), str(each.added), str(each.removed),
                   ",".join(each.cves), ",".join(each.paths)))
        for each in listed
    ]  # fmt: skip
    path.write_text("\n".join(("\t".join(COLUMNS), *lines)) + "\n")


def read(path: Path) -> tuple[Row, ...]:
    lines = path.read_text().splitlines()[1:]
    found = []
    for line in lines:
        id, kind, runs, hunks, added, removed, cves, paths = line.split("\t")
        names = tuple(name for name in cves.split(",") if name)
        found.append(
            Row(id, kind, runs, int(hunks), int(added), int(removed), names, tuple(paths.split(",")))
        )
    return tuple(found)

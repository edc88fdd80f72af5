# SPDX-License-Identifier: Apache-2.0
"""Which files of a difference reach the stock kernel: compiled into it or a module, or included by what is.

Kbuild says which objects it makes in Debian's configuration. A header counts if some unit that is built
includes it, directly or not, as far as names tell.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from releaselab import say

from corpus.hunks import Hunk
from corpus.includes import above, includers
from corpus.split import Candidate
from kdiff.compiler import find_compiler
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.units import SUFFIXES, commands, find_units
from kdiff.workplace import Workplace, open_workplace

_BUILD = re.compile(r"(Makefile|Kbuild|Kconfig)[^/]*")
_HEADER = (".h", ".inc")


def reaching(kernel: KernelSetup, paths: Iterable[str], fixed: Path, jobs: int) -> frozenset[str]:
    """Those of `paths` that are built, or would be were they there already."""
    config = read_config(kernel.config)
    paths = sorted(path for path in paths if not _foreign(path, config.arch))
    with open_workplace(config, kernel.source, find_compiler(config), jobs=jobs, say=say) as place:
        behind = users((path for path in paths if path.endswith(_HEADER)), kernel.source, fixed)
        sources = {path for path in paths if path.endswith(SUFFIXES)}
        say("asking Kbuild what it builds")
        built = commands(place, sources.union(*behind.values())).keys()
        found = {path for path in sources if path in built or _is_part(place, path)}
        found |= {
            path for path in sources if not (kernel.source / path).exists() and _listed_later(fixed, path)
        }
        found |= {path for path, units in behind.items() if units & (built | found)}
    return frozenset(found) | {path for path in paths if _BUILD.fullmatch(path.rpartition("/")[2])}


def users(headers: Iterable[str], before: Path, after: Path) -> dict[str, frozenset[str]]:
    """The sources that include each header, for one that only the later tree has those of that tree."""
    lines = {tree: includers(tree) for tree in (before, after)}
    return {
        path: frozenset(
            file
            for file in above(path, lines[before if (before / path).exists() else after])
            if file.endswith(SUFFIXES)
        )
        for path in headers
    }


def kept(candidates: Iterable[Candidate], reach: frozenset[str]) -> tuple[Candidate, ...]:
    """Candidates without the files that are not built, unless no more than makefiles is left."""
    found: dict[tuple[Hunk, ...], Candidate] = {}
    for each in candidates:
        hunks = tuple(hunk for hunk in each.hunks if hunk.path in reach)
        if any(not _BUILD.fullmatch(hunk.path.rpartition("/")[2]) for hunk in hunks):
            found.setdefault(hunks, replace(each, hunks=hunks))
    return tuple(found.values())


def _is_part(place: Workplace, path: str) -> bool:
    """Whether a .c file is compiled as a part of others."""
    return path.endswith(".c") and bool(find_units(place, path))


def _listed_later(fixed: Path, path: str) -> bool:
    """Whether the makefile beside a new file names its object."""
    makefile = fixed / posixpath.dirname(path) / "Makefile"
    name = posixpath.basename(path)[:-2]
    return makefile.is_file() and re.search(rf"\b{re.escape(name)}\.o\b", makefile.read_text()) is not None


def _foreign(path: str, arch: str) -> bool:
    """Whether a path belongs to another architecture."""
    parts = path.split("/")
    return parts[0] == "arch" and parts[1] != arch

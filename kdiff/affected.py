# SPDX-License-Identifier: Apache-2.0
"""Which units a patch changes, adds, deletes and renames, and which it may reach otherwise.

Others are reached through makefiles, and through headers, which may take long to find out. In: a place and
the edits of a patch. Out: an `Affected`, then the rest; Refused for what no unit's object could show.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from kdiff.distribution import Say
from kdiff.edits import Edit, is_kconfig, versions
from kdiff.errors import Refused
from kdiff.headers import generated, reached
from kdiff.makefiles import is_makefile, other_targets, reconfigured, remade
from kdiff.units import SUFFIXES, Commands, find_units, not_built
from kdiff.values import dataclass
from kdiff.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Affected:
    """Units by the file that each is compiled from behind the patch, or was if it is gone."""

    named: tuple[str, ...]
    perhaps: tuple[str, ...]
    """Units whose object makefiles may change: only those that do are kept."""
    added: frozenset[str]
    removed: frozenset[str]
    renamed: Mapping[str, str]
    """New name to old name."""
    told: Commands
    """The commands of units that Kbuild was asked about behind the patch."""
    unused: frozenset[str]
    """Sources that no unit is compiled from, as far as this is known without the headers."""


def affected(place: Workplace, edits: Mapping[str, Edit], say: Say) -> Affected:
    """The units that the patch names, adds, deletes, and may reach through makefiles."""
    pinned, _ = versions(edits)
    refusals = reconfigured(place, edits, say)
    made = remade(place, edits, pinned, say)
    refusals += other_targets(made)
    refusals += generated(place, headers(edits), pinned)
    if refusals:
        raise Refused(*refusals)
    renamed = {
        path: edit.was for path, edit in edits.items() if path in made.added and edit.was in made.removed
    }
    added, removed = made.added - renamed.keys(), made.removed - set(renamed.values())
    found = {
        path: set(find_units(place, path)) - made.removed
        for path, edit in edits.items()
        if path.endswith(SUFFIXES) and edit.pristine is not None
    }
    named = {unit for units in found.values() for unit in units} | made.added | removed
    used = {path for path, units in found.items() if units} | made.added | made.removed
    return Affected(
        tuple(sorted(named)),
        tuple(sorted(made.perhaps - named)),
        frozenset(added),
        frozenset(removed),
        renamed,
        made.after,
        frozenset(path for path in edits if path.endswith(SUFFIXES)) - used,
    )


def through_headers(
    place: Workplace, edits: Mapping[str, Edit], wanted: Affected, say: Say
) -> Iterator[tuple[str, ...]]:
    """More units whose object may differ, as they are found; Refused if no unit at all sees the patch."""
    pinned, _ = versions(edits)
    known = {*wanted.named, *wanted.perhaps}
    unused = wanted.unused | (yield from reached(place, headers(edits), pinned, known, say))
    unused -= _included(edits, unused)
    useless = {path for path in edits if is_makefile(path) or is_kconfig(path)}
    if unused and unused | useless == edits.keys():
        raise Refused(*map(not_built, sorted(unused)))
    for path in sorted(unused):
        say(f"left out of the patch: {path}, which no unit of this configuration is compiled from")


def headers(edits: Iterable[str]) -> list[str]:
    """Those of the files that others include."""
    return [path for path in edits if path.endswith((".h", ".inc"))]


def _included(edits: Mapping[str, Edit], paths: Iterable[str]) -> set[str]:
    """Those of `paths` that other files of the patch include, going by their last names."""
    texts = [edit.patched.text for edit in edits.values() if edit.patched is not None]
    return {
        path
        for path in paths
        if any(
            re.search(rf'^\s*#\s*include\s*[<"][^">]*\b{re.escape(os.path.basename(path))}[">]', text, re.M)
            for text in texts
        )
    }

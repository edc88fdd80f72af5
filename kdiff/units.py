# SPDX-License-Identifier: Apache-2.0
"""Find the translation units that a source file is compiled into, by asking Kbuild.

Kbuild compiles any .c file it is told to, configured or not, so it must be asked what it would compile
of its own accord. A makefile that make reads first (MAKEFILES) adds a goal to the directories in question
that writes down their lists of objects. A file that is compiled only as part of others (kernel/sched/rt.c
in build_policy.c) stands for those.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdiff.errors import Refusal, Refused
from kdiff.make import failure
from kdiff.shadow import write_file
from kdiff.workplace import Workplace

_GOAL = ".kdiff.lst"
_QUERY = """\
kdiff_here := $(patsubst ./%,%,$(obj))
ifneq ($(filter $(kdiff_here),{directories}),)
$(kdiff_here)/{goal}:
	@:$(file >$@,$(real-obj-y) $(real-obj-m) $(lib-y) $(extra-y))
endif
"""


def find_units(place: Workplace, paths: Iterable[str]) -> tuple[str, ...]:
    """The sources of all units that the files at `paths` are compiled into, sorted; Refused if none."""
    paths = sorted(paths)
    includers = {path: _includers(place, path) for path in paths}
    wanted = set(paths) | {each for found in includers.values() for each in found}
    compiled = listed(place, wanted)
    units: set[str] = set()
    refusals = []
    for path in paths:
        found = {each for each in {path, *includers[path]} if each in compiled}
        if not found:
            refusals.append(_not_built(path, includers[path]))
        units |= found
    if refusals:
        raise Refused(*refusals)
    return tuple(sorted(units))


def _not_built(path: str, includers: frozenset[str]) -> Refusal:
    also = f", nor a unit that includes it ({', '.join(sorted(includers))})," if includers else ""
    return Refusal(
        "patch.not_built",
        path,
        f"Kbuild does not compile it{also} into the kernel or a module in this configuration",
        "check that --config belongs to the kernel to be updated, or leave the file out of the patch",
    )


def _includers(place: Workplace, path: str) -> frozenset[str]:
    """All .c and .h files that include `path`, directly or through others."""
    known = place.included()
    found: set[str] = set()
    waiting = [path]
    while waiting:
        target = waiting.pop()
        for file, text in known:
            if file not in found and file != path and _names(place.source, file, text, target):
                found.add(file)
                waiting.append(file)
    return frozenset(found)


def _names(source: Path, file: str, text: str, target: str) -> bool:
    """Whether `#include "text"` in `file` means `target`; where only the search path knows, assume it."""
    if posixpath.basename(text) != posixpath.basename(target):
        return False
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(file), text))
    return beside == target or not (source / beside).exists()


def listed(place: Workplace, paths: Iterable[str]) -> frozenset[str]:
    """Those of the .c files that Kbuild lists for the kernel or a module."""
    sources = [path for path in paths if path.endswith(".c")]
    objects = _objects(place, {folder for path in sources for folder in _folders(place.source, path)})
    return frozenset(
        path
        for path in sources
        if any(f"{path[:-2]}.o" in objects[folder] for folder in _folders(place.source, path))
    )


def _folders(source: Path, path: str) -> list[str]:
    """The directories whose makefile may list a file: its own and those above that have one."""
    above = [str(parent) for parent in Path(path).parents if str(parent) != "."]
    return [each for each in above if any((source / each / name).exists() for name in ("Kbuild", "Makefile"))]


def _objects(place: Workplace, folders: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """The objects each directory's makefile lists; none for a directory Kbuild does not descend into."""
    kept = {folder: place.root / "lists" / folder.replace("/", "!") for folder in sorted(folders)}
    missing = [folder for folder, file in kept.items() if not file.exists()]
    if missing:
        _ask(place, missing)
    return {folder: frozenset(json.loads(file.read_text())) for folder, file in kept.items()}


def _ask(place: Workplace, folders: list[str]) -> None:
    query = place.root / "query.mk"
    write_file(query, _QUERY.format(directories=" ".join(folders), goal=_GOAL).encode())
    answers = {folder: place.build / folder / _GOAL for folder in folders}
    for answer in answers.values():
        answer.parent.mkdir(parents=True, exist_ok=True)
        answer.unlink(missing_ok=True)
    goals = [f"{folder}/{_GOAL}" for folder in folders]
    outcome = place.make("-k", *goals, environment={"MAKEFILES": str(query)})
    if outcome.status and "No rule to make target" not in outcome.output:
        raise failure("build.pre", "asking Kbuild what it compiles", outcome, place=", ".join(folders))
    (place.root / "lists").mkdir(exist_ok=True)
    for folder, answer in answers.items():
        words = answer.read_text().split() if answer.exists() else []
        objects = sorted(posixpath.normpath(word) for word in words if word.endswith(".o"))
        write_file(place.root / "lists" / folder.replace("/", "!"), json.dumps(objects).encode())

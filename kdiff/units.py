# SPDX-License-Identifier: Apache-2.0
"""Find the translation units that a source file is compiled into, by asking Kbuild.

Kbuild compiles any .c file it is told to, configured or not, so it must be asked what it would compile
of its own accord. A makefile that make reads first (MAKEFILES) adds a goal to the directories in question
that writes down their lists of objects, with the compiler's flags for each. A file that is compiled only as
part of others (kernel/sched/rt.c in build_policy.c) stands for those.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from kdiff.errors import Refusal
from kdiff.make import failure
from kdiff.shadow import write_file
from kdiff.workplace import Workplace

SUFFIXES = (".c", ".S")
"""What Kbuild makes objects from."""
_GOAL = ".kdiff.lst"
_END = "."
"""The last line of an answer; without it make was stopped while it wrote."""
_QUERY = """\
kdiff_here := $(patsubst ./%,%,$(obj))
ifneq ($(filter $(kdiff_here),{directories}),)
$(kdiff_here)/{goal}:
	@:$(file >$@)$(foreach @,$(real-obj-y) $(real-obj-m) $(lib-y) $(extra-y),\
$(foreach *,$(patsubst $(obj)/%.o,%,$@),\
$(if $(wildcard $(srctree)/$(@:.o=.c)),$(file >>$(kdiff_here)/{goal},$@ .c $(CC) $(c_flags)),\
$(if $(wildcard $(srctree)/$(@:.o=.S)),$(file >>$(kdiff_here)/{goal},\
$@ .S $(CC) $(a_flags) $(modname_flags))))))$(file >>$(kdiff_here)/{goal},{end})
endif
"""
"""The loops give `$@` and `$*` the values that the rule for each object would see."""

_SKIP = """\
ifneq ($(patsubst ./%,%,$(obj)),{folder})
{objects}: if_changed_rule = @:
{objects}: if_changed_dep = @:
endif
"""
"""For the makes of all folders but one: objects that are made without doing anything."""

Commands = Mapping[str, str]
"""For each source file the compiler's command, without input and output, as a shell would read it."""


def find_units(place: Workplace, path: str) -> tuple[str, ...]:
    """The sources of all units that the file at `path` (.c or .S) is compiled into, sorted."""
    return tuple(sorted(commands(place, {path, *_includers(place, path)})))


def not_built(path: str) -> Refusal:
    """The refusal of a patch that changes nothing of this kernel."""
    return Refusal(
        "patch.not_built",
        path,
        "Kbuild does not compile it, nor a unit that includes it, into the kernel or a module in this"
        " configuration",
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


def commands(place: Workplace, paths: Iterable[str]) -> Commands:
    """Those of the sources that Kbuild lists for the kernel or a module."""
    sources = {path for path in paths if path.endswith(SUFFIXES)}
    folders_of = _folders(place.source)
    where = {path: folders_of(path) for path in sources}
    known = _objects(place, {folder for folders in where.values() for folder in folders})
    return {
        path: known[folder][path]
        for path, folders in sorted(where.items())
        for folder in folders
        if path in known[folder]
    }


def homes(place: Workplace, paths: Iterable[str]) -> Mapping[str, str]:
    """The folder whose makefile lists a unit, of those units below arch/ that one does.

    The kernel's top makefile descends into arch/x86 and, on its own, into arch/x86/lib. What lies in the
    inner folder is a goal of both makes, and the outer one would compile it with its own flags.
    """
    inside = [path for path in paths if path.startswith("arch/") and path.endswith(SUFFIXES)]
    folders_of = _folders(place.source)
    where = {path: folders_of(path) for path in inside}
    known = _objects(place, {folder for folders in where.values() for folder in folders})
    return {path: f for path, folders in where.items() for f in reversed(folders) if path in known[f]}


def at_home(place: Workplace, units: Mapping[str, str]) -> Mapping[str, str]:
    """The environment of a make that compiles each unit in its home (`homes`) and nowhere else."""
    by_folder: dict[str, list[str]] = {}
    for unit, folder in sorted(units.items()):
        by_folder.setdefault(folder, []).append(f"{unit[:-2]}.o")
    text = "".join(_SKIP.format(folder=f, objects=" ".join(names)) for f, names in by_folder.items())
    skip = place.root / "skip.mk"
    write_file(skip, text.encode())
    return {"MAKEFILES": str(skip)} if text else {}


def _folders(source: Path) -> Callable[[str], list[str]]:
    """What tells the directories whose makefile may list a file: its own and those above that have one."""

    @cache
    def has_makefile(folder: str) -> bool:
        return any((source / folder / name).exists() for name in ("Kbuild", "Makefile"))

    @cache
    def above(folder: str) -> list[str]:
        parents = above(posixpath.dirname(folder)) if folder else []
        return [folder, *parents] if folder and has_makefile(folder) else parents

    return lambda path: above(posixpath.dirname(path))


def _objects(place: Workplace, folders: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """The sources each directory's makefile lists; none for a directory Kbuild does not descend into."""
    kept = {folder: place.root / "commands" / folder.replace("/", "!") for folder in sorted(folders)}
    missing = [folder for folder, file in kept.items() if not file.exists()]
    if missing:
        (place.root / "commands").mkdir(exist_ok=True)
        for folder, sources in ask(place, missing).items():
            write_file(kept[folder], json.dumps(sources).encode())
    return {folder: json.loads(file.read_text()) for folder, file in kept.items()}


def ask(place: Workplace, folders: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """Ask Kbuild now: directory -> source -> command."""
    folders = sorted(folders)
    query = place.root / "query.mk"
    write_file(query, _QUERY.format(directories=" ".join(folders), goal=_GOAL, end=_END).encode())
    answers = {folder: place.build / folder / _GOAL for folder in folders}
    for answer in answers.values():
        answer.parent.mkdir(parents=True, exist_ok=True)
        answer.unlink(missing_ok=True)
    goals = [f"{folder}/{_GOAL}" for folder in folders]
    outcome = place.make("-k", *goals, environment={"MAKEFILES": str(query)})
    if outcome.status:
        left_out = set(re.findall(rf"No rule to make target '(\S+)/{re.escape(_GOAL)}'", outcome.output))
        silent = sorted({each for each, answer in answers.items() if not _is_whole(answer)} - left_out)
        if silent or not left_out:
            place_of = ", ".join(silent[:9] or folders[:9])
            raise failure("build.pre", "asking Kbuild what it compiles", outcome, place=place_of)
    return {folder: _read(answer) for folder, answer in answers.items()}


def _is_whole(answer: Path) -> bool:
    return answer.exists() and answer.read_text().endswith(f"{_END}\n")


def _read(answer: Path) -> dict[str, str]:
    sources: dict[str, str] = {}
    for line in answer.read_text().splitlines() if answer.exists() else []:
        if line == _END:
            break
        made, suffix, command = line.split(" ", 2)
        if made.endswith(".o"):
            sources[posixpath.normpath(made)[:-2] + suffix] = command
    return sources

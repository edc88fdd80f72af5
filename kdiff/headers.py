# SPDX-License-Identifier: Apache-2.0
"""Find exactly the units that a patch reaches through headers.

Four steps, each on what the one before it left: sources that may include the file going by text
(`kdiff.includes`), those of them that Kbuild compiles, if they are many those that mention what changes
(`kdiff.users`), and those whose preprocessed text changes in a way that can matter (`kdiff.preprocess`).
A unit whose preprocessing fails is kept: a header that the build has yet to generate is no reason to miss it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from kdiff.distribution import Say
from kdiff.edits import Files
from kdiff.errors import Refusal
from kdiff.includes import Includes, forced, read_by_makefiles
from kdiff.mentions import change
from kdiff.preprocess import Judge, Text, preprocess
from kdiff.shadow import replaced
from kdiff.units import Commands, commands
from kdiff.users import pristine, users
from kdiff.workplace import Workplace

_AT_ONCE = 32
"""How many units are judged between two lines of progress."""
_FIRST = 4
"""How many are judged at first, so that what is to be refused is soon seen in one of them."""
_ENOUGH = 16
"""How many that change are waited for, once some have been told of."""

_MODULE = " -DMODULE "
"""In the command of a unit that is no part of vmlinux."""

_MANY = 2
"""More units than this are first searched for the names of what changes."""


def reached(
    place: Workplace, paths: Iterable[str], files: Files, known: Iterable[str], say: Say
) -> Generator[tuple[str, ...], None, frozenset[str]]:
    """Find the units that include one of `paths` and that `files`, the patched contents, may change.

    They are told of a few at a time, as they are found, those of vmlinux first, and of these those that name
    what changes. Returned are those of `paths` that no unit includes. `known` units are compiled anyway and
    not judged.
    """
    paths = sorted(paths)
    if not any(change(pristine(place, path), files[path] or b"") for path in paths):
        return frozenset()
    includes = Includes(place)
    may = {path: includes.reaching(path) for path in paths}
    candidates = _candidates(place, frozenset().union(*may.values()))
    wanted = {path: found for path, found in candidates.items() if path not in set(known)}
    say(f"{len(candidates)} units may include {', '.join(paths)}")
    asked = users(place, includes, paths, files, wanted) if len(wanted) > _MANY else list(wanted)
    if len(asked) < len(wanted):
        say(f"{len(asked)} of them mention what changes")
    used = yield from _judged(place, {path: wanted[path] for path in asked}, paths, files, say)
    if len(asked) < len(wanted):
        used |= {path for path in paths if may[path] & candidates.keys()}
    used |= {path for path in paths if may[path] & set(known)}
    return frozenset(paths) - used


def _candidates(place: Workplace, files: frozenset[str]) -> Commands:
    """The units that may see one of `files`, the makefiles' own -include lines heeded."""
    if {os.path.basename(each) for each in files} & forced(place):
        every = (str(each.relative_to(place.source)) for each in place.source.rglob("*.[cS]"))
        return commands(place, every)
    return commands(place, files)


def _judged(
    place: Workplace, wanted: Commands, paths: list[str], files: Files, say: Say
) -> Generator[tuple[str, ...], None, set[str]]:
    """Tell of the units that change; returned are those of `paths` that are included at all."""
    judge = Judge()
    new = {path for path in paths if not (place.source / path).exists()}
    used: set[str] = set()
    changed: list[str] = []
    told = 0
    began = time.monotonic()
    units = sorted(wanted, key=lambda unit: _MODULE in wanted[unit])
    done = 0
    with ThreadPoolExecutor(place.jobs) as pool:
        while done < len(units):
            batch = units[done : done + (_AT_ONCE if done else _FIRST)]
            before = _texts(place, pool, {unit: wanted[unit] for unit in batch}, {})
            including = {
                unit: [path for path in paths if text is None or path in new or _reads(text, path)]
                for unit, text in before.items()
            }
            used.update(path for found in including.values() for path in found)
            seeing = {unit: wanted[unit] for unit in batch if including[unit]}
            after = _texts(place, pool, seeing, files)
            for unit, post in after.items():
                pre = before[unit]
                if pre is None or post is None or _differs(judge, unit, pre, post):
                    changed.append(unit)
            done += len(batch)
            if len(changed) - told >= (_ENOUGH if told else 1):
                yield tuple(changed[told:])
                told = len(changed)
            if done < len(units):
                left = (time.monotonic() - began) / done * (len(units) - done)
                say(f"{done} of {len(units)} units judged, {len(changed)} change; about {left:.0f} s left")
    yield tuple(changed[told:])
    return used


def _differs(judge: Judge, unit: str, pre: Text, post: Text) -> bool:
    return judge.affected(pre.code, post.code) if unit.endswith(".c") else pre.code != post.code


def _texts(
    place: Workplace, pool: ThreadPoolExecutor, wanted: Commands, files: Files
) -> Mapping[str, Text | None]:
    """Preprocess units with `files` in place of the pristine ones."""
    shown = replaced(place.source, place.shadow, place.journal, files) if files else nullcontext()
    with shown:
        made = pool.map(lambda unit: preprocess(wanted[unit], place.shadow / unit, place.build), wanted)
        return dict(zip(wanted, made, strict=True))


def _reads(text: Text, path: str) -> bool:
    """Whether a file of this name was read."""
    name = os.path.basename(path)
    return any(os.path.basename(each) == name for each in text.files)


# What a build generates ------------------------------------------------------------------------------


def generated(place: Workplace, paths: Iterable[str], files: Files) -> tuple[Refusal, ...]:
    """Refusals if what Kbuild generates from headers, once and for all units, would come out differently."""
    refusals = [
        _refusal(path, "a makefile generates other files from it")
        for path in paths
        if read_by_makefiles(place, path)
    ]
    notes = sorted(place.build.rglob(".*.s.cmd"))
    with_text = [
        (note, text) for note in notes if _names(text := note.read_text("utf-8", "surrogateescape"), paths)
    ]
    for note, text in with_text:
        before = _constants(place, text)
        with replaced(place.source, place.shadow, place.journal, files):
            after = _constants(place, text)
        if before != after:
            source = str(note.relative_to(place.build)).replace("/.", "/").removesuffix(".s.cmd")
            differ = ", ".join(sorted(before ^ after)[:4])
            refusals.append(
                _refusal(
                    ", ".join(sorted(paths)),
                    f"constants that Kbuild generates from {source}.c change ({differ})",
                )
            )
    return tuple(refusals)


def _names(note: str, paths: Iterable[str]) -> bool:
    return any(re.search(rf"/{re.escape(path)}(?!\S)", note) for path in paths)


def _constants(place: Workplace, note: str) -> frozenset[str]:
    """Names and values in the assembler text that a .cmd file makes (include/linux/kbuild.h)."""
    line = note.splitlines()[0].partition(":=")[2].partition(";")[0]
    words = [word for word in shlex.split(line) if not word.startswith("-Wp,-MMD")]
    words[words.index("-o") + 1] = "-"
    done = subprocess.run(
        words, cwd=place.build, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
    )  # fmt: skip
    if done.returncode:
        return frozenset({"it does not compile"})
    found = re.findall(r'"->(\S+) \$?(\S+)', done.stdout)
    return frozenset(f"{name} {value}" for name, value in found)


def _refusal(path: str, reason: str) -> Refusal:
    return Refusal(
        "patch.generated", path, f"{reason}, which all units may see", "keep what is generated as it is"
    )

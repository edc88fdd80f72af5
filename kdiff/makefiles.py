# SPDX-License-Identifier: Apache-2.0
"""Which units a patch adds, drops or builds otherwise, by asking Kbuild before and after.

In: a place and the edits of a patch. Out: a `Remade`. Kbuild's answer for a folder is the same if a file is
only edited, so it is asked again only about folders where files come or go or whose makefile changes. What a
makefile says besides lists and flags may reach any unit below it: building those shows which it does reach.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import ndiff
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from kdiff.confdir import parse_options
from kdiff.distribution import Say
from kdiff.edits import Edit, Files, is_kconfig
from kdiff.errors import Refusal
from kdiff.make import failure
from kdiff.shadow import replaced
from kdiff.texts import decode, encode, split_lines
from kdiff.units import SUFFIXES, Commands, ask
from kdiff.values import dataclass
from kdiff.workplace import Workplace

_WORDS = r"(\s*[\w$()/.-]+(\.o|/)(?!\S))*\s*\\?\s*"
_LIST = rf"\s*(?!(cc|as|ld)flags|subdir-)[\w$()/.-]+-(y|m|objs|\$\(\w+\))\s*[:+]?={_WORDS}|{_WORDS}"
_FLAGS = r"\s*((subdir-)?(cc|as)flags(-remove)?-\S+|[CA]FLAGS(_REMOVE)?_\S+\.o)\s*[:+]?=.*(?<!\\)"
_SHOWN = re.compile(rf"\s*(#.*)?|{_LIST}|{_FLAGS}")
"""A line, or a part of one, whose effect is seen in Kbuild's lists of units and the compiler's commands."""


@dataclass(frozen=True, slots=True)
class Remade:
    """Units by source file. `before` and `after` list all units of the folders that were asked about."""

    before: Commands
    after: Commands
    perhaps: frozenset[str]
    """Units on both sides that a makefile may tell other flags."""

    @property
    def added(self) -> frozenset[str]:
        return frozenset(self.after.keys() - self.before.keys())

    @property
    def removed(self) -> frozenset[str]:
        return frozenset(self.before.keys() - self.after.keys())


def remade(place: Workplace, edits: Mapping[str, Edit], files: Files, say: Say) -> Remade:
    """Compare what Kbuild compiles without and with `files`, where that may differ."""
    makefiles = [path for path in edits if is_makefile(path)]
    moved = [path for path, edit in edits.items() if edit.pristine is None or edit.patched is None]
    if not makefiles and not any(path.endswith(SUFFIXES) for path in moved):
        return Remade({}, {}, frozenset())
    sides: tuple[Files, Files] = ({}, files)
    folders: set[str] = set()
    for shown in sides:
        with replaced(place.source, place.shadow, place.journal, shown):
            for path in makefiles:
                folders |= _told(place.shadow, path, edits[path])
            for path in moved:
                folders |= _above(place.shadow, path)
    say(f"asking Kbuild what it compiles in {len(folders)} folder(s), before and after")
    answers = []
    for shown in sides:
        with replaced(place.source, place.shadow, place.journal, shown):
            found = ask(place, folders)
        answers.append({unit: command for each in found.values() for unit, command in each.items()})
    before, after = answers
    both = before.keys() & after.keys()
    if all(_is_shown(edits[path]) for path in makefiles):
        perhaps = {unit for unit in both if before[unit] != after[unit]}
    else:
        perhaps = both
    return Remade(before, after, frozenset(perhaps))


def _told(tree: Path, makefile: str, edit: Edit) -> set[str]:
    """The folders that a change of a makefile is about: its own, those it names, or all below it."""
    folder = PurePosixPath(makefile).parent
    changed = _changed(edit)
    if any("subdir-" in line or not _SHOWN.fullmatch(line) for line in changed):
        return _below(tree, folder)
    named = {word for line in changed for word in re.findall(r"(\S+)/(?!\S)", line.partition("#")[0])}
    return {str(folder)}.union(*(_below(tree, folder / word) for word in named))


def _below(tree: Path, folder: PurePosixPath) -> set[str]:
    """A folder, and all below it that have a makefile."""
    names = (each for name in ("Makefile", "Kbuild") for each in (tree / folder).rglob(name))
    return {str(each.parent.relative_to(tree)) for each in names}


def _above(tree: Path, path: str) -> set[str]:
    """The folders whose makefile may list a file: its own, or one above if that has none."""
    parents = [str(each) for each in PurePosixPath(path).parents if str(each) != "."]
    return {each for each in parents if any((tree / each / name).exists() for name in ("Makefile", "Kbuild"))}


def _changed(edit: Edit) -> list[str]:
    """The lines that come or go."""
    old = split_lines(decode(edit.pristine or b""))
    new = edit.patched.lines if edit.patched else ()
    return [line[2:].rstrip("\n") for line in ndiff(old, new) if line[:2] in ("- ", "+ ")]


def _is_shown(edit: Edit) -> bool:
    """Whether a makefile changes in nothing but lists of objects and flags of the compiler."""
    return all(_SHOWN.fullmatch(line) for line in _changed(edit))


def target_of(command: str) -> str:
    """The module that a command compiles for (`one:two` if for several), or `vmlinux`."""
    if not re.search(r"\s-DMODULE\s", command):
        return "vmlinux"
    found = re.search(r"""-DKBUILD_MODNAME='"([^"]+)"'""", command)
    return found[1] if found else "?"


def other_targets(made: Remade) -> tuple[Refusal, ...]:
    """Refuse units that go from one target to another, and modules that do not exist yet."""
    known = {target_of(command) for command in made.before.values()} | {"vmlinux"}
    refusals = []
    for unit in sorted(made.after):
        new = target_of(made.after[unit])
        old = target_of(made.before.get(unit, made.after[unit]))
        if old != new:
            refusals.append(retargeted(unit, old, new))
        elif unit not in made.before and new not in known:
            refusals.append(Refusal(
                "patch.new_module", unit,
                f"the patch adds a module, {new}; no running code is changed by it",
                "leave it out of the patch, then build the module by itself and load it",
            ))  # fmt: skip
    return tuple(refusals)


def retargeted(unit: str, old: str, new: str) -> Refusal:
    """The refusal of a unit that goes from one target to another."""
    return Refusal(
        "patch.target_changed", unit,
        f"the patch moves this unit from {old} to {new}; the running code stays where it is",
        "leave the makefile as it is",
    )  # fmt: skip


def reconfigured(place: Workplace, edits: Mapping[str, Edit], say: Say) -> tuple[Refusal, ...]:
    """Refuse Kconfig files with which this kernel would be configured otherwise."""
    changed = {
        path: None if edit.patched is None else encode(edit.patched.text)
        for path, edit in edits.items()
        if is_kconfig(path)
    }
    if not changed:
        return ()
    say("asking Kconfig whether the configuration stays the same")
    before = (place.build / ".config").read_bytes()
    with TemporaryDirectory(prefix="kdiff-") as scratch:
        trial = Path(scratch, "config")
        trial.write_bytes(before)
        with replaced(place.source, place.shadow, place.journal, changed):
            outcome = place.make("olddefconfig", f"KCONFIG_CONFIG={trial}")
        if outcome.status:
            raise failure(
                "build.post", "configuring with the patched Kconfig files", outcome, place=", ".join(changed)
            )
        old, new = parse_options(decode(before)), parse_options(decode(trial.read_bytes()))
    differ = [
        f"{name} is {new.get(name, 'unset')}, was {old.get(name, 'unset')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if not differ:
        return ()
    shown = "; ".join(differ[:6]) + (f" and {len(differ) - 6} more" if len(differ) > 6 else "")
    return (
        Refusal(
            "patch.config_changed", ", ".join(sorted(changed)),
            f"with the patch this kernel would be configured otherwise: {shown}",
            "leave the Kconfig files out of the patch, and what depends on a new option",
        ),
    )  # fmt: skip


def is_makefile(path: str) -> bool:
    """Whether a file is read by Kbuild."""
    return PurePosixPath(path).name in ("Makefile", "Kbuild")

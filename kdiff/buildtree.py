# SPDX-License-Identifier: Apache-2.0
"""The objects of a kernel's build directory, and what each of them was linked into.

Kbuild leaves two kinds of notes. The archives `built-in.a` and `lib.a` name what the kernel is linked from;
the `.X.o.cmd` file beside an object holds the command that made it, which tells units (they have a source)
from objects that were merely linked, and units of modules (`-DMODULE`) from those of the kernel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from kdiff.addressbook import KERNEL
from kdiff.errors import KdiffError
from kdiff.values import dataclass

ELSEWHERE = ""
"""Neither the kernel nor a module: the boot code in front of it, a vDSO, a program of the build."""
_THIN, _FULL = b"!<thin>\n", b"!<arch>\n"
_HEADER = 60
_SOURCE = re.compile(r"^source_\S+ := (\S+)", re.MULTILINE)
_MODULE = re.compile(r"\s-DMODULE\s")
_MODULE_NAME = re.compile(r"""-DKBUILD_MODNAME='?"?([^"'\s]+)"?'?""")
_IN_KERNEL = re.compile(r"\s-D__KERNEL__\s")


@dataclass(frozen=True, slots=True)
class BuiltUnit:
    """One object. `name`: relative to the build directory; `source` is empty where no note tells it.

    `part_of`: `vmlinux`, a module's name, or `ELSEWHERE`.
    """

    name: str
    path: Path
    source: str
    part_of: str


def built_units(folder: Path) -> tuple[BuiltUnit, ...]:
    """All units below a build directory, by name; KdiffError `buildtree.empty` if there is none."""
    if not folder.is_dir():
        raise KdiffError("buildtree.empty", "is no directory", place=str(folder), remedy="name a build tree")
    objects, archives = _found(folder)
    linked = {name for archive in _of_kernel(folder, archives) for name in members(folder, archive)}
    notes = {name: text for name in objects if (text := _note(folder / name)) is not None}
    units = tuple(_units(folder, objects, linked, notes))
    if not units:
        raise KdiffError(
            "buildtree.empty", "no compiled unit (*.o) is below this directory",
            place=str(folder), remedy="name the directory that the kernel was built in",
        )  # fmt: skip
    return units


def _found(folder: Path) -> tuple[list[str], list[Path]]:
    """The names of all objects, and the archives Kbuild makes."""
    objects, archives = [], []
    for here, folders, files in os.walk(folder):
        folders.sort()
        for name in files:
            path = Path(here, name)
            if name.endswith(".o"):
                objects.append(str(path.relative_to(folder)))
            elif name in ("built-in.a", "lib.a", "vmlinux.a"):
                archives.append(path)
    return sorted(objects), sorted(archives)


def _of_kernel(folder: Path, archives: list[Path]) -> Iterator[Path]:
    """The archives that the kernel was linked from: of libraries those its link command names.

    Where that is not to be had, those that the kernel's top Makefile puts into libs-y.
    """
    notes = (folder / f".vmlinux{each}.cmd" for each in ("", ".o", ".a"))
    command = " ".join(note.read_text("utf-8", "surrogateescape") for note in notes if note.exists())
    named = set(re.findall(r"\S*\blib\.a\b", command))
    for archive in archives:
        name = str(archive.relative_to(folder))
        always = name == "lib/lib.a" or re.fullmatch(r"arch/[^/]+/lib/lib\.a", name)
        if archive.name != "lib.a" or (name in named if named else always):
            yield archive


def _units(
    folder: Path, objects: list[str], linked: set[str], notes: Mapping[str, str]
) -> Iterator[BuiltUnit]:
    for name in objects:
        note = notes.get(name)
        source = _SOURCE.search(note) if note is not None else None
        if name not in linked and notes and source is None:
            continue  # linked together from others, or nobody knows by whom it was made
        part_of = KERNEL
        if name not in linked and note is not None:
            part_of = _destination(note, bool(linked))
        elif name not in linked and linked:
            part_of = ELSEWHERE
        yield BuiltUnit(name, folder / name, source[1] if source else "", part_of)


def _destination(note: str, archived: bool) -> str:
    """What a unit that no archive names is a part of. Without archives all else is taken for the kernel's."""
    if _MODULE.search(note):
        found = _MODULE_NAME.search(note)
        return found[1] if found else "an unnamed module"
    return ELSEWHERE if archived or not _IN_KERNEL.search(note) else KERNEL


def _note(path: Path) -> str | None:
    try:
        return path.with_name(f".{path.name}.cmd").read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def members(folder: Path, archive: Path) -> Iterator[str]:
    """The names, relative to the build directory, of the objects an archive of Kbuild's holds or names.

    A thin archive holds names only, relative to itself or to where ar was run (ar(5), GNU's long names).
    """
    data = archive.read_bytes()
    thin = data.startswith(_THIN)
    if not thin and not data.startswith(_FULL):
        raise KdiffError("buildtree.archive", "is no archive", place=str(archive), remedy="build it again")
    names = b""
    at = len(_THIN)
    while at + _HEADER <= len(data):
        title = data[at : at + 16].rstrip()
        digits = data[at + 48 : at + 58].strip()
        if not digits.isdigit():
            raise KdiffError(
                "buildtree.archive", f"is damaged at {at:#x}", place=str(archive), remedy="build it again"
            )
        size = int(digits)
        at += _HEADER
        if title == b"//":
            names = data[at : at + size]
        elif title not in (b"/", b"/SYM64/"):
            found = _member(folder, archive, _long_name(names, title))
            if found.endswith(".o"):
                yield found
        if not thin or title in (b"/", b"/SYM64/", b"//"):
            at += size + size % 2


def _long_name(names: bytes, title: bytes) -> str:
    if title.startswith(b"/") and title[1:].isdigit():
        start = int(title[1:])
        title = names[start : names.find(b"\n", start)]
    return title.rstrip(b"/").decode("utf-8", "surrogateescape")


def _member(folder: Path, archive: Path, name: str) -> str:
    beside = Path(os.path.normpath(archive.parent / name))
    path = beside if beside.exists() else Path(os.path.normpath(folder / name))
    return os.path.relpath(path, folder)

# SPDX-License-Identifier: Apache-2.0
"""Which sources may include a header, going by text: a filter that misses none.

All `#include` lines of the source, and of the headers that Kbuild generates, are read once per kernel. A
line is taken for a file if the compiler could find that file for it; conditions are not looked at. What a
macro names (`#include TRACE_INCLUDE(...)`) is a header that the unit has named plainly before, because it
includes itself again. `kdiff.preprocess` then judges each unit.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from kdiff.shadow import write_file
from kdiff.workplace import NOT_COMPILED, Workplace

_PATTERN = r'^[[:space:]]*#[[:space:]]*include(_next)?[[:space:]]*[<"][^<>"]+[">]'
_LINE = re.compile(r'^([^:\n]+):.*?([<"])([^<>"\n]+)[">]$', re.MULTILINE)
_FORCED = re.compile(r"(?<!-)-include\s+\S*?([^/\s]+\.h)\b")
_FILE = re.compile(r"^.*(?:-include\s|\$[({](?:src|srctree)[)}]/).*$", re.MULTILINE)
_PLAIN = re.compile(r"(?!\.{0,2}/)(?!\S*/\.{0,2}/)[\w.+/-]+")
"""A path that can be written in no other way."""
MAKEFILE = re.compile(r"Makefile(\..*)?|Kbuild(\..*)?")

TEXTS = (".c", ".h", ".S", ".inc", ".inl", ".def")
"""How names of files end that a compiler might read."""


class Includes:
    """All `#include` lines of what can be compiled for this kernel's architecture.

    Which file may include which is worked out once per kernel and kept; headers that the build has made
    since, and those of a patch, are looked up in the lines.
    """

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._own = architectures(place)
        kept = place.root / "edges"
        if not kept.exists():
            write_file(kept, json.dumps(self._resolve()).encode("ascii"))
        self.sources: list[str]
        """The files of the source tree that a compiler might read."""
        self._names: list[str]
        self.sources, self._names, self._including = json.loads(kept.read_text("ascii"))
        self._index = {name: at for at, name in enumerate(self._names)}

    def reaching(self, path: str) -> frozenset[str]:
        """The file at `path` and all that may include it, directly or through others."""
        first = {path, *self.naming(path)}
        found = new = {self._index[each] for each in first if each in self._index}
        while new:
            new = set().union(*map(self._including.__getitem__, new)) - found
            found = found | new
        return frozenset(first | {self._names[each] for each in found})

    def naming(self, path: str) -> Iterable[str]:
        """The files that may include the one at `path` themselves."""
        at = self._index.get(path)
        if at is None:
            return self._lines.naming(path)
        return (self._names[each] for each in self._including[at])

    @cached_property
    def _lines(self) -> _Lines:
        return _Lines(self._place, self._own)

    def _resolve(self) -> tuple[list[str], list[str], list[list[int]]]:
        """The source's files; all files, and for each those that may include it."""
        lines = self._lines
        source, build = (sorted(texts(tree, below)) for tree, below in folders(self._place))
        names = sorted({*source, *build, *lines.files})
        index = {name: at for at, name in enumerate(names)}
        return source, names, [sorted({index[each] for each in lines.naming(name)}) for name in names]


class _Lines:
    """The lines themselves."""

    def __init__(self, place: Workplace, own: frozenset[str]) -> None:
        self._trees = (place.source, place.build)
        self._own = own
        self._by_name: dict[str, list[tuple[str, str, bool]]] = defaultdict(list)
        for file, quote, text in _read(place):
            if not self._is_foreign(file):
                self._by_name[posixpath.basename(text)].append((file, text, quote == '"'))
        self._resolved: dict[str, list[tuple[str, str, str | None]]] = {}
        self._known: dict[str, bool] = {}

    @property
    def files(self) -> set[str]:
        """Those that have such lines."""
        return {file for lines in self._by_name.values() for file, _, _ in lines}

    def naming(self, path: str) -> Iterator[str]:
        """The files with a line that may mean the one at `path`."""
        below = f"/{path}"
        for file, beside, tail in self._ends(posixpath.basename(path)):
            if beside == path or (tail is not None and below.endswith(tail)):
                yield file

    def _is_foreign(self, file: str) -> bool:
        parts = file.split("/", 2)
        return bool(self._own) and parts[0] == "arch" and parts[1] not in self._own

    def _ends(self, name: str) -> list[tuple[str, str, str | None]]:
        """The lines with this last name: file, the path beside it, and how paths end that a search may find.

        What lies beside a file is found first, if the name stands between quotation marks.
        """
        if name not in self._resolved:
            self._resolved[name] = made = []
            for file, text, quoted in self._by_name.get(name, ()):
                beside = posixpath.normpath(posixpath.join(posixpath.dirname(file), text))
                found = quoted and self._exists(beside)
                made.append((file, beside, None if found else f"/{posixpath.normpath(text).lstrip('./')}"))
        return self._resolved[name]

    def _exists(self, path: str) -> bool:
        if path not in self._known:
            self._known[path] = any((tree / path).exists() for tree in self._trees)
        return self._known[path]


def forced(place: Workplace) -> frozenset[str]:
    """The basenames of headers that a makefile makes the compiler include (`-include`)."""
    return frozenset(_FORCED.findall(_makefiles(place)))


def read_by_makefiles(place: Workplace, path: str) -> bool:
    """Whether a makefile names the file as something that other files are generated from."""
    name = re.escape(posixpath.basename(path))
    named = re.compile(rf"\$[({{](src|srctree)[)}}]/(\S*\b{name})(?!\S)")
    lines = (line.partition("#")[0] for line in _makefiles(place).splitlines())
    return any(
        _may_mean(found[1], found[2], path)
        for line in lines
        if "-include" not in line
        for found in named.finditer(line)
    )


def _may_mean(variable: str, named: str, path: str) -> bool:
    """Whether a makefile's `$(src)/…` or `$(srctree)/…` may be this file; `src` is any makefile's folder."""
    if not _PLAIN.fullmatch(named):
        return True
    return named == path or (variable == "src" and path.endswith(f"/{named}"))


def _makefiles(place: Workplace) -> str:
    """The lines of this kernel's makefiles that may say one of both, kept once they have been read."""
    kept = place.root / "makefiles"
    if not kept.exists():
        found = "".join(f"{line}\n" for text in _all_makefiles(place) for line in _FILE.findall(text))
        write_file(kept, found.encode("utf-8", "surrogateescape"))
    return kept.read_text("utf-8", "surrogateescape")


def _all_makefiles(place: Workplace) -> Iterator[str]:
    (_, below), _ = folders(place)
    for folder in ("", "arch", *below):
        top = place.source / folder
        for here, inner, files in os.walk(top):
            if folder in ("", "arch"):
                inner.clear()
            for name in files:
                if MAKEFILE.fullmatch(name):
                    yield (top / here / name).read_text("utf-8", "surrogateescape")
    yield from (
        each.read_text("utf-8", "surrogateescape") for each in (place.source / "scripts").glob("Makefile*")
    )


def folders(place: Workplace) -> list[tuple[Path, list[str]]]:
    """The two trees that units are compiled from, and the folders of each that matter here."""
    own = sorted(architectures(place))
    source = [each for each in _folders(place) if each != "arch"]
    source += [f"arch/{name}" for name in own if (place.source / "arch" / name).exists()]
    return [(place.source, source), (place.build, ["include", *(f"arch/{name}/include" for name in own)])]


def architectures(place: Workplace) -> frozenset[str]:
    """The folders below arch/ of which the build has generated headers."""
    return frozenset(each.parent.parent.name for each in place.build.glob("arch/*/include/generated"))


def texts(tree: Path, below: Iterable[str]) -> Iterator[str]:
    """The files in some folders of a tree that a compiler might read."""
    for folder in below:
        for here, _, files in os.walk(tree / folder):
            where = os.path.relpath(here, tree)
            yield from (f"{where}/{name}" for name in files if name.endswith(TEXTS))


def run_grep(arguments: list[str], below: os.PathLike[str], patterns: bytes = b"") -> bytes:
    """What grep prints, which counts bytes and not characters."""
    done = subprocess.run(
        ["grep", *arguments],
        cwd=below,
        input=patterns,
        capture_output=True,
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        check=False,
    )
    return done.stdout


def _folders(place: Workplace) -> list[str]:
    entries = os.scandir(place.source)
    return sorted(each.name for each in entries if each.is_dir() and each.name not in NOT_COMPILED)


def _read(place: Workplace) -> list[tuple[str, str, str]]:
    """All (file, quotation mark, text), read anew if the place has not got them."""
    kept = place.root / "includes"
    if not kept.exists():
        parts = [_grep(place, _folders(place), place.source)]
        generated = [f"arch/{name}/include" for name in sorted(architectures(place))]
        parts.append(_grep(place, ["include", *generated], place.build))
        write_file(kept, "".join(parts).encode("utf-8", "surrogateescape"))
    lines = kept.read_text("utf-8", "surrogateescape").splitlines()
    return [(file, rest[:1], rest[1:]) for file, _, rest in (line.partition("\t") for line in lines)]


def _grep(place: Workplace, folders: list[str], below: os.PathLike[str]) -> str:
    lines = run_grep(["-rEHIo", _PATTERN, *folders], below).decode("utf-8", "surrogateescape")
    found = _LINE.findall(lines)
    return "".join(f"{file}\t{quote}{text}\n" for file, quote, text in sorted(set(found)))

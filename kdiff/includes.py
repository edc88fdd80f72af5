# SPDX-License-Identifier: Apache-2.0
"""Which sources may include a header, going by text: a filter that misses none.

All `#include` lines of the source, and of the headers that Kbuild generates, are read once per kernel. A
line is taken for a file if the compiler could find that file for it; conditions are not looked at. What a
macro names (`#include TRACE_INCLUDE(...)`) is a header that the unit has named plainly before, because it
includes itself again. `kdiff.preprocess` then judges each unit.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping

from kdiff.shadow import write_file
from kdiff.workplace import NOT_COMPILED, Workplace

_PATTERN = r'^[[:space:]]*#[[:space:]]*include(_next)?[[:space:]]*[<"][^<>"]+[">]'
_LINE = re.compile(r'^([^:\n]+):.*?([<"])([^<>"\n]+)[">]$', re.MULTILINE)
_FORCED = re.compile(r"-include\s+\S*?([^/\s]+\.h)\b")
MAKEFILE = re.compile(r"Makefile(\..*)?|Kbuild(\..*)?")

_TEXTS = tuple(f"--include=*.{each}" for each in ("[chS]", "inc", "inl", "def"))


class Includes:
    """All `#include` lines of what can be compiled for this kernel's architecture."""

    def __init__(self, place: Workplace) -> None:
        self._trees = (place.source, place.build)
        self._own = {each.parent.name for each in place.build.glob("arch/*/include")}
        self._by_name: dict[str, list[tuple[str, str, bool]]] = defaultdict(list)
        for file, quote, text in _read(place):
            if not self._is_foreign(file):
                self._by_name[posixpath.basename(text)].append((file, text, quote == '"'))
        self._known: dict[str, bool] = {}

    def reaching(self, path: str) -> frozenset[str]:
        """The file at `path` and all that may include it, directly or through others."""
        found = {path}
        waiting = [path]
        while waiting:
            target = waiting.pop()
            for file, text, quoted in self._by_name.get(posixpath.basename(target), ()):
                if file not in found and self._may_be(file, text, quoted, target):
                    found.add(file)
                    waiting.append(file)
        return frozenset(found)

    def _is_foreign(self, file: str) -> bool:
        parts = file.split("/", 2)
        return bool(self._own) and parts[0] == "arch" and parts[1] not in self._own

    def _may_be(self, file: str, text: str, quoted: bool, target: str) -> bool:
        """Whether `text`, named in `file`, can be `target`: beside the file, else below a search path."""
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(file), text))
        if beside == target:
            return True
        if quoted and self._exists(beside):
            return False
        return f"/{target}".endswith(f"/{posixpath.normpath(text).lstrip('./')}")

    def _exists(self, path: str) -> bool:
        if path not in self._known:
            self._known[path] = any((tree / path).exists() for tree in self._trees)
        return self._known[path]


def forced(place: Workplace) -> frozenset[str]:
    """The basenames of headers that a makefile makes the compiler include (`-include`)."""
    return frozenset(name for text in _makefiles(place) for name in _FORCED.findall(text))


def read_by_makefiles(place: Workplace, path: str) -> bool:
    """Whether a makefile names the file as something that other files are generated from."""
    name = re.escape(posixpath.basename(path))
    named = re.compile(
        rf"^(?![^#\n]*-include)[^#\n]*\$[({{](?:src|srctree)[)}}]/\S*\b{name}(?!\S)", re.MULTILINE
    )
    return any(named.search(text) for text in _makefiles(place))


def _makefiles(place: Workplace) -> Iterable[str]:
    for folder in ("", *_folders(place)):
        top = place.source / folder
        for here, inner, files in os.walk(top):
            if not folder:
                inner.clear()
            for name in files:
                if MAKEFILE.fullmatch(name):
                    yield (top / here / name).read_text("utf-8", "surrogateescape")
    yield from (
        each.read_text("utf-8", "surrogateescape") for each in (place.source / "scripts").glob("Makefile*")
    )


def files_with(place: Workplace, words: Iterable[bytes]) -> Mapping[str, frozenset[bytes]]:
    """For each file below the source and the headers of the build, which of some words it has."""
    found: dict[str, set[bytes]] = defaultdict(set)
    patterns = b"".join(word + b"\n" for word in sorted(words))
    own = {each.parent.name for each in place.build.glob("arch/*/include")}
    folders = [each for each in _folders(place) if each != "arch"]
    folders += [f"arch/{name}" for name in own if (place.source / "arch" / name).exists()]
    for tree, below in (
        (place.source, folders),
        (place.build, ["include", *(f"arch/{name}/include" for name in own)]),
    ):
        done = _run_grep(["-rHIowF", *_TEXTS, "-f", "-", *below], tree, patterns)
        for line in set(done.splitlines()):
            file, _, word = line.rpartition(b":")
            found[os.fsdecode(file)].add(word)
    return {file: frozenset(each) for file, each in found.items()}


def _run_grep(arguments: list[str], below: os.PathLike[str], patterns: bytes = b"") -> bytes:
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
        generated = [str(each.relative_to(place.build)) for each in place.build.glob("arch/*/include")]
        parts.append(_grep(place, ["include", *generated], place.build))
        write_file(kept, "".join(parts).encode("utf-8", "surrogateescape"))
    lines = kept.read_text("utf-8", "surrogateescape").splitlines()
    return [(file, rest[:1], rest[1:]) for file, _, rest in (line.partition("\t") for line in lines)]


def _grep(place: Workplace, folders: list[str], below: os.PathLike[str]) -> str:
    lines = _run_grep(["-rEHIo", _PATTERN, *folders], below).decode("utf-8", "surrogateescape")
    found = _LINE.findall(lines)
    return "".join(f"{file}\t{quote}{text}\n" for file, quote, text in sorted(set(found)))

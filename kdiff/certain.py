# SPDX-License-Identifier: Apache-2.0
"""What a unit has certainly read before it gets to a line of a header, so that reading it again is nothing.

A file counts if lines without any condition lead to it: from what the command line includes, or from lines
of the header above the one in question. Each must mean one file, whichever unit reads it: the first
directories of the search path are the same for all. A file on the way must not include the header itself, for
it might be read while that one still is; and nobody else may define the macro that guards it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path

from kdiff.edits import Files
from kdiff.parts import Outline, outline, sets
from kdiff.units import Commands
from kdiff.workplace import Workplace

_OPTION = re.compile(r"(?<!\S)-(I|include|iquote|imacros)\s*(\S+)")


class Certain:
    """One version of a kernel's headers: `files` in place of the pristine ones."""

    def __init__(
        self,
        place: Workplace,
        units: Commands,
        files: Files,
        around: Iterable[str],
        find: Callable[[Iterable[bytes]], Mapping[str, frozenset[bytes]]],
    ) -> None:
        """`around`: all that may include one of the headers; `find`: which files have which words."""
        self._place, self._files, self._find = place, files, find
        self._trees = (place.source, place.build)
        self._around = frozenset(around)
        self._outlines: dict[str, Outline] = {}
        self._doubtful: frozenset[bytes] = frozenset()
        """Guards that several files define."""
        common = _common(units.values())
        self._quoted = not any("-iquote" in command for command in units.values())
        """Whether quotation marks mean no other search path, except what lies beside a file."""
        self._folders = [text for flag, text in common if flag == "I"]
        self._first = [text for flag, text in common if flag == "include"]

    def repeats(self, header: str, included: Iterable[bytes]) -> bool:
        """Whether the lines of `header` that include these would read nothing that is not read before."""
        included = frozenset(included)
        if not included:
            return True
        lines = self._outline(header).includes
        found = [self._closure(header, lines, text) for text in included]
        guards = {guard for entered in found for each in entered if (guard := self._outline(each).guard)}
        self._doubtful = self._defined_twice(guards)
        return all(
            self._is_nothing(self._resolved(header, text), self._closure(header, lines, text))
            for text in included
        )

    def _closure(self, header: str, lines: Iterable[tuple[bytes, bool]], text: bytes) -> set[str]:
        """The files whose reading has certainly begun where `header` includes `text` first."""
        waiting = [path for each in self._first if (path := self._in_tree(each)) is not None]
        for each, plain in lines:
            if each == text:
                break
            path = self._resolved(header, each)
            if plain and path is not None:
                waiting.append(path)
        entered: set[str] = set()
        while waiting:
            path = waiting.pop()
            if path in entered:
                continue
            entered.add(path)
            if path not in self._around and self._outline(path).guard not in self._doubtful:
                waiting += [
                    inner
                    for each, plain in self._outline(path).includes
                    if plain and (inner := self._resolved(path, each)) is not None
                ]
        return entered

    def _is_nothing(self, path: str | None, entered: set[str]) -> bool:
        if path is None or path not in entered:
            return False
        found = self._outline(path)
        if found.guard is not None:
            return found.guard not in self._doubtful
        return found.empty and all(
            self._is_nothing(self._resolved(path, each), entered) for each, _ in found.includes
        )

    def _defined_twice(self, guards: Iterable[bytes]) -> frozenset[bytes]:
        guards = frozenset(guards)
        doubtful: set[bytes] = set()
        for path, words in self._find(guards).items():
            own = self._outline(path).guard
            others = words - {own}
            doubtful |= others & sets(self._read(path)) if others else set()
        return frozenset(doubtful)

    def _outline(self, path: str) -> Outline:
        if path not in self._outlines:
            self._outlines[path] = outline(self._read(path))
        return self._outlines[path]

    def _read(self, path: str) -> bytes:
        if path in self._files:
            return self._files[path] or b""
        tree = self._place.source if self._is_source(path) else self._place.build
        return (tree / path).read_bytes()

    def _resolved(self, file: str, text: bytes) -> str | None:
        """The file that a line of `file` includes, if it is the same for all units."""
        name = os.fsdecode(text[1:-1])
        if text.startswith(b'"'):
            beside = posixpath.normpath(posixpath.join(posixpath.dirname(file), name))
            tree = self._place.source if self._is_source(file) else self._place.build
            if self._exists(beside, tree):
                return beside
            if not self._quoted:
                return None
        for folder in self._folders:
            path = self._in_tree(f"{folder}/{name}")
            if path is None:
                return None
            if any(map(partial(self._exists, path), self._trees)):
                return path
        return None

    def _is_source(self, path: str) -> bool:
        return path in self._files or (self._place.source / path).is_file()

    def _exists(self, path: str, tree: Path) -> bool:
        if path in self._files:
            return self._files[path] is not None
        return (tree / path).is_file()

    def _in_tree(self, path: str) -> str | None:
        """A path of the command line below one of the two trees."""
        full = Path(os.path.normpath(self._place.build / path))
        for tree in (self._place.shadow, self._place.source, self._place.build):
            if full.is_relative_to(tree):
                return str(full.relative_to(tree))
        return None


def _common(units: Iterable[str]) -> list[tuple[str, str]]:
    """What all command lines have in common at the beginning of what they say about headers."""
    columns = takewhile(
        lambda column: len(set(column)) == 1, zip(*map(_OPTION.findall, set(units)), strict=False)
    )
    return [column[0] for column in columns]

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

from kdiff.edits import Files
from kdiff.parts import Outline, above, outline, sets
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
        reaching: Callable[[str], frozenset[str]],
        find: Callable[[Iterable[bytes]], Mapping[str, frozenset[bytes]]],
        settled: Callable[[bytes], bytes] = bytes,
    ) -> None:
        """`reaching`: all that may include a file; `find`: which files have which words.

        `settled`: a file's text without the branches that the units do not see.
        """
        self._place, self._files, self._find = place, files, find
        self._trees = (place.source, place.build)
        self._settled = settled
        self._reaching = cache(reaching)
        self._resolved = cache(self._resolve)
        self._outlines: dict[str, Outline] = {}
        self._doubtful: frozenset[bytes] = frozenset()
        """Guards that several files define."""
        self._asked: frozenset[bytes] = frozenset()
        """Those that have been looked for."""
        self._closures: dict[str, frozenset[str]] = {}
        """What has certainly been read once a file has, as long as nothing there includes who reads it."""
        common = _common(units.values())
        self._quoted = not any("-iquote" in command for command in units.values())
        """Whether quotation marks mean no other search path, except what lies beside a file."""
        self._folders = [self._in_tree(text) for flag, text in common if flag == "I"]
        first = (self._in_tree(text) for flag, text in common if flag == "include")
        self._first = [path for path in first if path is not None]
        self._searched = cache(self._search)

    def repeats(self, header: str, included: Iterable[bytes]) -> bool:
        """Whether the lines of `header` that include these would read nothing that is not read before."""
        included = frozenset(included)
        for text in included:
            self._heed(self.before(header, text))
        return all(
            self._is_nothing(self._resolved(header, text), self.before(header, text)) for text in included
        )

    def newly(self, header: str, included: bytes) -> frozenset[str] | None:
        """What the line of `header` that includes this may read and has not been read before.

        None if that is not the same for all units, or may be read more than once.
        """
        while True:
            entered = self.before(header, included)
            found: set[str] = set()
            waiting = [(header, included)]
            while waiting:
                path = self._resolved(*waiting.pop())
                if path is None:
                    return None
                if path in found or self._is_nothing(path, entered):
                    continue
                lines = self._outline(path).includes
                if self._outline(path).guard is None or self._outline(path).guard in self._doubtful:
                    return None
                found.add(path)
                waiting += [(path, each) for each, _ in lines]
            if not self._heed(entered | found):
                return frozenset(found)

    def covered(self, mentions: Mapping[str, frozenset[bytes]], files: frozenset[str]) -> frozenset[str]:
        """Those that have certainly read all of `files` before they mention any of their own words here.

        Where no words are given: before there is anything but `#include` lines.
        """
        lines = {path: above(self._read(path), words) for path, words in mentions.items()}
        while True:
            entered = {path: self._entered(path, each.includes) for path, each in lines.items()}
            guards = {each.guard for each in lines.values() if each.guard}
            if not self._heed(set().union(*entered.values()), guards):
                break
        return frozenset(
            path
            for path, found in entered.items()
            if files <= found - self._reaching(path) and lines[path].guard not in self._doubtful
        )

    def before(self, header: str, text: bytes) -> frozenset[str]:
        """The files whose reading has certainly begun where `header` includes `text` first."""
        return self._entered(header, takewhile(lambda line: line[0] != text, self._outline(header).includes))

    def _entered(self, file: str, above: Iterable[tuple[bytes, bool]]) -> frozenset[str]:
        """The same for some first lines of a file."""
        first = [*self._first, *self._plain(file, above)]
        entered = frozenset().union(*map(self._closure, first))
        around = self._reaching(file)
        return entered if around.isdisjoint(entered) else self._walk(first, around)

    def _closure(self, path: str) -> frozenset[str]:
        if path not in self._closures:
            self._closures[path] = self._walk([path], frozenset())
        return self._closures[path]

    def _walk(self, waiting: list[str], around: frozenset[str]) -> frozenset[str]:
        """What is certainly read by reading some files first; of those `around`, not what they include."""
        entered: set[str] = set()
        while waiting:
            path = waiting.pop()
            if path in entered:
                continue
            if not around and path in self._closures:
                entered |= self._closures[path]
                continue
            entered.add(path)
            if path not in around and self._outline(path).guard not in self._doubtful:
                waiting += self._plain(path, self._outline(path).includes)
        return frozenset(entered)

    def _plain(self, file: str, lines: Iterable[tuple[bytes, bool]]) -> Iterator[str]:
        """What those of a file's lines include that no condition is around."""
        found = (self._resolved(file, text) for text, plain in lines if plain)
        return (path for path in found if path is not None)

    def _heed(self, files: Iterable[str], more: Iterable[bytes] = ()) -> bool:
        """Look for others that define the guards of files; whether there are more than known before."""
        guards = {guard for each in files if (guard := self._outline(each).guard)}.union(more) - self._asked
        self._asked |= guards
        doubtful = self._defined_twice(guards) if guards else frozenset()
        if doubtful:
            self._doubtful |= doubtful
            self._closures.clear()
        return bool(doubtful)

    def _is_nothing(self, path: str | None, entered: frozenset[str]) -> bool:
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
        owned: set[bytes | None] = set()
        for path, words in self._find(guards).items():
            text = self._read(path)
            own = above(text, frozenset()).guard
            if own in words:
                doubtful |= {own} & owned
                owned.add(own)
            doubtful |= (words - {own}) & sets(text) if words - {own} else set()
        return frozenset(doubtful)

    def _outline(self, path: str) -> Outline:
        if path not in self._outlines:
            self._outlines[path] = outline(self._read(path))
        return self._outlines[path]

    def _read(self, path: str) -> bytes:
        if path in self._files:
            return self._settled(self._files[path] or b"")
        tree = self._place.source if self._is_source(path) else self._place.build
        return self._settled((tree / path).read_bytes())

    def _resolve(self, file: str, text: bytes) -> str | None:
        """The file that a line of `file` includes, if it is the same for all units."""
        name = os.fsdecode(text[1:-1])
        if text.startswith(b'"'):
            beside = posixpath.normpath(posixpath.join(posixpath.dirname(file), name))
            tree = self._place.source if self._is_source(file) else self._place.build
            if self._exists(beside, tree):
                return beside
            if not self._quoted:
                return None
        return self._searched(name)

    def _search(self, name: str) -> str | None:
        """The file of this name in the first directories of the search path."""
        for folder in self._folders:
            path = None if folder is None else posixpath.normpath(f"{folder}/{name}")
            if path is None or path.startswith(".."):
                return None
            if any(map(partial(self._exists, path), self._trees)):
                return path
        return None

    def _is_source(self, path: str) -> bool:
        return path in self._files or os.path.isfile(f"{self._place.source}/{path}")

    def _exists(self, path: str, tree: Path) -> bool:
        if path in self._files:
            return self._files[path] is not None
        return os.path.isfile(f"{tree}/{path}")

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

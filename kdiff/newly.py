# SPDX-License-Identifier: Apache-2.0
"""What it can matter to that a header includes more than it did, or that it does so earlier.

What is read anew declares names. A macro among them changes what mentions it, unless that has certainly read
the same file before in any case. A static inline function or a type that comes into sight changes nothing:
what mentions it in code has compiled, so it has had it from this file already, or means something of its own.
A macro that others set may change what is read, so all that see one count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from kdiff.certain import Certain
from kdiff.macros import Macro, Part, may_be_called
from kdiff.parts import CONDITIONS, kind_of
from kdiff.pastes import Paste
from kdiff.pointers import Name, is_new
from kdiff.sight import Sight
from kdiff.values import dataclass

_WORD = re.compile(rb"\w+")
_NO_WORDS: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Newly:
    """What is read anew: `files`, and those `names` of theirs that matter.

    `others` are files that set one of these names, too; `units` may see what is read anew in another way.
    """

    files: frozenset[str]
    names: frozenset[Name]
    others: frozenset[str]
    units: int


NOTHING = Newly(frozenset(), frozenset(), frozenset(), 0)


def newly(
    lines: Mapping[str, Iterable[bytes]],
    certain: Certain,
    sight: Sight,
    parts: Callable[[str], Iterable[Part]],
) -> Newly | None:
    """What comes with the lines of headers that include these texts; None if that cannot be told."""
    found: set[str] = set()
    known: frozenset[str] | None = None
    for header, included in lines.items():
        for text in included:
            files = certain.newly(header, text)
            if files is None:
                return None
            before = certain.before(header, text)
            known = before if known is None else known & before
            found |= files
    if known is None or not found:
        return NOTHING
    names: set[Name] = set()
    words: set[bytes] = set()
    for part in (part for path in found for part in parts(path)):
        if part.text.startswith(b"#") and part.declares is not None:
            names.update(map(Name, part.declares))
            continue
        words.update(_WORD.findall(part.text))
        if part.declares is None and kind_of(part.text) not in CONDITIONS:
            return None
        if not is_new(part):
            names.update(map(Name, part.declares or ()))
    units = 0
    for path in sight.setting(words) - found - known:
        units |= sight.units(path)
    others = sight.setting(name.word for name in names) - found
    return Newly(frozenset(found), frozenset(names), others, units)


class Uncovered:
    """What units see of files that have not certainly read what is read anew before."""

    def __init__(
        self,
        sight: Sight,
        certain: Certain,
        files: frozenset[str],
        parts: Callable[[str], Iterable[Part]],
        define: Callable[[Iterable[bytes]], Iterable[Macro]],
    ) -> None:
        self._sight, self._certain, self._files = sight, certain, files
        self._parts, self._define = parts, define
        self._covered: dict[str, bool] = dict.fromkeys(files, True)

    def units(self, file: str) -> int:
        """The units that may see a file, as bits; none if it has read all before its first declaration."""
        self.ask([file])
        return 0 if self._covered[file] else self._sight.units(file)

    def ask(self, files: Iterable[str]) -> None:
        """Find out about all of these at once."""
        asked = {file: _NO_WORDS for file in files if file not in self._covered}
        covered = self._certain.covered(asked, self._files) if asked else frozenset()
        self._covered |= {file: file in covered for file in asked}

    def find(self, words: Iterable[bytes]) -> Mapping[str, frozenset[bytes]]:
        """For each file that a unit may see, which of some words it has before it has read all."""
        found = self._sight.find(words)
        covered = self._certain.covered(found, self._files) | self._files
        return {
            file: matter
            for file, here in found.items()
            if file not in covered and (matter := frozenset(w for w in here if self._matters(file, w)))
        }

    def _matters(self, file: str, word: bytes) -> bool:
        """Whether a file may expand a macro, or ask about it."""
        named = [part for part in self._parts(file) if re.search(rb"\b%b\b" % word, part.text)]
        if any(part.text.startswith(b"#") for part in named) or not all(
            macro.called for macro in self._define([word])
        ):
            return bool(named)
        return any(may_be_called(part.text, word, self._define) for part in named)


Pasted = Callable[[Iterable[bytes]], Iterable[Paste]]


class Partly:
    """All that units see, but of some names only what is uncovered."""

    def __init__(
        self,
        sight: Sight,
        uncovered: Uncovered,
        names: frozenset[bytes],
        pasted: Pasted,
        pasted_there: Pasted,
    ) -> None:
        """`pasted`: where macros may make a name; `pasted_there`: where they may in what is uncovered."""
        self._sight, self._uncovered, self._names = sight, uncovered, names
        self._pasted, self._pasted_there = pasted, pasted_there

    def units(self, file: str) -> int:
        """The units that may see a file, as bits."""
        return self._sight.units(file)

    def find(self, words: Iterable[bytes]) -> Mapping[str, frozenset[bytes]]:
        """For each file that a unit may see, which of some words it has."""
        words = frozenset(words)
        found: dict[str, frozenset[bytes]] = {}
        for view, asked in ((self._sight, words - self._names), (self._uncovered, words & self._names)):
            for file, here in view.find(asked).items() if asked else ():
                found[file] = found.get(file, frozenset()) | here
        return found

    def pasted(self, words: Iterable[bytes]) -> Iterator[Paste]:
        """The places where macros may make one of some names."""
        words = frozenset(words)
        for pasted, asked in ((self._pasted, words - self._names), (self._pasted_there, words & self._names)):
            yield from pasted(asked) if asked else ()

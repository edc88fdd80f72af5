# SPDX-License-Identifier: Apache-2.0
"""Which units may see a file, going by `#include` lines alone; and a search for words in what any may see.

Sets of units are integers, a bit for each: there are thousands of units and tens of thousands of files.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from kdiff.includes import Includes, folders, run_grep, texts
from kdiff.workplace import Workplace

_WORD = re.compile(rb"\w+")
_SET = rb"#[[:space:]]*(define|undef)[[:space:]]+%b"
_GUARD = rb"#[[:space:]]*if(ndef|[[:space:]]*![[:space:]]*defined)[^[:alnum:]_]*\w+"
_FEW = 32
"""More macros than this, in all, are looked up in a list."""
_AT_ONCE = 10_000
"""So many names of files fit onto a command line."""


class Sight:
    """What a set of units may see of a kernel's source and of the headers that its build has made."""

    def __init__(
        self, place: Workplace, includes: Includes, units: Iterable[str], forced: Collection[str] = ()
    ) -> None:
        """`forced`: last names of headers that the command line makes every unit include."""
        self._units = sorted(units)
        self.every = (1 << len(self._units)) - 1
        _, (build, below) = folders(place)
        self._trees = {place.source: includes.sources, build: sorted(texts(build, below))}
        self._seen = {name: 0 for names in self._trees.values() for name in names}
        self._seen |= {unit: 1 << bit for bit, unit in enumerate(self._units)}
        always = [name for name in self._seen if os.path.basename(name) in forced]
        self._seen |= dict.fromkeys(always, self.every)
        self._remembered: dict[bytes, set[str]] = {}
        """The files that have some words that have been looked for."""
        self._asked = 0
        self._known: Mapping[bytes, set[bytes]] | None = None
        """The files that set macros, by their names, once so many have been asked for."""
        self._spread(includes, {*self._units, *always})

    def _spread(self, includes: Includes, waiting: set[str]) -> None:
        """Let each file be seen by all that see a file which may include it; some are `waiting` to tell."""
        included: dict[str, list[str]] = defaultdict(list)
        for name in self._seen:
            for file in includes.naming(name):
                included[file].append(name)
        while waiting:
            reached = set()
            for file in waiting:
                units = self._seen.get(file, 0)
                for name in included[file]:
                    if units & ~self._seen[name]:
                        self._seen[name] |= units
                        reached.add(name)
            waiting = reached

    def units(self, file: str) -> int:
        """The units that may see a file, as bits."""
        return self._seen.get(file, 0)

    def bits(self, units: Collection[str]) -> int:
        """Some units as bits."""
        return sum(1 << bit for bit, unit in enumerate(self._units) if unit in units)

    def names(self, units: int) -> frozenset[str]:
        """The units that bits stand for."""
        return frozenset(unit for bit, unit in enumerate(self._units) if units >> bit & 1)

    def find(self, words: Iterable[bytes]) -> Mapping[str, frozenset[bytes]]:
        """For each file that a unit may see, which of some words it has."""
        words = frozenset(words)
        found: dict[str, set[bytes]] = defaultdict(set)
        for word in words & self._remembered.keys():
            for file in self._remembered[word]:
                found[file].add(word)
        words -= self._remembered.keys()
        if not words:
            return {file: frozenset(each) for file, each in found.items()}
        patterns = b"".join(word + b"\n" for word in sorted(words))
        for line in self._lines("-HIowF", patterns):
            path, _, word = line.rpartition(b":")
            found[os.fsdecode(path)].add(word)
        return {file: frozenset(each) for file, each in found.items()}

    def remember_guards(self) -> None:
        """Look for all macros that headers ask for first, so that they need not be looked for one by one."""
        guards = {name for line in self._lines("-hIoEm1", _GUARD) for name in _WORD.findall(line)[-1:]}
        found = self.find(guards)
        self._remembered |= {guard: set() for guard in guards}
        for file, words in found.items():
            for word in words:
                self._remembered[word].add(file)

    def containing(self, text: bytes) -> list[str]:
        """The files that a unit may see and that contain a text."""
        return [os.fsdecode(line) for line in self._lines("-lIF", text + b"\n")]

    def setting(self, macros: Iterable[bytes]) -> frozenset[str]:
        """The files that a unit may see and that define one of some macros, or take it away."""
        macros = frozenset(macros)
        self._asked += len(macros)
        if self._asked > _FEW or self._known is not None:
            self._known = known = self._known or self._settings(rb"\w+")
        else:
            known = self._settings(b"(%b)" % b"|".join(sorted(macros))) if macros else {}
        return frozenset(os.fsdecode(file) for macro in macros for file in known.get(macro, ()))

    def _settings(self, pattern: bytes) -> Mapping[bytes, set[bytes]]:
        """The files that set macros, by their names."""
        found: dict[bytes, set[bytes]] = defaultdict(set)
        for text in self._grep("-HIowE", _SET % pattern):
            for line in text.splitlines():
                file, _, setting = line.partition(b":")
                found[setting.split()[-1]].add(file)
        return found

    def _lines(self, flags: str, patterns: bytes) -> Iterator[bytes]:
        """What grep prints of the files that a unit may see, each line once."""
        for text in self._grep(flags, patterns):
            yield from set(text.splitlines())

    def _grep(self, flags: str, patterns: bytes) -> Iterator[bytes]:
        for tree, names in self._trees.items():
            seen = [name for name in names if self._seen[name]]
            for start in range(0, len(seen), _AT_ONCE):
                part = seen[start : start + _AT_ONCE]
                yield run_grep([flags, "-f", "-", "--", *part], tree, patterns)

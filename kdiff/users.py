# SPDX-License-Identifier: Apache-2.0
"""Which units mention what changes in headers; all that may include them, where names do not tell.

Branches that the configuration rules out are no change (`kdiff.configured`). Units of C and of assembly see
different ones. Of a unit that may see an option set in another way, as by a `#define` of its own, nothing is
known in advance, so all branches count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache, cached_property

from kdiff.certain import Certain
from kdiff.configured import ASKING, Configured, disputed, options
from kdiff.edits import Files
from kdiff.includes import Includes, forced
from kdiff.macros import GLUE, Macro, Part
from kdiff.mentions import Change, change, mentioning
from kdiff.newly import Newly, Partly, Uncovered, newly
from kdiff.parts import chunks, definitions, directives
from kdiff.pastes import Paste, Pastes
from kdiff.pointers import Name
from kdiff.sight import Sight
from kdiff.units import Commands
from kdiff.workplace import Workplace

_GIVEN = re.compile(r"(?<!\S)-[DU]\s*(\w+)")
"""What a command line defines or takes away."""
_ASSEMBLY = b"__ASSEMBLY__"
_FEW = 16
"""So few units of assembly, or doubtful ones, are sooner judged than names are searched for: they see much
of the kernel, and those of C have been searched.
"""
_OF_C = Configured({}, frozenset({_ASSEMBLY}))
"""What is known of conditions in all files that units of C see."""
_OWN = frozenset({"include/generated/autoconf.h", "include/linux/kconfig.h"})
"""Where options, and what asks about them, are defined for all units."""

Changes = Mapping[str, Change]
"""By the header's path."""


def users(
    place: Workplace, includes: Includes, paths: Iterable[str], files: Files, wanted: Commands
) -> list[str]:
    """Those of the `wanted` units to which it can matter what `files` make of `paths`.

    First come those that name themselves what changes, as it is most likely to matter to them.
    """
    sight = Sight(place, includes, wanted, forced(place))
    search = _Search(place, includes, files, wanted, sight)
    groups = _groups(place, paths, files, wanted, sight)
    found: set[str] = set()
    for changes, units, known in groups:
        mention = search.users(changes, units, known) if any(changes.values()) else frozenset()
        found |= units if mention is None else units & mention
    words = {name.word for changes, *_ in groups for each in changes.values() for name in each.names or ()}
    naming = sight.find(words) if found and words else {}
    return sorted(found, key=lambda unit: (unit not in naming, unit))


def given(commands: Iterable[str]) -> frozenset[bytes]:
    """The macros that command lines define, or take away."""
    return frozenset(name.encode() for command in commands for name in _GIVEN.findall(command))


def pristine(place: Workplace, path: str) -> bytes:
    """A header's contents, none for one that the patch adds."""
    file = place.source / path
    return file.read_bytes() if file.exists() else b""


def _groups(
    place: Workplace, paths: Iterable[str], files: Files, wanted: Commands, sight: Sight
) -> list[tuple[Changes, frozenset[str], Configured]]:
    """The units for which the same changes: of C, of assembly, and those that may have other options set.

    With each what is known of conditions in all files that they see.
    """
    texts = {path: (pristine(place, path), files[path] or b"") for path in paths}
    words = frozenset(word for both in texts.values() for word in disputed(*both))
    defined = options(place.build)
    asked = frozenset(word for word in words if defined and word.startswith(b"CONFIG_"))
    macros = {unit: given([command]) for unit, command in wanted.items()}
    doubtful = {
        unit for unit, command in wanted.items() if "kconfig.h" not in command or asked & macros[unit]
    }
    for file in sight.setting(asked | words & ASKING | {_ASSEMBLY}) - _OWN:
        doubtful |= sight.names(sight.units(file))
    assembly = {unit for unit in wanted if _ASSEMBLY in macros[unit]} - doubtful
    early = forced(place)

    def seen(more: Mapping[bytes, bytes]) -> Changes:
        known = Configured({**defined, **more}, asked | {_ASSEMBLY})
        return {
            path: change(*both if os.path.basename(path) in early else map(known.settled, both))
            for path, both in texts.items()
        }

    return [
        (seen({}), frozenset(wanted) - doubtful - assembly, _OF_C),
        (
            seen({_ASSEMBLY: b"1"}),
            frozenset(assembly),
            Configured({_ASSEMBLY: b"1"}, _OF_C.asked),
        ),
        (
            {path: change(*both) for path, both in texts.items()},
            frozenset(doubtful),
            Configured({}, frozenset()),
        ),
    ]


class _Search:
    """The search for names in all that some units may see."""

    def __init__(
        self, place: Workplace, includes: Includes, files: Files, wanted: Commands, sight: Sight
    ) -> None:
        self._place, self._includes, self._files = place, includes, files
        self._wanted, self._sight = wanted, sight
        self._patched = frozenset(path for path in files if sight.units(path))
        self.parts, self.macros = cache(self._parts), cache(self._macros)

    def users(self, changes: Changes, units: Collection[str], known: Configured) -> frozenset[str] | None:
        """Those of the units that mention what changes; None if names do not tell."""
        few = len(units) <= _FEW and known != _OF_C
        anew = None if few else self._anew(changes, known)
        if anew is None:
            return None
        names = frozenset(name for each in changes.values() for name in each.names or ())
        new = (word for each in changes.values() for word in each.new)
        names |= frozenset(Name(word) for word in new if word in self._given or self._sight.setting([word]))
        every = self._sight.bits(units)
        mention = self._mention(names, anew, every, known)
        if mention is None:
            return None
        words = [name.word.decode() for name in names | anew.names]
        return self._sight.names(mention | anew.units & every) | {
            unit for unit in units if any(word in self._wanted[unit] for word in words)
        }

    def _mention(self, names: frozenset[Name], anew: Newly, every: int, known: Configured) -> int | None:
        """Those of `every` unit that mention what changes or is read anew; None if names do not tell."""
        sight = self._sight
        words = {name.word for name in names}
        words |= {macro.name for path in anew.others for macro in self.macros(path)}
        only = frozenset(name.word for name in anew.names if name.word not in words)
        if not only:
            return mentioning(names | anew.names, every, sight, self.parts, self._pasted)
        sight.remember_guards()
        certain = self._certain({}, known)
        uncovered = Uncovered(sight, certain, anew.files, self.parts, self._define)
        uncovered.ask(sight.containing(GLUE))

        @cache
        def there() -> Pastes:
            return self._pastes(uncovered.units)

        seen = Partly(sight, uncovered, only, self._pasted, lambda words: there().of(words))
        return mentioning(names | anew.names, every, seen, self.parts, seen.pasted)

    def _anew(self, changes: Changes, known: Configured) -> Newly | None:
        """What is read that was not; None if names do not tell what changes, or something is read no more."""
        if any(each.names is None for each in changes.values()):
            return None
        before = self._certain({}, known)
        if not all(before.repeats(path, each.before) for path, each in changes.items()):
            return None
        after = self._certain(self._files, known)
        lines = {path: each.after for path, each in changes.items() if not after.repeats(path, each.after)}
        return newly(lines, after, self._sight, self.parts)

    def _certain(self, files: Files, known: Configured) -> Certain:
        return Certain(
            self._place, self._wanted, files, self._includes.reaching, self._sight.find, known.settled
        )

    @cached_property
    def _pasted(self) -> Callable[[Iterable[bytes]], Iterable[Paste]]:
        return self._pastes(self._sight.units).of

    def _pastes(self, seen: Callable[[str], int]) -> Pastes:
        sight = self._sight
        pasting = (
            (path, macro)
            for path in frozenset(sight.containing(GLUE)) | self._patched
            for macro in self.macros(path)
            if GLUE in macro.body
        )
        return Pastes(pasting, sight.find, self.parts, self._define, seen, self._given)

    @cached_property
    def _given(self) -> frozenset[bytes]:
        return given(self._wanted.values())

    def _define(self, words: Iterable[bytes]) -> Iterator[Macro]:
        """All definitions of some macros that units may see."""
        asked = frozenset(words)
        for path in self._sight.setting(asked) | self._patched:
            yield from (macro for macro in self.macros(path) if macro.name in asked)

    def _versions(self, path: str) -> Iterator[bytes]:
        """The contents of a file, and what the patch makes of them."""
        if path in self._files or (self._place.source / path).exists():
            yield pristine(self._place, path)
        else:
            yield (self._place.build / path).read_bytes()
        if path in self._files:
            yield self._files[path] or b""

    def _parts(self, path: str) -> list[Part]:
        cut = directives if path in self._wanted else chunks
        return [part for text in self._versions(path) for part in cut(text)]

    def _macros(self, path: str) -> list[Macro]:
        return [macro for text in self._versions(path) for macro in definitions(text)]

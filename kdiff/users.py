# SPDX-License-Identifier: Apache-2.0
"""Which units mention what changes in headers; all that may include them, where names do not tell.

Branches that the configuration rules out are no change (`kdiff.configured`). Units of C and of assembly see
different ones. Of a unit that may see an option set in another way, as by a `#define` of its own, nothing is
known in advance, so all branches count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache

from kdiff.certain import Certain
from kdiff.configured import ASKING, Configured, disputed, options
from kdiff.edits import Files
from kdiff.includes import Includes, forced
from kdiff.macros import GLUE, Macro, Part
from kdiff.mentions import Change, change, mentioning
from kdiff.parts import chunks, definitions, directives
from kdiff.pastes import Paste, Pastes
from kdiff.sight import Sight
from kdiff.units import Commands
from kdiff.workplace import Workplace

_GIVEN = re.compile(r"(?<!\S)-[DU]\s*(\w+)")
"""What a command line defines or takes away."""
_ASSEMBLY = b"__ASSEMBLY__"
_FEW = 16
"""So few units are sooner judged than names are searched for."""
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
    for changes, units in groups:
        mention = search.users(changes, units) if any(changes.values()) else frozenset()
        found |= units if mention is None else units & mention
    words = {name.word for changes, _ in groups for each in changes.values() for name in each.names or ()}
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
) -> list[tuple[Changes, frozenset[str]]]:
    """The units for which the same changes: of C, of assembly, and those that may have other options set."""
    texts = {path: (pristine(place, path), files[path] or b"") for path in paths}
    words = frozenset(word for both in texts.values() for word in disputed(*both))
    defined = options(place.build)
    asked = frozenset(word for word in words if defined and word.startswith(b"CONFIG_"))
    macros = {unit: given([command]) for unit, command in wanted.items()}
    doubtful = {
        unit for unit, command in wanted.items() if "kconfig.h" not in command or asked & macros[unit]
    }
    for file in sight.setting(asked | words & {*ASKING, _ASSEMBLY}) - _OWN:
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
        (seen({}), frozenset(wanted) - doubtful - assembly),
        (seen({_ASSEMBLY: b"1"}), frozenset(assembly)),
        ({path: change(*both) for path, both in texts.items()}, frozenset(doubtful)),
    ]


class _Search:
    """The search for names in all that some units may see."""

    def __init__(
        self, place: Workplace, includes: Includes, files: Files, wanted: Commands, sight: Sight
    ) -> None:
        self._place, self._includes, self._files = place, includes, files
        self._wanted, self._sight = wanted, sight
        self.parts, self.macros = cache(self._parts), cache(self._macros)
        self._pastes: Pastes | None = None

    def users(self, changes: Changes, units: Collection[str]) -> frozenset[str] | None:
        """Those of the units that mention what changes; None if names do not tell."""
        if len(units) <= _FEW or not self._tell(changes):
            return None
        names = frozenset(name for each in changes.values() for name in each.names or ())
        sight = self._sight
        mention = mentioning(names, sight.bits(units), sight, self.parts, self._pasted)
        if mention is None:
            return None
        words = [name.word.decode() for name in names]
        return sight.names(mention) | {
            unit for unit in units if any(word in self._wanted[unit] for word in words)
        }

    def _tell(self, changes: Changes) -> bool:
        """Whether names are all that changes: nothing is read that was not, or not any more."""
        if any(each.names is None for each in changes.values()):
            return False
        around = frozenset().union(*map(self._includes.reaching, changes))
        for version in ({}, self._files):
            certain = Certain(self._place, self._wanted, version, around, self._sight.find)
            for path, each in changes.items():
                if not certain.repeats(path, each.after if version else each.before):
                    return False
        return True

    def _pasted(self, words: Iterable[bytes]) -> Iterable[Paste]:
        if self._pastes is None:
            patched = frozenset(path for path in self._files if self._sight.units(path))

            def define(words: Iterable[bytes]) -> Iterator[Macro]:
                asked = frozenset(words)
                for path in self._sight.setting(asked) | patched:
                    yield from (macro for macro in self.macros(path) if macro.name in asked)

            pasting = (
                (path, macro)
                for path in frozenset(self._sight.containing(GLUE)) | patched
                for macro in self.macros(path)
                if GLUE in macro.body
            )
            self._pastes = Pastes(
                pasting, self._sight.find, self.parts, define, self._sight.units, given(self._wanted.values())
            )
        return self._pastes.of(words)

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

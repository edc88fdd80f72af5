# SPDX-License-Identifier: Apache-2.0
"""Which names a header's change is about, going by text, so that units that mention none need no compiler.

A header is cut into chunks: macros and external declarations, without comments. If only static inline
functions, macros, structures and the like change, a unit is affected only if it mentions one of their
names, or a name whose own chunk mentions one; where a chunk may do more than declare, all that include its
file are. Names that macros paste together are mentioned where they are pasted (`kdiff.pastes`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Protocol

from kdiff.macros import Part
from kdiff.pastes import Paste
from kdiff.preprocess import bounds, declared

_COMMENT = re.compile(rb"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
_DIRECTIVE = re.compile(rb"^[ \t]*#(?:[^\n\\]|\\[ \t]*\n|\\)*\n?", re.MULTILINE)
_MACRO = re.compile(rb"[ \t]*#[ \t]*(?:define|undef)[ \t]+(\w+)")
_NUMBER = re.compile(rb"[ \t]*#[ \t]*line\b")
_WORD = re.compile(rb"\w+")
_MOST_NAMES = 200
"""When so many names are affected, looking for them saves nothing."""
_FEW = 100

Names = frozenset[bytes] | None


def chunks(text: bytes) -> list[Part]:
    """The parts of a header with the names each declares, None if it may do more; `#line` is no part."""
    *parts, (whole, _) = directives(text)
    for left, right in pairwise(bounds(whole)):
        part = whole[left:right].strip()
        if part:
            parts.append(Part(part, declared(part, expanded=False)))
    return parts


def directives(text: bytes) -> list[Part]:
    """The same with all code in one last part."""
    bare = _COMMENT.sub(lambda found: b" " if found[0].startswith(b"/") else found[0], text)
    parts: list[Part] = []
    code: list[bytes] = []
    end = 0
    for found in _DIRECTIVE.finditer(bare):
        macro = _MACRO.match(found[0])
        if not _NUMBER.match(found[0]):
            parts.append(Part(found[0].strip(), frozenset({macro[1]}) if macro else None))
        code.append(bare[end : found.start()])
        end = found.end()
    return [*parts, Part(b"".join([*code, bare[end:]]), None)]


def changed_names(pre: bytes, post: bytes) -> frozenset[bytes] | None:
    """The names of all chunks that differ between two versions of a header; None if these are not all."""
    old, new = (Counter(chunks(text)) for text in (pre, post))
    names: set[bytes] = set()
    for _, declares in (*(old - new), *(new - old)):
        if declares is None:
            return None
        names |= declares
    return frozenset(names)


class Seen(Protocol):
    """What units see: `kdiff.sight.Sight`."""

    def units(self, file: str) -> int:
        """The units that may see a file, as bits."""

    def find(self, words: Iterable[bytes]) -> Mapping[str, frozenset[bytes]]:
        """For each file that a unit may see, which of some words it has."""


def mentioning(
    names: Iterable[bytes],
    every: int,
    seen: Seen,
    read: Callable[[str], Iterable[Part]],
    pasted: Callable[[Iterable[bytes]], Iterable[Paste]],
) -> int | None:
    """Those of `every` unit, all as bits, that may use the names; None if names do not tell.

    `read` gives the parts of a file (of both versions, if it changes), `pasted` the places where macros may
    make one of some names. A place that few may see is not followed further: all of them are users.
    """
    affected: dict[bytes, int] = {}
    waiting = dict.fromkeys(names, every)
    users = 0
    while waiting:
        for name, units in waiting.items():
            affected[name] = affected.get(name, 0) | units
        if len(affected) > _MOST_NAMES:
            return None
        places: list[tuple[Names, int]] = []
        for paste in pasted(waiting):
            units = paste.units & waiting[paste.name]
            places.append((paste.part.declares if units.bit_count() > _FEW else None, units))
        for file, words in seen.find(waiting).items():
            for part in read(file):
                uses = words & set(_WORD.findall(part.text))
                places.append(
                    (part.declares, seen.units(file) & reduce(or_, (waiting[each] for each in uses), 0))
                )
        waiting = {}
        for declares, units in places:
            if declares is None:
                users |= units
            for name in declares or ():
                if units & ~affected.get(name, 0):
                    waiting[name] = waiting.get(name, 0) | units
    return users

# SPDX-License-Identifier: Apache-2.0
"""Which names a header's change is about, going by text, so that units that mention none need no compiler.

Headers are compared part by part (`kdiff.parts`), in their order. If only static inline functions, macros,
structures and the like change, come, go or move, a unit is affected only if it mentions one of their names,
or a name whose own part mentions one; where a part may do more than declare, all that include its file are.
Of a structure whose members change it is enough to follow who may look into one, of a function whose body
changes, who may call it (`kdiff.pointers`). Of two parts that change places either one tells: what one has to
do with the other, its text says. Names that macros paste together are mentioned where they are pasted
(`kdiff.pastes`); what is included, or not any more, is told apart (`kdiff.certain`, `kdiff.newly`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from functools import reduce
from operator import or_
from typing import Protocol

from kdiff.macros import Part
from kdiff.parts import Placed, placed
from kdiff.pastes import Paste
from kdiff.pointers import Kind, Name, Names, calling, is_new, knowing, named, rewritten
from kdiff.values import dataclass

_WORD = re.compile(rb"\w+")
_MOST_NAMES = 200
"""When so many names are affected, looking for them saves nothing."""
_FEW = 100
_TEXTS = (Kind.ANY, Kind.LAYOUT, Kind.VALUE)
"""Names of what matters to more than code that calls it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between two versions of a header.

    `names`: all that the parts declare which come, go or move; None if these are not all. `before` and
    `after`: what the `#include` lines among them include. `new`: functions and types that were not there;
    what names them in code has compiled without them, so it means something else, unless there are macros.
    """

    names: Names
    before: frozenset[bytes] = frozenset()
    after: frozenset[bytes] = frozenset()
    new: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        """Whether anything differs at all."""
        return self.names is None or bool(self.names or self.before or self.after or self.new)


def change(pre: bytes, post: bytes) -> Change:
    """Compare two versions of a header, part by part, each with the conditions around it and inside."""
    old, new = placed(pre), placed(post)
    edits = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    gone = [each for what, a, b, _, _ in edits if what != "equal" for each in old[a:b]]
    come = [each for what, _, _, a, b in edits if what != "equal" for each in new[a:b]]
    bodies = _rewritten(gone, come)
    there = frozenset(name for each in old for name in each.part.declares or ())
    added = {
        each.part.declares
        for each in come
        if each.part.declares and there.isdisjoint(each.part.declares) and is_new(each.part)
    }
    declared = [named(each.part) for each in gone + come if each.part.declares not in bodies | added]
    before, after = (frozenset(filter(None, (each.include for each in side))) for side in (gone, come))
    names = None if None in declared else frozenset(name for names in declared for name in names or ())
    if names is not None:
        names |= {Name(word, Kind.CODE) for body in bodies for word in body}
    return Change(names, before, after, frozenset(name for names in added for name in names))


def _rewritten(gone: Iterable[Placed], come: Iterable[Placed]) -> set[frozenset[bytes]]:
    """What each function declares of which nothing but the body changes."""
    sides: defaultdict[frozenset[bytes] | None, tuple[list[Placed], list[Placed]]] = defaultdict(
        lambda: ([], [])
    )
    for number, side in enumerate((gone, come)):
        for each in side:
            sides[each.part.declares][number].append(each)
    return {
        declares
        for declares, (old, new) in sides.items()
        if declares and len(old) == len(new) == 1 and old[0].under == new[0].under
        if rewritten(old[0].part, new[0].part)
    }


class Seen(Protocol):
    """What units see: `kdiff.sight.Sight`."""

    def units(self, file: str) -> int:
        """The units that may see a file, as bits."""

    def find(self, words: Iterable[bytes]) -> Mapping[str, frozenset[bytes]]:
        """For each file that a unit may see, which of some words it has."""


def mentioning(
    names: Iterable[Name],
    every: int,
    seen: Seen,
    read: Callable[[str], Iterable[Part]],
    pasted: Callable[[Iterable[bytes]], Iterable[Paste]],
) -> int | None:
    """Those of `every` unit, all as bits, that may use the names; None if names do not tell.

    `read` gives the parts of a file (of both versions, if it changes), `pasted` the places where macros may
    make one of some names. A place that few may see is not followed further: all of them are users.
    """
    affected: dict[Name, int] = {}
    waiting = dict.fromkeys(names, every)
    users = 0
    while waiting:
        for name, units in waiting.items():
            affected[name] = affected.get(name, 0) | units
        if len(affected) > _MOST_NAMES:
            return None
        words = {name.word for name in waiting}

        def who(uses: Iterable[bytes], *kinds: Kind, asking: Mapping[Name, int] = waiting) -> int:
            return reduce(or_, (asking.get(Name(word, kind), 0) for word in uses for kind in kinds), 0)

        places: list[tuple[Names, int]] = []
        for paste in pasted(words):
            for kinds, names_of in ((_TEXTS, named), ((Kind.CODE,), calling)):
                units = paste.units & who([paste.name], *kinds)
                places.append((names_of(paste.part) if units.bit_count() > _FEW else None, units))
        for file, found in seen.find(words).items():
            may = seen.units(file)
            for part in read(file):
                uses = found & set(_WORD.findall(part.text))
                if units := may & who(uses, Kind.ANY):
                    plain = frozenset(word for word in uses if Name(word) in waiting)
                    places.append((named(part, plain), units))
                if units := may & who(uses, Kind.CODE):
                    places.append((calling(part), units))
                if units := may & who(uses, Kind.LAYOUT, Kind.VALUE):
                    tags, values = (
                        frozenset(word for word in uses if Name(word, kind) in waiting)
                        for kind in (Kind.LAYOUT, Kind.VALUE)
                    )
                    places.append((knowing(part, tags, values), units))
        waiting = {}
        for declares, units in places:
            if declares is None:
                users |= units
            for name in declares or ():
                if units & ~affected.get(name, 0):
                    waiting[name] = waiting.get(name, 0) | units
    return users

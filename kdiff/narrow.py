# SPDX-License-Identifier: Apache-2.0
"""Cut two large objects down to what differs and what that depends on, before any graph is made.

In: two `Object`s, such as whole vmlinux.o files. Out: a `Narrowed`: two small objects, whose sections are
ranges of the large ones, and which sections of theirs are the same thing; or nothing, where columns cannot
tell. What is cut off is equal in both, and nothing that is kept depends on how it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kdiff.arch import Architecture
from kdiff.atoms import Atoms, Names
from kdiff.calls import Calls
from kdiff.cutout import Part, cut_out
from kdiff.elf.read import SHF_WRITE, Column, Object
from kdiff.habits import Habits
from kdiff.kernel import SpecialSection
from kdiff.matched import Matched, match
from kdiff.naming import is_fragment, is_numbered, stem
from kdiff.reach import reach, rows_of, rows_to, rows_without_owner, sources
from kdiff.values import dataclass

LARGE = 1 << 16
"""Relocations of an object from which on it is cut down first: below, graphs of all that is not alike do."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """`places`: (section, offset) of pre -> that of post, of what is the same thing, changed or not."""

    pre: Object
    post: Object
    places: Mapping[tuple[int, int], tuple[int, int]]


def narrow(
    pre: Object, post: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits
) -> Narrowed | None:
    """Cut both down; None for small objects, and for those with debugging information or implicit addends."""
    if not is_large(pre, post) or not all(map(_is_plain, (pre, post))):
        return None
    names = Names()
    one, other = Atoms(pre, arch, special, names), Atoms(post, arch, special, names)
    kept = _Kept(one, other, match(one, other), habits)
    parts = kept.parts()
    if parts is None:
        return None
    small = [cut_out(side, part) for side, part in zip((one, other), parts, strict=True)]
    anchors = {
        small[0].places[atom]: small[1].places[there]
        for atom, there in kept.anchors(parts[0])
        if atom in small[0].places and there in small[1].places
    }
    return Narrowed(small[0].obj, small[1].obj, anchors)


def is_large(pre: Object, post: Object) -> bool:
    """Whether two objects are so large that they are cut down first."""
    return min(len(pre.relocations), len(post.relocations)) >= LARGE


def _is_plain(obj: Object) -> bool:
    names = bytes(obj.contents(obj.section_names))
    return not obj.relocations["implicit"].any() and b".debug_info" not in names


Both = tuple[Column, Column]


class _Kept:
    """Which atoms are kept. Both objects are looked at together: what one keeps, the other does."""

    def __init__(self, pre: Atoms, post: Atoms, matched: Matched, habits: Habits) -> None:
        self.sides, self.matched, self.habits = (pre, post), matched, habits
        self.calls = Calls(pre, post, matched, habits)
        self.owning = tuple(_entry_edges(side) for side in self.sides)
        self.whole = tuple((side.merged | side.is_table | side.dropped)[side.section] for side in self.sides)
        self._follows = tuple(np.full(len(side.start), -1, "i1") for side in self.sides)
        """Whether an atom goes where the code goes that refers to it, -1: not asked yet."""
        self.unsure = [np.zeros(len(side.start), bool) for side in self.sides]
        self._known_sources, self._known_targets = (
            [(np.zeros(len(side.start), bool), np.zeros(len(side.start) + 1, bool)) for side in self.sides]
            for _ in range(2)
        )
        """Atoms that were asked about, and the answer; the last one of it stands for none."""
        alone = [_ownerless(side) for side in self.sides]
        dirty = self.different = self._different()
        while True:
            self.kept = self._closed(dirty)
            self.reached = self._shared(
                *(self._targets(n, part) | alone[n] for n, part in enumerate(self.kept))
            )
            guessed = self._guessed()
            self.unsure = [old | new for old, new in zip(self.unsure, guessed, strict=True)]
            if not any((new & ~old).any() for new, old in zip(guessed, dirty, strict=True)):
                break
            dirty = (dirty[0] | guessed[0], dirty[1] | guessed[1])

    def _different(self) -> Both:
        same = self.matched.same | self.whole[0]
        paired = self.matched.to_pre >= 0
        there = paired & same[np.maximum(self.matched.to_pre, 0)]
        return ~same, ~there & ~self.whole[1]

    def _closed(self, dirty: Both) -> Both:
        """All that differs, who refers to it, what goes along: as `kdiff.alike` does it."""
        both = self._shared(*dirty)
        both = self._grown(both, lambda n, part: self._only(n, self._sources(n, part)))
        both = self._shared(*(part | self._sources(n, part) for n, part in enumerate(both)))
        return self._grown(
            both, lambda n, part: self._only(n, self._targets(n, part)) | self._owners(n, part)
        )

    def _grown(self, both: Both, grow: Callable[[int, Column], Column]) -> Both:
        new = both
        while new[0].any() or new[1].any():
            wider = self._shared(
                *(all_ | grow(n, part) for n, (all_, part) in enumerate(zip(both, new, strict=True)))
            )
            new = wider[0] & ~both[0], wider[1] & ~both[1]
            both = wider
        return both

    def _shared(self, pre: Column, post: Column) -> Both:
        to_post, to_pre = self.matched.to_post, self.matched.to_pre
        ours = pre | ((to_post >= 0) & post[np.maximum(to_post, 0)])
        theirs = post | ((to_pre >= 0) & ours[np.maximum(to_pre, 0)])
        return ours & ~self.whole[0], theirs & ~self.whole[1]

    def _sources(self, number: int, part: Column) -> Column:
        """Who depends on `part`, and on what this was asked of before: parts only grow."""
        side, (asked, found) = self.sides[number], self._known_sources[number]
        new = part & ~asked & ~self.whole[number]
        if new.any():
            to = reach(side, rows_to(side, new))
            depending = (to.low >= 0) & (new[to.low] | new[to.high]) & ~self.calls.among(number, new, to)
            found[sources(side, to.rows)[depending]] = True
            asked |= new
        return found[:-1] & ~self.whole[number]

    def _targets(self, number: int, part: Column) -> Column:
        """What `part` refers to, and what this was asked of before."""
        side, (asked, found) = self.sides[number], self._known_targets[number]
        new = part & ~asked
        if new.any():
            rows = rows_of(side, new)
            to = reach(side, rows[~side.dropped[side.obj.relocations["section"][rows]]])
            found[to.low] = found[to.high] = True
            asked |= new
        return found[:-1] & ~self.whole[number]

    def _owners(self, number: int, part: Column) -> Column:
        """Whom the entries are about that `part` refers to."""
        source, owner = self.owning[number]
        found = np.zeros(len(part), bool)
        found[owner[part[source]]] = True
        return found

    # What goes along ---------------------------------------------------------------------------------

    def _only(self, number: int, part: Column) -> Column:
        """Those of `part` that go where the code goes that refers to them."""
        side, known = self.sides[number], self._follows[number]
        sections = side.obj.sections
        plain = ~side.code & (sections["flags"] & SHF_WRITE == 0)
        plain |= side.pieces
        plain[list(side.rows)] = True
        found = part & plain[side.section]
        open_ = np.flatnonzero(part & ~found)
        asked = open_[known[open_] < 0]
        known[asked] = [
            self._goes_along(side, atom, names)
            for atom, names in zip(asked.tolist(), side.local_names(asked), strict=True)
        ]
        found[open_] = known[open_] > 0
        result: Column = found
        return result

    def _goes_along(self, side: Atoms, atom: int, names: list[str]) -> bool:
        section = side.obj.section_name(int(side.section[atom]))
        if side.code[side.section[atom]]:
            return any(map(is_fragment, names))
        if self.habits.is_constant(section) or section in side.arch.pools:
            return True
        stems = ("", *map(stem, names))
        return any(self.habits.remade(name, "" if name else section) is not None for name in stems)

    def _guessed(self) -> Both:
        """Data whose number in the name proves nothing, and to which no code refers that is the same."""
        found = []
        for number, side in enumerate(self.sides):
            open_ = (self.reached[number] | self.kept[number]) & ~side.code[side.section]
            open_ &= ~self.unsure[number]
            to = reach(side, rows_to(side, open_))
            source = sources(side, to.rows)
            firm = (source >= 0) & ~(self.kept[number] | self.whole[number])[source] & (to.low >= 0)
            open_[to.low[firm]] = open_[to.high[firm]] = False
            asked = np.flatnonzero(open_)
            for atom, names in zip(asked.tolist(), side.local_names(asked), strict=True):
                section = side.obj.section_name(int(side.section[atom]))
                open_[atom] = is_numbered(section) or any(map(is_numbered, names)) or (
                    self.habits.remade("", section) is not None
                    or any(self.habits.remade(stem(name), "") is not None for name in names)
                )  # fmt: skip
            found.append(open_)
        return self._shared(*found)

    # Results -----------------------------------------------------------------------------------------

    def parts(self) -> tuple[Part, Part] | None:
        """What of either object is kept; None if something refers to an entry that is not."""
        for kept, (source, owner) in zip(self.kept, self.owning, strict=True):
            if not kept[owner[kept[source]]].all():
                return None
        crowded = self._crowded()
        wider = self._shared(
            *(
                kept | reached | whole[side.section]
                for side, kept, reached, whole in zip(
                    self.sides, self.kept, self.reached, crowded, strict=True
                )
            )
        )
        return Part(self.kept[0], wider[0], crowded[0]), Part(self.kept[1], wider[1], crowded[1])

    def _crowded(self) -> Both:
        """Sections in which code differs: all of them comes along, as branches inside need no relocation."""
        ours, theirs = (
            np.bincount(
                side.section[part & (side.code & ~side.pieces)[side.section]], minlength=len(side.loaded)
            )
            > 0
            for side, part in zip(self.sides, self.different, strict=True)
        )
        paired = np.flatnonzero(self.matched.sections)
        there = self.matched.sections[paired]
        both = ours[paired] | theirs[there]
        ours[paired] = theirs[there] = both
        return ours, theirs

    def anchors(self, part: Part) -> list[tuple[int, int]]:
        """Pairs of atoms whose names prove that they are the same thing."""
        ours = np.flatnonzero((self.matched.to_post >= 0) & ~self.unsure[0] & part.atoms)
        pieces = self.sides[0].pieces[self.sides[0].section[ours]]
        ours = ours[~pieces]
        return list(zip(ours.tolist(), self.matched.to_post[ours].tolist(), strict=True))


def _ownerless(side: Atoms) -> Column:
    """What entries that are about no code refer to."""
    found = np.zeros(len(side.start) + 1, bool)
    found[reach(side, rows_without_owner(side)).low] = True
    return found[:-1]


def _entry_edges(side: Atoms) -> tuple[Column, Column]:
    """Sources of the records that reach entries of tables, and the owners of those entries."""
    to = reach(side, rows_to(side, side.is_table[side.section]))
    speaking = sources(side, to.rows)
    found, owners = [np.zeros(0, "i8")], [np.zeros(0, "i8")]
    for number, table in side.tables.items():
        records = np.flatnonzero((to.home == number) & (speaking >= 0))
        if not len(records):
            continue
        owner = side.entry_at(table, to.target[records])[0]
        found.append(speaking[records][owner >= 0])
        owners.append(owner[owner >= 0])
    return np.concatenate(found), np.concatenate(owners)

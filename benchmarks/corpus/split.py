# SPDX-License-Identifier: Apache-2.0
"""Cut a difference into candidates: sets of hunks that stand alone.

Two hunks belong together if they change one function; if one adds a word that the older tree has nowhere
and the other uses it, or one removes the last use of a word and the other removes another; if one changes how
a function is declared and the other changes a line that names it. Whoever needs a hunk takes it along, so
a header that gains one helper is a part of every candidate that calls it, and no reason to join them.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus.hunks import Hunk, render
from corpus.ties import NONE, Ties

_WORD = re.compile(rb"[A-Za-z_]\w{2,}")
_NAME = re.compile(r"[A-Za-z_]\w{2,}")
_MEMBER = re.compile(r"\s+[\w\s*]*?\b(\w+)(?:\[[^\]]*\])?(?:\s*:\s*\d+)?;\s*$")
_TREE = ("*.c", "*.h", "*.S")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One patch of the corpus."""

    hunks: tuple[Hunk, ...]

    @property
    def patch(self) -> str:
        return render(self.hunks)

    @property
    def id(self) -> str:
        """Stays the same as long as the patch does: 12 hexadecimal digits."""
        return hashlib.sha256(self.patch.encode("utf-8", "surrogateescape")).hexdigest()[:12]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted({hunk.path for hunk in self.hunks}))

    @property
    def kind(self) -> str:
        """What the patch is made of, the rarest first: `new`, `deleted`, `build`, `asm`, `header`, `c`."""
        states = {hunk.state for hunk in self.hunks}
        ends = {path.rpartition("/")[2].rpartition(".")[2] for path in self.paths}
        for name, holds in (
            ("new", "new" in states),
            ("deleted", "deleted" in states),
            ("asm", "S" in ends),
            ("header", bool(ends & {"h", "inc"})),
            ("build", bool(ends - {"c"})),
        ):
            if holds:
                return name
        return "c"

    @property
    def boot_only(self) -> bool:
        """Whether the text of each function that it changes says that it is freed once the kernel is up."""
        named = [line for hunk in self.hunks for line in hunk.declares]
        return bool(named) and all(re.search(r"\b__(init|initdata|initconst)\b", line) for line in named)

    @property
    def added(self) -> int:
        return sum(1 for hunk in self.hunks for _ in hunk.changed("+"))

    @property
    def removed(self) -> int:
        return sum(1 for hunk in self.hunks for _ in hunk.changed("-"))


def split(
    hunks: Sequence[Hunk], before: frozenset[str], after: frozenset[str], ties: Ties = NONE
) -> tuple[Candidate, ...]:
    """Cut `hunks` into candidates; `before` and `after` are which of their words each tree has.

    What changes blank lines and comments only is none.
    """
    groups = _joined(hunks, (*_bonds(hunks).values(), *ties.bonds))
    group_of = {number: group for group, members in groups.items() for number in members}
    makes = _needs(hunks, group_of, "+", before, ties.makes)
    ends = _needs(hunks, group_of, "-", after, ties.ends)
    whole = {group: _reached(group, makes, ends) for group in groups}
    taken = {part for group, parts in makes.items() for part in parts if whole[part] != whole[group]}
    wanted = dict.fromkeys(whole[group] for group in groups if group not in taken)
    return tuple(
        Candidate(tuple(hunks[each] for part in sorted(parts) for each in groups[part]))
        for parts in wanted
        if not all(hunks[each].says_nothing for part in parts for each in groups[part])
    )


def _bonds(hunks: Sequence[Hunk]) -> Mapping[object, list[int]]:
    """What holds hunks together, and which: a function, a declaration, a file that comes or goes."""
    bonds: dict[object, list[int]] = defaultdict(list)
    moving = {hunk.path for hunk in hunks if hunk.state != "changed"}
    again = frozenset[str]().union(*(hunk.redeclared for hunk in hunks))
    for number, hunk in enumerate(hunks):
        for start in hunk.owners:
            bonds[hunk.path, start].append(number)
        words = hunk.words("+") | hunk.words("-")
        for word in hunk.redeclared | again & {*words, *(f"{hunk.path}:{word}" for word in words)}:
            bonds["declared", word].append(number)
        for path in moving & {hunk.path, *words}:
            bonds["file", path].append(number)
    return bonds


def _joined(hunks: Sequence[Hunk], bonds: Iterable[Iterable[int]]) -> dict[int, list[int]]:
    """Hunks by group; a group is called by its first hunk."""
    parent = list(range(len(hunks)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for members in bonds:
        first, *others = members
        for member in others:
            low, high = sorted((root(first), root(member)))
            parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for number in range(len(hunks)):
        groups[root(number)].append(number)
    return dict(groups)


def _needs(
    hunks: Sequence[Hunk],
    group_of: Mapping[int, int],
    sign: str,
    known: frozenset[str],
    told: Iterable[tuple[int, int]],
) -> Mapping[int, set[int]]:
    """Groups by the group that needs them, because of a word that only one of the trees has.

    Whoever uses a new word (`+`) needs the group that defines it. Whoever removes the definition of a word
    that goes (`-`) needs all that use it. `told` are hunks that need others for what their files know.
    """
    users: dict[str, set[int]] = defaultdict(set)
    makers: dict[str, set[int]] = defaultdict(set)
    for number, hunk in enumerate(hunks):
        defined = definitions(hunk, sign)
        for word in hunk.words(sign) - known:
            users[word].add(group_of[number])
            if word in defined:
                makers[word].add(group_of[number])
    needs: dict[int, set[int]] = defaultdict(set)
    for word, making in makers.items():
        for user in users[word] - making:
            for maker in making:
                one, other = (user, maker) if sign == "+" else (maker, user)
                needs[one].add(other)
    for user, maker in told:
        needs[group_of[user]].add(group_of[maker])
    return needs


def _reached(group: int, *needs: Mapping[int, set[int]]) -> frozenset[int]:
    """The group, what it needs, and so on."""
    found = {group}
    waiting = [group]
    while waiting:
        at = waiting.pop()
        for other in {each for needed in needs for each in needed.get(at, ())} - found:
            found.add(other)
            waiting.append(other)
    return frozenset(found)


def definitions(hunk: Hunk, sign: str) -> frozenset[str]:
    """Words that its lines of one sign may define for others.

    In headers and makefiles all, in C those on lines that start at the margin, members of structures.
    """
    if hunk.path.endswith(".h") or hunk.path.rpartition("/")[2] in ("Makefile", "Kbuild", "Kconfig"):
        return hunk.words(sign)
    lines = list(hunk.changed(sign))
    top = "\n".join(line for line in lines if re.match(r"[A-Za-z_#]", line))
    members = (_MEMBER.match(line) for line in lines)
    return frozenset((*_NAME.findall(top), *(found[1] for found in members if found)))


def known_words(hunks: Iterable[Hunk], before: Path, after: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Which of the words that hunks add or remove occur in each of two trees' sources."""
    hunks = tuple(hunks)
    sought = {
        word.encode("utf-8", "surrogateescape")
        for hunk in hunks
        for word in hunk.words("+") | hunk.words("-")
    }
    differing = {hunk.path for hunk in hunks}
    common: set[bytes] = set()
    for pattern in _TREE:
        for file in before.rglob(pattern):
            if str(file.relative_to(before)) not in differing:
                common.update(sought.intersection(_WORD.findall(file.read_bytes())))
    sides = []
    for tree in (before, after):
        found = set(common)
        for path in differing:
            if (tree / path).is_file():
                found.update(sought.intersection(_WORD.findall((tree / path).read_bytes())))
                found.add(path.encode("utf-8", "surrogateescape"))
        sides.append(frozenset(word.decode("utf-8", "surrogateescape") for word in found))
    return sides[0], sides[1]

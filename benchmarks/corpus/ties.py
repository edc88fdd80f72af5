# SPDX-License-Identifier: Apache-2.0
"""Which hunks cannot do without which others because of what their files know, going by text.

A word may be old in the tree and new to a file: a member of a structure has the name of many others, a
function was another file's own. So the structures of both trees are read, and for each file what it has of
the words that a hunk adds or removes, and what it includes.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from corpus.hunks import LEFT_OUT, Hunk
from corpus.includes import INCLUDE, above, includers

_NO_CODE = re.compile(r"/\*.*?\*/|//[^\n]*|^[ \t]*#(?:[^\n\\]|\\.)*", re.DOTALL | re.MULTILINE)
"""Comments and directives."""
_STRUCT = re.compile(r"\b(?:struct|union)\s+(\w+)\s*\{")
_CALLED = re.compile(r"\(\s*\*\s*(\w+)\s*\)\s*\(|\b[A-Z_]{3,}\s*\(\s*(\w+)")
_LAST = re.compile(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?::\s*\w+\s*)?$")
_ACCESS = re.compile(
    r"(?:\b(\w+)(?:\s|\)|\[[^\]]*\])*)?(?:->|\.)\s*(?=(\w+))|struct\s+(\w+)\s*,\s*(\w+)\s*[,)]"
)
_ASSIGNED = re.compile(r"\.(\w+)\s*=\s*&?(\w+)\b")
_TYPED = re.compile(
    r"\b(?:struct|union)\s+(\w+)\s+(?:(?:__|const)\w*\s+)*\**\s*(?:(?:__|const)\w*\s+)*(\w+)\s*[,;)=\[:]"
)
_DEFINED = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+(\w+)|^(?:struct|union|enum)\s+(\w+)\s*\{"
    r"|^(?:[A-Za-z_][\w \t*]*[ \t*])?(\w+)[ \t]*\("
    r"|^typedef\b[^;{]*?\b(\w+)\s*;|^[ \t]+([A-Z]\w+)\s*(?:=[^,\n]*)?,?\s*(?:/\*.*)?$",
    re.MULTILINE,
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z_]\w{2,}")
_TAG = re.compile(r"\b(?:struct|union)\s+(\w+)")
_COMMON = frozenset({"int", "long", "char", "void", "bool", "else", "return", "goto", "case", "sizeof"})

Structures = Mapping[str, Mapping[str, str]]
"""Declarations of members, white space aside, by structure and member."""


@dataclass(frozen=True, slots=True)
class Ties:
    """`bonds`: hunks that belong together.

    `makes`: (hunk, one that gives it what it uses). `ends`: (hunk, one that ends the use of what it removes).
    """

    bonds: frozenset[frozenset[int]] = frozenset()
    makes: frozenset[tuple[int, int]] = frozenset()
    ends: frozenset[tuple[int, int]] = frozenset()


NONE = Ties()


def structures(text: str) -> Structures:
    """All structures that a text defines; members of nested ones count for the outer ones too."""
    text = _NO_CODE.sub(" ", text)
    found: dict[str, dict[str, str]] = {}
    for start in _STRUCT.finditer(text):
        depth, at = 1, start.end()
        while depth and at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        members = found.setdefault(start[1], {})
        for part in re.split(r"[;{}]", text[start.end() : at]):
            words = " ".join(part.split())
            called = _CALLED.search(words)
            names = [called[1] or called[2]] if called else _declarators(words)
            members.update((name, words) for name in names)
    return found


def _declarators(words: str) -> list[str]:
    """The names in `int *a, b[3]`."""
    tag = words.startswith(("struct ", "union ")) and words.count(" ") < 2
    if tag or not re.match(r"\w+[\s*]+\w", words):
        return []
    return [found[1] for each in words.split(",") if (found := _LAST.search(each.strip()))]


@dataclass(frozen=True, eq=False)
class _Tree:
    """One of the two trees, and what includes each of its files."""

    root: Path
    direct: Mapping[str, frozenset[str]]

    def text(self, path: str) -> str:
        file = self.root / path
        return file.read_text("utf-8", "surrogateescape") if file.is_file() else ""


def find(hunks: Sequence[Hunk], before: Path, after: Path) -> Ties:
    """All ties among the hunks between two trees."""
    trees = tuple(_Tree(root, includers(root)) for root in (before, after))
    return _Finder(hunks, *trees).found()


class _Finder:
    """Holds what is asked for again and again while the ties of one difference are looked for."""

    def __init__(self, hunks: Sequence[Hunk], old: _Tree, new: _Tree) -> None:
        self._hunks = hunks
        self._old, self._new = old, new
        self._of: dict[str, list[int]] = defaultdict(list)
        for number, hunk in enumerate(hunks):
            self._of[hunk.path].append(number)
        self._sources = {path for path in self._of if path.endswith((".c", ".h"))}
        self._text = cache(lambda path: (self._old.text(path), self._new.text(path)))
        self._words = cache(lambda path: tuple(words(each) for each in self._text(path)))
        self._reach = cache(self._reaching)
        self._said = cache(
            lambda number: {sign: words("\n".join(hunks[number].changed(sign))) for sign in "+-"}
        )
        self._defined = cache(lambda tree, path: defined(tree.text(path)))
        self._bonds: set[frozenset[int]] = set()
        self._makes: set[tuple[int, int]] = set()
        self._ends: set[tuple[int, int]] = set()
        self._uses = self._used()

    def found(self) -> Ties:
        self._members()
        self._names()
        self._typedefs()
        return Ties(frozenset(self._bonds), frozenset(self._makes), frozenset(self._ends))

    def _reaching(self, path: str) -> frozenset[str]:
        """The file and all that differ and include it in one of the trees, directly or not."""
        found = above(path, self._old.direct) | above(path, self._new.direct)
        return found & self._sources

    # Members of structures

    def _members(self) -> None:
        changed: dict[str, list[tuple[str, str, bool, bool]]] = defaultdict(list)
        for path in self._sources:
            old, new = (structures(text) for text in self._text(path))
            for tag in old.keys() & new.keys():
                for name in old[tag].keys() | new[tag].keys():
                    pair = old[tag].get(name), new[tag].get(name)
                    if pair[0] != pair[1]:
                        changed[path].append((tag, name, pair[0] is None, pair[1] is None))
        tags = {tag for found in changed.values() for tag, *_ in found}
        typed = _typed(self._sources, self._old.root, self._text, tags)
        for path, found in changed.items():
            for tag, name, is_new, is_gone in found:
                makers = self._declaring(path, name)
                for (user, sign), maker in product(self._using(path, tag, name, typed), makers):
                    if user != maker:
                        if is_new and sign == "+":
                            self._makes.add((user, maker))
                        elif is_gone and sign == "-":
                            self._ends.add((maker, user))
                        elif not is_new and not is_gone:
                            self._bonds.add(frozenset({user, maker}))

    def _declaring(self, path: str, name: str) -> list[int]:
        """The hunks of a file that change a member's declaration, which may have more than one line."""
        for signs in ("+-", "+- "):
            found = [
                each for each in self._of[path]
                if any(_declares(line, name) for sign in signs for line in self._hunks[each].changed(sign))
            ]  # fmt: skip
            if found:
                return found
        return []

    def _using(
        self, path: str, tag: str, name: str, typed: Mapping[str, Mapping[str, frozenset[str]]]
    ) -> Iterator[tuple[int, str]]:
        """Hunks that add or remove a use of a structure's member, and which of both."""
        for number, sign, receiver, struct in self._uses.get(name, ()):
            file = self._hunks[number].path
            if file not in self._reach(path) or struct not in ("", tag):
                continue
            if receiver:
                receivers = typed[file].get(tag, frozenset()) | typed[""].get(tag, frozenset())
                if receiver in receivers:
                    yield number, sign
            elif struct or any(tag in words for words in self._words(file)):
                yield number, sign

    def _used(self) -> Mapping[str, list[tuple[int, str, str, str]]]:
        """(hunk, sign, name in front of the arrow, structure) by member; either of the last two may be empty.

        A function whose head changes uses the members that it is assigned to.
        """
        found: dict[str, list[tuple[int, str, str, str]]] = defaultdict(list)
        for path in self._sources:
            for number in self._of[path]:
                hunk = self._hunks[number]
                for sign in "+-":
                    text = "\n".join(hunk.changed(sign))
                    for receiver, member, struct, other in set(_ACCESS.findall(text)):
                        found[member or other].append((number, sign, receiver, struct))
                heads = {head.rpartition(":")[2] for head in hunk.redeclared}
                pairs = (
                    {pair for each in self._text(path) for pair in _ASSIGNED.findall(each)} if heads else ()
                )
                for member, function in pairs:
                    if function in heads:
                        found[member] += [(number, "+", "", ""), (number, "-", "", "")]
        return found

    # Words that are new to a file, or leave it

    def _names(self) -> None:
        for sign, this, other in (("+", 1, 0), ("-", 0, 1)):
            makers = self._makers(sign, this, other)
            for path in self._sources:
                for user in self._of[path]:
                    for word in self._said(user)[sign] - self._words(path)[other] - _COMMON:
                        for file, maker in makers.get(word, ()):
                            if maker != user and path in self._reach(file):
                                if sign == "+":
                                    self._makes.add((user, maker))
                                else:
                                    self._ends.add((maker, user))

    def _makers(self, sign: str, this: int, other: int) -> Mapping[str, list[tuple[str, int]]]:
        """(file, hunk) by word: hunks that give a file, and all that include it, a definition."""
        found: dict[str, list[tuple[str, int]]] = defaultdict(list)
        tree = (self._old, self._new)[this]
        for path in self._sources:
            for number in self._of[path]:
                text = "\n".join(self._hunks[number].changed(sign))
                found_here = defined(text) - self._words(path)[other]
                for name in INCLUDE.findall(text):
                    header = _resolved(tree.root, path, name)
                    if header and name not in INCLUDE.findall(self._text(path)[other]):
                        found_here |= self._defined(tree, header)
                for word in found_here:
                    found[word].append((path, number))
        return found

    # Types of functions

    def _typedefs(self) -> None:
        for number, hunk in enumerate(self._hunks):
            for path in (hunk.path,) if any("typedef" in line for line in hunk.declares) else ():
                old = self._text(path)[0]
                users = [
                    each for each in self._of[path]
                    for head in self._hunks[each].redeclared
                    if re.search(rf"[(,=&]\s*{head.rpartition(':')[2]}\s*[,);]", old)
                ]  # fmt: skip
                self._bonds.update(frozenset({number, each}) for each in users)


def words(text: str) -> frozenset[str]:
    """Identifiers; with `struct` in front, those that are a type's tag there."""
    return frozenset((*_WORD.findall(text), *(f"struct {tag}" for tag in _TAG.findall(text))))


def defined(text: str) -> frozenset[str]:
    """Macros, types, functions and constants that a text of C may define, worded as in `words`."""
    tags = (f"struct {tag}" for tag in _STRUCT.findall(text))
    return frozenset((*(name for found in _DEFINED.findall(text) for name in found if name), *tags))


def _declares(line: str, name: str) -> bool:
    """Whether a line may be the declaration of a member, or a part of it."""
    return re.search(rf"(?:->|\.)\s*{name}\b", line) is None and re.search(rf"\b{name}\b", line) is not None


def _typed(
    sources: Iterable[str], root: Path, texts: Callable[[str], Iterable[str]], tags: set[str]
) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Names that are declared with a structure's type, by file and tag; what headers declare is below ''."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in sources:
        for each in texts(path):
            _collect(found[path], each, tags)
    for file in root.rglob("*.h"):
        if file.relative_to(root).parts[0] not in LEFT_OUT:
            _collect(found[""], file.read_text("utf-8", "surrogateescape"), tags)
    return defaultdict(
        dict,
        {path: {tag: frozenset(names) for tag, names in each.items()} for path, each in found.items()},
    )


def _collect(into: dict[str, set[str]], text: str, tags: set[str]) -> None:
    for tag, name in _TYPED.findall(text):
        if tag in tags:
            into[tag].add(name)


def _resolved(root: Path, path: str, text: str) -> str:
    """The header that an #include of a file means, or nothing."""
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
    for each in (beside, f"include/{text}", f"arch/x86/include/{text}", f"include/uapi/{text}"):
        if (root / each).is_file():
            return each
    return ""

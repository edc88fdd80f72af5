# SPDX-License-Identifier: Apache-2.0
"""Which names a header's change is about, going by text, so that units that mention none need no compiler.

A header is cut into chunks: macros and external declarations, without comments. If only static inline
functions, macros, structures and the like change, a unit is affected only if it mentions one of their
names, or a name whose own chunk mentions one. A name may also be pasted together (`##`) from pieces: where
all pieces of a name, cut at underscores, are words of the files in question, the names say nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, pairwise

from kdiff.preprocess import bounds, declared

_COMMENT = re.compile(rb"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
_DIRECTIVE = re.compile(rb"^[ \t]*#(?:[^\n\\]|\\[ \t]*\n|\\)*\n?", re.MULTILINE)
_MACRO = re.compile(rb"[ \t]*#[ \t]*(?:define|undef)[ \t]+(\w+)")
_NUMBER = re.compile(rb"[ \t]*#[ \t]*line\b")
_WORD = re.compile(rb"\w+")
_MOST_NAMES = 100
"""When so many names are affected, looking for them saves nothing."""
_MOST_PIECES = 3

Chunks = list[tuple[bytes, frozenset[bytes] | None]]


def chunks(text: bytes) -> Chunks:
    """The parts of a header with the names each declares, None if it may do more; `#line` is no part."""
    bare = _COMMENT.sub(lambda found: b" " if found[0].startswith(b"/") else found[0], text)
    parts: Chunks = []
    code: list[bytes] = []
    end = 0
    for found in _DIRECTIVE.finditer(bare):
        macro = _MACRO.match(found[0])
        if not _NUMBER.match(found[0]):
            parts.append((found[0].strip(), frozenset({macro[1]}) if macro else None))
        code.append(bare[end : found.start()])
        end = found.end()
    whole = b"".join([*code, bare[end:]])
    edges = bounds(whole)
    for left, right in pairwise(edges):
        part = whole[left:right].strip()
        if part:
            parts.append((part, declared(part, expanded=False)))
    return parts


def changed_names(pre: bytes, post: bytes) -> frozenset[bytes] | None:
    """The names of all chunks that differ between two versions of a header; None if these are not all."""
    old, new = (Counter(chunks(text)) for text in (pre, post))
    names: set[bytes] = set()
    for _, declares in (*(old - new), *(new - old)):
        if declares is None:
            return None
        names |= declares
    return frozenset(names)


def mentioning(
    names: Iterable[bytes],
    sources: frozenset[str],
    find: Callable[[Iterable[bytes]], Mapping[str, frozenset[bytes]]],
    read: Callable[[str], Iterable[bytes]],
) -> frozenset[str] | None:
    """Those of `sources` that may use the names; None if names do not tell.

    `find` says which files have which of some words; `read` gives a file, if it changes both versions of it.
    """
    affected: set[bytes] = set()
    waiting = set(names)
    users: set[str] = set()
    while waiting:
        affected |= waiting
        if len(affected) > _MOST_NAMES:
            return None
        found = find({piece for name in waiting for piece in (name, *_pieces(name))})
        vocabulary = frozenset().union(*found.values())
        if any(_is_pasted(name, vocabulary) for name in waiting):
            return None
        mentions = {file: words & waiting for file, words in found.items() if words & waiting}
        users |= sources & mentions.keys()
        waiting = set()
        for file in sorted(mentions.keys() - sources):
            for part, declares in (each for text in read(file) for each in chunks(text)):
                if mentions[file].isdisjoint(_WORD.findall(part)):
                    continue
                if declares is None:
                    return None
                waiting |= declares - affected
    return frozenset(users)


def _cuts(name: bytes) -> list[int]:
    """Where a name may be cut: on either side of underscores."""
    edges = {at for found in re.finditer(rb"_+", name) for at in (found.start(), found.end())}
    return sorted(edges - {0, len(name)})


def _pieces(name: bytes) -> set[bytes]:
    edges = (0, *_cuts(name), len(name))
    return {name[a:b] for a, b in combinations(edges, 2)}


def _is_pasted(name: bytes, vocabulary: frozenset[bytes]) -> bool:
    """Whether macros could make the name from words that are there."""
    for count in range(1, _MOST_PIECES):
        for chosen in combinations(_cuts(name), count):
            edges = (0, *chosen, len(name))
            if all(name[a:b] in vocabulary for a, b in pairwise(edges)):
                return True
    return False

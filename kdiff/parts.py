# SPDX-License-Identifier: Apache-2.0
"""A source file cut into parts, going by text: directives and external declarations, without comments.

Both branches of each condition are there. In code a vertical tab, which is a blank to whoever does not ask,
stands where a condition or an `#include` was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from kdiff.macros import MARK, Macro, Part, definition
from kdiff.preprocess import bounds, declared

_COMMENT = re.compile(rb"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
_DIRECTIVE = re.compile(rb"^[ \t]*#(?:[^\n\\]|\\[ \t]*\n|\\)*\n?", re.MULTILINE)
_KIND = re.compile(rb"[ \t]*#[ \t]*(\w*)")
_MACRO = re.compile(rb"[ \t]*#[ \t]*(?:define|undef)[ \t]+(\w+)")
_INCLUDE = re.compile(rb'[ \t]*#[ \t]*include[ \t]*(<[^<>"\n]+>|"[^<>"\n]+")')
_GUARD = re.compile(
    rb"[ \t]*#[ \t]*(?:ifndef[ \t]+(\w+)|if[ \t]*![ \t]*defined[ \t]*\(?[ \t]*(\w+)[ \t]*\)?)"
)
OPENS = frozenset({b"if", b"ifdef", b"ifndef"})
CONDITIONS = OPENS | {b"elif", b"elifdef", b"elifndef", b"else", b"endif"}
_NAMED = rb"\b(?:%b)\b"
_LEVEL = re.compile(rb""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}()]""")
_DEPTH = {b"{": 1, b"(": 1, b"}": -1, b")": -1}

Directives = list[tuple[int, bytes]]
"""Each with its offset in the code."""
Conditions = tuple[bytes, ...]
"""The conditions around a place, outermost first, each with those of its branches before."""


class Placed(NamedTuple):
    """A part, the conditions around its beginning, and the directives inside with their offsets."""

    part: Part
    under: Conditions
    inside: tuple[tuple[int, bytes], ...] = ()

    @property
    def include(self) -> bytes | None:
        """What the part includes, between its quotation marks or brackets, if it is an `#include` line."""
        found = _INCLUDE.fullmatch(self.part.text)
        return found[1] if found else None


class Outline(NamedTuple):
    """The lines of a file that include others, its guard, and whether the guard keeps all of it in."""

    includes: tuple[tuple[bytes, bool], ...]
    """With whether no condition but the guard is around the line."""
    guard: bytes | None
    empty: bool
    """Whether there is nothing but these lines."""


def directives(text: bytes) -> list[Part]:
    """The directives, with what each defines, and all code in one last part; `#line` is no part."""
    found, code = _scan(text)
    return [*(_part(each) for _, each in found), Part(code, None)]


def chunks(text: bytes) -> list[Part]:
    """The parts of a header with the names each declares, None if it may do more; `#line` is no part."""
    found, code = _scan(text)
    conditions = [_part(each) for _, each in found if kind_of(each) in CONDITIONS]
    return [*(each.part for each in _placed(found, code)), *conditions]


def placed(text: bytes) -> list[Placed]:
    """The parts of a header in their order; conditions are no parts of it, but around them and inside."""
    return _placed(*_scan(text))


def _placed(found: Directives, code: bytes) -> list[Placed]:
    made: list[Placed] = []
    under: list[bytes] = []
    waiting = list(reversed(found))

    def read(end: int) -> Iterator[tuple[int, bytes]]:
        while waiting and waiting[-1][0] <= end:
            yield waiting[-1]
            _step(waiting.pop()[1], under, made)

    for left, right in pairwise(bounds(code)):
        start = right - len(code[left:right].lstrip())
        part = code[start:right].strip()
        if not part:
            continue
        list(read(start))
        around, index = tuple(under), len(made)
        inside = tuple((offset - start, each) for offset, each in read(start + len(part) - 1))
        declares = declared(part, expanded=False) if _is_even(part, inside) else None
        made.insert(index, Placed(Part(part, declares), around, inside))
    list(read(len(code)))
    return made


def outline(text: bytes) -> Outline:
    """What a file includes, going by its directives alone."""
    found, code = _scan(text)
    made: list[Placed] = []
    under: list[bytes] = []
    guard = _guard(found, code)
    for _, each in found:
        _step(each, under, made)
    opening = (found[0][1],) if guard else ()
    lines = tuple((each.include, each.under == opening) for each in made if each.include is not None)
    others = [each for each in made if each.include is None and each.part.declares != frozenset({guard})]
    return Outline(lines, guard, not others and not code.strip())


def above(text: bytes, words: frozenset[bytes]) -> Outline:
    """What a file includes above the first line that has one of some words; above all else if there are none.

    Its guard is the one that all of this is in, though more may follow: whoever reads the file a second time
    has read this.
    """
    found, code = _scan(text)
    guard = _opening(found)
    pattern = _NAMED % b"|".join(map(re.escape, sorted(words))) if words else rb"\S"
    named = re.search(pattern, code)
    end = named.start() if named else len(code)
    made: list[Placed] = []
    under: list[bytes] = []
    for at, (offset, each) in enumerate(found):
        other = re.search(pattern, each) if words else kind_of(each) == b"define" and not (guard and at == 1)
        if offset > end or other:
            break
        _step(each, under, made)
    opening = (found[0][1],) if guard else ()
    lines = tuple((each.include, each.under in ((), opening)) for each in made if each.include is not None)
    return Outline(lines, guard, empty=False)


def _opening(found: Directives) -> bytes | None:
    """The macro that the first two directives ask for and define, and no other one sets."""
    first = _GUARD.fullmatch(found[0][1]) if len(found) > 1 else None
    if first is None or kind_of(found[1][1]) != b"define":
        return None
    name = first[1] or first[2]
    setting = [at for at, (_, each) in enumerate(found) if (macro := _MACRO.match(each)) and macro[1] == name]
    return name if setting == [1] else None


def sets(text: bytes) -> frozenset[bytes]:
    """The macros that a file defines or forgets."""
    return frozenset(found[1] for _, each in _scan(text)[0] if (found := _MACRO.match(each)))


def definitions(text: bytes) -> list[Macro]:
    """The macros that a file defines."""
    return [macro for _, each in _scan(text)[0] if (macro := definition(each)) is not None]


def _guard(found: Directives, code: bytes) -> bytes | None:
    """The macro without which a file is read, and which it defines: read again, it is nothing."""
    first = _GUARD.fullmatch(found[0][1]) if len(found) > 2 else None
    if first is None or code[: found[0][0]].strip() or code[found[-1][0] :].strip():
        return None
    name = first[1] or first[2]
    under: list[bytes] = []
    for at, (_, each) in enumerate(found):
        _step(each, under, [])
        macro = _MACRO.match(each)
        if (not under) != (at == len(found) - 1) or (macro and macro[1] == name and at != 1):
            return None
        if under and b"\n" in under[0]:  # it has another branch
            return None
    defined = _MACRO.match(found[1][1])
    return name if defined and defined[1] == name and kind_of(found[1][1]) == b"define" else None


def _scan(text: bytes) -> tuple[Directives, bytes]:
    """All directives but `#line`, and the code."""
    text = bare(text)
    directives: Directives = []
    code: list[bytes] = []
    length = end = 0
    for found in lines_of(text):
        kind = kind_of(found[0])
        before = text[end : found.start()]
        length += len(before)
        code.append(before)
        if kind != b"line":
            directives.append((length, found[0].strip()))
        if kind == b"include" or kind in CONDITIONS:
            code.append(MARK)
            length += len(MARK)
        end = found.end()
    return directives, b"".join([*code, text[end:]])


def bare(text: bytes) -> bytes:
    """The text without comments."""
    return _COMMENT.sub(lambda found: b" " if found[0].startswith(b"/") else found[0], text)


def lines_of(text: bytes) -> Iterator[re.Match[bytes]]:
    """The directives of a text without comments, each with the end of its line."""
    return _DIRECTIVE.finditer(text)


def kind_of(directive: bytes) -> bytes:
    """The word behind the `#`."""
    found = _KIND.match(directive)
    return found[1] if found else b""


def _part(directive: bytes) -> Part:
    macro = _MACRO.match(directive)
    if macro is None and _INCLUDE.fullmatch(directive):
        return Part(directive, frozenset())
    return Part(directive, frozenset({macro[1]}) if macro else None)


def _step(directive: bytes, under: list[bytes], made: list[Placed]) -> None:
    """Go over a directive."""
    kind = kind_of(directive)
    if kind in OPENS:
        under.append(directive)
    elif kind == b"endif":
        if under:
            under.pop()
    elif kind in CONDITIONS:
        if under:
            under[-1] += b"\n" + directive
    else:
        made.append(Placed(_part(directive), tuple(under)))


def _is_even(part: bytes, inside: tuple[tuple[int, bytes], ...]) -> bool:
    """Whether the branches of all conditions inside are within brackets, and leave none open or closed."""
    opened: list[int] = []
    depth = end = 0
    for offset, each in inside:
        kind = kind_of(each)
        if kind not in CONDITIONS:
            continue
        depth += sum(_DEPTH.get(sign, 0) for sign in _LEVEL.findall(part[end:offset]))
        end = offset
        if not depth:
            return False
        if kind in OPENS:
            opened.append(depth)
        elif not opened or opened[-1] != depth:
            return False
        elif kind == b"endif":
            opened.pop()
    return not opened

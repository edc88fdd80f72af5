# SPDX-License-Identifier: Apache-2.0
"""What of a header depends on something that changes, going by text, and on a structure's layout above all.

Code looks into a structure through something of that type: a variable or parameter whose declaration names
the tag, or a member, function or object that is declared elsewhere to lead to one. So a structure that holds
a pointer to another does not change with it; its member's name is what matters from there on. A prototype
that takes a pointer hands on what its caller has got, and the caller's text shows that already. Whatever is
not plainly of one of these shapes depends on the structure as it does on any other name.

A function of which only the body changes matters to whoever may call it, and to no type: constants cannot
call it, and what `typeof` and `sizeof` ask of a call is in the function's head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from kdiff.macros import MARK, TOKEN, Part

_DEFINED = re.compile(rb"\b(?:struct|union)\s+(\w+)\s*\{")
_DEFINITION = re.compile(rb"(?:struct|union)\b[\w\s]*\{.*\}[^{}=]*;", re.DOTALL)
_ENUMERATION = re.compile(rb"enum\b[\w\s]*\{.*\}[^{}=]*;", re.DOTALL)
_CONDITION = re.compile(rb"[ \t]*#[ \t]*(?:if|ifn?def|elif|elifn?def|else|endif)\b")
_BETWEEN = re.compile(rb"[;{}]")
_CALLED = re.compile(rb"\b(\w+)\s*\(")
_WORD = re.compile(rb"\w+")
_TAGGED = frozenset({b"struct", b"union", b"enum"})
_QUALIFIERS = frozenset(
    {b"const", b"volatile", b"restrict", b"__restrict", b"__rcu", b"__user", b"__percpu", b"__iomem"}
)

Tokens = Sequence[bytes]
Words = frozenset[bytes]


class Kind(Enum):
    """Where a name that changes matters."""

    ANY = 0
    LAYOUT = 1
    """As the tag of a structure or union whose members change."""
    VALUE = 2
    """In an expression: a member, a function or an object."""
    CODE = 3
    """Where code calls it: a function whose head stays the same, or a macro that stands for such a call."""


class Name(NamedTuple):
    """A name that changes."""

    word: bytes
    kind: Kind = Kind.ANY


Names = frozenset[Name] | None


def named(part: Part, words: Words | None = None) -> Names:
    """What changes with a part, or with one that names changing `words`; None if it may do more than declare.

    A function that names them in its body alone stays what it is to all but its callers.
    """
    if part.declares is None:
        return None
    if _DEFINITION.fullmatch(part.text):
        tags = frozenset(_DEFINED.findall(part.text))
        return frozenset(Name(word, Kind.LAYOUT if word in tags else Kind.ANY) for word in part.declares)
    head = _head(part)
    if words is not None and is_function(part) and words.isdisjoint(_WORD.findall(head)):
        return _as(Kind.CODE, part)
    called = frozenset(_CALLED.findall(head))
    return frozenset(Name(word, Kind.VALUE if word in called else Kind.ANY) for word in part.declares)


def knowing(part: Part, tags: Words, values: Words) -> Names:
    """What changes with a part that names tags whose layout changes, or values; None as above."""
    if not part.declares or part.text.startswith(b"#"):
        return named(part)
    if _DEFINITION.fullmatch(part.text):
        return _through_members(part, tags, values)
    if MARK in part.text or b"{" in part.text or b"=" in part.text:
        hands_on = is_function(part) and _only_hands_on(_tokens(_head(part)), tags, values)
        return _as(Kind.CODE, part) if hands_on else named(part, tags | values)
    return frozenset() if _only_hands_on(_tokens(part.text), tags, values) else named(part)


def calling(part: Part) -> Names:
    """What changes with a part that names functions of which only the bodies change; None as above."""
    if _CONDITION.match(part.text):
        return frozenset()
    if part.declares is None:
        return None
    if part.text.startswith(b"#") or is_function(part):
        return _as(Kind.CODE, part)
    plain = b"{" not in part.text or any(each.fullmatch(part.text) for each in (_DEFINITION, _ENUMERATION))
    return frozenset() if plain else named(part)


def rewritten(before: Part, after: Part) -> bool:
    """Whether both are the same function, and differ in its body alone."""
    return (
        is_function(before)
        and is_function(after)
        and before.declares == after.declares
        and TOKEN.findall(_head(before)) == TOKEN.findall(_head(after))
    )


def is_new(part: Part) -> bool:
    """Whether a part that was not there before means nothing to code that compiled: a function or a type."""
    if part.text.startswith(b"#"):
        return False
    return is_function(part) or any(each.fullmatch(part.text) for each in (_DEFINITION, _ENUMERATION))


def _as(kind: Kind, part: Part) -> frozenset[Name]:
    return frozenset(Name(word, kind) for word in part.declares or ())


def _head(part: Part) -> bytes:
    """What is in front of a body; nothing of a directive."""
    return b"" if part.text.startswith(b"#") else part.text.partition(b"{")[0]


def is_function(part: Part) -> bool:
    """Whether a part is a function with its body, whose head no condition cuts."""
    if not part.declares or b"{" not in part.text:
        return False
    head = _head(part)
    plain = MARK not in head and head.rstrip().endswith(b")")
    return plain and not part.declares.isdisjoint(_CALLED.findall(head))


# Prototypes ------------------------------------------------------------------------------------------


def _only_hands_on(tokens: Tokens, tags: Words, values: Words) -> bool:
    """Whether a declaration is a prototype that names tags only as parameters which are pointers."""
    if b"(" not in tokens:
        return False
    opening = tokens.index(b"(")
    end = _closing(tokens, opening)
    around = {*tokens[: opening - 1], *tokens[end:]}
    if (tags | values) & around or tokens[opening - 1] in tags or tokens[opening + 1] == b"*":
        return False
    return _are_pointers(tokens[opening : end + 1], tags, values)


def _are_pointers(parameters: Tokens, tags: Words, values: Words) -> bool:
    """Whether tags are named by parameters that are pointers only, and other words as names of parameters."""
    before = b""
    for at, token in enumerate(parameters):
        then = parameters[at + 1] if at + 1 < len(parameters) else b""
        if token == b"(" and _WORD.fullmatch(before) and then != b"*":
            return False  # a macro, for all that text tells
        if before in _TAGGED:
            if token in tags and then != b"*":
                return False
        elif token in tags | values and not (_may_be_type(before) and then in (b",", b")", b"[")):
            return False
        before = token
    return True


def _may_be_type(token: bytes) -> bool:
    """Whether what comes behind this token is the name that is declared."""
    return token == b"*" or _WORD.fullmatch(token) is not None


# Members ---------------------------------------------------------------------------------------------


def _through_members(part: Part, tags: Words, values: Words) -> Names:
    """The members that point to one, if nothing else in a structure knows it.

    Not those that point to the structure they are in: whoever uses one has such a pointer by another name.
    """
    found: set[bytes] = set()
    own = _DEFINED.findall(part.text)
    for statement in _statements(part.text):
        if (tags | values).isdisjoint(_WORD.findall(statement)):
            continue
        tokens = _tokens(statement)
        members = None if MARK in statement else _members(tokens, tags, values)
        if members is None:
            return named(part)
        if b"(" in tokens or tokens[1:2] != own:
            found |= members
    return frozenset(Name(each, Kind.VALUE) for each in found)


def _statements(text: bytes) -> Iterator[bytes]:
    """The pieces between semicolons and braces, behind the first brace."""
    for each in _BETWEEN.split(text[text.find(b"{") + 1 :]):
        yield each.strip(b" \t\n" + MARK)


def _members(tokens: Tokens, tags: Words, values: Words) -> Words | None:
    """The members of a statement that are, or give, a pointer to one; None if it may be about more."""
    if b"(" in tokens:
        return _function(tokens, tags, values)
    if tokens[0] in _TAGGED and tokens[1:2] and tokens[1] in tags:
        names = [_pointer(each, tags | values) for each in _declarators(tokens[2:])]
        return None if None in names else frozenset(filter(None, names))
    return frozenset() if _are_names(tokens, tags, values) else None


def _declarators(tokens: Tokens) -> list[list[bytes]]:
    """What is between commas; nothing is made of a bound that has one inside."""
    found: list[list[bytes]] = [[]]
    for token in tokens:
        if token == b",":
            found.append([])
        else:
            found[-1].append(token)
    return found


def _pointer(declarator: Tokens, words: Words) -> bytes | None:
    """What is declared as a pointer, or as an array of such; None if it may be about more."""
    at = next((at for at, token in enumerate(declarator) if token != b"*"), 0)
    behind = declarator[at + 1 :]
    plain = at and _WORD.fullmatch(declarator[at]) and behind[:1] in ([], [b"["]) and words.isdisjoint(behind)
    return declarator[at] if plain else None


def _are_names(tokens: Tokens, tags: Words, values: Words) -> bool:
    """Whether words are no more than names of members, whose types have nothing to do with them."""
    before, bounds = b"", 0
    for at, token in enumerate(tokens):
        then = tokens[at + 1] if at + 1 < len(tokens) else b""
        bounds += (token == b"[") - (token == b"]")
        if before in _TAGGED:
            if token in tags:
                return False
        elif token in tags or token in values:
            is_name = before in (b"", b",") or _may_be_type(before)
            if bounds or not is_name or then not in (b"", b",", b"[", b":"):
                return False
        before = token
    return True


def _function(tokens: Tokens, tags: Words, values: Words) -> Words | None:
    """The name of a pointer to a function if it returns a pointer to one; nothing if it only takes such."""
    opening = tokens.index(b"(")
    result, inner = tokens[:opening], tokens[opening:]
    if len(inner) < 6 or inner[1] != b"*" or not _WORD.fullmatch(inner[2]) or inner[3:5] != [b")", b"("]:
        return None
    if _closing(inner, 4) != len(inner) - 1 or not _are_pointers(inner[4:], tags, values):
        return None
    if (tags | values).isdisjoint(result):
        return frozenset()
    is_pointer = len(result) > 2 and result[0] in _TAGGED and set(result[2:]) == {b"*"}
    return frozenset({inner[2]}) if is_pointer else None


# Tokens ----------------------------------------------------------------------------------------------


def _tokens(text: bytes) -> list[bytes]:
    return [token for token in TOKEN.findall(text) if token not in _QUALIFIERS]


def _closing(tokens: Tokens, opening: int) -> int:
    """Where the parenthesis that opens there closes; the last token if it does not."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += (tokens[at] == b"(") - (tokens[at] == b")")
        if not depth:
            return at
    return len(tokens) - 1

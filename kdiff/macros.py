# SPDX-License-Identifier: Apache-2.0
"""Macros as text: what a definition pastes together, and where macros are named and called.

C11 6.10.3: a parameter beside `##` stands for its argument as it is written, any other for the argument's
expansion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

GLUE = b"##"
MARK = b"\v"
"""Stands in code where a condition or an `#include` was."""
TOKEN = re.compile(rb'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|##|\w+|[^\s\\]')
WORD = re.compile(rb"\w+")
_DEFINE = re.compile(rb"[ \t]*#[ \t]*define[ \t]+(\w+)(?:\(([^()]*)\))?")
_OPENING = re.compile(rb"(?:\s|\\\n)*\(")
_ASKED = re.compile(rb"[ \t]*#[ \t]*(?:undef|ifn?def)[ \t]+\w+|\bdefined\s*\(?\s*\w+")
_REST = b"__VA_ARGS__"


class Slot(NamedTuple):
    """The place of an argument. `raw`: it is pasted as it is written; if not, it is expanded before.

    `rest`: it takes all further arguments, too.
    """

    position: int
    raw: bool
    rest: bool


class Unknown(NamedTuple):
    """Any text, or any number."""

    pattern: bytes


UNKNOWN = Unknown(rb"\w*")
NUMBER = Unknown(rb"\d+")
Piece = bytes | Slot | Unknown
Chain = tuple[Piece, ...]


class Macro(NamedTuple):
    """A definition; `rest` is the index of the parameter that takes all further arguments, -1 for none."""

    name: bytes
    called: bool
    """Whether it is a function-like one: without a parenthesis behind it the name stands for itself."""
    parameters: tuple[bytes, ...]
    rest: int
    body: bytes

    def slot(self, word: bytes, raw: bool) -> Slot | None:
        if word not in self.parameters:
            return None
        position = self.parameters.index(word)
        return Slot(position, raw, position == self.rest)

    @property
    def further(self) -> bytes:
        """The parameter that takes all further arguments, nothing if none does."""
        return self.parameters[self.rest] if self.rest >= 0 else b""

    @property
    def chooses(self) -> bool:
        """Whether it stands for one of its arguments and nothing else."""
        body = TOKEN.findall(self.body)
        return len(body) == 1 and body[0] in self.parameters and body[0] != self.further

    @property
    def slots(self) -> Mapping[bytes, Slot]:
        """The place of each parameter that is expanded before it is used."""
        return {name: Slot(at, False, at == self.rest) for at, name in enumerate(self.parameters)}


class Part(NamedTuple):
    """A piece of a file, a macro's definition or code, and what it declares, None if it may do more."""

    text: bytes
    declares: frozenset[bytes] | None


class Use(NamedTuple):
    """A macro is named: with these arguments, or None if it is not called. `within`: in another's body.

    `then`: what comes next, nothing at the end of a body. `units`: who sees it, a bit each. `chooser`: it is
    called only if this macro, of which it is an argument, is nothing but one of its own arguments.
    """

    file: str
    part: Part
    within: Macro | None
    arguments: tuple[tuple[bytes, ...], ...] | None
    then: bytes
    units: int
    chooser: bytes = b""

    @property
    def alias(self) -> bool:
        """Whether a macro is but another name of this one."""
        return (
            self.arguments is None
            and self.within is not None
            and not self.within.called
            and len(TOKEN.findall(self.within.body)) == 1
        )


def definition(directive: bytes) -> Macro | None:
    """The macro that a directive defines, if it does."""
    directive = directive.replace(b"\\\n", b" ")
    found = _DEFINE.match(directive)
    if found is None:
        return None
    names = [each.strip() for each in (found[2] or b"").split(b",")]
    rest = -1
    if names[-1].endswith(b"..."):
        names[-1] = names[-1].removesuffix(b"...").strip() or _REST
        rest = len(names) - 1
    return Macro(found[1], found[2] is not None, tuple(names), rest, directive[found.end() :])


class Glued(NamedTuple):
    """A paste in a macro's body that may spell a name, and the token behind it.

    `arguments`: those of a call by what is pasted, if that is called; `behind`: the token behind them.
    """

    chain: Chain
    then: bytes
    arguments: tuple[tuple[bytes, ...], ...] | None
    behind: bytes


def chains(macro: Macro) -> Iterator[Glued]:
    """The pastes of a macro's body."""
    tokens = list(TOKEN.finditer(macro.body))
    words = [token for token in tokens if token[0] != GLUE]
    at = 0
    for group in groups(token[0] for token in tokens):
        at += len(group)
        if len(group) > 1:
            end = words[at - 1].end()
            arguments, behind = _call(macro.body, end)
            then, last = (TOKEN.search(macro.body, each) for each in (end, behind))
            chain = tuple(macro.slot(word, raw=True) or word for word in group)
            yield Glued(chain, then[0] if then else b"", arguments, last[0] if last else b"")


def groups(tokens: Iterable[bytes]) -> list[list[bytes]]:
    """Tokens, those joined by `##` together; nothing joins a word and a sign."""
    made: list[list[bytes]] = []
    glued = False
    for token in tokens:
        if token == GLUE:
            glued = True
            continue
        if glued and made and WORD.fullmatch(token) and WORD.fullmatch(made[-1][-1]):
            made[-1].append(token)
        else:
            made.append([token])
        glued = False
    return made


def uses(file: str, part: Part, words: frozenset[bytes], units: int) -> Iterator[tuple[bytes, Use]]:
    """Where a part names one of some macros, not counting what defines it or asks if it is defined."""
    within = definition(part.text)
    text = part.text if within is None else within.body
    if within is None:
        text = _ASKED.sub(b"", text)
    for found in re.finditer(rb"\b(?:%b)\b" % b"|".join(map(re.escape, sorted(words))), text):
        arguments, end = _call(text, found.end())
        then = TOKEN.search(text, end)
        token = b"" if then is None else b"(" if MARK in text[end : then.start()] else then[0]
        use = Use(file, part, within, arguments, token, units)
        yield found[0], use if arguments is not None or within is None else _chosen(text, found.start(), use)


def _chosen(body: bytes, at: int, use: Use) -> Use:
    """The use as the call that follows if a macro may choose it: `CHOOSE(A, B, NAME)(arguments)`."""
    opened: list[bytes] = []
    before = [b"", b""]
    around: bytes | None = None
    for found in TOKEN.finditer(body):
        token = found[0]
        if found.start() == at:
            if not opened or before[-1] not in (b"(", b",") or use.then not in (b",", b")"):
                return use
            around = opened[-1]
            depth = len(opened)
        if token == b"(":
            opened.append(before[-1])
        elif token == b")" and opened:
            opened.pop()
            if around is not None and len(opened) < depth:
                arguments, end = _call(body, found.end())
                then = TOKEN.search(body, end)
                if arguments is None or not WORD.fullmatch(around):
                    return use
                return use._replace(
                    arguments=arguments, then=b"" if then is None else then[0], chooser=around
                )
        before.append(token)
    return use


def arguments_of(tokens: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...] | None:
    """The arguments of a call that the tokens are, if they are one."""
    text = b" ".join(tokens)
    arguments, end = _call(text, len(tokens[0]))
    return arguments if end == len(text) else None


def may_be_called(code: bytes, word: bytes, define: Callable[[Iterable[bytes]], Iterable[Macro]]) -> bool:
    """Whether code may call a function-like macro that it names: a parenthesis may come to stand behind it.

    It may where the name is an argument of macros, unless these only paste it or make a string of it.
    """
    tokens = TOKEN.findall(code)
    opened: list[tuple[bytes, int]] = []
    before = b""
    for token, then in zip(tokens, [*tokens[1:], b""], strict=True):
        if token == word:
            if then == b"(" or not all(_keeps(name, position, define) for name, position in opened):
                return True
        elif token == b"(":
            opened.append((before, 0))
        elif token == b")" and opened:
            opened.pop()
        elif token == b"," and opened:
            opened[-1] = (opened[-1][0], opened[-1][1] + 1)
        before = token
    return False


def _keeps(name: bytes, position: int, define: Callable[[Iterable[bytes]], Iterable[Macro]]) -> bool:
    """Whether no macro of a name puts a parenthesis behind its argument at a position."""
    if not WORD.fullmatch(name):
        return name != b")"  # what a call stands for may be called itself
    for macro in define([name]):
        if not macro.called:
            return False
        parameter = macro.parameters[position : position + 1] or (macro.further,)
        body = [b"", *TOKEN.findall(macro.body), b""]
        if any(
            token == parameter[0] and GLUE not in (before, then) and before != b"#"
            for before, token, then in zip(body, body[1:], body[2:], strict=False)
        ):
            return False
    return True


def _call(text: bytes, at: int) -> tuple[tuple[tuple[bytes, ...], ...] | None, int]:
    """The tokens of each argument of a call whose parenthesis comes next, and its end.

    None if none does, or if a condition decides what belongs to the call.
    """
    opening = _OPENING.match(text, at)
    if opening is None or MARK in opening[0]:
        return None, at
    done: list[tuple[bytes, ...]] = []
    tokens: list[bytes] = []
    depth = 0
    for found in TOKEN.finditer(text, opening.end()):
        token = found[0]
        if depth == 0 and token in (b",", b")"):
            done.append(tuple(tokens))
            if token == b")":
                return None if MARK in text[at : found.end()] else tuple(done), found.end()
            tokens = []
            continue
        depth += (token == b"(") - (token == b")")
        tokens.append(token)
    return None, at

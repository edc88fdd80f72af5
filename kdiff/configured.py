# SPDX-License-Identifier: Apache-2.0
"""A header's text without the branches that the kernel's configuration rules out.

Conditions are worked out as far as they are known, in three values: C11 6.10.1 for `#if`, and
include/linux/kconfig.h for IS_ENABLED and its like. Whatever else a condition asks stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path

from kdiff.parts import CONDITIONS, OPENS, bare, kind_of, lines_of
from kdiff.values import dataclass

_DEFINED = re.compile(rb"^#define (CONFIG_\w+) ?(.*)$", re.MULTILINE)
_WORD = re.compile(rb"\w+")
_TOKEN = re.compile(rb"\d\w*|\w+|&&|\|\||[<>=!]=|<<|>>|\S")
_DECIMAL = re.compile(rb"\d+")
_ASKED = {
    b"IS_ENABLED": (b"", b"_MODULE"),
    b"IS_BUILTIN": (b"",),
    b"IS_MODULE": (b"_MODULE",),
}
"""What asks in include/linux/kconfig.h whether an option is set, and which of its two names count."""

ASKING = frozenset(_ASKED)


def options(build: Path) -> Mapping[bytes, bytes]:
    """What the configuration defines: include/generated/autoconf.h, which kconfig.h includes first of all.

    Nothing if there is no such file: then nothing is known of any option.
    """
    file = build / "include/generated/autoconf.h"
    text = file.read_bytes() if file.exists() else b""
    return {found[1]: found[2].strip() for found in _DEFINED.finditer(text)}


def disputed(pre: bytes, post: bytes) -> frozenset[bytes]:
    """All words of the conditions that differ or are around what differs, options by both of their names."""
    old, new = _lines(pre), _lines(post)
    edits = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    parts = [(old[a:b], new[c:d]) for what, a, b, c, d in edits if what != "equal"]
    conditions = {each for sides in parts for side in sides for _, under in side for each in under}
    words = {word for each in conditions for word in _WORD.findall(each)}
    return frozenset(words | {word + b"_MODULE" for word in words if word.startswith(b"CONFIG_")})


def _lines(text: bytes) -> list[tuple[bytes, tuple[bytes, ...]]]:
    """The lines of a text that are not empty, each with the conditions around it, or that it is part of."""
    text = bare(text)
    made: list[tuple[bytes, tuple[bytes, ...]]] = []
    opened: list[bytes] = []
    end = 0
    for found in (*lines_of(text), None):
        code = text[end : found.start() if found else len(text)]
        made += [(line.strip(), tuple(opened)) for line in code.splitlines() if line.strip()]
        if found is None:
            break
        end = found.end()
        line, kind = found[0].strip(), kind_of(found[0])
        if kind == b"endif" and opened:
            made.append((line, tuple(opened)))
            opened.pop()
            continue
        if kind in OPENS:
            opened.append(line)
        elif kind in CONDITIONS and opened:
            opened[-1] += b"\n" + line
        if kind != b"line":
            made.append((line, tuple(opened)))
    return made


@dataclass(frozen=True, slots=True)
class Configured:
    """Macros that are `defined`, with their values: whether one is, is known of those `asked`."""

    defined: Mapping[bytes, bytes]
    asked: frozenset[bytes]

    def settled(self, text: bytes) -> bytes:
        """The text with the branches that may be read, and the conditions that are not known."""
        text = bare(text)
        made: list[bytes] = []
        opened: list[_Branches] = []
        end = 0
        for line in lines_of(text):
            if all(each.read for each in opened):
                made.append(text[end : line.start()])
            end = line.end()
            kind = kind_of(line[0])
            if kind in OPENS:
                opened.append(_Branches())
            if kind not in CONDITIONS or not opened:
                if all(each.read for each in opened):
                    made.append(line[0])
                continue
            kept = opened[-1].step(kind, line[0], self)
            if kept and all(each.read for each in opened[:-1]):
                made.append(kept + b"\n")
            if kind == b"endif":
                opened.pop()
        return b"".join([*made, text[end:]])

    def holds(self, condition: bytes) -> bool | None:
        """Whether a condition (`#if …`, `#elifdef …`) is met; None if it is not known."""
        kind, rest = kind_of(condition), condition.partition(kind_of(condition))[2]
        tokens = _TOKEN.findall(rest.replace(b"\\\n", b" "))
        if kind in (b"ifdef", b"elifdef", b"ifndef", b"elifndef"):
            known = self.is_defined(tokens[0]) if len(tokens) == 1 else None
            return known if known is None or b"n" not in kind else not known
        return None if b"?" in tokens else _Expression(tokens, self).value()

    def is_defined(self, name: bytes) -> bool | None:
        """Whether a macro is defined; None if that is not known."""
        return name in self.defined if name in self.asked else None

    def is_set(self, macro: bytes, name: bytes) -> bool | None:
        """What a macro such as IS_ENABLED says of an option."""
        if name not in self.asked:
            return None
        return any(self.defined.get(name + tail) == b"1" for tail in _ASKED[macro])


class _Branches:
    """A condition with its branches: whether the present one may be `read`."""

    def __init__(self) -> None:
        self.read = True
        self._taken = False
        """Whether one that is read for certain has come: there is no other."""
        self._written = False
        """Whether a line of the condition is left, so that there must be an `#endif`."""

    def step(self, kind: bytes, line: bytes, known: Configured) -> bytes:
        """Go over a line of it; what is left of that line."""
        if kind == b"endif":
            return line.strip() if self._written else b""
        met = not self._taken and (kind == b"else" or known.holds(line))
        if self._taken or met is False:
            self.read = False
            return b""
        self.read = True
        self._taken = met is True
        if met is True:
            return b"#else" if self._written else b""
        kept = line.strip() if self._written or kind in OPENS else _opening(line)
        self._written = True
        return kept


def _opening(line: bytes) -> bytes:
    """An `#elif` line as the one that opens a condition."""
    return line.strip().replace(b"elif", b"if", 1)


class _Expression:
    """What an `#if` line asks. What is no option, `!`, `&&`, `||` or parenthesis is not known."""

    def __init__(self, tokens: list[bytes], known: Configured) -> None:
        self._tokens, self._known, self._at = tokens, known, 0

    def value(self) -> bool | None:
        found = self._either()
        return found if self._at == len(self._tokens) else None

    def _either(self) -> bool | None:
        found = self._both()
        while self._next() == b"||":
            self._at += 1
            other = self._both()
            found = True if found or other else None if found is None or other is None else False
        return found

    def _both(self) -> bool | None:
        found = self._operand()
        while self._next() == b"&&":
            self._at += 1
            other = self._operand()
            found = (
                False
                if found is False or other is False
                else None
                if found is None or other is None
                else True
            )
        return found

    def _operand(self) -> bool | None:
        """One side of `&&` or `||`; not known if there is arithmetic."""
        found = self._plain()
        while self._next() not in (b"", b"&&", b"||", b")"):
            self._plain()
            found = None
        return found

    def _plain(self) -> bool | None:
        token, self._at = self._next(), self._at + 1
        if token == b"!":
            found = self._plain()
            return None if found is None else not found
        if token == b"(":
            found = self._either()
            self._skip()
            return found
        if token == b"defined" and self._next() == b"(":
            return self._known.is_defined(self._within())
        if token == b"defined":
            self._at += 1
            return self._known.is_defined(
                self._tokens[self._at - 1] if self._at <= len(self._tokens) else b""
            )
        if token in ASKING and self._next() == b"(":
            return self._known.is_set(token, self._within())
        if self._next() == b"(":
            self._within()
            return None
        return bool(int(token)) if _DECIMAL.fullmatch(token) else None

    def _within(self) -> bytes:
        """What is in the parentheses that come next, if it is one word."""
        start, self._at = self._at, self._at + 1
        self._skip()
        return self._tokens[start + 1] if self._at == start + 3 else b""

    def _skip(self) -> None:
        """Go behind the parenthesis that closes what is open."""
        depth = 1
        while depth and self._at < len(self._tokens):
            depth += (self._tokens[self._at] == b"(") - (self._tokens[self._at] == b")")
            self._at += 1

    def _next(self) -> bytes:
        return self._tokens[self._at] if self._at < len(self._tokens) else b""

# SPDX-License-Identifier: Apache-2.0
"""Keep `__LINE__` as it was wherever a patch did not change the source.

WARN, BUG and their relatives compile the line number into the code, so three inserted lines would make
every later function of the file look changed. `pin_lines` writes `#line N` behind the changed regions:
from there on lines have their pristine numbers again. A directive is only written where it cannot change
what the compiler sees: at the start of a line, not inside a comment, a string, a continued line or a
directive, and not inside parentheses, which may be the arguments of a macro, nor just before them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdiff.texts import split_lines

_QUOTED = r""" "(?:\\[ \t]*\n|\\.|[^"\\\n])*"? | '(?:\\[ \t]*\n|\\.|[^'\\\n])*'? """
_TOKEN = re.compile(
    rf"""
      (?P<comment> /\*.*?(?:\*/|\Z) | //(?:\\[ \t]*\n|[^\n])* )
    | (?P<directive> (?m:^)[ \t]*\#(?: /\*.*?(?:\*/|\Z) | //(?:\\[ \t]*\n|[^\n])*
        | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+' | \\[ \t]*\n | [^\n] )* )
    | (?P<splice> \\[ \t]*\n )
    | (?P<newline> \n )
    | (?P<open> \( )
    | (?P<close> \) )
    | (?P<code> {_QUOTED} | [^\s"'/()\\\n]+ | [/\\] )
    """,
    re.VERBOSE | re.DOTALL,
)
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(\w*)[ \t]*([^\s]*)")
_OPENS = frozenset({"if", "ifdef", "ifndef"})
_TURNS = frozenset({"else", "elif", "elifdef", "elifndef"})


@dataclass(slots=True)
class _Conditional:
    """An open #if while a file is scanned: the parenthesis depth at its start and behind its branches."""

    start: int
    dead: bool
    """The branch at hand is never compiled."""
    ends: list[int] = field(default_factory=list)
    exhaustive: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a text may take a directive, and its conditional directives: line index (from 0) -> keyword.

    A conditional is listed at the line after it, where what it says begins to hold.
    """

    safe: frozenset[int]
    conditionals: dict[int, str]
    numbered: bool
    """The text sets line numbers itself."""


def pin_lines(text: str, origin: Sequence[int | None]) -> str:
    """Insert `#line` directives so that line i of `text` is numbered `origin[i]` (None: whatever it gets).

    Lines between a change and the next safe place keep the number that they have.
    """
    layout = scan(text)
    if layout.numbered:
        return text
    out: list[str] = []
    number: int | None = 1
    """What the compiler will call the line at hand; None if that depends on a condition."""
    pinned: list[bool] = []
    """For each open conditional, innermost last: whether a directive was written inside it."""
    for index, line in enumerate(split_lines(text)):
        keyword = layout.conditionals.get(index, "")
        if keyword in _OPENS:
            pinned.append(False)
        elif keyword and pinned:
            number = None if pinned[-1] else number
            if keyword == "endif":
                pinned.pop()
        wanted = origin[index]
        leaves_branch = layout.conditionals.get(index + 1, "") not in {"", *_OPENS}
        if wanted is not None and wanted != number and index in layout.safe and not leaves_branch:
            out.append(f"#line {wanted}\n")
            number = wanted
            pinned = [True] * len(pinned)
        out.append(line)
        number = None if number is None else number + 1
    return "".join(out)


def scan(text: str) -> Layout:
    """Find the safe lines of a C source file."""
    safe = {0}
    pending: list[int] = []
    conditionals: dict[int, str] = {}
    open_groups: list[_Conditional] = []
    depth = line = 0
    numbered = False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        line += token[0].count("\n")
        if kind == "newline":
            if depth == 0:
                pending.append(line)
            continue
        if kind in {"comment", "splice"}:
            continue
        if kind != "open":
            safe.update(pending)
        pending.clear()
        if kind == "open":
            depth += 1
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "directive":
            keyword, condition = _directive(token[0])
            numbered |= keyword == "line" or keyword.isdigit()
            if keyword in _OPENS | _TURNS | {"endif"}:
                conditionals[line + 1] = keyword
                depth = _depth_behind(keyword, condition, depth, open_groups)
    safe.update(pending)
    return Layout(frozenset(safe), conditionals, numbered)


def _directive(text: str) -> tuple[str, str]:
    found = _DIRECTIVE.match(text)
    return (found[1], found[2]) if found else ("", "")


def _depth_behind(keyword: str, condition: str, depth: int, open_groups: list[_Conditional]) -> int:
    """The parenthesis depth after a conditional directive: each branch starts where the first one did.

    Code is balanced whichever branch is taken, so a conditional without #else changes nothing, and the
    branches of one with #else agree; text that is never compiled (`#if 0`) has no say.
    """
    if keyword in _OPENS:
        open_groups.append(_Conditional(depth, dead=keyword == "if" and condition == "0"))
        return depth
    if not open_groups:
        return depth
    group = open_groups[-1]
    if not group.dead:
        group.ends.append(depth)
    group.dead = False
    group.exhaustive |= keyword == "else"
    if keyword == "endif":
        open_groups.pop()
        return group.ends[0] if group.exhaustive and group.ends else group.start
    return group.start

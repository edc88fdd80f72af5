# SPDX-License-Identifier: Apache-2.0
"""The difference of two trees as hunks, each with what tells which others it cannot do without.

In: what GNU `diff -ruN` prints, and the older tree. Out: `Hunk`s. A hunk knows the functions whose bodies it
changes, by the line in the older file at which each begins, and the words that it adds, removes and declares.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

LEFT_OUT = ("Documentation", "tools", "samples")
"""Folders at any depth of the tree that no part of a kernel is made from."""
NOBODY = 0
"""The owner of lines between functions."""
_RANGE = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_TOP = re.compile(r"[A-Za-z_]|#\s*define\b")
_LABEL = re.compile(r"\w+:\s*($|/\*|//)")
_WORD = re.compile(r"[A-Za-z_]\w{2,}")
_DECLARED = re.compile(r"([A-Za-z_][\w\s]*[\s*])?(?!int\b|void\b|if\b|return\b)([a-z_]\w+)\s*\(")
_MEMBER = re.compile(r"\b([\w-]+)\.o\b")


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk of one file. `lines` carry their prefix: blank, `+`, `-` or a backslash."""

    path: str
    state: str
    """Of the file: `changed`, `new` or `deleted`."""
    start: int
    """The first line in the older file, from 1; 0 in a new file."""
    lines: tuple[str, ...]
    owners: frozenset[int] = frozenset()
    """First lines, in the older file, of the functions and macros whose lines it changes."""
    declares: tuple[str, ...] = ()
    """Those lines' own text, for a look at `__init`."""
    redeclared: frozenset[str] = frozenset()
    """Functions that stay and of whose head or prototype it changes a line: callers may have to change too.

    A static one is `PATH:NAME`, for nobody else can mean it.
    """

    def changed(self, sign: str) -> Iterator[str]:
        """The lines that it adds (`+`) or removes (`-`), without the sign."""
        return (line[1:] for line in self.lines if line.startswith(sign))

    def words(self, sign: str) -> frozenset[str]:
        """Identifiers on added or removed lines; for an object that a makefile lists, the file's path."""
        text = "\n".join(self.changed(sign))
        if self.path.rpartition("/")[2] in ("Makefile", "Kbuild"):
            folder = self.path.rpartition("/")[0]
            return frozenset(f"{folder}/{name}.c" for name in _MEMBER.findall(text))
        return frozenset(_WORD.findall(text))

    @property
    def says_nothing(self) -> bool:
        """Whether only blank lines and comments change."""
        lines = (line.strip() for sign in "+-" for line in self.changed(sign))
        return all(not line or line.startswith(("/*", "*", "//")) for line in lines)

    @property
    def length(self) -> int:
        """How many lines of the older file it covers."""
        return sum(line[0] in " -" for line in self.lines)

    @property
    def growth(self) -> int:
        return sum({"+": 1, "-": -1}.get(line[0], 0) for line in self.lines)


def difference(before: Path, after: Path) -> tuple[Hunk, ...]:
    """All hunks between two trees, in the order of their paths and lines."""
    excluded = [word for folder in LEFT_OUT for word in ("-x", folder)]
    done = subprocess.run(
        ("diff", "-ruN", *excluded, str(before), str(after)),
        capture_output=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    if done.returncode > 1:
        raise SystemExit(f"diff: {done.stderr.decode(errors='replace').strip()}")
    text = done.stdout.decode("utf-8", "surrogateescape")
    return tuple(owned(hunk, before) for hunk in parse(text, before, after))


def parse(text: str, before: Path, after: Path) -> Iterator[Hunk]:
    """The hunks in a diff of `before` and `after`, whose names it carries."""
    path, state = "", "changed"
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        found = _RANGE.match(line)
        at += 1
        if line.startswith("diff "):
            path = line.rpartition(f" {after}/")[2]
            state = "changed"
            if not (before / path).exists():
                state = "new"
            elif not (after / path).exists():
                state = "deleted"
        elif found:
            old, new = (int(count) if count else 1 for count in (found[2], found[4]))
            body = []
            while old or new or lines[at].startswith("\\"):
                body.append(lines[at])
                old -= lines[at][0] in " -"
                new -= lines[at][0] in " +"
                at += 1
            yield Hunk(path, state, int(found[1]), tuple(body))


def owned(hunk: Hunk, before: Path) -> Hunk:
    """The same hunk with what the older file says of its lines."""
    if hunk.state != "changed":
        return hunk
    text = (before / hunk.path).read_text("utf-8", "surrogateescape").split("\n")
    lines = tuple(touched(hunk))
    starts = sorted({owner(text, line) for line, _ in lines} - {NOBODY})
    gone = {line for line, goes in lines if goes}
    heads = {
        name
        for line in _changed_or_split(text, lines)
        if (name := declaration(text, line, hunk.path))
        and (owner(text, line) not in gone or name.rpartition(":")[2] in hunk.words("+"))
    }
    return replace(
        hunk,
        owners=frozenset(starts),
        declares=tuple(text[start - 1] for start in starts),
        redeclared=frozenset(heads),
    )


def declaration(text: Sequence[str], line: int, path: str) -> str:
    """The function whose head or prototype `line` is a part of, as `Hunk.redeclared` has it, or nothing."""
    start = owner(text, line)
    if start == NOBODY:
        return ""
    head = text[start - 1 : line]
    found = _DECLARED.match(head[0])
    if found is None or any(re.search(r"[{;]", before) for before in head[:-1]):
        return ""
    kind = found[1] or (text[start - 2] if start > 1 else "")
    if not re.match(r"[A-Za-z_][^;:]*$", kind):
        return ""
    return f"{path}:{found[2]}" if kind.startswith("static") and path.endswith(".c") else found[2]


def _changed_or_split(text: Sequence[str], lines: Iterable[tuple[int, bool]]) -> Iterator[int]:
    """Lines that go, and of those between which something comes the second, if both have one owner."""
    for line, goes in lines:
        if goes:
            yield line
        elif owner(text, line) == owner(text, line + 1):
            yield line + 1


def touched(hunk: Hunk) -> Iterator[tuple[int, bool]]:
    """Lines of the older file that go (True), or after which something comes (False)."""
    number = hunk.start
    for line in hunk.lines:
        if line[0] == "+":
            yield number - 1, False
        elif line[0] in " -":
            if line[0] == "-":
                yield number, True
            number += 1


def owner(text: Sequence[str], line: int) -> int:
    """The line at which the function or macro begins that `line` is a part of, or `NOBODY`."""
    for number in range(min(line, len(text)), 0, -1):
        content = text[number - 1]
        if content.startswith("}"):
            return NOBODY if number < line or content.rstrip() == "}" else number
        if _TOP.match(content) and not _LABEL.match(content):
            return number
    return NOBODY


def render(hunks: Iterable[Hunk]) -> str:
    """A patch of these hunks, to be applied with -p1."""
    parts = []
    path, moved = "", 0
    for hunk in sorted(hunks, key=lambda each: (each.path, each.start)):
        if hunk.path != path:
            path, moved = hunk.path, 0
            old = "/dev/null" if hunk.state == "new" else f"a/{path}"
            new = "/dev/null" if hunk.state == "deleted" else f"b/{path}"
            parts.append(f"--- {old}\n+++ {new}\n")
        length, growth = hunk.length, hunk.growth
        start = hunk.start + moved + (1 if hunk.state == "new" else 0) - (hunk.state == "deleted")
        parts.append(f"@@ -{hunk.start},{length} +{start},{length + growth} @@\n")
        parts.extend(f"{line}\n" for line in hunk.lines)
        moved += growth
    return "".join(parts)

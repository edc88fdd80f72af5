# SPDX-License-Identifier: Apache-2.0
"""Source texts in memory, and what a patch makes of them.

A patched text knows for each of its lines which pristine line it was. A hunk may have moved, as with
patch(1), but its context must agree to the letter unless fuzz is asked for: a patch that nearly applies is
not good enough for a running kernel. Texts are UTF-8 with surrogate escapes, so that bytes survive; lines
end with a line feed and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdiff.errors import KdiffError
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk: `before` must be found at line `start` (from 1) or nearby and becomes `after`.

    `kept` pairs the index of a context line in `before` with its index in `after`.
    """

    start: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    kept: tuple[tuple[int, int], ...]
    leading: int
    """Number of context lines before the first change; `trailing`: after the last."""
    trailing: int
    place: str


@dataclass(frozen=True, slots=True)
class FileChange:
    """One part of a patch: what the file is called before and after it, None where it is not, and hunks."""

    before: str | None
    after: str | None
    hunks: tuple[Hunk, ...]
    copies: bool = False
    """The file `before` stays, and `after` is made from it."""

    @property
    def path(self) -> str:
        """What the file is called, or was if it is deleted."""
        return self.after or self.before or ""


@dataclass(frozen=True, slots=True)
class Patched:
    """A text; `origin[i]` is the pristine line number (from 1) of line i, None for a line the patch wrote."""

    lines: tuple[str, ...]
    origin: tuple[int | None, ...]
    moved: tuple[str, ...] = ()
    """One line for a person for each hunk that was found at another line than the patch says."""

    @property
    def text(self) -> str:
        return "".join(self.lines)


def decode(data: bytes) -> str:
    """Turn a source file's bytes into text such that `encode` gives them back."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The inverse of `decode`."""
    return text.encode("utf-8", "surrogateescape")


def split_lines(text: str) -> tuple[str, ...]:
    """Cut after each line feed; form feeds and lone carriage returns stay inside their line."""
    return tuple(re.findall(r"[^\n]*\n|[^\n]+", text))


def pristine(text: str) -> Patched:
    """A text that no patch has touched yet."""
    lines = split_lines(text)
    return Patched(lines, tuple(range(1, len(lines) + 1)))


def apply_change(change: FileChange, text: Patched, fuzz: int = 0) -> Patched:
    """Apply all hunks of one file; KdiffError `patch.does_not_apply` names the hunk that does not fit.

    `fuzz`: how many lines of context at either end need not agree.
    """
    lines: list[str] = []
    origin: list[int | None] = []
    moved = list(text.moved)
    end = 0
    offset = 0
    for hunk in change.hunks:
        found, at = _fit(hunk, text.lines, end, offset, fuzz)
        if found is not hunk:
            moved.append(
                f"{hunk.place}: applied without {len(hunk.before) - len(found.before)} line(s) of context"
            )
        hunk = found
        offset = at - (hunk.start - 1)
        if offset:
            moved.append(f"{hunk.place}: applied with an offset of {offset:+d} lines")
        lines += text.lines[end:at]
        origin += text.origin[end:at]
        kept = {after: text.origin[at + before] for before, after in hunk.kept}
        lines += hunk.after
        origin += [kept.get(index) for index in range(len(hunk.after))]
        end = at + len(hunk.before)
    lines += text.lines[end:]
    origin += text.origin[end:]
    return Patched(tuple(lines), tuple(origin), tuple(moved))


def _fit(hunk: Hunk, lines: Sequence[str], first: int, offset: int, fuzz: int) -> tuple[Hunk, int]:
    """The hunk with as little context left out as it takes, and the index at which it is found."""
    for each in (hunk, *(_shortened(hunk, number) for number in range(1, fuzz + 1))):
        at = _find(each, lines, first, offset) if each is hunk or each.leading or each.trailing else None
        if at is not None:
            return each, at
    raise KdiffError(
        "patch.does_not_apply",
        "the patch does not apply: its context is not in the kernel source",
        place=hunk.place,
        remedy="make the patch against exactly this kernel's source",
    )


def _shortened(hunk: Hunk, fuzz: int) -> Hunk:
    """A hunk with less context, at its longer end first, as patch(1) does it."""
    most = max(hunk.leading, hunk.trailing)
    head, tail = (max(0, fuzz + each - most) for each in (hunk.leading, hunk.trailing))
    head, tail = min(head, hunk.leading), min(tail, hunk.trailing)
    return Hunk(
        hunk.start + head,
        hunk.before[head : len(hunk.before) - tail],
        hunk.after[head : len(hunk.after) - tail],
        tuple(
            (old - head, new - head)
            for old, new in hunk.kept
            if head <= old < len(hunk.before) - tail and head <= new < len(hunk.after) - tail
        ),
        hunk.leading - head,
        hunk.trailing - tail,
        hunk.place,
    )


def _find(hunk: Hunk, lines: Sequence[str], first: int, offset: int) -> int | None:
    """The index at which `before` is found, not before `first`.

    Tried in this order: where the hunk before it went, where the patch says, the only other place. A hunk
    that fits several other places is an error: the context then says nothing. As with patch(1), a hunk
    that has less context on one side was made at that end of the file and may not move away from it.
    """
    last = len(lines) - len(hunk.before)

    def fits(at: int) -> bool:
        return first <= at <= last and tuple(lines[at : at + len(hunk.before)]) == hunk.before

    for at in (hunk.start - 1 + offset, hunk.start - 1):
        if fits(at):
            return at
    if not hunk.leading and not hunk.trailing:
        return None
    at_start = hunk.leading < hunk.trailing and hunk.start == 1
    at_end = hunk.trailing < hunk.leading
    places = [
        at
        for at in range(first, last + 1)
        if fits(at) and (not at_start or at == 0) and (not at_end or at == last)
    ]
    if len(places) > 1:
        numbers = ", ".join(str(at + 1) for at in places[:5])
        raise KdiffError(
            "patch.ambiguous",
            f"the hunk does not fit where the patch says, but at each of lines {numbers}",
            place=hunk.place,
            remedy="make the patch against exactly this kernel's source, or with more context",
        )
    return places[0] if places else None

# SPDX-License-Identifier: Apache-2.0
"""Every deliberate exception, and the value that says "no".

Two different things can go wrong. The world or the input may be broken (a truncated object, a missing
compiler, a full disk): that is a `KdiffError`. Or kdiff may understand everything and still decline to
touch a kernel: that is a `Refusal`, a value with a dotted key, a place and a remedy; `Refused` carries
refusals to the command line. Standard library only: the machine that is updated imports this file, so
it has no dataclass either, whose import costs that machine more than all of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_NOTHING_CHANGED = 66
"""Ksplice's number for a patch that changes no object code."""


def one_line(text: str) -> str:
    """Text that a terminal shows on one line: names in broken files may hold any character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class KdiffError(Exception):
    """Something outside kdiff is not as it must be.

    `key` is a dotted name that never changes (`elf.truncated`), `place` says where, `remedy` what to do;
    `details` are further lines for a person, such as the end of a log.
    """

    def __init__(
        self, key: str, message: str, *, place: str = "", remedy: str = "", details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.key = key
        self.message = message
        self.place = place
        self.remedy = remedy
        self.details = details

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        hint = f" ({self.remedy})" if self.remedy else ""
        return one_line(f"{where}{self.message}{hint}")


class Refusal(NamedTuple):
    """One reason why kdiff will not create or apply an update."""

    key: str
    """Dotted name: `runpre.content`, `review.data_changed`."""
    place: str
    """Where: `tcp_ipv4.o: .text.tcp_v4_rcv+0x1c`."""
    reason: str
    remedy: str = ""
    details: tuple[str, ...] = ()
    """Further lines for a person, such as the disassembly of both sides."""

    def __str__(self) -> str:
        hint = f" ({self.remedy})" if self.remedy else ""
        return one_line(f"{self.key}: {self.place}: {self.reason}{hint}")


class Refused(Exception):
    """Carries one refusal or more out of the pipeline; the command line turns it into exit status 3."""

    def __init__(self, *refusals: Refusal) -> None:
        super().__init__("; ".join(str(each) for each in refusals))
        self.refusals = refusals


def lines_of(error: KdiffError | Refused) -> Iterator[str]:
    """Yield what a command prints of an error: a line for each problem, its details indented."""
    for problem in error.refusals if isinstance(error, Refused) else (error,):
        yield f"refused: {problem}" if isinstance(error, Refused) else str(problem)
        yield from (f"    {detail}" for detail in problem.details)


def json_of(error: KdiffError | Refused) -> dict[str, list[dict[str, object]]]:
    """What a command prints of an error with --json: `{"error": [...]}` or `{"refused": [...]}`."""
    if isinstance(error, Refused):
        return {"refused": [_as_json(each, each.reason) for each in error.refusals]}
    return {"error": [_as_json(error, error.message)]}


def _as_json(problem: KdiffError | Refusal, message: str) -> dict[str, object]:
    return {
        "key": problem.key,
        "place": problem.place,
        "message": message,
        "remedy": problem.remedy,
        "details": list(problem.details),
    }


class NothingChanged(Exception):
    """The patch changes no object code: exit status 66."""

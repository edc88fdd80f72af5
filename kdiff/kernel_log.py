# SPDX-License-Identifier: Apache-2.0
"""The kernel's log as values, and what in it means trouble.

The text is what /dev/kmsg hands out (Documentation/ABI/testing/dev-kmsg): `priority,sequence,microseconds,
flags;message`, followed by continuation lines that start with a space; or what the kernel prints to its
console, `[ seconds] message`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kdiff.values import dataclass

_RECORD = re.compile(r"(\d+),(\d+),(\d+),[^;]*;(.*)")
_CONSOLE = re.compile(r"\[ *(\d+\.\d+)\] ?(.*)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One message. `level` is 0 (emergency) to 7 (debug); 0 for what is known from the console only."""

    level: int
    seconds: float
    text: str

    def __str__(self) -> str:
        return f"[{self.seconds:12.6f}] {self.text}"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One kind of bad news: `pattern` is searched in messages of at most (as urgent as) `level`."""

    key: str
    pattern: re.Pattern[str]
    level: int = 7


@dataclass(frozen=True, slots=True)
class Complaint:
    """A message that means trouble, and which kind of it."""

    key: str
    record: LogRecord


TROUBLES = (
    Trouble("log.panic", re.compile(r"Kernel panic")),
    Trouble("log.oops", re.compile(r"\bOops\b")),
    Trouble("log.bug", re.compile(r"\bBUG\b|kernel BUG at")),
    Trouble("log.warning", re.compile(r"^WARNING:|-+\[ cut here \]-+")),
    Trouble(
        "log.fault",
        re.compile(r"general protection|double fault|stack segment|invalid opcode|unable to handle"),
    ),
    Trouble("log.trace", re.compile(r"Call Trace:")),
    Trouble("log.stall", re.compile(r"rcu.*(stall|starved)|soft lockup|hard LOCKUP")),
    Trouble("log.hung", re.compile(r"blocked for more than \d+ seconds")),
    Trouble(
        "log.lockdep",
        re.compile(r"possible (circular|recursive) locking|inconsistent lock state|possible deadlock"),
    ),
    Trouble("log.sanitizer", re.compile(r"\b(KASAN|KCSAN|KFENCE|UBSAN|KMSAN)\b")),
    Trouble("log.livepatch", re.compile(r"^livepatch: "), level=3),
    Trouble(
        "log.module",
        re.compile(r"Unknown symbol|disagrees about version|version magic|Unknown rela relocation"),
        level=4,
    ),
)


def parse(text: str) -> tuple[LogRecord, ...]:
    """Return the records of what was read from /dev/kmsg; lines that are not records are left out."""
    records = []
    for line in text.splitlines():
        found = _RECORD.fullmatch(line)
        if found:
            text = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), found[4])
            records.append(LogRecord(int(found[1]) & 7, int(found[3]) / 1e6, text))
    return tuple(records)


def parse_console(text: str) -> tuple[LogRecord, ...]:
    """Return the records of a console; lines without a time are left out."""
    found = [_CONSOLE.fullmatch(line) for line in text.splitlines()]
    return tuple(LogRecord(0, float(line[1]), line[2]) for line in found if line)


def complaints(records: Iterable[LogRecord]) -> tuple[Complaint, ...]:
    """Return every record that means trouble, under the first kind that fits."""
    found = []
    for record in records:
        for trouble in TROUBLES:
            if record.level <= trouble.level and trouble.pattern.search(record.text):
                found.append(Complaint(trouble.key, record))
                break
    return tuple(found)

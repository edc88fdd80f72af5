# SPDX-License-Identifier: Apache-2.0
"""Which candidate a line of Debian's changelog is about, told only where there is no doubt.

A line names no file. It is taken to be about a candidate if it names a function that this candidate alone
changes, or if its prefix (`can: bcm:`) ends in the name of one file and this candidate is all that changes
there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from corpus.split import Candidate

_STANZA = re.compile(r"^linux \(([^)]+)\).*?(?=^linux \(|\Z)", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^    - (.*(?:\n      .*)*)", re.MULTILINE)
_CVE = re.compile(r"CVE-\d+-\d+")
_FUNCTION = re.compile(r"\b([a-z]\w*_\w+|[a-z]\w+(?=\(\)))")


@dataclass(frozen=True, slots=True)
class Entry:
    """One fix: its title without marks such as `[x86]`, and the CVE ids that Debian gives for it."""

    title: str
    cves: tuple[str, ...]

    @property
    def functions(self) -> frozenset[str]:
        return frozenset(_FUNCTION.findall(self.title))

    @property
    def subject(self) -> str:
        """The last word before the last colon of the prefix: `bcm`."""
        found = re.match(r"((?:[^\s:]+(?: [^\s:]+)?: ?)+)", self.title)
        return re.split(r"[:/ ]+", found[1].rstrip(": "))[-1] if found else ""


def entries(changelog: str, before: str) -> tuple[Entry, ...]:
    """All fixes in the versions above `before`, which ends the search."""
    found = []
    for stanza in _STANZA.finditer(changelog):
        if stanza[1] == before:
            break
        for entry in _ENTRY.finditer(stanza[0]):
            text = " ".join(entry[1].split())
            cves = tuple(sorted(set(_CVE.findall(text))))
            title = re.sub(r"\s*\((?:CVE-\d+-\d+(?:, )?)+\)", "", re.sub(r"^(?:\[[^]]+\] )+", "", text))
            if not title.startswith("http"):
                found.append(Entry(title, cves))
    return tuple(found)


def attached(candidates: Sequence[Candidate], fixes: Iterable[Entry]) -> Mapping[str, tuple[Entry, ...]]:
    """Entries by the id of the candidate that they are about."""
    by_function: dict[str, set[str]] = defaultdict(set)
    by_file: dict[str, set[str]] = defaultdict(set)
    files: dict[str, set[str]] = defaultdict(set)
    for candidate in candidates:
        for hunk in candidate.hunks:
            for line in hunk.declares:
                for name in re.findall(r"\b([a-z_]\w+)\s*\(", line)[:1]:
                    by_function[name].add(candidate.id)
        for path in candidate.paths:
            stem = PurePosixPath(path).stem
            by_file[stem].add(candidate.id)
            files[stem].add(path)
    found: dict[str, list[Entry]] = defaultdict(list)
    for fix in fixes:
        about = {each for name in fix.functions if len(by_function[name]) == 1 for each in by_function[name]}
        if not about and len(files[fix.subject]) == 1 and len(by_file[fix.subject]) == 1:
            about = by_file[fix.subject]
        for each in about if len(about) == 1 else ():
            found[each].append(fix)
    return {each: tuple(fixes) for each, fixes in found.items()}

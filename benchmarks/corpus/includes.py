# SPDX-License-Identifier: Apache-2.0
"""Which files of a tree include one, directly or through others, as far as names tell."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from corpus.hunks import LEFT_OUT

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^">]+)', re.MULTILINE)
_TEXTS = ("*.c", "*.h", "*.S", "*.inc")


def includers(tree: Path) -> Mapping[str, frozenset[str]]:
    """The files with an #include line that may mean a file, for all C files of a tree."""
    named: dict[str, list[str]] = defaultdict(list)
    lines: dict[str, list[str]] = defaultdict(list)
    for pattern in _TEXTS:
        for file in tree.rglob(pattern):
            name = str(file.relative_to(tree))
            if not name.startswith(tuple(f"{folder}/" for folder in LEFT_OUT)):
                named[file.name].append(name)
                lines[name] = INCLUDE.findall(file.read_text("utf-8", "surrogateescape"))
    found: dict[str, set[str]] = defaultdict(set)
    for name, texts in lines.items():
        for text in texts:
            beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), text))
            if beside in lines:
                found[beside].add(name)
                continue
            for target in named[posixpath.basename(text)]:
                if target.endswith(f"/{text}"):
                    found[target].add(name)
    return {name: frozenset(each) for name, each in found.items()}


def above(path: str, direct: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The file and all that include it, directly or not."""
    found = {path}
    waiting = [path]
    while waiting:
        more = direct.get(waiting.pop(), frozenset()) - found
        found |= more
        waiting += more
    return frozenset(found)

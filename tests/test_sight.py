# SPDX-License-Identifier: Apache-2.0
"""Which units see which files, and the words of what they see."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kdiff.includes import Includes
from kdiff.sight import Sight
from kdiff.workplace import Workplace

TEXTS = {
    "source/net/a.c": '#include "own.h"\n',
    "source/net/b.c": "#include <linux/far.h>\n",
    "source/net/own.h": "#include <linux/far.h>\n",
    "source/net/unused.h": "#define CAT(a, b) a##b\n",
    "source/include/linux/far.h": "int word;\n",
    "source/include/linux/always.h": "#include <linux/further.h>\n#define word\n",
    "source/include/linux/further.h": "#define CAT(a, b) a##b\n",
    "build/include/generated/made.h": "int word;\n",
}
FORCED = frozenset({"always.h"})


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    for name, text in TEXTS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = SimpleNamespace(root=tmp_path, source=tmp_path / "source", build=tmp_path / "build")
    return cast(Workplace, found)


def sight(place: Workplace, forced: frozenset[str] = FORCED) -> Sight:
    return Sight(place, Includes(place), ["net/a.c", "net/b.c"], forced)


def test_a_file_is_seen_by_all_who_include_it_directly_or_not(place: Workplace) -> None:
    seen = sight(place)
    told = {name: sorted(seen.names(seen.units(name))) for name in ("net/a.c", "net/own.h", "net/unused.h")}
    assert told == {"net/a.c": ["net/a.c"], "net/own.h": ["net/a.c"], "net/unused.h": []}
    assert seen.units("include/linux/far.h") == seen.every == 3
    assert seen.units("none.h") == 0


def test_what_the_command_line_includes_is_seen_by_all(place: Workplace) -> None:
    seen = sight(place)
    assert seen.units("include/linux/always.h") == seen.units("include/linux/further.h") == seen.every
    assert sight(place, frozenset()).units("include/linux/further.h") == 0


def test_only_files_that_are_seen_are_searched(place: Workplace) -> None:
    seen = sight(place)
    words = frozenset({b"word"})
    assert seen.find([b"word", b"other"]) == {"include/linux/far.h": words, "include/linux/always.h": words}
    assert seen.find([]) == {}
    assert seen.containing(b"##") == ["include/linux/further.h"]

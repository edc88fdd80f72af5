# SPDX-License-Identifier: Apache-2.0
"""What Kbuild is asked about folders, and what it may leave unanswered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kdiff.errors import KdiffError
from kdiff.make import Outcome
from kdiff.units import ask, commands
from kdiff.workplace import Workplace

GOAL = ".kdiff.lst"


def place(root: Path, answers: dict[str, str], output: str, status: int = 2) -> Workplace:
    """A workplace whose make answers for some folders and then ends."""

    def make(*goals: str, environment: Any) -> Outcome:
        for folder, text in answers.items():
            (root / "build" / folder / GOAL).write_text(text)
        return Outcome(status, output)

    for folder in ("net", "mm"):
        (root / "source" / folder).mkdir(parents=True, exist_ok=True)
        (root / "source" / folder / "Makefile").write_text("")
    found = SimpleNamespace(root=root, build=root / "build", source=root / "source", make=make)
    return cast(Workplace, found)


def without(folder: str) -> str:
    return f"make[1]: *** No rule to make target '{folder}/{GOAL}'.\n"


def test_a_folder_that_kbuild_has_no_rule_for_compiles_nothing(tmp_path: Path) -> None:
    asked = place(tmp_path, {"net": "net/core.o .c gcc -O2\n.\n"}, without("mm"))
    assert ask(asked, ["net", "mm"]) == {"mm": {}, "net": {"net/core.c": "gcc -O2"}}


@pytest.mark.parametrize("output", ["Killed\n", without("fs"), ""])
def test_a_folder_without_answer_and_reason_is_an_error_and_not_kept(tmp_path: Path, output: str) -> None:
    asked = place(tmp_path, {"net": "net/core.o .c gcc -O2\n.\n"}, output)
    with pytest.raises(KdiffError) as caught:
        commands(asked, ["net/core.c", "mm/slub.c"])
    assert (caught.value.key, caught.value.place) == ("build.pre", "mm")
    assert not list((tmp_path / "commands").iterdir())


def test_a_make_that_fails_behind_its_answers_is_an_error(tmp_path: Path) -> None:
    asked = place(tmp_path, {"net": ".\n", "mm": ".\n"}, "No space left on device\n")
    with pytest.raises(KdiffError):
        ask(asked, ["net", "mm"])


def test_an_answer_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    asked = place(tmp_path, {"net": "net/core.o .c gcc -O2\n"}, without("mm"))
    with pytest.raises(KdiffError) as caught:
        ask(asked, ["net", "mm"])
    assert caught.value.place == "net"

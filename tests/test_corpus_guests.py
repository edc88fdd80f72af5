# SPDX-License-Identifier: Apache-2.0
"""A batch of updates on one guest: what holds is told apart from what does not, and the culprit is named."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from corpus import guests, outcomes
from corpus.guests import Machine, try_all
from corpus.outcomes import Created, Tried
from corpus.trees import Trees

from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError
from kdiff.guest import Guest, Result
from kdiff.kernel_log import LogRecord


class FakeGuest:
    """Answers as a guest would in which an update's name says what is wrong with it."""

    def __init__(self, share: Path) -> None:
        self.share = share
        share.mkdir()
        self.applied: list[str] = []
        self.modules: dict[str, bool] = {}
        """Those in memory, and whether an update was there before."""
        self.late: list[bool] = []
        """The same of those that have been unloaded."""
        self.log: list[LogRecord] = []
        self.closed = False

    def run(self, line: str, timeout: float) -> Result:
        words = shlex.split(line)
        command = words[0].rpartition("/")[2]
        status, output = 0, ""
        if command == "ksplice-apply":
            name = words[-1].rpartition("/ksplice-")[2].removesuffix(".tar.gz")
            if "refused" in name:
                status, output = 3, "refused: verify.symbol"
            else:
                self.applied.append(name)
        elif command == "ksplice-view":
            output = "".join(f"{name}: x\n" for name in self.applied if "hidden" not in name)
        elif command == "ksplice-undo":
            if "stuck" in words[-1]:
                status = 1
            else:
                self.applied.remove(words[-1])
        elif command == "rmmod":
            status = int(words[-1] == "keeps" or words[-1] not in self.modules)
            if not status:
                self.late.append(self.modules.pop(words[-1]))
        elif words[0] == "!":
            status = int(words[-1].rpartition("/")[2] in self.modules)
        elif any("deadly" in name for name in self.applied):
            raise KdiffError("guest.died", "is gone")
        elif any("breaks" in name for name in self.applied):
            status, output = 1, "smoke: a copy differs"
        elif any("oops" in name for name in self.applied):
            self.log.append(LogRecord(1, 1.0, "BUG: kernel NULL pointer dereference"))
        return Result(line, status, output, 0.5)

    def records(self) -> tuple[LogRecord, ...]:
        return tuple(self.log)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[FakeGuest]]:
    made: list[FakeGuest] = []

    def anew(machine: Machine | None, both: Trees) -> Machine:
        if machine is not None:
            machine.guest.close()
        made.append(FakeGuest(tmp_path / f"share{len(made)}"))
        return Machine(cast(Guest, made[-1]), tmp_path)

    def load(machine: Machine, name: str) -> bool:
        guest = cast(FakeGuest, machine.guest)
        guest.modules.setdefault(name, bool(guest.applied))
        machine.known[name] = True
        return True

    monkeypatch.setattr(guests, "_anew", anew)
    monkeypatch.setattr(Machine, "load", load)
    yield made
    assert all(guest.closed for guest in made)


def tried(tmp_path: Path, *names: str, fresh: tuple[str, ...] = ()) -> dict[str, Tried]:
    kernel = KernelSetup("6.1.0-1-amd64", "1", tmp_path, tmp_path, tmp_path)
    both = Trees("1", str(tmp_path / "store"), kernel, tmp_path, "")
    (both.store / "updates").mkdir(parents=True)
    for name in names:
        (both.store / "updates" / f"ksplice-{name}.tar.gz").touch()
    made = [Created(name, "update", (), (), fresh, (f"vmlinux:{name}",), fresh) for name in names]
    try_all(both, made)
    return outcomes.tried(both.store / "tried")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_holds_takes_one_boot(tmp_path: Path, booted: list[FakeGuest]) -> None:
    found = tried(tmp_path, *(f"good{n}" for n in range(12)))
    assert {each.result for each in found.values()} == {"held"}
    assert {(each.apply, each.undo) for each in found.values()} == {(0.5, 0.5)}
    assert len(booted) == 1
    assert booted[0].applied == []


def test_a_refusal_is_one_updates_own(tmp_path: Path, booted: list[FakeGuest]) -> None:
    found = tried(tmp_path, "good", "refused", "other")
    assert {name: each.result for name, each in found.items()} == {
        "good": "held",
        "other": "held",
        "refused": "apply",
    }
    assert "verify.symbol" in found["refused"].detail
    assert len(booted) == 1


@pytest.mark.parametrize(
    ("culprit", "result"),
    [("oops", "log"), ("breaks", "smoke"), ("deadly", "died"), ("hidden", "view"), ("stuck", "undo")],
)
def test_the_culprit_of_a_batch_is_named(
    tmp_path: Path, booted: list[FakeGuest], culprit: str, result: str
) -> None:
    found = tried(tmp_path, "good", culprit, "other")
    assert {name: each.result for name, each in found.items()} == {
        "good": "held",
        "other": "held",
        culprit: result,
    }
    assert found[culprit].detail
    assert len(booted) >= 4


def test_modules_that_must_be_loaded_later_are(tmp_path: Path, booted: list[FakeGuest]) -> None:
    found = tried(tmp_path, "one", "two", fresh=("late",))
    assert {(each.result, each.loaded) for each in found.values()} == {("held", ("late",))}
    assert [(each.modules, each.late) for each in booted] == [({}, [True]), ({}, [True])]


def test_a_module_that_does_not_go_is_told(tmp_path: Path, booted: list[FakeGuest]) -> None:
    found = tried(tmp_path, "one", fresh=("keeps",))
    assert found["one"].result == "unload"


def test_other_updates_are_no_company_for_those() -> None:
    made = [Created(str(n), "update", fresh=("late",) if n % 2 else ()) for n in range(6)]
    assert [[each.id for each in batch] for batch in guests.batches(made)] == [
        ["0", "2", "4"],
        ["1", "3", "5"],
    ]


def test_two_that_have_a_module_loaded_later_are_no_company_for_each_other() -> None:
    targets = (("vmlinux", "can"), ("vmlinux", "isotp"), ("can", "isotp"))
    made = [
        Created(str(n), "update", targets=each, fresh=tuple(set(each) - {"vmlinux"}))
        for n, each in enumerate(targets)
    ]
    assert [[each.id for each in batch] for batch in guests.batches(made)] == [["0", "1"], ["2"]]

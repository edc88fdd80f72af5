# SPDX-License-Identifier: Apache-2.0
"""Try an update on the kernel it is for, in a guest: apply, view, undo, with checks in between.

In: a tarball, an unmodified image with its modules, and shell lines. Out: a `Rehearsal`, which says what
every step did and what in the kernel's log means trouble. A check holds when its exit status is 0.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

from kdiff.distribution import Say
from kdiff.errors import KdiffError
from kdiff.guest import Guest, Result
from kdiff.kernel_log import Complaint, LogRecord, complaints
from kdiff.target.tarball import read
from kdiff.values import dataclass


class Phase(Enum):
    """Where in a rehearsal a step belongs."""

    BEFORE = "before"
    APPLY = "apply"
    AFTER = "after"
    VIEW = "view"
    UNDO = "undo"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True)
class Subject:
    """The update to rehearse, as its tarball names it."""

    tarball: Path
    id: str
    release: str
    """The kernel release it was made for: `6.1.0-56-amd64`."""


@dataclass(frozen=True, slots=True)
class Checks:
    """Shell lines to run in the guest, by phase."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a rehearsal and what became of it."""

    phase: Phase
    result: Result
    held: bool


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What happened. `problem` says why it ended early, if it did; `log` begins with the first step."""

    subject: Subject
    steps: tuple[Step, ...]
    log: tuple[LogRecord, ...]
    complaints: tuple[Complaint, ...]
    problem: str

    @property
    def held(self) -> bool:
        return not self.problem and not self.complaints and all(step.held for step in self.steps)


def identify(tarball: Path) -> Subject:
    """Read an update's id and kernel release; KdiffError `package.…` if it is not whole."""
    update = read(str(tarball))
    return Subject(tarball.resolve(), update.id, update.release)


def rehearse(
    subject: Subject,
    image: Path,
    modules: Path,
    checks: Checks,
    *,
    timeout: float,
    say: Say,
    tell: Callable[[Step], None],
) -> Rehearsal:
    """Boot `image` and run every step; `tell` hears of each when it is done, `timeout` seconds are for one.

    KdiffError only if the guest cannot be started; whatever happens later is part of what is returned.
    """
    say(f"booting {image} in QEMU")
    steps: list[Step] = []
    problem = ""
    with Guest.boot(image, modules) as guest:
        before = len(guest.records())
        try:
            for phase, line in _lines(subject, checks):
                step = _judge(subject, phase, guest.run(line, timeout, Path.cwd()))
                steps.append(step)
                tell(step)
                if phase in (Phase.APPLY, Phase.UNDO) and not step.held:
                    problem = f"{phase.value} failed"
                    break
        except KdiffError as error:
            problem = str(error)
        log = guest.records()[before:]
        if not problem:
            guest.power_off()
    return Rehearsal(subject, tuple(steps), log, complaints(log), problem)


def _lines(subject: Subject, checks: Checks) -> Iterator[tuple[Phase, str]]:
    for line in checks.before:
        yield Phase.BEFORE, line
    yield Phase.APPLY, program("apply", str(subject.tarball))
    for line in checks.after:
        yield Phase.AFTER, line
    yield Phase.VIEW, program("view")
    yield Phase.VIEW, program("view", f"--id={subject.id}")
    yield Phase.UNDO, program("undo", subject.id)
    for line in checks.undone:
        yield Phase.UNDONE, line


def _judge(subject: Subject, phase: Phase, result: Result) -> Step:
    listed = phase is not Phase.VIEW or subject.id in result.output
    return Step(phase, result, result.status == 0 and listed)


def program(command: str, *arguments: str) -> str:
    """The shell line that runs this installation's own `ksplice-COMMAND`."""
    script = Path(sys.executable).parent / f"ksplice-{command}"
    if script.is_file():
        return shlex.join((str(script), *arguments))
    roots = f"PYTHONPATH={shlex.quote(str(Path(__file__).parent.parent))}"
    return f"{roots} {shlex.join((sys.executable, '-m', 'kdiff.target', command, *arguments))}"

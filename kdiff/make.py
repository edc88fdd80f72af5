# SPDX-License-Identifier: Apache-2.0
"""Run make so that nothing of it outlives an interruption, and put its failures into words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from kdiff.errors import KdiffError
from kdiff.values import dataclass

_INHERITED = ("PATH", "HOME", "TMPDIR")
_FIXED = {
    "LC_ALL": "C",
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "kdiff",
    "KBUILD_BUILD_HOST": "kdiff",
    "KBUILD_BUILD_VERSION": "1",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a make ended: exit status, and what it and its children wrote."""

    status: int
    output: str


def run_make(arguments: Sequence[str], *, lock: int, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run make in its own process group and an environment without surprises.

    `lock` is a locked file descriptor that make inherits: should this process be killed, the lock
    stays taken until the last compiler is gone. On any exception here the whole group is ended first.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    try:
        child = subprocess.Popen(
            ["make", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**inherited, **_FIXED, **(environment or {})},
            pass_fds=(lock,),
            process_group=0,
        )
    except FileNotFoundError as error:
        raise KdiffError("tool.missing", "make is not installed", remedy="install make and gcc") from error
    try:
        output, _ = child.communicate()
    except BaseException:
        _end_group(child)
        raise
    return Outcome(child.returncode, output.decode("utf-8", "replace"))


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End make and all compilers under it; make removes the targets it was writing."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(child.pid, signal.SIGTERM)
        child.communicate(timeout=5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def failure(key: str, what: str, outcome: Outcome, *, place: str, remedy: str = "") -> KdiffError:
    """The error for a make that failed, with the compiler's first messages in it."""
    if "No space left on device" in outcome.output:
        return KdiffError(
            "disk.full", f"{what} failed: no space left on device", place=place, remedy="free some space"
        )
    return KdiffError(key, f"{what} failed:\n{complaint(outcome.output)}", place=place, remedy=remedy)


def complaint(output: str, limit: int = 12) -> str:
    """The part of make's output that tells a person what is wrong: from the first error on, else the end."""
    lines = [line for line in output.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("make[", "make:"))] or lines
    first = next((at for at, line in enumerate(own) if "error:" in line), None)
    if first is None:
        return "\n".join(own[-limit:])
    more = len(own) - first - limit
    return "\n".join(own[first : first + limit] + ([f"... and {more} more lines"] if more > 0 else []))

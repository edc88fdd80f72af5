# SPDX-License-Identifier: Apache-2.0
"""The machine that is updated, as one value: where its kernel answers, and how to reach it.

Tests put a directory tree and functions of their own in its place.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from kdiff.errors import KdiffError
from kdiff.target import loader


def _architecture() -> str:
    return os.uname().machine


@contextmanager
def _on_processor(number: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {number})
    except OSError as error:
        if error.errno != errno.EINVAL:  # that processor is offline, or not ours
            raise
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Machine(NamedTuple):
    """Directories, and functions for what no file does."""

    sys: str = "/sys"
    proc: str = "/proc"
    dev: str = "/dev"
    state: str = "/var/lib/kdiff"
    user: Callable[[], int] = os.geteuid
    architecture: Callable[[], str] = _architecture
    insert: Callable[[bytes], int] = loader.insert
    """Load a module from its bytes; return 0 or an errno."""
    remove: Callable[[str], int] = loader.remove
    """Unload a module by name; return 0 or an errno."""
    on_processor: Callable[[int], AbstractContextManager[None]] = _on_processor
    """Run on one processor, where no other task runs meanwhile; anywhere if it cannot be had."""
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def text(path: str) -> str | None:
    """Return a small file's text without the white space around it, or None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return None


def names(path: str) -> list[str]:
    """Return the sorted names in a directory; none if there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def require_root(machine: Machine) -> None:
    """KdiffError `target.not_root` for anybody else."""
    if machine.user() != 0:
        raise KdiffError("target.not_root", "only root may update the kernel", remedy="run it with sudo")

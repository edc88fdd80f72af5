# SPDX-License-Identifier: Apache-2.0
"""What is remembered of applied updates: `/var/lib/kdiff/updates/ID/` holds the tarball's small files.

Sysfs alone says what is applied; this only adds the patch and its description. An entry appears and goes in
one step (rename), and one whose update is not in the kernel means nothing and is cleaned away.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from kdiff.errors import KdiffError
from kdiff.target import layout, livepatch
from kdiff.target.machine import Machine, names

if TYPE_CHECKING:
    from kdiff.target.tarball import Update


class Entry(NamedTuple):
    """What is remembered of one update; `patch` is None where nothing is."""

    patch: bytes | None
    description: str


@contextmanager
def locked(machine: Machine) -> Iterator[None]:
    """Let one apply or undo run at a time; KdiffError `target.running` for a second one."""
    try:
        os.makedirs(_updates(machine), exist_ok=True)
        handle = os.open(_updates(machine), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(_updates(machine), error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KdiffError(
                "target.running",
                "another update is being applied or undone",
                remedy="wait until it is finished",
            ) from error
        yield
    finally:
        os.close(handle)


def prepare(machine: Machine, update: Update) -> None:
    """Write an entry that does not count before `commit`: a full disk is met before the kernel is touched."""
    discard(machine, update.id)
    new = _new(machine, update.id)
    try:
        os.mkdir(new)
        for name, data in sorted(update.files.items()):
            if name not in (layout.module_file(update.id), layout.PROOF):
                with open(f"{new}/{name}", "wb") as file:
                    file.write(data)
    except OSError as error:
        discard(machine, update.id)
        raise _unwritable(new, error) from error


def commit(machine: Machine, id: str) -> None:
    """Let the prepared entry count."""
    remove(machine, id)
    try:
        os.rename(_new(machine, id), _entry(machine, id))
    except OSError as error:
        raise _unwritable(_entry(machine, id), error) from error


def discard(machine: Machine, id: str) -> None:
    """Remove a prepared entry, if there is one."""
    _remove_tree(_new(machine, id))


def remove(machine: Machine, id: str) -> None:
    """Forget an update."""
    old = f"{_updates(machine)}/.{id}.old"
    _remove_tree(old)
    try:
        os.rename(_entry(machine, id), old)
    except OSError:
        return
    _remove_tree(old)


def load(machine: Machine, id: str) -> Entry:
    """What is remembered of an update."""
    here = _entry(machine, id)
    patch = _bytes(f"{here}/{layout.PATCH}")
    return Entry(patch, (_bytes(f"{here}/{layout.DESCRIPTION}") or b"").decode("utf-8", "replace").strip())


def manifest(machine: Machine, id: str) -> bytes:
    """The manifest of an update; empty where nothing is remembered."""
    return _bytes(f"{_entry(machine, id)}/{layout.MANIFEST}") or b""


def clean(machine: Machine) -> None:
    """Remove entries whose updates are not in the kernel; without the right to, leave them."""
    for id in names(_updates(machine)):
        if layout.is_id(id) and livepatch.stage(machine, id) == livepatch.ABSENT:
            remove(machine, id)


def _updates(machine: Machine) -> str:
    return f"{machine.state}/updates"


def _entry(machine: Machine, id: str) -> str:
    return f"{_updates(machine)}/{id}"


def _new(machine: Machine, id: str) -> str:
    return f"{_updates(machine)}/.{id}.new"


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _remove_tree(folder: str) -> None:
    """Remove a directory of plain files as far as that is possible."""
    try:
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)
    except OSError:
        return


def _unwritable(path: str, error: OSError) -> KdiffError:
    return KdiffError(
        "target.state",
        f"cannot remember the update: {error.strerror}",
        place=path,
        remedy="make room there, or make it writable",
    )

# SPDX-License-Identifier: Apache-2.0
"""What updates are in the kernel, and the patches they were made of."""

from __future__ import annotations

from typing import NamedTuple

from kdiff.target import layout, livepatch, store
from kdiff.target.machine import Machine


class Seen(NamedTuple):
    """One update. `stage` is livepatch's word for it; `patch` is None where none was remembered."""

    id: str
    stage: str
    description: str
    patch: bytes | None


def every(machine: Machine) -> list[Seen]:
    """All updates in the kernel, the oldest first. What is remembered of others is cleaned away."""
    store.clean(machine)
    found = [_seen(machine, id) for id in livepatch.present(machine)]
    return [each for each in found if each.stage != livepatch.ABSENT]


def one(machine: Machine, id: str) -> Seen:
    """The update of that id; KdiffError `update.absent`."""
    found = _seen(machine, layout.checked_id(layout.bare(id)))
    if found.stage == livepatch.ABSENT:
        raise livepatch.absent(found.id)
    return found


def _seen(machine: Machine, id: str) -> Seen:
    entry = store.load(machine, id)
    return Seen(id, livepatch.stage(machine, id), entry.description, entry.patch)

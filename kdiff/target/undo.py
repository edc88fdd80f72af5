# SPDX-License-Identifier: Apache-2.0
"""Undo an update: let the kernel return to its own code, remove the module and what is remembered of it.

In: an update's id and a machine. Out: nothing; otherwise an exception, and the update stays applied.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.target import layout, livepatch, modules, stacking, store
from kdiff.target.livepatch import Say, Stop
from kdiff.target.machine import Machine, require_root


def undo(id: str, timeout: float, machine: Machine, say: Say, stop: Stop) -> str:
    """Undo the update `id`, which may carry the prefix of its module or tarball, and return the bare id.

    `timeout` in seconds is for the transition. KdiffError, or Refused while a later live patch is on top.
    """
    id = layout.checked_id(layout.bare(id))
    require_root(machine)
    if livepatch.stage(machine, id) == livepatch.ABSENT and not livepatch.loaded(machine, id):
        raise livepatch.absent(id)
    with store.locked(machine), _nothing_laid_out_anew(machine, id):
        _nothing_on_top(machine, id)
        if livepatch.stage(machine, id) in (livepatch.APPLIED, livepatch.APPLYING):
            _switch_off(machine, id)
        try:
            if not livepatch.wait(machine, id, False, timeout, say, stop):
                raise _busy(machine, id, timeout)
        except BaseException as error:
            if _put_back(machine, id, timeout, say, error):
                if isinstance(error, KdiffError):
                    raise livepatch.continued(error, "the update stays applied") from error
                raise
        store.remove(machine, id)
        livepatch.unload(machine, id)
    return id


@contextmanager
def _nothing_laid_out_anew(machine: Machine, id: str) -> Iterator[None]:
    """Let no module be there, or come meanwhile, whose data the update has laid out in another way."""
    fresh = livepatch.fresh(machine, id)
    livepatch.let_in(machine, id, fresh, False)
    try:
        loaded = modules.present(machine, fresh)
        if loaded:
            raise Refused(*map(_still_there, loaded))
        yield
    except BaseException:
        if livepatch.stage(machine, id) == livepatch.APPLIED:
            livepatch.let_in(machine, id, fresh, True)
        raise


def _still_there(module: str) -> Refusal:
    return Refusal(
        "target.loaded_since",
        f"module {module}",
        "the update has changed how its data is laid out, and it is loaded, with data of the new layout",
        f"unload it (rmmod {module}), undo the update, and load it again",
    )


def _nothing_on_top(machine: Machine, id: str) -> None:
    """Another patch of the same function is a later one, unless the update stands on it."""
    below = stacking.under(store.manifest(machine, id))
    own = livepatch.functions(machine, layout.module_name(id))
    later, _ = stacking.in_the_way(machine, id, {each: below.get(each, "") for each in own})
    if later:
        raise Refused(
            *(
                Refusal(
                    "target.stacked",
                    function.partition(",")[0],
                    f"live patch {patch} was applied later to the same function",
                    f"undo {patch} first",
                )
                for patch, function in later
            )
        )


def _switch_off(machine: Machine, id: str) -> None:
    status = livepatch.switch(machine, id, on=False)
    if status == errno.EBUSY:
        raise KdiffError(
            "update.kernel_busy",
            "the kernel cannot disable it now: another live patch is in transition or was stacked upon it",
            place=id,
            remedy="wait until that is finished, or undo the later one first",
        )
    if status:
        raise KdiffError(
            "update.not_reversed", f"the kernel does not disable it: {os.strerror(status)}", place=id
        )


def _busy(machine: Machine, id: str, timeout: float) -> KdiffError:
    waiting = livepatch.tasks(machine, on=False, stacks=True)
    return KdiffError(
        "update.busy",
        f"{livepatch.counted(waiting)} did not leave the update's code within {timeout:g} s",
        place=id,
        remedy="try again when they are idle, or with a longer --timeout",
        details=livepatch.describe(waiting),
    )


def _put_back(machine: Machine, id: str, timeout: float, say: Say, why: BaseException) -> bool:
    """Let the update be fully applied again; False if the kernel has finished undoing it after all.

    KdiffError `update.stuck` if it does neither.
    """
    status = 0
    if livepatch.stage(machine, id) == livepatch.REVERSING:
        status = livepatch.switch(machine, id, on=True)
    if livepatch.stage(machine, id) == livepatch.ABSENT:
        return False
    if status or not livepatch.wait(machine, id, True, timeout, say, stop=lambda: None):
        waiting = livepatch.tasks(machine, on=True, stacks=True)
        problem = (
            os.strerror(status) if status else f"{livepatch.counted(waiting)} did not return to its code"
        )
        raise KdiffError(
            "update.stuck",
            f"{livepatch.message(why)}; and it cannot be fully applied again yet: {problem}",
            place=id,
            remedy=f"run again later: ksplice-undo {id}",
            details=livepatch.describe(waiting),
        ) from why
    return True

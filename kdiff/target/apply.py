# SPDX-License-Identifier: Apache-2.0
"""Apply an update: check everything, load its module, see the transition through, or leave no trace.

In: a tarball's path and a machine. Out: an `Applied`; otherwise an exception, and the machine is as before.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.target import layout, livepatch, modules, preconditions, proof_reader, stacking, store, tarball
from kdiff.target.kernel_log import KernelLog
from kdiff.target.livepatch import Say, Stop
from kdiff.target.machine import Machine
from kdiff.target.proof import Proof
from kdiff.target.verify import verify

REVERSAL = 60.0
"""Seconds a transition is given, at least, to go back."""


class Applied(NamedTuple):
    """An update that is in the kernel now."""

    id: str
    already: bool
    """It was there before."""
    functions: tuple[str, ...]
    awaited: tuple[str, ...] = ()
    """Modules that are not loaded, whose code changes when they are."""


def apply(
    path: str, timeout: float, machine: Machine, say: Say, detail: Say, stop: Stop, partial: bool = False
) -> Applied:
    """Apply the update at `path`.

    `timeout` in seconds is for the transition; `say` takes progress, `detail` more of it, `stop` raises when
    the user wants no more. `partial`: go on although modules that the update changes are not loaded.
    KdiffError, or Refused if the kernel is not the one the update was made for.
    """
    update = tarball.read(path)
    promise = proof_reader.read(update.proof)
    functions = tuple(livepatch.label(*each) for each in promise.replaced)
    _everything_proved(update, promise, functions, path)
    preconditions.check(machine, update)
    with store.locked(machine):
        if livepatch.stage(machine, update.id) == livepatch.APPLIED:
            livepatch.let_in(machine, update.id, livepatch.fresh(machine, update.id), True)
            return Applied(update.id, already=True, functions=functions)
        stacked = {livepatch.label(*key): owner for key, owner in promise.stacked.items()}
        _nothing_in_the_way(machine, update.id, {each: stacked.get(each, "") for each in functions})
        fresh = frozenset(each.name for each in promise.modules if each.fresh)
        shared = stacking.of_other_layouts(machine, update.id, {each.name for each in promise.modules}, fresh)
        if shared:
            raise Refused(*(_of_other_layout(*each) for each in shared))
        loaded = modules.present(machine, fresh)
        if loaded:
            raise Refused(*map(_there_already, loaded))
        awaited = modules.awaited(machine, promise)
        if awaited - fresh and not partial:
            raise Refused(*map(_not_there, sorted(awaited - fresh)))
        _newest_code_is_there(promise, awaited)
        _verify(promise, machine, detail)
        stop()
        store.clean(machine)
        store.prepare(machine, update)
        try:
            _load(machine, update)
            _finish(machine, update.id, timeout, say, stop)
        except BaseException:
            store.discard(machine, update.id)
            raise
    return Applied(update.id, already=False, functions=functions, awaited=tuple(sorted(awaited)))


def _not_there(module: str) -> Refusal:
    return Refusal(
        "target.not_loaded",
        f"module {module}",
        "the update changes its code, and it is not loaded",
        "load it, or use --partial: then its code changes when it is loaded, if it is the build that"
        " the update was made for",
    )


def _of_other_layout(patch: str, module: str) -> Refusal:
    return Refusal(
        "target.other_layout",
        f"module {module}",
        f"live patch {patch} changes it too, and one of the two lays out its data in another way, which the"
        " other does not know",
        f"undo {patch}, and make one update of both patches",
    )


def _there_already(module: str) -> Refusal:
    return Refusal(
        "target.loaded_already",
        f"module {module}",
        "the update changes how its data is laid out, and it is loaded, with data of the old layout",
        f"unload it (rmmod {module}), apply the update, and load it again",
    )


def _newest_code_is_there(promise: Proof, awaited: frozenset[str]) -> None:
    """A live patch's code of a module's function leads nowhere until that is loaded: nothing to compare."""
    waiting = [livepatch.label(*each) for each in promise.stacked if each[0] in awaited]
    if waiting:
        raise Refused(
            *(
                Refusal(
                    "target.stacked_module",
                    function.partition(",")[0],
                    "the update was made of a live patch's code of it, which cannot be compared while its"
                    " module is not loaded",
                    "load the module first",
                )
                for function in waiting
            )
        )


def _everything_proved(update: tarball.Update, promise: Proof, functions: tuple[str, ...], path: str) -> None:
    """The proof must be about the functions the manifest lists as replaced (position 0: the only one)."""
    try:
        listed = [
            livepatch.label(each.get("target", layout.KERNEL), each["name"], each["position"] or 1)
            for each in update.manifest["replaced"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise KdiffError(
            "package.manifest", "its manifest.json lists no replaced functions", place=path
        ) from error
    stacked = {livepatch.label(*key): owner for key, owner in promise.stacked.items()}
    if stacked != stacking.under(json.dumps(update.manifest).encode()):
        raise KdiffError(
            "package.unproved", "its proof and its manifest do not stand on the same patches", place=path,
            remedy="create it again with ksplice-create",
        )  # fmt: skip
    if sorted(listed) != sorted(functions):
        differ = ", ".join(sorted(set(listed) ^ set(functions)))
        raise KdiffError(
            "package.unproved",
            f"its proof and its manifest are not about the same functions: {differ}",
            place=path,
            remedy="create it again with ksplice-create",
        )


def _nothing_in_the_way(machine: Machine, id: str, functions: Mapping[str, str]) -> None:
    stage = livepatch.stage(machine, id)
    if stage != livepatch.ABSENT:
        raise KdiffError(
            "update.in_transition", f"is {stage} already", place=id, remedy=f"wait, or run: ksplice-undo {id}"
        )
    others, missing = stacking.in_the_way(machine, id, functions)
    if others or missing:
        raise Refused(
            *(
                Refusal(
                    "target.not_below",
                    function.partition(",")[0],
                    f"the update was made of the code of live patch {patch}, which is not there",
                    f"apply {layout.bare(patch)} first",
                )
                for patch, function in missing
            ),
            *(
                Refusal(
                    "target.already_patched",
                    function.partition(",")[0],
                    f"live patch {patch} replaces the function already, and its change would be lost",
                    f"undo {patch} first, or create the update of the code that runs now (--memory kcore:)",
                )
                for patch, function in others
            ),
        )
    livepatch.unload(machine, id)


def _verify(promise: Proof, machine: Machine, detail: Say) -> None:
    start = machine.now()
    refusals = verify(promise, machine)
    if refusals:
        raise Refused(*refusals)
    nodes = promise.without(modules.awaited(machine, promise)).nodes
    total = sum(node.size for node in nodes)
    detail(f"{total} bytes of {len(nodes)} functions verified in {machine.now() - start:.2f} s")


def _load(machine: Machine, update: tarball.Update) -> None:
    log = KernelLog(machine)
    try:
        status = machine.insert(update.module)
        if status:
            raise _not_loaded(layout.module_name(update.id), status, log.lines())
    finally:
        log.close()


def _finish(machine: Machine, id: str, timeout: float, say: Say, stop: Stop) -> None:
    """See the loaded module through its transition and remember the update; on any trouble take it back."""
    try:
        if not livepatch.wait(machine, id, True, timeout, say, stop):
            raise _busy(machine, id, timeout)
        stage = livepatch.stage(machine, id)
        if stage != livepatch.APPLIED:
            raise KdiffError(
                "update.not_applied", f"its module is loaded, but the update is {stage}", place=id
            )
        store.commit(machine, id)
    except BaseException as error:
        _take_back(machine, id, max(timeout, REVERSAL), say, error)
        if isinstance(error, KdiffError):
            raise livepatch.continued(error, "the update was taken back") from error
        raise
    livepatch.let_in(machine, id, livepatch.fresh(machine, id), True)


def _busy(machine: Machine, id: str, timeout: float) -> KdiffError:
    waiting = livepatch.tasks(machine, on=True, stacks=True)
    return KdiffError(
        "update.busy",
        f"{livepatch.counted(waiting)} did not leave the old code within {timeout:g} s",
        place=id,
        remedy="try again when they are idle, or with a longer --timeout",
        details=livepatch.describe(waiting),
    )


def _take_back(machine: Machine, id: str, timeout: float, say: Say, why: BaseException) -> None:
    """Reverse and remove what was loaded; KdiffError `update.stuck` if the kernel cannot."""
    status = 0
    if livepatch.stage(machine, id) in (livepatch.APPLIED, livepatch.APPLYING):
        status = livepatch.switch(machine, id, on=False)
    if status or not livepatch.wait(machine, id, False, timeout, say, stop=lambda: None):
        waiting = livepatch.tasks(machine, on=False, stacks=True)
        problem = (
            os.strerror(status) if status else f"{livepatch.counted(waiting)} did not go back to the old code"
        )
        raise KdiffError(
            "update.stuck",
            f"{livepatch.message(why)}; and the update cannot be taken back yet: {problem}",
            place=id,
            remedy=f"run later: ksplice-undo {id}",
            details=livepatch.describe(waiting),
        ) from why
    livepatch.unload(machine, id)


MEANINGS = {
    errno.ETXTBSY: (
        "apply.loaded_already",
        "a module has just been loaded whose data the update lays out in another way",
        "unload it, apply the update, and load it again",
    ),
    errno.ENOMEM: ("apply.memory", "the kernel has no memory left", "free some"),
    errno.EBUSY: ("apply.kernel_busy", "another live patch is in transition", "wait until it is finished"),
    errno.EPERM: (
        "apply.denied",
        "the kernel lets nobody load it",
        "look at lockdown, modules_disabled and seccomp",
    ),
    errno.ENOKEY: (
        "apply.signature",
        "its signature is missing or its key unknown",
        "sign it with a known key",
    ),
    errno.EKEYREJECTED: (
        "apply.signature",
        "its signature was rejected",
        "sign it with a key the kernel trusts",
    ),
    errno.EEXIST: ("apply.loaded", "a module of that name is loaded already", "remove it with rmmod"),
    errno.ENOEXEC: (
        "apply.format",
        "the kernel does not take it for one of its modules",
        "create the update again",
    ),
}
UNRESOLVED = (
    "' not found",
    "unresolvable ambiguity",
    "Unknown symbol",
    "disagrees about version",
)
"""How the kernel's log tells that a symbol the update borrows cannot be had."""


def _not_loaded(module: str, status: int, log: tuple[str, ...]) -> KdiffError:
    name = errno.errorcode.get(status, str(status))
    if any(words in line for line in log for words in UNRESOLVED):
        key, meaning, remedy = (
            "apply.symbol",
            "a symbol it needs cannot be resolved",
            "create the update again",
        )
    else:
        unknown = ("apply.load", os.strerror(status), "the kernel's log may say more: dmesg")
        key, meaning, remedy = MEANINGS.get(status, unknown)
    return KdiffError(
        key,
        f"the kernel did not load the update's module: {meaning} ({name})",
        place=module,
        remedy=remedy,
        details=log,
    )

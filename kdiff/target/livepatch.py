# SPDX-License-Identifier: Apache-2.0
"""The kernel's live patches as sysfs shows them, and the tasks a transition waits for.

Facts from Documentation/ABI/testing/sysfs-kernel-livepatch and Documentation/livepatch/livepatch.rst: a patch
has a directory while it is enabled or in transition, `enabled` says where a transition is headed, and
/proc/PID/task/TID/patch_state is 0 for a task that runs old code, 1 for new code, -1 without a transition.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kdiff.errors import KdiffError
from kdiff.target import layout
from kdiff.target.machine import Machine, names, text

ABSENT = "absent"
APPLIED = "applied"
APPLYING = "being applied"
REVERSING = "being reversed"

POLL = 0.1
"""Seconds between looks at a transition."""
REPORT = 1.0
"""Seconds between counts of the tasks that hold it up."""
STACK_LINES = 12

Say = Callable[[str], None]
"""Takes a line of progress."""
Stop = Callable[[], None]
"""Raises when the user wants no more."""


class Task(NamedTuple):
    """A thread that still runs the code a transition wants to leave."""

    process: int
    thread: int
    name: str
    stack: tuple[str, ...] = ()

    def __str__(self) -> str:
        thread = f" thread {self.thread}" if self.thread != self.process else ""
        return f"{self.name} ({self.process}{thread})"


def folder(machine: Machine, id: str) -> str:
    """The directory of an update, which is there while the update is."""
    return f"{machine.sys}/kernel/livepatch/{layout.module_name(id)}"


def stage(machine: Machine, id: str) -> str:
    """ABSENT, APPLIED, APPLYING or REVERSING."""
    here = folder(machine, id)
    enabled, transition = text(f"{here}/enabled"), text(f"{here}/transition")
    if enabled is None or transition is None:
        return ABSENT
    if transition != "0":
        return APPLYING if enabled == "1" else REVERSING
    return APPLIED if enabled == "1" else REVERSING


def absent(id: str) -> KdiffError:
    return KdiffError(
        "update.absent", f"Ksplice id {id} is not present in the kernel", remedy="ksplice-view lists what is"
    )


def present(machine: Machine) -> list[str]:
    """The ids of all updates in the kernel, in the order in which they were loaded.

    The kernel puts a new module at the head of its list (add_unformed_module in kernel/module/main.c).
    """
    prefix = layout.module_name("")
    lines = (text(f"{machine.proc}/modules") or "").splitlines()
    age = {line.partition(" ")[0]: number for number, line in enumerate(lines)}
    listed = sorted(names(f"{machine.sys}/kernel/livepatch"), key=lambda each: -age.get(each, len(lines)))
    return [each.removeprefix(prefix) for each in listed if each.startswith(prefix)]


def label(owner: str, name: str, position: int) -> str:
    """How a function that is replaced is told: `NAME,POSITION`, of a module `MODULE:NAME,POSITION`."""
    return f"{name},{position}" if owner == layout.KERNEL else f"{owner}:{name},{position}"


def functions(machine: Machine, patch: str) -> list[str]:
    """What a live patch replaces, as `label` has it."""
    here = f"{machine.sys}/kernel/livepatch/{patch}"
    prefixes = {owner: "" if owner == layout.KERNEL else f"{owner}:" for owner in names(here)}
    return [
        f"{prefix}{each}"
        for owner, prefix in prefixes.items()
        for each in names(f"{here}/{owner}")
        if "," in each
    ]


def also_replaced(machine: Machine, wanted: Iterable[str], own: str) -> list[tuple[str, str]]:
    """Pairs of (another live patch, function it replaces) among those wanted."""
    looked_for = set(wanted)
    return [
        (patch, function)
        for patch in names(f"{machine.sys}/kernel/livepatch")
        if patch != layout.module_name(own)
        for function in functions(machine, patch)
        if function in looked_for
    ]


def switch(machine: Machine, id: str, on: bool) -> int:
    """Ask the kernel to enable or disable an update; return 0 or an errno."""
    try:
        with open(f"{folder(machine, id)}/enabled", "wb", buffering=0) as file:
            file.write(b"1\n" if on else b"0\n")
    except OSError as error:
        return error.errno or 0
    return 0


def settled(machine: Machine, id: str, on: bool) -> bool:
    """Tell whether no transition of the update is left."""
    return stage(machine, id) in ((APPLIED, ABSENT) if on else (ABSENT,))


def wait(
    machine: Machine,
    id: str,
    on: bool,
    timeout: float,
    say: Say,
    stop: Stop,
) -> bool:
    """Wait until the update's transition is over; tell whether it is.

    Every second `say` gets a line with the number of tasks that hold it up; `stop` raises to end the wait.
    """
    start = machine.now()
    reported = start - REPORT
    while not settled(machine, id, on):
        stop()
        now = machine.now()
        if now - start >= timeout:
            return False
        if now - reported >= REPORT:
            reported = now
            waiting = tasks(machine, on)
            first = ", ".join(map(str, waiting[:3])) + (", ..." if len(waiting) > 3 else "")
            code = "old" if on else "new"
            say(f"tasks still in the {code} code: {len(waiting)}" + (f" - {first}" if first else ""))
        machine.sleep(POLL)
    return True


def tasks(machine: Machine, on: bool, stacks: bool = False) -> list[Task]:
    """The tasks that have not followed a transition (`on`: to the new code), with their stacks on demand."""
    behind = "0" if on else "1"
    found = []
    for process, thread, here in _threads(machine):
        if text(f"{here}/patch_state") == behind:
            stack = (text(f"{here}/stack") or "").splitlines()[:STACK_LINES] if stacks else []
            found.append(Task(process, thread, text(f"{here}/comm") or "?", tuple(stack)))
    return found


def inside(machine: Machine, id: str, seen: set[tuple[int, int]]) -> tuple[list[Task], list[Task]]:
    """After a transition: the tasks in an update's code, with their stacks, and those that cannot be seen.

    A transition only looks for functions that replace others (klp_check_stack_func). A task may be in a
    new function, which a replacement has jumped to at its end, when that itself is on no stack any more.
    The kernel shows no stack of a task that runs, so that is looked at again from its processor. `seen`:
    threads found elsewhere once, which are not looked at again and get more; no task can go back.
    """
    mark = f"[{layout.module_name(id)}]"
    sleepers, unseen = [], []
    for process, thread, here in _threads(machine):
        if (process, thread) in seen:
            continue
        stack = _stack(machine, here)
        if any(line.endswith(mark) for line in stack):
            sleepers.append(Task(process, thread, text(f"{here}/comm") or "?", stack[:STACK_LINES]))
        elif stack or _state(here)[0] in _NOT_RUNNING:
            seen.add((process, thread))
        else:
            unseen.append(Task(process, thread, text(f"{here}/comm") or "?"))
    return sleepers, unseen


_NOT_RUNNING = ("", "Z", "X")
"""States of tasks that are gone or have ended, and so have no stack."""


def _stack(machine: Machine, here: str) -> tuple[str, ...]:
    """The lines of a task's stack; if it runs, as its processor shows it while it does not."""
    found = text(f"{here}/stack")
    state, processor = _state(here) if found == "" else ("", None)
    if state in _NOT_RUNNING or processor is None:
        return tuple((found or "").splitlines())
    with machine.on_processor(processor):
        return tuple((text(f"{here}/stack") or "").splitlines())


def _state(here: str) -> tuple[str, int | None]:
    """A task's state and the processor it was on last: fields 3 and 39 of proc_pid_stat(5)."""
    fields = (text(f"{here}/stat") or "").rpartition(")")[2].split()
    return (fields[0], int(fields[36])) if len(fields) > 36 else ("", None)


def _threads(machine: Machine) -> Iterator[tuple[int, int, str]]:
    """Process, thread and directory of every task."""
    for process in sorted(int(each) for each in names(machine.proc) if each.isdigit()):
        threads = f"{machine.proc}/{process}/task"
        for thread in sorted(int(each) for each in names(threads) if each.isdigit()):
            yield process, thread, f"{threads}/{thread}"


def describe(waiting: Iterable[Task]) -> tuple[str, ...]:
    """Lines for a person: each task and below it its stack."""
    return tuple(line for task in waiting for line in (str(task), *(f"  {frame}" for frame in task.stack)))


def counted(waiting: list[Task]) -> str:
    """`1 task`, `7 tasks`; the processors' idle tasks are in no list, so that there may be none."""
    if not waiting:
        return "an idle processor"
    return "1 task" if len(waiting) == 1 else f"{len(waiting)} tasks"


def message(error: BaseException) -> str:
    """What an error says, without place and remedy."""
    return error.message if isinstance(error, KdiffError) else repr(error)


def continued(error: KdiffError, words: str) -> KdiffError:
    """The same error, which goes on to say what became of the update."""
    return KdiffError(
        error.key,
        f"{error.message}; {words}",
        place=error.place,
        remedy=error.remedy,
        details=error.details,
    )


def loaded(machine: Machine, id: str) -> bool:
    """Tell whether an update's module is in the kernel."""
    return os.path.isdir(f"{machine.sys}/module/{layout.module_name(id)}")


def fresh(machine: Machine, id: str) -> tuple[str, ...]:
    """The modules that may be loaded only while an update is applied, as its own module tells."""
    return tuple(filter(None, (text(f"{_parameters(machine, id)}/fresh") or "").split(",")))


def let_in(machine: Machine, id: str, fresh: tuple[str, ...], whether: bool) -> None:
    """Let `fresh` modules be loaded from now on, or no more; KdiffError `update.closed` if that fails."""
    if not fresh:
        return
    try:
        with open(f"{_parameters(machine, id)}/open", "wb", buffering=0) as file:
            file.write(b"1" if whether else b"0")
    except OSError as error:
        raise KdiffError(
            "update.closed",
            f"cannot say whether {', '.join(fresh)} may be loaded: {error.strerror}",
            place=id,
            remedy="run ksplice-apply again",
        ) from error


def _parameters(machine: Machine, id: str) -> str:
    return f"{machine.sys}/module/{layout.module_name(id)}/parameters"


def unload(machine: Machine, id: str, patience: float = 10.0) -> None:
    """Remove an update's module, whose last use the kernel drops a moment after the transition.

    Nobody can enter its code any more, but a task may still be there: the module stays until each task was
    seen elsewhere. KdiffError `update.in_use` if somebody keeps it.
    """
    name = layout.module_name(id)
    deadline = machine.now() + patience
    seen: set[tuple[int, int]] = set()
    while loaded(machine, id):
        sleepers, unseen = inside(machine, id, seen)
        status = machine.remove(name) if not sleepers and not unseen else errno.EBUSY
        if status == 0:
            return
        if machine.now() >= deadline and (sleepers or unseen):
            problem = f"{counted(sleepers)} did not leave its code yet"
            if not sleepers:
                problem = f"{counted(unseen)} ran whenever it was looked at, perhaps in its code"
            raise KdiffError(
                "update.in_use",
                f"it has no effect any more, but {problem}",
                place=id,
                remedy=f"leave the module alone and run again later: ksplice-undo {id}",
                details=describe(sleepers or unseen),
            )
        if machine.now() >= deadline:
            raise KdiffError(
                "update.in_use",
                f"the kernel does not let go of module {name}: {os.strerror(status)}",
                remedy=f"find what uses it with lsmod, then run: rmmod {name}",
            )
        machine.sleep(POLL)

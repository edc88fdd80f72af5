# SPDX-License-Identifier: Apache-2.0
"""The second phase: every update on the stock kernel in a guest, a batch of them at a time on one boot.

A batch is applied one by one, then a workload runs, `ksplice-view` must list it, it is undone the other way
round, and the workload runs again. The kernel's log is read before and after each workload. If anything of
that is not as it must be, every update of the batch is tried alone on a fresh boot, which names the culprit.

The modules that an update changes are loaded before it is applied. Those that must be loaded after it are
loaded then, and unloaded before it is undone; such a batch has its own boot, so that nothing is there before.
"""

from __future__ import annotations

import compileall
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from releaselab import say

from corpus.outcomes import Created, Tried, counted, save
from corpus.trees import Trees
from kdiff import target
from kdiff.addressbook import KERNEL
from kdiff.errors import KdiffError
from kdiff.guest import SHARE, Guest, Result
from kdiff.initramfs import modules
from kdiff.kernel_log import complaints
from kdiff.rehearse import program

BATCH = 10
PER_BOOT = 80
"""Updates after which a guest is started anew: modules stay loaded, and memory is small."""
SMOKE = Path(__file__).with_name("smoke.sh")
NEEDED = ("loop", "ext4", "crc32c_generic")
"""Modules of the workload."""
PATIENCE = 240.0
"""Seconds for one line."""


class Trouble(Exception):
    """Something did not hold: `result` as in `Tried`, and what was said."""

    def __init__(self, result: str, detail: str) -> None:
        super().__init__(detail)
        self.result = result
        self.detail = detail


@dataclass
class Machine:
    """A guest with what it has been through."""

    guest: Guest
    tree: Path
    """The kernel's /lib/modules/ABI."""
    seen: int = 0
    """Records of its log that have been looked at."""
    updates: int = 0
    known: dict[str, bool] = field(default_factory=dict)
    """Modules that were to be loaded, and whether they are."""

    def line(self, text: str, result: str) -> Result:
        """Run a line that must hold."""
        try:
            done = self.guest.run(text, PATIENCE)
        except KdiffError as error:
            raise Trouble("died", "\n".join((str(error), *error.details))) from error
        if not done.held:
            raise Trouble(result, f"{text}: status {done.status}\n{done.output[-2000:]}")
        return done

    def clean(self) -> None:
        """Raise Trouble if the log has bad news since it was last looked at."""
        records = self.guest.records()
        bad = complaints(records[self.seen :])
        self.seen = len(records)
        if bad:
            raise Trouble("log", "\n".join(f"{each.key}: {each.record}" for each in bad[:20]))

    def load(self, name: str) -> bool:
        """Load a module and what it needs, if that can be; what the kernel says of that is its own."""
        if name not in self.known:
            try:
                wanted = [
                    (each, data) for each, data in modules(self.tree, (name,)) if each not in self.known
                ]
                for each, data in wanted:
                    (self.guest.share / f"{each}.ko").write_bytes(data)
                names = " ".join(each for each, _ in wanted)
                line = f"for each in {names}; do insmod {SHARE}/$each.ko || echo no $each; done"
                said = self.guest.run(line, PATIENCE).output.splitlines()
            except KdiffError as error:
                raise Trouble("died", str(error)) from error
            for each, _ in wanted:
                self.known[each] = f"no {each}" not in said
                (self.guest.share / f"{each}.ko").unlink()
            self.seen = len(self.guest.records())
        return self.known.get(name, False)

    def load_all(self, wanted: Iterable[str]) -> dict[str, bool]:
        """Load modules, and tell of each whether it is there."""
        return {name: self.load(name) for name in wanted}

    def unload(self, wanted: Iterable[str]) -> None:
        """Unload modules, and before them as far as that goes what was loaded later and may use them."""
        there = [name for name, loaded in self.known.items() if loaded]
        for name in reversed(there[min(map(there.index, wanted), default=len(there)) :]):
            if self.guest.run(f"rmmod {name}", PATIENCE).held:
                del self.known[name]
        for name in wanted:
            self.line(f"! test -d /sys/module/{name}", "unload")


def try_all(both: Trees, updates: Iterable[Created]) -> None:
    """Try every update, and save what became of it."""
    machine: Machine | None = None
    compileall.compile_dir(target.__path__[0], quiet=1)  # as installing it does; a guest only reads it
    try:
        for batch in counted(batches(updates), "guest, batches"):
            if machine is None or machine.updates >= PER_BOOT or (batch[0].fresh and machine.updates):
                machine = _anew(machine, both)
            results, intact = _batch(machine, both, batch)
            if batch[0].fresh:
                machine.updates = PER_BOOT
            if not intact:
                results = ()
                for each in batch:
                    machine = _anew(machine, both)
                    alone, _ = _batch(machine, both, (each,))
                    results += alone
                machine = _anew(machine, both)
            for each in results:
                save(both.store / "tried", each)
                say(f"  {each.id}: {each.result}, applied in {each.apply:.1f} s, undone in {each.undo:.1f} s")
    finally:
        if machine is not None:
            machine.guest.close()


def batches(updates: Iterable[Created]) -> Iterator[tuple[Created, ...]]:
    """Updates by the ten, of which no two replace the same function, and whose modules are loaded alike.

    No two change the same module if one of them has it loaded later: those may not be applied together.
    """
    waiting = sorted(updates, key=lambda each: bool(each.fresh))
    while waiting:
        batch: list[Created] = []
        taken: set[str] = set()
        later = []
        for each in waiting:
            alike = not batch or bool(batch[0].fresh) == bool(each.fresh)
            claimed = {*each.functions, *(_modules(each) if each.fresh else ())}
            if alike and len(batch) < BATCH and taken.isdisjoint(claimed):
                batch.append(each)
                taken |= claimed
            else:
                later.append(each)
        waiting = later
        yield tuple(batch)


def _anew(machine: Machine | None, both: Trees) -> Machine:
    if machine is not None:
        machine.guest.close()
    image = both.kernel.image
    say("booting")
    guest = Guest.boot(image / "vmlinuz", image / "modules", memory=2048, timeout=300)
    made = Machine(guest, image / "modules")
    try:
        shutil.copy(SMOKE, guest.share)
        with (guest.share / "ext4").open("wb") as file:
            file.truncate(8 << 20)
        subprocess.run(("mkfs.ext4", "-q", str(guest.share / "ext4")), check=True)
        for name in NEEDED:
            if not made.load(name):
                raise SystemExit(f"the guest cannot load {name}, which the workload needs")
        _smoke(made)
    except Trouble as trouble:
        guest.close()
        raise SystemExit(f"the workload fails without any update: {trouble.detail}") from trouble
    except BaseException:
        guest.close()
        raise
    return made


def _smoke(machine: Machine) -> None:
    """Run the workload, and read the log of it and of what was before."""
    machine.clean()
    machine.line(f"sh {SHARE}/smoke.sh {SHARE}/ext4", "smoke")
    machine.clean()


def _batch(machine: Machine, both: Trees, batch: Sequence[Created]) -> tuple[tuple[Tried, ...], bool]:
    """What became of a batch, and whether nothing went wrong that may be another update's fault."""
    found: dict[str, Tried] = {}
    try:
        before = {each.id: {} if each.fresh else machine.load_all(_modules(each)) for each in batch}
        machine.updates += len(batch)
        for each in batch:
            found[each.id] = _applied(machine, both, each, before[each.id])
        applied = [each for each in batch if found[each.id].result == "held"]
        for each in applied:
            if each.fresh:
                loaded = machine.load_all(_modules(each))
                found[each.id] = replace(
                    found[each.id], loaded=_names(loaded, True), missing=_names(loaded, False)
                )
        _smoke(machine)
        listed = machine.line(program("view"), "view").output
        for each in applied:
            if each.id not in listed:
                raise Trouble("view", f"{each.id} is not in the list:\n{listed}")
        machine.unload({name for each in applied for name in each.fresh if machine.known.get(name)})
        for each in reversed(applied):
            seconds = machine.line(program("undo", each.id), "undo").seconds
            found[each.id] = replace(found[each.id], undo=round(seconds, 2))
        _smoke(machine)
    except Trouble as trouble:
        if len(batch) > 1:
            say(f"  trouble in a batch ({trouble.result}): {trouble.detail[:300]}")
        failed = {each.id: Tried(each.id, trouble.result, trouble.detail) for each in batch}
        return tuple(failed.values()), len(batch) == 1
    return tuple(found[each.id] for each in batch), True


def _modules(update: Created) -> tuple[str, ...]:
    return tuple(name for name in update.targets if name != KERNEL)


def _applied(machine: Machine, both: Trees, update: Created, loaded: Mapping[str, bool]) -> Tried:
    """Apply one update; a refusal leaves no trace, so it is this update's own."""
    name = f"ksplice-{update.id}.tar.gz"
    shutil.copy(both.store / "updates" / name, machine.guest.share)
    try:
        done = machine.guest.run(program("apply", "--partial", f"{SHARE}/{name}"), PATIENCE)
    except KdiffError as error:
        raise Trouble("died", "\n".join((str(error), *error.details))) from error
    (machine.guest.share / name).unlink()
    return Tried(
        update.id,
        "held" if done.held else "apply",
        "" if done.held else f"status {done.status}\n{done.output[-2000:]}",
        loaded=_names(loaded, True),
        missing=_names(loaded, False),
        apply=round(done.seconds, 2),
    )


def _names(loaded: Mapping[str, bool], wanted: bool) -> tuple[str, ...]:
    return tuple(sorted(name for name, there in loaded.items() if there is wanted))

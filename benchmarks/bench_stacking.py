# SPDX-License-Identifier: Apache-2.0
"""Twenty updates one after another on one stock kernel, some of them of one function, and off again.

    python benchmarks/bench_stacking.py [--updates N] [--smoke-every N]

Each of fifteen patches makes a file below /proc say one more line. Five more change the same functions again:
those are made of a source tree that has the first patches in it, and of the guest's memory, where the earlier
updates run. After each step the kernel's log is read; every few steps the corpus's workload runs (network,
files, processes, /proc and /sys). Then all come off in the opposite order; an order that cannot work is
tried, and must be refused. Exit status 1 if anything was not as it must be.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from corpus.guests import NEEDED, SMOKE, Machine, Trouble
from releaselab import say

from kdiff import registry, setup
from kdiff.distribution import KernelSetup
from kdiff.guest import SHARE, Guest
from kdiff.package import save
from kdiff.pipeline import Request, create
from kdiff.rehearse import program

FIRST = (
    ("fs/proc/cmdline.c", "cmdline_proc_show", "cmdline"),
    ("fs/proc/loadavg.c", "loadavg_proc_show", "loadavg"),
    ("fs/proc/uptime.c", "uptime_proc_show", "uptime"),
    ("fs/proc/consoles.c", "show_console_dev", "consoles"),
    ("fs/proc/devices.c", "devinfo_show", "devices"),
    ("fs/proc/softirqs.c", "show_softirqs", "softirqs"),
    ("fs/proc/meminfo.c", "meminfo_proc_show", "meminfo"),
    ("fs/proc/stat.c", "show_stat", "stat"),
    ("fs/proc/proc_tty.c", "show_tty_driver", "tty/drivers"),
    ("fs/filesystems.c", "filesystems_proc_show", "filesystems"),
    ("drivers/char/misc.c", "misc_seq_show", "misc"),
    ("crypto/proc.c", "c_show", "crypto"),
    ("kernel/exec_domain.c", "execdomains_proc_show", "execdomains"),
    ("kernel/dma.c", "proc_dma_show", "dma"),
    ("kernel/resource.c", "r_show", "iomem"),
)
"""Source, function, file below /proc."""
AGAIN = FIRST[:5]


@dataclass(frozen=True)
class Step:
    """One update: `line` is what the file says while it is applied."""

    id: str
    source: str
    function: str
    file: str
    line: str


STEPS = tuple(
    Step(f"{function}_{number}", source, function, file, f"kdiff {function} {number}")
    for number, rows in ((1, FIRST), (2, AGAIN))
    for source, function, file in rows
)


def edited(text: str, step: Step) -> str:
    """A source text whose function says one more line before it returns."""
    head = rf"^(?:static )?int {step.function}\(struct seq_file \*(\w+)[^;{{]*\)\n\{{\n"
    found = re.search(head + r".*?(?=^\treturn 0;\n\}|^\})", text, re.M | re.S)
    if found is None:
        raise SystemExit(f"{step.source}: no {step.function} that can be edited")
    return f'{text[: found.end()]}\tseq_puts({found[1]}, "{step.line}\\n");\n{text[found.end() :]}'


def patch_of(tree: Path, step: Step, folder: Path) -> Path:
    """The patch of a step for a tree."""
    old, new = folder / "old.c", folder / "new.c"
    old.write_bytes((tree / step.source).read_bytes())
    new.write_text(edited(old.read_text(), step))
    label = (f"--label=a/{step.source}", f"--label=b/{step.source}")
    done = subprocess.run(("diff", "-u", *label, old, new), capture_output=True, text=True, check=False)
    path = folder / f"{step.id}.patch"
    path.write_text(done.stdout)
    return path


def second_tree(kernel: KernelSetup) -> Path:
    """The source with all patches of the first round; kept."""
    tree = setup.cache() / "stacking" / kernel.abi / "source"
    if not (tree / "Makefile").exists():
        tree.parent.mkdir(parents=True, exist_ok=True)
        aside = tree.with_name("new")
        shutil.rmtree(aside, ignore_errors=True)
        subprocess.run(("cp", "-as", f"{kernel.source.resolve()}/.", str(aside)), check=True)
        for step in STEPS[: len(FIRST)]:
            file = aside / step.source
            text = edited(file.read_text(), step)
            file.unlink()
            file.write_text(text)
        aside.rename(tree)
    return tree


def boot(kernel: KernelSetup) -> tuple[Machine, str]:
    """A guest that can do the workload, and the name of its memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tree = kernel.image / "modules"
    guest = Guest.boot(
        kernel.image / "vmlinuz", tree, memory=1024, timeout=600, hardware=("-gdb", f"tcp:127.0.0.1:{port}")
    )
    machine = Machine(guest, tree)
    shutil.copy(SMOKE, guest.share)
    with (guest.share / "ext4").open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(("mkfs.ext4", "-q", str(guest.share / "ext4")), check=True)
    for name in NEEDED:
        machine.load(name)
    return machine, f"gdb:127.0.0.1:{port}"


def smoke(machine: Machine) -> None:
    machine.line(f"sh {SHARE}/smoke.sh {SHARE}/ext4", "smoke")
    machine.clean()


def shows(machine: Machine, steps: tuple[Step, ...]) -> None:
    """Raise Trouble unless exactly these updates are seen to work, and are listed in order."""
    for step in STEPS:
        wanted = "" if step in steps else "! "
        machine.line(f"{wanted}grep -q '{step.line}$' /proc/{step.file}", "shows")
    listed = machine.line(program("view", "-q"), "view").output.split()
    if listed != [step.id for step in steps]:
        raise Trouble("view", f"listed: {listed}")


def refused(machine: Machine, line: str, key: str) -> None:
    done = machine.guest.run(line, 240)
    if done.status != 3 or key not in done.output:
        raise Trouble("order", f"{line}: status {done.status}, not {key}: {done.output}")


def run(kernel: KernelSetup, steps: tuple[Step, ...], every: int) -> None:
    """Raise Trouble if anything is not as it must be."""
    plugins, folder = registry.load(), Path(setup.cache() / "stacking")
    folder.mkdir(parents=True, exist_ok=True)
    tree = second_tree(kernel) if len(steps) > len(FIRST) else kernel.source
    machine, memory = boot(kernel)
    with machine.guest:
        smoke(machine)
        for number, step in enumerate(steps, 1):
            began = time.monotonic()
            later = number > len(FIRST)
            source = tree if later else kernel.source
            patch = patch_of(source, step, folder)
            asked = Request(kernel.config, source, patch, step.id, 0, jobs=2, memory=memory if later else "")
            save(create(asked, plugins, lambda line: None), machine.guest.share)
            made = time.monotonic()
            machine.line(program("apply", f"{SHARE}/ksplice-{step.id}.tar.gz"), "apply")
            machine.clean()
            took = f"made in {made - began:.0f} s, applied in {time.monotonic() - made:.0f} s"
            say(f"{number:2} {step.id}: {took}")
            if number % every == 0:
                smoke(machine)
        shows(machine, steps)
        again = steps[len(FIRST) :]
        for later in again:
            earlier = next(step for step in steps if step.function == later.function)
            refused(machine, program("undo", earlier.id), "target.stacked")
        for number in range(len(steps) - 1, -1, -1):
            began = time.monotonic()
            machine.line(program("undo", steps[number].id), "undo")
            machine.clean()
            say(f"{number:2} are left: {steps[number].id} undone in {time.monotonic() - began:.0f} s")
            if number % every == 0:
                smoke(machine)
                shows(machine, steps[:number])
        for later in again:
            refused(machine, program("apply", f"{SHARE}/ksplice-{later.id}.tar.gz"), "target.not_below")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=len(STEPS), metavar="N", help="only the first N")
    parser.add_argument("--smoke-every", type=int, default=4, metavar="N", help="steps between two workloads")
    args = parser.parse_args()
    steps = STEPS[: args.updates]
    plugins = registry.load()
    wanted = setup.choose(plugins, setup.distribution(plugins).newest(), None)
    kernel = setup.make(plugins, wanted, say)
    try:
        run(kernel, steps, args.smoke_every)
    except Trouble as trouble:
        print(f"{trouble.result}: {trouble}")
        return 1
    above = max(0, len(steps) - len(FIRST))
    print(f"{len(steps)} updates went on and off, {above} of them on top of another; the log is clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())

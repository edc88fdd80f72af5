# SPDX-License-Identifier: Apache-2.0
"""`kdiff rehearse`: try an update in a guest before any real machine sees it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from kdiff import setup
from kdiff.cli.progress import progress
from kdiff.distribution import Say
from kdiff.errors import EXIT_DONE, EXIT_ERROR, KdiffError
from kdiff.registry import load
from kdiff.rehearse import Checks, Rehearsal, Step, Subject, identify, rehearse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Boot the kernel an update is for, unmodified, in QEMU; apply the update, view it, undo it, with the "
        "checks around that. A check is a shell line that runs in the guest, which sees this machine's files "
        "(what it writes is gone afterwards); it holds when its exit status is 0. Exit status 0 only if "
        "everything held and the kernel's log shows no trouble."
    )
    parser.add_argument("tarball", metavar="TARBALL", type=Path, help="ksplice-ID.tar.gz")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--kernel", metavar="ABI", help="a kernel of this distribution (default: the one the update is for)"
    )
    which.add_argument("--image", metavar="VMLINUZ", type=Path, help="a kernel image instead")
    parser.add_argument(
        "--modules",
        metavar="DIR",
        type=Path,
        help="the /lib/modules/ABI tree of --image (default: `modules` beside it, else /lib/modules/ABI)",
    )
    for name, when in (("before", "before apply"), ("after", "once applied"), ("undone", "once undone")):
        parser.add_argument(
            f"--{name}", metavar="CMD", action="append", default=[], help=f"a check {when}; may be repeated"
        )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=180,
        help="the longest a step may take (default: 180)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Rehearse and tell; exit status 0 only if everything held."""
    subject = identify(arguments.tarball)
    checks = Checks(tuple(arguments.before), tuple(arguments.after), tuple(arguments.undone))
    tell: Callable[[Step], None] = (lambda step: None) if arguments.json else _print_step
    with progress() as say:
        image, modules = _kernel(arguments, subject, say)
        outcome = rehearse(subject, image, modules, checks, timeout=arguments.timeout, say=say, tell=tell)
    if arguments.json:
        print(json.dumps(_as_json(outcome), indent=2))
    else:
        _print_end(outcome)
    return EXIT_DONE if outcome.held else EXIT_ERROR


def _kernel(arguments: argparse.Namespace, subject: Subject, say: Say) -> tuple[Path, Path]:
    """The image to boot and its modules; a distribution's kernel is set up if that was not done yet."""
    if arguments.image is None:
        abi = arguments.kernel or subject.release
        made = setup.recorded(setup.default_destination(abi))
        if made is None:
            registry = load()
            made = setup.make(registry, setup.choose(registry, abi, None), say)
        return made.image / "vmlinuz", arguments.modules or made.image / "modules"
    image: Path = arguments.image
    for modules in (arguments.modules, image.parent / "modules", Path("/lib/modules") / subject.release):
        if modules is not None and modules.is_dir():
            return image, modules
    raise KdiffError(
        "rehearse.modules", "no modules for this image", place=str(image), remedy="name them with --modules"
    )


def _print_step(step: Step) -> None:
    verdict = "ok" if step.held else "FAILED"
    why = ", killed: its time was up" if step.result.late else ""
    print(f"{step.phase.value:>6}: {step.result.line}")
    for line in step.result.output.splitlines():
        print(f"        | {line}")
    print(f"        {verdict} (status {step.result.status}{why}, {step.result.seconds:.1f} s)")
    sys.stdout.flush()


def _print_end(outcome: Rehearsal) -> None:
    print("   log:" if outcome.log else "   log: nothing new")
    for record in outcome.log:
        print(f"        | {record}")
    for complaint in outcome.complaints:
        print(f"TROUBLE {complaint.key}: {complaint.record}")
    if outcome.problem:
        print(f"PROBLEM {outcome.problem}")
    title = f"Rehearsal of update {outcome.subject.id}"
    if outcome.held:
        print(f"{title}: all {len(outcome.steps)} steps held, and the kernel's log is clean.")
        return
    failed = sum(not step.held for step in outcome.steps)
    early = "; it ended early" if outcome.problem else ""
    print(
        f"{title} FAILED: {failed} of {len(outcome.steps)} steps did not hold,"
        f" {len(outcome.complaints)} signs of trouble in the kernel's log{early}."
    )


def _as_json(outcome: Rehearsal) -> dict[str, object]:
    return {
        "id": outcome.subject.id,
        "release": outcome.subject.release,
        "held": outcome.held,
        "problem": outcome.problem,
        "steps": [
            {
                "phase": step.phase.value,
                "line": step.result.line,
                "held": step.held,
                "status": step.result.status,
                "late": step.result.late,
                "seconds": round(step.result.seconds, 2),
                "output": step.result.output,
            }
            for step in outcome.steps
        ],
        "complaints": [
            {"key": each.key, "seconds": each.record.seconds, "text": each.record.text}
            for each in outcome.complaints
        ],
        "log": [str(record) for record in outcome.log],
    }

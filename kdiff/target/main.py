# SPDX-License-Identifier: Apache-2.0
"""The commands ksplice-apply, ksplice-view and ksplice-undo; `kdiff apply|view|undo` are the same functions.

`run_*` take arguments, print, and return an exit status (kdiff/errors.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from kdiff import __version__
from kdiff.errors import EXIT_DONE, EXIT_ERROR, KdiffError, Refused
from kdiff.target import layout, livepatch, view
from kdiff.target.machine import Machine
from kdiff.target.report import Report
from kdiff.target.signals import Interruption

TIMEOUT = 60.0
"""Seconds a transition may take; the kernel itself pushes idle tasks after 15."""
HEADING = "Here is the source code patch associated with this update:"


def ksplice_apply() -> int:
    return run_apply(sys.argv[1:])


def ksplice_view() -> int:
    return run_view(sys.argv[1:])


def ksplice_undo() -> int:
    return run_undo(sys.argv[1:])


def run_apply(
    arguments: Sequence[str], machine: Machine | None = None, program: str = "ksplice-apply"
) -> int:
    """Apply an update."""
    from kdiff.target.apply import apply

    parser = _parser(program, "Apply an update to the running kernel.")
    _add_timeout(parser, "take the update back")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="also if a module that the update changes is not loaded: its code changes when it is",
    )
    parser.add_argument("tarball", metavar="TARBALL", help="the ksplice-ID.tar.gz that ksplice-create wrote")
    given = parser.parse_args(arguments)
    report = _report(program, given)

    def work() -> None:
        with Interruption() as interruption:
            done = apply(
                given.tarball,
                given.timeout,
                machine or Machine(),
                report.say,
                report.detail,
                interruption.check,
                given.partial,
            )
        for module in done.awaited:
            report.say(f"Module {module} is not loaded; its code changes when it is.")
        report.say(f"Ksplice update {done.id} is applied already." if done.already else "Done!")
        report.data(
            {
                "id": done.id,
                "already": done.already,
                "functions": list(done.functions),
                "awaited": list(done.awaited),
            }
        )

    return _guarded(report, work)


def run_view(arguments: Sequence[str], machine: Machine | None = None, program: str = "ksplice-view") -> int:
    """Show the updates in the running kernel, one of them, or the patch inside a tarball."""
    parser = _parser(
        program, "Show the updates in the running kernel, one of them, or the patch in a tarball."
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--id", metavar="ID", help="show this update and its patch")
    choice.add_argument("--file", metavar="TARBALL", help="show the patch in a tarball")
    given = parser.parse_args(arguments)
    report = _report(program, given)

    def work() -> None:
        if given.file is not None:
            from kdiff.target import tarball

            update = tarball.read(given.file)
            _show_patch(report, view.Seen(update.id, "in a file", update.description, update.patch))
        elif given.id is not None:
            _show_one(report, view.one(machine or Machine(), given.id))
        else:
            _show_every(report, view.every(machine or Machine()))

    return _guarded(report, work)


def run_undo(arguments: Sequence[str], machine: Machine | None = None, program: str = "ksplice-undo") -> int:
    """Undo an update."""
    from kdiff.target.undo import undo

    parser = _parser(program, "Undo an update of the running kernel.")
    _add_timeout(parser, "leave the update applied")
    parser.add_argument("id", metavar="ID", help="the update's id; ksplice-view lists them")
    given = parser.parse_args(arguments)
    report = _report(program, given)

    def work() -> None:
        with Interruption() as interruption:
            id = undo(given.id, given.timeout, machine or Machine(), report.say, interruption.check)
        report.say("Done!")
        report.data({"id": id})

    return _guarded(report, work)


def _guarded(report: Report, work: Callable[[], None]) -> int:
    try:
        work()
        sys.stdout.flush()
    except (KdiffError, Refused) as error:
        return report.failure(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except KeyboardInterrupt:
        return report.failure(KdiffError("target.interrupted", "stopped by SIGINT"))
    return EXIT_DONE


def _show_every(report: Report, updates: list[view.Seen]) -> None:
    for each in updates:
        report.result(
            each.id
            if report.level < 0
            else f"{each.id}: {each.description or 'no description available'}"
            + ("" if each.stage == livepatch.APPLIED else f" ({each.stage})")
        )
    report.data({"updates": [_as_json(each) for each in updates]})


def _show_one(report: Report, update: view.Seen) -> None:
    if report.level >= 0:
        report.say(f"Ksplice id {update.id} is present in the kernel and is {update.stage}.")
        report.say("")
    _show_patch(report, update)


def _show_patch(report: Report, update: view.Seen) -> None:
    if report.level < 0:
        report.result(update.id)
    elif update.patch is None:
        report.say("Its source code patch is not known to this machine.")
    else:
        report.say(HEADING)
        report.raw_bytes(update.patch)
    patch = None if update.patch is None else update.patch.decode("utf-8", "replace")
    report.data({**_as_json(update), "patch": patch})


def _as_json(update: view.Seen) -> dict[str, object]:
    return {"id": update.id, "stage": update.stage, "description": update.description}


class _ApiVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        print(layout.API_VERSION)
        parser.exit()


def _layout(prog: str) -> argparse.HelpFormatter:
    """How help is laid out. argparse asks with each option, and would import shutil for the width."""
    columns = os.environ.get("COLUMNS", "")
    try:
        width = int(columns) if columns.isdecimal() else os.get_terminal_size().columns
    except OSError:
        width = 0
    return argparse.HelpFormatter(prog, width=(width or 80) - 2)


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=description, allow_abbrev=False, add_help=False, formatter_class=_layout
    )
    parser.add_argument("-?", "-h", "--help", action="help", help="show this and exit")
    parser.add_argument(
        "--version", action="version", version=__version__, help="show kdiff's version and exit"
    )
    parser.add_argument(
        "--api-version", action=_ApiVersion, nargs=0, help="show the tarball's version and exit"
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    parser.add_argument("-q", "--quiet", action="count", default=0, help="say less")
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    parser.add_argument(
        "--raw-errors", action="store_true", help="start errors with Ksplice's code, on its own line"
    )
    return parser


def _add_timeout(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=TIMEOUT,
        help=f"how long tasks may take to leave the code; then {otherwise} (default: {TIMEOUT:g})",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def _report(program: str, given: argparse.Namespace) -> Report:
    return Report(program, given.verbose - given.quiet, given.json, given.raw_errors)

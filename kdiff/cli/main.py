# SPDX-License-Identifier: Apache-2.0
"""The `kdiff` command and the console scripts: find the command, run it, turn errors into exit statuses.

Each command is a module of this package with `SUMMARY`, `add_arguments(parser)` and `run(args)`; it is
imported only when it is asked for, so that `kdiff --help` costs nothing. The commands that run on the
machine to be updated live in `kdiff.target`, which needs the standard library only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType

from kdiff import __version__
from kdiff.errors import (
    EXIT_ERROR,
    EXIT_NOTHING_CHANGED,
    EXIT_REFUSED,
    KdiffError,
    NothingChanged,
    Refused,
    json_of,
    lines_of,
)

COMMANDS = {
    "create": "make an update from a source patch",
    "apply": "apply an update to this machine's kernel",
    "view": "list applied updates, or show one",
    "undo": "reverse an applied update",
    "setup": "make a configuration, source and image for a distribution's kernel",
    "rehearse": "try an update on a stock kernel in QEMU",
    "diff": "compare two objects",
    "check": "tell whether patches will apply to a kernel, and if not why",
    "match": "find an object's code in a kernel's memory",
    "memory": "say which kernel a memory holds, and where",
}
ON_TARGET = frozenset(("apply", "view", "undo"))
NEW_OBJECTS = 1_000_000
"""Between two searches for cycles: stages return millions of frozen values, which hardly ever form any."""


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST_KEPT = -1, -3, 1 << 30
"""Parameters of mallopt(3), and bytes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kdiff COMMAND ...`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:], f"kdiff {words[0]}")
    parser = argparse.ArgumentParser(
        prog="kdiff",
        description="Update a running Linux kernel from a source patch, with proof.",
        epilog="commands:\n" + "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kdiff {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.parse_args(words)
    return EXIT_ERROR


def ksplice_create() -> int:
    """The console script `ksplice-create`."""
    return run_command("create", sys.argv[1:], "ksplice-create")


def run_command(name: str, words: Sequence[str], program: str) -> int:
    """Parse the words of one command, run it and report what stopped it."""
    if name in ON_TARGET:
        run: object = getattr(import_module("kdiff.target.main"), f"run_{name}")
        return int(run(list(words), program=program))  # type: ignore[operator]  # found by name
    gc.set_threshold(NEW_OBJECTS)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start threads for what nobody computes
    module = import_module(f"kdiff.cli.{name}")
    parser = argparse.ArgumentParser(prog=program, description=module.__doc__, add_help=True)
    parser.add_argument("--version", action="version", version=f"kdiff {__version__}")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--raw-errors", action="store_true", help="first line of stderr is an error code")
    module.add_arguments(parser)
    return _guarded(module, parser.parse_args(words), program)


def keep_memory() -> None:
    """Let the C library keep what is freed, as columns of one size come again and again; glibc only."""
    import ctypes

    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            library.mallopt(parameter, _MOST_KEPT)


def _guarded(module: ModuleType, args: argparse.Namespace, program: str) -> int:
    try:
        return int(module.run(args))
    except (KdiffError, Refused) as error:
        return _failure(error, args, program)
    except NothingChanged:
        print(json.dumps({"changed": False}) if args.json else "No changes detected")
        return EXIT_NOTHING_CHANGED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_ERROR


def _failure(error: KdiffError | Refused, args: argparse.Namespace, program: str) -> int:
    """Report an error; return its exit status."""
    if args.json:
        print(json.dumps(json_of(error), indent=2))
    if args.raw_errors:
        print(raw_code(error.refusals[0].key) if isinstance(error, Refused) else "OTHER", file=sys.stderr)
    for line in lines_of(error):
        print(line if line.startswith(" ") else f"{program}: {line}", file=sys.stderr)
    return EXIT_REFUSED if isinstance(error, Refused) else EXIT_ERROR


def raw_code(key: str) -> str:
    """Ksplice's abort code for a refusal's key."""
    families = {"runpre": "no_match", "solve": "no_match", "bind": "failed_to_find"}
    return families.get(key.partition(".")[0], "OTHER")

# SPDX-License-Identifier: Apache-2.0
"""Make an update of a running kernel from a source patch."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import string
import sys
from pathlib import Path

from kdiff import registry
from kdiff.cli.progress import progress
from kdiff.errors import EXIT_DONE
from kdiff.package import creation_time, save
from kdiff.pairs import beside, read_pairs
from kdiff.pipeline import Request, create
from kdiff.target.layout import checked_id

ALPHABET = string.ascii_lowercase + string.digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--patch", type=Path, required=True, metavar="FILE", help="unified diff, applied with -p1"
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="CONFDIR",
        help="System.map, .config, build (prepared headers), optional flags and vmlinuz",
    )
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="make jobs")
    parser.add_argument("--description", default="", metavar="TEXT", help="one line, shown by ksplice-view")
    parser.add_argument("--id", default="", metavar="ID", help="update id (default: 8 random characters)")
    parser.add_argument(
        "--memory",
        default="",
        metavar="SCHEME:WHAT",
        help="match against image:FILE or kcore: (default: the kernel's image)",
    )
    parser.add_argument("--emit", default="livepatch", metavar="NAME", help="emitter (default: livepatch)")
    parser.add_argument(
        "--allow-compiler-mismatch",
        action="store_true",
        help="build with another compiler than the kernel's and let run-pre matching decide",
    )
    parser.add_argument(
        "--accept-layout",
        action="append",
        default=[],
        metavar="NAME",
        help="let the layout of this structure, union, enum or variable change (repeatable)",
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="pairs to make or never to make (default: PATCH.pairs.toml)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "source", type=Path, metavar="KERNEL_SOURCE", help="the running kernel's pristine source"
    )


def run(args: argparse.Namespace) -> int:
    """Write `ksplice-ID.tar.gz` into the current directory."""
    update_id = checked_id(args.id) if args.id else "".join(secrets.choice(ALPHABET) for _ in range(8))
    pairs = args.pairs or beside(args.patch)
    with progress(args.quiet) as say:
        package = create(
            Request(
                config=args.config,
                source=args.source,
                patch=args.patch,
                id=update_id,
                timestamp=creation_time(),
                description=args.description,
                jobs=args.jobs,
                memory=args.memory,
                emitter=args.emit,
                allow_compiler_mismatch=args.allow_compiler_mismatch,
                accept_layouts=tuple(args.accept_layout),
                pairs=None if pairs is None else read_pairs(pairs),
            ),
            registry.load(),
            say,
        )
    path = save(package, Path())
    if args.json:
        print(json.dumps({"id": update_id, "file": path.name, "manifest": dict(package.manifest)}, indent=2))
    else:
        print(f"Ksplice update tarball written to {path}")
    sys.stdout.flush()
    return EXIT_DONE

# SPDX-License-Identifier: Apache-2.0
"""Make an update of a running kernel from a source patch."""

from __future__ import annotations

import argparse
import json
import secrets
import string
import sys
from pathlib import Path

from kdiff import registry
from kdiff.cli.asking import add_options, request_of
from kdiff.cli.progress import progress
from kdiff.errors import EXIT_DONE
from kdiff.package import save
from kdiff.pipeline import create
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
    parser.add_argument("--description", default="", metavar="TEXT", help="one line, shown by ksplice-view")
    parser.add_argument("--id", default="", metavar="ID", help="update id (default: 8 random characters)")
    add_options(parser)
    parser.add_argument(
        "source", type=Path, metavar="KERNEL_SOURCE", help="the running kernel's pristine source"
    )


def run(args: argparse.Namespace) -> int:
    """Write `ksplice-ID.tar.gz` into the current directory."""
    update_id = checked_id(args.id) if args.id else "".join(secrets.choice(ALPHABET) for _ in range(8))
    with progress(args.quiet) as say:
        asked = request_of(args, args.patch, args.config, args.source, update_id, args.description)
        package = create(asked, registry.load(), say)
    path = save(package, Path())
    if args.json:
        print(json.dumps({"id": update_id, "file": path.name, "manifest": dict(package.manifest)}, indent=2))
    else:
        print(f"Ksplice update tarball written to {path}")
    sys.stdout.flush()
    return EXIT_DONE

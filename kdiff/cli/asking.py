# SPDX-License-Identifier: Apache-2.0
"""The options that `create` and `check` have in common, and the `Request` they make."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kdiff.package import creation_time
from kdiff.pairs import beside, read_pairs
from kdiff.pipeline import Request


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare how an update is built and what it is matched against."""
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="make jobs")
    parser.add_argument(
        "--memory",
        default="",
        metavar="SCHEME:WHAT",
        help="match against image:FILE, core:DUMP, kcore: and others (default: the kernel's image)",
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
    parser.add_argument(
        "--fuzz",
        type=int,
        choices=range(3),
        default=0,
        metavar="N",
        help="lines of context, up to 2, that need not agree with the source (default: 0)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def request_of(
    args: argparse.Namespace, patch: Path, config: Path, source: Path, update_id: str, description: str = ""
) -> Request:
    """What is asked for one patch."""
    pairs = args.pairs or beside(patch)
    return Request(
        config=config,
        source=source,
        patch=patch,
        id=update_id,
        timestamp=creation_time(),
        description=description,
        jobs=args.jobs,
        memory=args.memory,
        emitter=args.emit,
        allow_compiler_mismatch=args.allow_compiler_mismatch,
        accept_layouts=tuple(args.accept_layout),
        pairs=None if pairs is None else read_pairs(pairs),
        fuzz=args.fuzz,
    )

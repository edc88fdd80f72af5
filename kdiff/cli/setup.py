# SPDX-License-Identifier: Apache-2.0
"""`kdiff setup`: make the configuration, source and image directories for a distribution's kernel."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kdiff import setup
from kdiff.cli.progress import progress
from kdiff.errors import EXIT_DONE
from kdiff.registry import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Download a kernel's image, headers, build tools and source at exactly one version and unpack them "
        "into DIR: DIR/config is a CONFDIR, DIR/source a KERNEL_SOURCE, DIR/image holds vmlinuz and modules. "
        "Nothing is installed and root is not needed. It takes 2.1 GB of disk and half a minute after the "
        "download of 220 MB; run it again after an interruption to go on."
    )
    parser.add_argument(
        "--kernel",
        metavar="ABI",
        help="the kernel release, such as 6.1.0-56-amd64 (default: the running kernel's if its packages "
        "can be had, else the newest)",
    )
    parser.add_argument(
        "--dest",
        metavar="DIR",
        type=Path,
        help="where to put it (default: kdiff/setups/ABI in $XDG_CACHE_HOME or ~/.cache)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing and print the command to type next."""
    registry = load()
    with progress() as say:
        wanted = setup.choose(registry, arguments.kernel, arguments.dest)
        say(f"kernel {wanted.abi} in {wanted.dest}")
        made = setup.make(registry, wanted, say)
    if arguments.json:
        fields = {name: str(getattr(made, name)) for name in made.__slots__}
        print(json.dumps(fields | {"create": setup.create_line(made)}, indent=2))
    else:
        print(f"Kernel {made.abi} (package version {made.package_version}) is ready. Create an update with:")
        print(setup.create_line(made))
    return EXIT_DONE

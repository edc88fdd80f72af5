# SPDX-License-Identifier: Apache-2.0
"""`python3 -m kdiff.target apply|view|undo ...`, from a source directory, with nothing installed."""

from __future__ import annotations

import sys

from kdiff.errors import EXIT_USAGE
from kdiff.target.main import run_apply, run_undo, run_view

COMMANDS = {"apply": run_apply, "view": run_view, "undo": run_undo}


def main() -> int:
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if command is None:
        print(f"usage: python3 -m kdiff.target {'|'.join(COMMANDS)} ...", file=sys.stderr)
        return EXIT_USAGE
    return command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What apply, view and undo print: results on standard output, errors on standard error."""

from __future__ import annotations

import json
import sys

from kdiff.errors import EXIT_ERROR, EXIT_REFUSED, KdiffError, Refused, json_of, lines_of

CODES = {
    "apply.memory": "out_of_memory",
    "apply.symbol": "failed_to_find",
    "target.not_loaded": "target_not_loaded",
    "target.other_kernel": "no_match",
    "target.other_module": "no_match",
    "update.busy": "code_busy",
    "update.in_use": "module_busy",
    "update.not_applied": "unexpected",
    "update.stuck": "unexpected",
    "verify.content": "no_match",
    "verify.symbol": "no_match",
    "verify.unmapped": "no_match",
}
"""Ksplice's abort codes; anything else is OTHER."""


class Report:
    """Where a command's words go. `level` is 0, more for -v and less for -q."""

    def __init__(self, program: str, level: int = 0, as_json: bool = False, raw: bool = False) -> None:
        self.program = program
        self.level = level
        self.as_json = as_json
        self.raw = raw

    def say(self, line: str) -> None:
        """Print a line of progress or of the result, for people."""
        if self.level >= 0 and not self.as_json:
            print(line, flush=True)

    def result(self, line: str) -> None:
        """Print a line that -q does not silence."""
        if not self.as_json:
            print(line, flush=True)

    def raw_bytes(self, data: bytes) -> None:
        """Print bytes as they are, such as a patch in another encoding."""
        if not self.as_json:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.flush()

    def detail(self, line: str) -> None:
        """Print a line for the curious."""
        if self.level > 0 and not self.as_json:
            print(line, flush=True)

    def data(self, value: object) -> None:
        """Print a result for programs."""
        if self.as_json:
            print(json.dumps(value, indent=1, sort_keys=True), flush=True)

    def failure(self, error: KdiffError | Refused) -> int:
        """Print an error and return the exit status that goes with it."""
        keys = [each.key for each in error.refusals] if isinstance(error, Refused) else [error.key]
        if self.raw:
            print(next((CODES[key] for key in keys if key in CODES), "OTHER"), file=sys.stderr)
        for line in lines_of(error):
            print(line if line.startswith(" ") else f"{self.program}: {line}", file=sys.stderr)
        self.data(json_of(error))
        return EXIT_REFUSED if isinstance(error, Refused) else EXIT_ERROR

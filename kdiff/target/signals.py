# SPDX-License-Identifier: Apache-2.0
"""A request to stop that is noted, and acted upon where it is safe: never in the middle of a step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from kdiff.errors import KdiffError

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """While the `with` block lasts, SIGINT, SIGTERM and SIGHUP set `name` and do nothing else.

    Signals that were ignored before (nohup) stay ignored.
    """

    def __init__(self) -> None:
        self.name = ""
        self._before = {number: signal.getsignal(number) for number in HANDLED}

    def __enter__(self) -> Interruption:
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def check(self) -> None:
        """KdiffError `target.interrupted` if a request has come."""
        if self.name:
            raise KdiffError("target.interrupted", f"stopped by {self.name}")

# SPDX-License-Identifier: Apache-2.0
"""Progress for a person, on stderr: a spinner on a terminal, plain lines elsewhere.

The spinner takes what is printed to stdout along, so that lines do not mix; so it needs both on a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kdiff.distribution import Say


@contextmanager
def progress(quiet: bool = False) -> Iterator[Say]:
    """Yield a function that shows one line at a time, with the seconds since the start."""
    start = time.monotonic()
    if quiet:
        yield lambda text: None
        return
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        yield lambda text: print(f"[{time.monotonic() - start:5.1f} s] {text}", file=sys.stderr, flush=True)
        return
    from rich.console import Console  # a spinner is not worth its import where nobody sees it
    from rich.markup import escape

    console = Console(stderr=True)
    with console.status("") as status:

        def say(text: str) -> None:
            console.print(f"[dim]{time.monotonic() - start:5.1f} s[/dim] {escape(text)}", highlight=False)
            status.update(escape(text))

        yield say


@contextmanager
def bar(doing: str, total: int, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """Yield a function that counts one. The bar is shown if somebody sees it and the lines go elsewhere."""
    if quiet or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda: None
        return
    from rich.console import Console  # as above
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task(doing, total=total)
        yield lambda: shown.advance(task)

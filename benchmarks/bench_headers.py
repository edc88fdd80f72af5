# SPDX-License-Identifier: Apache-2.0
"""Whether the units that kdiff finds for a changed header are those that a build of all its users shows.

    python benchmarks/bench_headers.py [--kernel ABI] [--header PATH]... [--seed N] [--member]

In each header one inline function that returns something is edited: it returns one more. With `--member` one
structure gets another member, in front of all others. `kdiff.kbuild.build` then says which units' objects
change, once as always, once with every unit compiled that the compiler says includes the header. Both answers
must be equal: the same units, with the same objects.
"""

from __future__ import annotations

import argparse
import difflib
import random
import re
import resource
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kdiff import registry, setup
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError
from kdiff.headers import reached
from kdiff.kbuild import Build, build
from kdiff.patch import read_patch

HEADERS = (
    "ipc/util.h", "kernel/workqueue_internal.h", "fs/proc/internal.h", "fs/mount.h", "mm/slab.h",
    "net/core/dev.h", "block/blk-mq.h", "fs/ext4/ext4.h", "kernel/sched/sched.h", "fs/pnode.h",
    "include/net/tcp_states.h", "kernel/locking/rtmutex_common.h", "security/keys/internal.h",
)  # fmt: skip
_INLINE = re.compile(
    r"^static inline (?:int|bool|unsigned int|long) \w+\([^{;]*\)\n\{\n(?:[^}]*?\n)?\treturn ([^;]+);\n\}",
    re.M,
)
_STRUCTURE = re.compile(r"^struct \w+ \{\n(\t)", re.M)


def edited(source: Path, header: str, seed: int, member: bool) -> str | None:
    """A patch that changes an inline function or a structure, drawn at random; None if there is none."""
    text = (source / header).read_text()
    found = list((_STRUCTURE if member else _INLINE).finditer(text))
    if not found:
        return None
    one = random.Random(f"{header} {seed}").choice(found)
    instead = "\tlong more[2];\n\t" if member else f"({one[1]}) + 1"
    new = f"{text[: one.start(1)]}{instead}{text[one.end(1) :]}"
    lines = (text.splitlines(keepends=True), new.splitlines(keepends=True))
    return "".join(difflib.unified_diff(*lines, f"a/{header}", f"b/{header}"))


@contextmanager
def every_user() -> Iterator[None]:
    """Let nothing but the compiler's list of files keep a unit from being compiled."""
    with (
        patch("kdiff.headers.users", lambda place, includes, paths, files, wanted: list(wanted)),
        patch("kdiff.headers.Judge.affected", return_value=True),
    ):
        yield


def cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def changed(kernel: KernelSetup, file: Path) -> tuple[Build, int, float]:
    """What a patch makes of the source, how many units were compiled for it or are kept, and CPU seconds."""
    began = cpu()
    found: list[str] = []

    def noted(*args: Any) -> Generator[tuple[str, ...], None, frozenset[str]]:
        search = reached(*args)
        while True:
            try:
                some = next(search)
            except StopIteration as end:
                return frozenset(end.value)
            found.extend(some)
            yield some

    with patch("kdiff.affected.reached", noted):
        made = build(read_config(kernel.config), kernel.source, read_patch(file), say=lambda line: None)
    return made, len(found), cpu() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--header", action="append", help="a header; the list in this file if not given")
    parser.add_argument("--seed", type=int, default=1, help="which function is edited")
    parser.add_argument("--member", action="store_true", help="add a member to a structure instead")
    parser.add_argument("--kernel", help="kernel ABI (default: the newest)")
    args = parser.parse_args()
    plugins = registry.load()
    wanted = setup.choose(plugins, args.kernel or setup.distribution(plugins).newest(), None)
    kernel = setup.make(plugins, wanted, lambda line: print(line, file=sys.stderr))
    wrong = 0
    for header in args.header or HEADERS:
        text = edited(kernel.source, header, args.seed, args.member)
        if text is None:
            print(f"{header}: nothing to edit")
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "x.patch")
            file.write_text(text)
            try:
                made, compiled, seconds = changed(kernel, file)
                with every_user():
                    truth, including, longer = changed(kernel, file)
            except KdiffError as error:
                print(f"{header}: {error}")
                wrong += 1
                continue
        equal = made.units == truth.units
        wrong += not equal
        print(
            f"{header}: {len(made.units)} of {including} including units change, {compiled} compiled"
            f" in {seconds:.0f} s, all in {longer:.0f} s CPU: {'equal' if equal else 'DIFFERENT'}",
            flush=True,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

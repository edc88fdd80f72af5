# SPDX-License-Identifier: Apache-2.0
"""How fast are ordinary objects compared? `kdiff diff` in one process beside kpatch's create-diff-object.

The pairs are those of bench_pairs.py for Linux 6.1 on x86-64 (build them with its --build); with --debug,
those of a configuration with debugging information and more checks. The peer is
Debian's package kpatch-build from trixie, run from where it is unpacked, with the C library of trixie. Both
go through all pairs several times, in turn; medians count. kdiff does what `kdiff diff --batch` does, in a
new process each time, which sees each pair once; for the figure of each pair, and for one of the totals, all
is done once more pair by pair. The peer is measured as kpatch-build runs it, a process for each object that
reads a list of the kernel's symbols, and once more with a list of the object's own symbols only, which is as
good as none.

kdiff pairs, compares, plans and reviews; the peer also writes its output object, and knows less: no layouts
of structures, no alternatives to unsure pairs, no reason for what it says. As layouts are most of the work
where there is debugging information, --debug shows what it takes without them, too.

    python benchmarks/bench_objects.py [--runs 3] [--only REGEX] [--debug] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import othersuite
import pairlab
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff import registry
from kdiff.cli import batch
from kdiff.cli.batch import Pair, groups, outcomes
from kdiff.cli.main import NEW_OBJECTS, keep_memory
from kdiff.compare import Comparer
from kdiff.insn import instructions
from kdiff.review_types import retyped
from kdiff.setup import cache as cache_folder

PACKAGES = ("kpatch-build", "libc6", "libelf1t64", "zlib1g", "libzstd1")
SUITE = "http://deb.debian.org/debian trixie main"
SIZES = {
    "ALT_STRUCT_SIZE": "12", "BUG_STRUCT_SIZE": "12", "EX_STRUCT_SIZE": "12", "ORC_STRUCT_SIZE": "6",
    "JUMP_STRUCT_SIZE": "16", "PARA_STRUCT_SIZE": "16", "STATIC_CALL_STRUCT_SIZE": "8",
    "PRINTK_INDEX_STRUCT_SIZE": "8",
}  # fmt: skip
"""Entries of special sections in Linux 6.1 for x86-64, which the peer is told."""
USUAL = 20_000, 1_200_000
"""Bytes: smaller objects are those of pairs made to show one thing."""
KERNEL_SYMBOLS = 170_000
"""Lines of a symbol table as readelf prints it for a vmlinux."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair: bytes of the pre object, and medians of CPU seconds, of kdiff for this pair by itself."""

    name: str
    size: int
    kdiff: float
    peer: float
    peer_with_symbols: float
    status: int
    """The peer's exit status: 0 written, 3 nothing changed, else it refuses or fails."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", metavar="REGEX", help="only patches whose name matches")
    parser.add_argument("--debug", action="store_true", help="objects with debugging information")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    given = parser.parse_args()
    wanted = ("6.1", "x86-debug" if given.debug else "x86")
    (build,) = (each for each in pairlab.builds() if (each.release, each.name) == wanted)
    cases = [c for c in pairlab.cases(given.only) if c.pre(build).exists() and c.post(build).exists()]
    if not cases:
        where = "/".join(wanted)
        raise SystemExit(f"no pairs are built: python benchmarks/bench_pairs.py --build --where '^{where}$'")
    peer = Peer(cache_folder() / "peers" / "kpatch")
    paths = [(case.pre(build), case.post(build)) for case in cases]
    pairs = [Pair(case.name, *both) for case, both in zip(cases, paths, strict=True)]
    usual = [pair for pair in pairs if USUAL[0] <= pair.pre.stat().st_size <= USUAL[1]]
    single, few, many = list[list[float]](), list[list[float]](), list[list[float]]()
    batches: dict[bool, list[Batch]] = {False: [], True: []}
    bare = list[Batch]()
    for run in range(given.runs):
        print(f"run {run + 1} of {given.runs}", file=sys.stderr)
        for chosen in (pairs, usual) if usual else (pairs,):
            batches[chosen is usual].append(in_new_process(groups(chosen, len(chosen))))
        if given.debug:
            bare.append(in_new_process(groups(pairs, len(pairs)), layouts=False))
        single.append(in_new_process(groups(pairs, 1)).seconds)
        few.append([peer.seconds(*pair, peer.own_symbols(pair[0])) for pair in paths])
        many.append([peer.seconds(*pair, peer.kernel_symbols(pair[0])) for pair in paths])
    medians = [[statistics.median(each) for each in zip(*runs, strict=True)] for runs in (single, few, many)]
    rows = []
    for case, (pre, post), seconds in zip(cases, paths, zip(*medians, strict=True), strict=True):
        status = peer.status(pre, post)
        rows.append(Row(case.name, pre.stat().st_size, *seconds, status))
        ours, without, listed = (1e3 * each for each in seconds)
        print(
            f"{case.name:<44} {rows[-1].size >> 10:>5} KB  kdiff {ours:6.1f} ms"
            f"  peer {without:6.1f} ms, with the kernel's symbols {listed:6.1f} ms  ({status})"
        )
    report(rows, given.runs, batches[False], batches[True])
    if bare:
        print(f"all pairs without layouts of structures: {total(bare):.2f} s CPU")
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Groups of pairs in one process: CPU seconds of each group, and the most memory, in MiB."""

    seconds: list[float]
    memory: int


def total(batches: list[Batch]) -> float:
    return statistics.median(sum(each.seconds) for each in batches)


def in_new_process(parts: list[list[Pair]], layouts: bool = True) -> Batch:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(compared, parts, layouts).result()


def compared(parts: list[list[Pair]], layouts: bool) -> Batch:
    """Compare each pair once; what is imported and asked of plugins for all of them is not counted."""
    gc.set_threshold(NEW_OBJECTS)  # as the command does
    keep_memory()
    if not layouts:
        batch.retyped = lambda plans: retyped(())
    compare = Comparer(registry.load())
    list(outcomes(parts[0][:1], (), compare, None))
    instructions(ARCHITECTURE, b"\xc3")  # loads capstone's library
    seconds = []
    for part in parts:
        start = time.process_time()
        found = list(outcomes(part, (), compare, None))
        seconds.append(time.process_time() - start)
        if failed := [pair.name for pair, each in zip(part, found, strict=True) if "error" in each]:
            raise SystemExit(f"not compared: {', '.join(failed)}")
    status = Path("/proc/self/status").read_text()  # ru_maxrss counts what this process was forked from
    return Batch(seconds, int(status.split("VmHWM:")[1].split()[0]) >> 10)


def report(rows: list[Row], runs: int, every: list[Batch], usual: list[Batch]) -> None:
    """Totals, medians and ratios, of all pairs and of those as large as most units of a kernel."""
    print(f"{len(rows)} pairs, medians of {runs} runs, {platform.machine()}, {os.cpu_count()} processors:")
    totals(rows, every)
    chosen = [row for row in rows if USUAL[0] <= row.size <= USUAL[1]]
    if chosen and len(chosen) < len(rows):
        print(f"{len(chosen)} of them with objects of {USUAL[0]} to {USUAL[1]} bytes:")
        totals(chosen, usual)
    print(f"most memory of kdiff, all pairs in one process: {max(each.memory for each in every)} MiB")


def totals(rows: list[Row], batches: list[Batch]) -> None:
    single, few, many = (
        [getattr(row, name) for row in rows] for name in ("kdiff", "peer", "peer_with_symbols")
    )
    ours = total(batches)
    print(f"  kdiff                     {ours:6.2f} s CPU, {1e3 * ours / len(rows):5.1f} ms each")
    for title, column in (
        ("kdiff, pair by pair", single),
        ("peer, no kernel's symbols", few),
        ("peer, as kpatch runs it", many),
    ):
        print(f"  {title:<25} {sum(column):6.2f} s CPU, median {1e3 * statistics.median(column):5.1f} ms")
    print(f"  ratio of totals           {ours / sum(few):.2f} and {ours / sum(many):.3f}")
    slower = [sum(a > b for a, b in zip(single, peer, strict=True)) for peer in (few, many)]
    print(f"  pairs for which kdiff is slower: {slower[0]} and {slower[1]}, each by itself")


class Peer:
    """create-diff-object, unpacked once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        if not (folder / "ready").exists():
            self._unpack()
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        (self.scratch / "Module.symvers").touch()

    def _unpack(self) -> None:
        print("downloading kpatch-build and its libraries", file=sys.stderr)
        self.folder.mkdir(parents=True, exist_ok=True)
        for package in othersuite.download(SUITE, PACKAGES, self.folder):
            subprocess.run(("dpkg-deb", "-x", package, self.root), check=True)
        (self.folder / "ready").touch()

    def seconds(self, pre: Path, post: Path, symbols: Path) -> float:
        """CPU seconds of a process."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._run(pre, post, symbols)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def status(self, pre: Path, post: Path) -> int:
        """The exit status for a pair."""
        return self._run(pre, post, self.own_symbols(pre))

    def _run(self, pre: Path, post: Path, symbols: Path) -> int:
        command = (
            self.root / "usr/lib64/ld-linux-x86-64.so.2",
            *("--library-path", self.root / "usr/lib/x86_64-linux-gnu"),
            self.root / "usr/lib/kpatch/create-diff-object", pre, post, "vmlinux", symbols,
            self.scratch / "Module.symvers", "patch", self.scratch / "out.o",
        )  # fmt: skip
        sizes = {**os.environ, **SIZES}
        return subprocess.run(command, capture_output=True, env=sizes, cwd=self.scratch).returncode

    def own_symbols(self, pre: Path) -> Path:
        """The object's own symbols, as readelf prints them."""
        found = self.scratch / "own"
        found.write_bytes(subprocess.run(("readelf", "-sW", pre), capture_output=True, check=True).stdout)
        return found

    def kernel_symbols(self, pre: Path) -> Path:
        """The object's symbols among as many others as a kernel has."""
        found = self.scratch / "kernel"
        found.write_text(self.own_symbols(pre).read_text() + others())
        return found


@cache
def others() -> str:
    """The symbols of a kernel, as readelf prints them."""
    return "".join(
        f"{number:6d}: ffffffff{0x81000000 + 16 * number:08x} 16 FUNC GLOBAL DEFAULT 1 other_{number}\n"
        for number in range(KERNEL_SYMBOLS)
    )


if __name__ == "__main__":
    sys.exit(main())

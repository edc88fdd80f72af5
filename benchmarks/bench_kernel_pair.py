# SPDX-License-Identifier: Apache-2.0
"""`kdiff diff` of a whole vmlinux.o pair beside `objtool klp`, measured in one run and in turn.

    python benchmarks/bench_kernel_pair.py [--runs N] [--large] [--json]

Whole processes, imports included: CPU seconds and peak memory are medians of all runs, after one of kdiff
that leaves bytecode behind. The limit is to read and hash both files and to compare them, by tools in C. Both
differs must find exactly the functions edited.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import kernelpair
import numpy as np

from kdiff.elf.read import read

COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Python keeps the bytecode of what it imports, as it does for a package that is installed."""
KDIFF = (Path(sys.executable).with_name("kdiff"),)


@dataclass(frozen=True, slots=True)
class Cost:
    """One process: seconds of CPU and of wall time, peak memory in MB; what it printed."""

    cpu: float
    wall: float
    memory: float
    said: str
    status: int


def measure(*command: object, folder: Path | None = None) -> Cost:
    """Run a command to its end."""
    with tempfile.TemporaryFile() as out:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(each) for each in command], stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=COMPILED
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().decode(errors="replace")
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024, said, process.returncode)


def together(*costs: Cost) -> Cost:
    """One after the other."""
    return Cost(
        sum(each.cpu for each in costs), sum(each.wall for each in costs),
        max(each.memory for each in costs), costs[-1].said, costs[-1].status,
    )  # fmt: skip


def kdiff(pre: Path, post: Path) -> Cost:
    return measure(*KDIFF, "diff", pre, post)


def objtool(pre: Path, post: Path) -> Cost:
    """Two checksums, of copies, because they are written into the file, and the diff."""
    folder = kernelpair.symids(pre)
    copies = [shutil.copy(each, folder / name) for each, name in ((pre, "a.o"), (post, "b.o"))]
    tool = kernelpair.OBJTOOL
    sums = [measure(tool, "klp", "checksum", each) for each in copies]
    return together(*sums, measure(tool, "klp", "diff", "a.o", "b.o", "out.o", folder=folder))


def limit(pre: Path, post: Path) -> Cost:
    """Read, hash and compare the same bytes in C."""
    return together(measure("b2sum", pre), measure("b2sum", post), measure("cmp", pre, post))


def found(cost: Cost) -> set[str]:
    """The functions that a tool calls changed, without what the compiler adds to names."""
    names = re.findall(r"changed(?: function:)? +([\w.]+)", cost.said)
    return {name.partition(".")[0] for name in names}


def median(costs: list[Cost]) -> Cost:
    cpu, wall, memory = (
        statistics.median(getattr(each, name) for each in costs) for name in ("cpu", "wall", "memory")
    )
    return Cost(cpu, wall, memory, costs[0].said, costs[0].status)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="compare the pair with large changes, too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    pre, post = kernelpair.build()
    tools = {"kdiff": kdiff, "objtool klp": objtool, "limit": limit}
    kdiff(pre, post)
    costs: dict[str, list[Cost]] = {name: [] for name in tools}
    for number in range(args.runs):
        for name, tool in tools.items():
            print(f"run {number + 1} of {args.runs}: {name}", file=sys.stderr, flush=True)
            costs[name].append(tool(pre, post))
    medians = {name: median(each) for name, each in costs.items()}
    wrong = [
        f"{name} found {sorted(found(medians[name]))}"
        for name in ("kdiff", "objtool klp")
        if found(medians[name]) != set(kernelpair.EDITS.values())
    ]
    for name in kernelpair.LARGE if args.large else ():
        print(f"the {name} change", file=sys.stderr, flush=True)
        cost = medians[f"kdiff, {name} change"] = kdiff(pre, kernelpair.large_post(name))
        if cost.status not in (0, 3):
            wrong.append(f"the {name} change ended with {cost.said[-300:]}")
    _print(pre, medians, args.json)
    for each in wrong:
        print(f"wrong: {each}")
    return bool(wrong)


def _print(pre: Path, medians: dict[str, Cost], as_json: bool) -> None:
    obj = read(pre)
    size = {
        "MB": round(pre.stat().st_size / 1e6, 1), "sections": len(obj.sections), "symbols": len(obj.symbols),
        "relocations": len(obj.relocations),
        "functions": int(np.count_nonzero(obj.symbols["type"] == 2)),
    }  # fmt: skip
    rows = {name: {"cpu": each.cpu, "wall": each.wall, "MB": each.memory} for name, each in medians.items()}
    ours, theirs, least = (medians[name] for name in ("kdiff", "objtool klp", "limit"))
    ratios = {
        "cpu": ours.cpu / theirs.cpu, "memory": ours.memory / theirs.memory, "limit": ours.cpu / least.cpu
    }  # fmt: skip
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if as_json:
        print(json.dumps({"machine": machine, "object": size, "medians": rows, "ratios": ratios}, indent=2))
        return
    print(f"{', '.join(f'{value} {name}' for name, value in size.items())}; {machine}")
    for name, each in medians.items():
        print(f"  {name:<20} {each.cpu:6.2f} s CPU {each.wall:7.2f} s wall {each.memory:6.0f} MB")
    print(
        f"  kdiff / objtool: {ratios['cpu']:.2f} of the CPU, {ratios['memory']:.2f} of the memory;"
        f" {ratios['limit']:.1f} times the limit"
    )
    for name, each in medians.items():
        if name.endswith("change"):
            count = len(re.findall(r"^changed ", each.said, re.MULTILINE))
            print(f"  {name}: {count} functions and data changed")


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What does each stage of making an update cost, and has one become dearer?

Makes the example's update several times, each time in a process of its own, and prints the CPU time and the
time by the clock of each stage, of the whole process without its compilers (imports included), and the peak
of memory: medians. A loop of the interpreter is timed in the same process, so that figures of different
machines and hours can be compared: a cost is CPU time divided by that of the loop. The lowest costs are kept
in the cache; a stage that costs over a fifth more than those, and over 10 ms, fails the benchmark.

    python benchmarks/bench_stages.py [--runs 5] [--forget]

It needs the setup that `kdiff setup` makes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

from kdiff import setup

ABI = "6.1.0-56-amd64"
PATCH = Path(__file__).parents[1] / "examples/tcp_ipv4.patch"
STAGES = {
    "read_bytes": "read", "build": "graph", "correlate": "correlate", "diff": "diff", "plan": "plan",
    "_types": "types", "_matched": "run-pre", "bind": "bind", "prove": "proof",
}  # fmt: skip
"""What `kdiff.pipeline` calls, and the name of the stage."""
ALLOWED = 1.2
LEAST = 0.01
"""Seconds of CPU: what a machine does besides makes more of a difference than that."""


def loop() -> float:
    """Seconds of CPU for a fixed piece of the interpreter's work."""
    start = time.process_time()
    found: dict[tuple[int, int], int] = {}
    for number in range(200_000):
        key = number % 997, number % 13
        found[key] = found.get(key, 0) + number
    return time.process_time() - start


def made() -> dict[str, Any]:
    """Make the update in this process: seconds of CPU and by the clock, by stage."""
    wall = time.perf_counter()
    from kdiff import package, pipeline, registry  # the imports are measured too
    from kdiff.cli.main import NEW_OBJECTS

    gc.set_threshold(NEW_OBJECTS)  # as the command does
    cpu: Counter[str] = Counter()
    clock: Counter[str] = Counter()

    def timed(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            before = time.process_time(), time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                cpu[name] += time.process_time() - before[0]
                clock[name] += time.perf_counter() - before[1]

        return wrapped

    for function, name in STAGES.items():
        setattr(pipeline, function, timed(getattr(pipeline, function), name))
    place = setup.default_destination(ABI)
    request = pipeline.Request(place / "config", place / "source", PATCH, "stages", 0)
    pipeline.check = timed(pipeline.check, "check")
    update = timed(pipeline.create, "create")(request, registry.load(), lambda line: None)
    timed(package.write, "package")(update)
    for times in (cpu, clock):
        times["emit"] = times.pop("create") - times["check"]
        times["other"] = times.pop("check") - sum(times[name] for name in STAGES.values())
    used = getrusage(RUSAGE_SELF)
    cpu["whole process"], clock["whole process"] = (
        used.ru_utime + used.ru_stime, time.perf_counter() - wall
    )  # fmt: skip
    return {"cpu": cpu, "clock": clock, "peak": used.ru_maxrss >> 10, "loop": min(loop() for _ in range(5))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--forget", action="store_true", help="keep this run's costs, whatever they are")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(made()))
        return 0
    command = [sys.executable, __file__, "--one"]
    # as an installed command has it: with bytecode, and numpy without threads
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    known["OPENBLAS_NUM_THREADS"] = "1"
    subprocess.run(command, env=known, stdout=subprocess.DEVNULL, check=True)
    runs = [json.loads(subprocess.check_output(command, env=known)) for _ in range(given.runs)]
    kept_in = setup.cache() / "stages.json"
    kept = json.loads(kept_in.read_text()) if kept_in.exists() and not given.forget else {}
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    print(f"{PATCH.name} for {ABI}, medians of {given.runs} runs, {machine}; {runs[0]['peak']} MiB at most")
    dearer = []
    for name in runs[0]["cpu"]:
        cpu, clock = (statistics.median(run[kind][name] for run in runs) for kind in ("cpu", "clock"))
        cost = min(run["cpu"][name] / run["loop"] for run in runs)
        before = kept.get(name, cost)
        print(
            f"  {name:<14} {1000 * cpu:7.0f} ms CPU {1000 * clock:7.0f} ms, {cost / before:.2f} of the kept"
        )
        if cost > ALLOWED * before and (cost - before) * runs[0]["loop"] > LEAST:
            dearer.append(name)
        kept[name] = min(cost, before)
    kept_in.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"  dearer than before: {', '.join(dearer) or 'none'}")
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())

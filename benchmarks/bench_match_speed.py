# SPDX-License-Identifier: Apache-2.0
"""How long does matching every function of a kernel take, and is what is quick also right?

Matches all units that bench_coverage.py has left in the cache against the kernel's image, in one process, and
prints CPU time by stage, MB/s of matched code beside what comparing the same bytes takes, the median and the
largest unit, and the peak of memory. With `--check` each unit is matched again with all of its tables, and
with code decoded from the start wherever a field needs it, in the image and in a copy alive with one bit in
a thousand bytes flipped: references, addresses, verdicts and refusals must be the same, or it fails.

    python benchmarks/bench_match_speed.py [--sample 300] [--seed 1] [--check]
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench_strictness import kernel

from kdiff.addressbook import KERNEL
from kdiff.arch import Architecture
from kdiff.buildtree import built_units
from kdiff.elf.read import Object, read_bytes
from kdiff.matchable import graph_to_match
from kdiff.memory import MemorySource
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.split import Kind
from kdiff.verdict import Fact

_STEP = 1009
"""Bytes between two flipped bits."""
COLLECTED = 400
"""Units between two searches for garbage that counting references does not find."""


class Flipped:
    """A kernel's memory, alive, with one bit in `_STEP` bytes flipped; satisfies `MemorySource`."""

    pristine = False

    def __init__(self, memory: MemorySource) -> None:
        self.name, self._memory = memory.name, memory
        self.address_book, self.facts, self.extents = memory.address_book, memory.facts, memory.extents

    def read(self, address: int, size: int) -> bytes | None:
        found = self._memory.read(address, size)
        if found is None:
            return None
        changed = bytearray(found)
        for at in range(-address % _STEP, size, _STEP):
            changed[at] ^= 1 << (address + at) // _STEP % 8
        return bytes(changed)


def matched(
    obj: Object, arch: Architecture, memory: MemorySource, spent: Counter[str], whole: bool = False
) -> RunMatch:
    """One object, with all of its tables if `whole`, and what each stage took, in seconds of CPU."""
    _, image, special, habits, _ = kernel()
    start = time.process_time()
    graph = graph_to_match(obj, arch, special, habits, memory.pristine and not whole)
    made = time.process_time()
    permitted = sites(graph)
    asked = time.process_time()
    run = solve(graph, permitted, memory, image.address_book())
    spent["graph"] += made - start
    spent["sites"] += asked - made
    spent["solve"] += time.process_time() - asked
    return run


def verdicts(run: RunMatch) -> tuple[Any, ...]:
    """All that matching says of a unit, by the names of its nodes: some of its tables may be left out."""
    label = [node.label for node in run.graph.nodes]

    def named(values: Mapping[int, Any]) -> dict[str, Any]:
        return {label[index]: value for index, value in values.items()}

    def told(fact: Fact) -> tuple[Any, ...]:
        target = None if fact.node is None else label[fact.node]
        return fact._replace(node=None, within=0), target, label[fact.within]

    found = {i: (m.address, m.size, tuple(map(told, m.facts)), m.moved) for i, m in run.matches.items()}
    made = {
        node.id: [(*each[:2], label[each.target], *each[3:]) for each in run.graph.references[node.id]]
        for node in run.graph.nodes
        if node.table is None and node.kind is not Kind.EXTERN
    }
    return (
        *map(named, (made, run.addresses, found, run.learned, run.open)),
        {label[index] for index in run.unverified},
        run.refusals,
    )


def decoding(arch: Any) -> Architecture:
    """The same architecture, whose fields tell nothing about the code around them."""
    found: Architecture = replace(
        arch, howtos={kind: replace(howto, around=None) for kind, howto in arch.howtos.items()}
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, help="how many units to draw (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="compare with matching that decodes all code")
    given = parser.parse_args()
    plugins, memory, _, _, tree = kernel()
    units = [unit for unit in built_units(tree) if unit.part_of == KERNEL]
    random.Random(given.seed).shuffle(units)
    units = units[: given.sample]
    memory.address_book().named("")
    gc.collect()
    gc.freeze()
    gc.disable()  # what it takes is counted apart, as of no unit
    spent: Counter[str] = Counter()
    each: list[tuple[float, str]] = []
    functions = size = wrong = 0
    limit = 0.0
    for number, unit in enumerate(units):
        start = time.process_time()
        if number % COLLECTED == 0:
            gc.collect()
            spent["garbage"] += time.process_time() - start
        start = time.process_time()
        obj = read_bytes(unit.path.read_bytes(), unit.name)
        arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
        spent["read"] += time.process_time() - start
        run = matched(obj, arch, memory, spent)
        each.append((time.process_time() - start, unit.name))
        for index, match in run.matches.items():
            node = run.graph.nodes[index]
            if node.kind is Kind.FUNCTION:
                functions, size = functions + 1, size + match.size
                ours, theirs = run.graph.contents(node), memory.read(match.address, match.size)
                start = time.perf_counter()
                _ = ours == theirs
                limit += time.perf_counter() - start
        if given.check and differs(obj, arch, memory, run):
            wrong += 1
            print(f"  WRONG {unit.name}: another verdict where all code is decoded")
    total = sum(spent.values())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in sorted(spent.items()))
    print(f"{len(units)} units, {functions} functions, {size / 1e6:.2f} MB of code, seed {given.seed}:")
    print(f"  {total:.2f} s CPU ({stages}), {1e6 * total / max(functions, 1):.0f} us a function")
    largest, name = max(each)
    median = statistics.median(seconds for seconds, _ in each)
    print(f"  unit: median {1000 * median:.1f} ms, largest {1000 * largest:.0f} ms ({name})")
    print(f"  {size / 1e6 / total:.2f} MB/s; comparing the same bytes alone takes {1000 * limit:.1f} ms")
    print(f"  {most} MiB at most" + (f"; units with another verdict: {wrong}" if given.check else ""))
    return 1 if wrong else 0


def differs(obj: Object, arch: Architecture, memory: MemorySource, run: RunMatch) -> bool:
    """Whether decoding all code leads to another verdict, in the image or in changed memory."""
    ignored: Counter[str] = Counter()
    slow, changed = decoding(arch), Flipped(memory)
    if verdicts(matched(obj, slow, memory, ignored, whole=True)) != verdicts(run):
        return True
    both = (matched(obj, which, changed, ignored) for which in (arch, slow))
    return verdicts(next(both)) != verdicts(next(both))


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""How much of a stock kernel does run-pre matching find? Every function of a sample of its units.

Units are drawn from all that Kbuild compiles into vmlinux, built as `ksplice-create` builds them, and matched
against the kernel's image on disk. Each function that is not found is listed with its reason.

    python benchmarks/bench_coverage.py --sample 300 --seed 1 [--kernel ABI]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from kdiff import registry, setup
from kdiff.confdir import Config, read_config
from kdiff.elf.read import read_bytes
from kdiff.errors import Refused
from kdiff.graph import build
from kdiff.kbuild import Pristine, pristine_units
from kdiff.running import find_memory
from kdiff.sites import sites
from kdiff.solve import RunMatch, solve
from kdiff.split import Kind

FOLDERS = (
    *(
        "arch/x86/kernel",
        "arch/x86/mm",
        "block",
        "drivers/acpi",
        "drivers/base",
        "drivers/char",
        "drivers/pci",
    ),
    *(
        "drivers/tty",
        "fs",
        "init",
        "io_uring",
        "ipc",
        "kernel",
        "lib",
        "mm",
        "net/core",
        "net/ipv4",
        "net/sched",
    ),
    *("net/unix", "net/netlink", "net/ethtool", "security", "virt"),
)
"""Where most files are part of vmlinux itself, so that not too many modules are compiled in vain."""
OVERRIDDEN = "solve.overridden"
"""A weak definition that lost: not in the kernel, and rightly not found."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="how many source files to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kernel", help="kernel ABI (default: the newest)")
    given = parser.parse_args()
    plugins = registry.load()
    abi = given.kernel or setup.distribution(plugins).newest()
    kernel = setup.make(plugins, setup.choose(plugins, abi, None), say)
    config = read_config(kernel.config)
    memory = plugins.open_memory(find_memory(config))
    book = memory.address_book()
    special, habits = plugins.special_sections(memory.facts()), plugins.habits(memory.facts())
    counts: Counter[str] = Counter()
    seconds = 0.0
    for unit in units(config, kernel.source, given.sample, given.seed):
        if unit.target != "vmlinux":
            continue
        start = time.process_time()
        obj = read_bytes(unit.pre, unit.source)
        graph = build(obj, plugins.architecture(obj.machine, obj.byte_order, obj.path), special, habits)
        found = solve(graph, sites(graph), memory, book)
        seconds += time.process_time() - start
        counts += tally(found)
    present = counts["functions"] - counts[OVERRIDDEN]
    print(f"coverage of {abi}, {counts['units']} units, seed {given.seed}:")
    print(f"  {counts['functions']} functions, {counts[OVERRIDDEN]} of them weak and overridden")
    share = 100 * counts["matched"] / max(present, 1)
    print(f"  {counts['matched']} of {present} match ({share:.2f} %), {counts['moved']} with another layout")
    print(f"  {counts['unverified']} references unconfirmed, {counts['refused']} refusals")
    print(f"  {seconds:.1f} s CPU, {1000 * seconds / max(counts['units'], 1):.0f} ms a unit")
    return 0


def units(config: Config, source: Path, sample: int, seed: int) -> list[Pristine]:
    """The sampled units; files that Kbuild cannot build alone are left out."""
    files = sorted(str(p.relative_to(source)) for top in FOLDERS for p in (source / top).rglob("*.c"))
    drawn = random.Random(seed).sample(files, min(sample * 8, len(files)))
    made: list[Pristine] = []
    for start in range(0, len(drawn), 64):
        if sum(unit.target == "vmlinux" for unit in made) >= sample:
            break
        try:
            made += pristine_units(config, source, drawn[start : start + 64], say=say)
        except Refused as refused:
            print(f"left out: {refused}", file=sys.stderr)
    return made


def tally(found: RunMatch) -> Counter[str]:
    """Count one unit's functions by what became of them; list the ones that are not found."""
    graph = found.graph
    functions = [n for n in graph.nodes if n.kind is Kind.FUNCTION and not graph.is_piece(n)]
    counts = Counter(
        units=1, functions=len(functions), refused=len(found.refusals), unverified=len(found.unverified)
    )
    for node in functions:
        if node.id in found.matches:
            counts["matched"] += 1
            counts["moved"] += bool(found.matches[node.id].moved)
        else:
            counts[found.open[node.id].key] += 1
            if found.open[node.id].key != OVERRIDDEN:
                print(f"not found: {found.open[node.id]}"[:300])
    for refusal in found.refusals:
        print(f"refused: {refusal}"[:300])
    return counts


def say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

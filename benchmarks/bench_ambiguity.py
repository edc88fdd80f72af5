# SPDX-License-Identifier: Apache-2.0
"""Functions whose name the kernel lists more than once: is the one of a unit ever taken for another?

The units that bench_coverage.py has built are matched, as `kdiff match --all` does, and every function with
such a name is held against the symbol table of the debug package's vmlinux, by name and source file. Where
even the two do not tell copies apart, each of these is counted as right, and said so. A copy that is taken
for one of another unit fails the benchmark; one that is refused does not.

    python benchmarks/bench_ambiguity.py [--kernel ABI] [--sample N] [--seed 1] [--booted]
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

from bench_coverage import debug_symbols, dump, say

from kdiff import registry, setup
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.buildtree import BuiltUnit, built_units
from kdiff.confdir import read_config
from kdiff.coverage import Against, against, functions_of
from kdiff.elf.read import Object, read_bytes
from kdiff.running import find_memory
from kdiff.truth import Truth, read_truth

CODE = "TtWw"
RIGHT, SEVERAL, WRONG = "right", "right, one of several of this name and file", "WRONG"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kernel", help="kernel ABI (default: the newest)")
    parser.add_argument("--sample", type=int, help="how many units to draw (default: all that are built)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--booted", action="store_true", help="match against the memory of a booted guest")
    given = parser.parse_args()
    plugins = registry.load()
    abi = given.kernel or setup.distribution(plugins).newest()
    made = setup.make(plugins, setup.choose(plugins, abi, None), say)
    units = [u for u in built_units(setup.cache() / "coverage" / abi) if u.part_of == KERNEL and u.source]
    if given.sample:
        units = random.Random(given.seed).sample(units, min(given.sample, len(units)))
    with ExitStack() as stack:
        memory = find_memory(read_config(made.config))
        if given.booted:
            memory = f"core:{stack.enter_context(dump(made))}"
        kernel = against(plugins, memory)
        truth = read_truth(debug_symbols(abi), kernel.book)
        names = repeated(kernel.book)
        print(f"{len(names)} names of several functions, {abi}, {memory.partition(':')[0]}:", flush=True)
        counts: Counter[str] = Counter()
        seen: set[str] = set()
        for unit in units:
            for name, verdict, why in judged(unit, kernel, truth, names):
                counts[verdict] += 1
                seen.add(name)
                if verdict not in (RIGHT, SEVERAL):
                    print(f"  {verdict}: {unit.name}: {name}: {why}")
    print(f"  {len(seen)} of these names in {len(units)} units")
    for verdict, number in sorted(counts.items()):
        print(f"  {number:>6} {verdict}")
    return 1 if counts[WRONG] else 0


def repeated(book: AddressBook) -> frozenset[str]:
    """Names under which kallsyms lists code at more than one address."""
    found: dict[str, set[int]] = {}
    for entry in book.entries:
        if entry.owner == KERNEL and entry.kind in CODE:
            found.setdefault(entry.name, set()).add(entry.address)
    return frozenset(name for name, addresses in found.items() if len(addresses) > 1)


def judged(
    unit: BuiltUnit, kernel: Against, truth: Truth, names: frozenset[str]
) -> Iterator[tuple[str, str, str]]:
    """(name, verdict, reason) of each function of a unit that has such a name."""
    obj = read_bytes(unit.path.read_bytes(), unit.name)
    if names.isdisjoint(symbol_names(obj)):
        return
    run = kernel.match(obj)
    for node in functions_of(run):
        if names.isdisjoint(node.names):
            continue
        found, told = run.matches.get(node.id), truth.addresses(node.names, unit.source or unit.name)
        if found is None:
            refusal = run.open[node.id]
            yield node.label, f"refused, {refusal.key}", refusal.reason
        elif found.address in told:
            yield node.label, RIGHT if len(told) == 1 else SEVERAL, ""
        else:
            places = ", ".join(f"{each:#x}" for each in sorted(told)) or "nowhere"
            yield node.label, WRONG, f"matched at {found.address:#x}, is at {places}"


def symbol_names(obj: Object) -> Iterator[str]:
    return (obj.symbol_name(index) for index in range(len(obj.symbols)))


if __name__ == "__main__":
    sys.exit(main())

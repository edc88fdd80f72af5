# SPDX-License-Identifier: Apache-2.0
"""Is anything accepted that differs? Changes in run memory, small and large, under both matchers.

Functions of a stock kernel are matched against its image; then their memory is changed in a copy, one change
at a time, and two are asked about it again: the engine that makes updates (`kdiff.runpre`, `kdiff.solve`),
and the checker of the machine that is updated (`kdiff.target.match`, from the proof). Memory counts as alive,
so rewrites of the kernel are allowed at their sites. What is accepted is listed by why it may be there;
anything else that is accepted, or about which the two do not agree, makes this benchmark fail.

    python benchmarks/bench_strictness.py --mutations 100000 --functions 1000 --seed 1 [--jobs 2]

Objects are those that bench_coverage.py has built; run it first.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import capstone
from memorychanges import KINDS, Edits, changes
from rich.progress import Progress

from kdiff import registry, setup
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.bind import Bound
from kdiff.buildtree import BuiltUnit, built_units
from kdiff.confdir import read_config
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.elf.read import read
from kdiff.kernel import KernelFacts
from kdiff.matchable import graph_to_match
from kdiff.memory import MemorySource
from kdiff.plan import plan
from kdiff.proof import dump, prove
from kdiff.running import find_memory
from kdiff.runpre import Matcher
from kdiff.sites import sites
from kdiff.solve import solve
from kdiff.split import Kind
from kdiff.target import proof_reader
from kdiff.target.match import Run, difference
from kdiff.target.proof import Node as Proved
from kdiff.target.proof import Site
from kdiff.update import Replacement
from kdiff.verdict import Match

Counts = Counter[tuple[str, str]]
"""(kind of change, what became of it)."""


class Changed:
    """A kernel's memory, alive, with a few bytes that are others; satisfies `MemorySource`."""

    pristine = False

    def __init__(self, memory: MemorySource) -> None:
        self.name, self._memory = memory.name, memory
        self.address_book, self.facts, self.extents = memory.address_book, memory.facts, memory.extents
        self.edits: Edits = ()

    def read(self, address: int, size: int) -> bytes | None:
        found = self._memory.read(address, size)
        for at, data in self.edits if found is not None else ():
            start, stop = max(at, address), min(at + len(data), address + size)
            if start < stop:
                found = found[: start - address] + data[start - at : stop - at] + found[stop - address :]
        return found


class Subject:
    """One unit: what was proved about it, and both matchers ready to look at it again."""

    def __init__(self, path: Path, source: str) -> None:
        plugins, memory, special, habits, _ = kernel()
        self.source = source
        obj = read(path)
        arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
        self.graph = graph_to_match(obj, arch, special, habits)
        self.memory = Changed(memory)
        self.book = memory.address_book()
        self.sites = sites(self.graph)
        self.run = solve(self.graph, self.sites, self.memory, self.book)
        self.matcher = Matcher(self.graph, dict(self.sites), self.memory, self.book)
        self.proved: dict[int, Proved] = {}
        self.where: tuple[int, ...] = ()
        self.functions = self._functions()

    def _functions(self) -> list[int]:
        """Functions that could be replaced, each with its node of the proof."""
        graph, run = self.graph, self.run
        if run.refusals:
            return []
        chosen = {}
        for index, match in run.matches.items():
            node = graph.nodes[index]
            entry = next(
                (e for n in node.names for e in self.book.named(n) if e.address == match.address), None
            )
            unsure = run.unconfirmed(match)
            if node.kind is Kind.FUNCTION and not graph.is_piece(node) and entry is not None and not unsure:
                chosen[index] = Replacement(
                    entry.name, self.book.sympos(entry), match.address, match.size, entry.name, 0, index
                )
        if not chosen:
            return []
        pairing = correlate(graph, graph)
        whole = plan(graph, graph, pairing, diff(graph, graph, pairing), KERNEL)
        unit = Bound(whole, run, self.book)
        facts = KernelFacts(release="any")
        made = proof_reader.read(dump(prove((unit,), chosen.values(), (), self.book, facts, "_text")))
        self.where = tuple(symbol.address for symbol in made.symbols)
        self.proved = dict(zip(chosen, made.nodes, strict=True))
        order = self.graph.arch.byte_order
        self.checker = Run(self.memory.read, made.word, order, self.where, made.nops)
        return list(chosen)

    def accepted(self, index: int, edits: Edits) -> tuple[bool, bool]:
        """Whether engine and target take a function for itself in memory that is edited."""
        self.memory.edits = edits
        try:
            return self._engine(index), self._target(index)
        finally:
            self.memory.edits = ()

    def _engine(self, index: int) -> bool:
        match = self.run.matches[index]
        found = self.matcher.match(self.graph.nodes[index], match.address)
        if not isinstance(found, Match):
            return False
        if taught(found) == taught(match):
            return True
        again = solve(self.graph, self.sites, self.memory, self.book)
        settled = again.matches.get(index)
        if again.refusals or settled is None or settled.address != match.address:
            return False
        return not again.unconfirmed(settled)

    def _target(self, index: int) -> bool:
        node = self.proved[index]
        address = self.where[node.symbol] + node.offset
        data = self.memory.read(address, node.size)
        return data is not None and difference(node.parts, data, address, self.checker) is None

    def site_at(self, index: int, offset: int) -> str:
        """The rewrite whose site a run offset is in, or nothing."""
        at = 0
        for part in self.proved[index].parts:
            size = part.size if isinstance(part, Site) else len_of(part)
            if at <= offset < at + size:
                return part.rewrite if isinstance(part, Site) else ""
            at += size
        return ""


def taught(match: Match) -> set[tuple[int | None, str, int, int]]:
    return {(fact.node, fact.name, fact.offset, fact.address) for fact in match.facts}


def len_of(part: Any) -> int:
    return len(part.data) if hasattr(part, "data") else int(getattr(part, "size", 0) or part.howto.size)


# Judging ---------------------------------------------------------------------------------------------


@cache
def kernel() -> tuple[Any, MemorySource, Any, Any, Path]:
    """Plugins, memory, special sections, habits and the tree of objects."""
    plugins = registry.load()
    abi = setup.distribution(plugins).newest()
    made = setup.make(plugins, setup.choose(plugins, abi, None), lambda text: None)
    memory = plugins.open_memory(find_memory(read_config(made.config)))
    facts = memory.facts()
    return (
        plugins,
        memory,
        plugins.special_sections(facts),
        plugins.habits(facts),
        setup.cache() / "coverage" / abi,
    )


def judged(unit: BuiltUnit, wanted: int, each: int, seed: int) -> tuple[int, Counts, list[str]]:
    """Change `wanted` functions of a unit `each` times: how many there were, what happened, what must not."""
    subject = Subject(unit.path, unit.source)
    rng = random.Random(f"{seed} {unit.source}")
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    chosen = rng.sample(subject.functions, min(wanted, len(subject.functions)))
    counts: Counts = Counter()
    wrong: list[str] = []
    for index in chosen:
        match = subject.run.matches[index]
        if not all(subject.accepted(index, ())):
            wrong.append(f"{unit.source}: {subject.graph.nodes[index].label} is not accepted unchanged")
            continue
        made = changes(subject, index, rng, engine)
        for _ in range(each):
            kind, edits = next(made)
            by_engine, by_target = subject.accepted(index, edits)
            counts[kind, "made"] += 1
            if not by_engine and not by_target:
                continue
            why = allowed(subject, index, edits, by_engine, by_target, engine)
            counts[kind, why or "WRONG"] += 1
            if not why:
                at, data = edits[0]
                wrong.append(
                    f"{unit.source}: {subject.graph.nodes[index].label}+{at - match.address:#x} {kind}"
                    f" {data[:16].hex(' ')}: engine {by_engine}, target {by_target}"
                )
    return len(chosen), counts, wrong


def allowed(subject: Subject, index: int, edits: Edits, by_engine: bool, by_target: bool, engine: Any) -> str:
    """Why a change may be accepted; empty if it may not."""
    match, (at, data) = subject.run.matches[index], edits[0]
    before = subject.memory.read(at, len(data)) or b""
    differing = [i for i, (a, b) in enumerate(zip(before, data, strict=True)) if a != b]
    places = {subject.site_at(index, at - match.address + i) for i in differing}
    if by_engine and by_target and len(places) == 1 and "" not in places:
        return f"form of a {places.pop()} site"
    if by_engine and not by_target and no_ops(subject, match, at, data, engine):
        return "no-ops of another shape"
    if by_engine and not by_target and copies(subject, index, edits):
        return "equal text or constant elsewhere"
    return ""


def copies(subject: Subject, index: int, edits: Edits) -> bool:
    """Whether all that a change moves are references to text or constants, to places that read the same.

    Those must lie among what nobody writes to.
    """
    match, graph = subject.run.matches[index], subject.graph
    subject.memory.edits = edits
    try:
        found = subject.matcher.match(graph.nodes[index], match.address)
    finally:
        subject.memory.edits = ()
    if not isinstance(found, Match):
        return False
    moved = taught(found) - taught(match)
    before = {(node, offset): address for node, _, offset, address in taught(match)}
    for node, _, offset, address in moved:
        if node is None or graph.nodes[node].kind not in (Kind.STRING, Kind.CONSTANT):
            return False
        size = graph.nodes[node].size - offset
        places = address, before.get((node, offset), address)
        texts = {subject.memory.read(place, size) for place in places}
        if graph.nodes[node].names or len(texts) > 1 or not read_only(subject.book, address):
            return False
    return bool(moved)


def read_only(book: AddressBook, address: int) -> bool:
    """Whether an address lies among the kernel's constants (include/asm-generic/sections.h)."""
    start, stop = (book.address(name) for name in ("__start_rodata", "__end_rodata"))
    return start is not None and stop is not None and start <= address < stop


def no_ops(subject: Subject, match: Match, at: int, data: bytes, engine: Any) -> bool:
    """Whether the code reads the same but for no-ops, which do nothing in any shape.

    Nor do breakpoints count that end it: behind them lie those that the linker fills gaps with.
    """
    code = subject.memory.read(match.address, match.size) or b""
    offset = at - match.address
    changed = code[:offset] + data + code[offset + len(data) :]

    def words(text: bytes) -> list[tuple[int, str, str]]:
        return [
            (address, name, operands)
            for address, _, name, operands in engine.disasm_lite(text, match.address)
            if name not in ("nop", "xchg") or operands not in ("", "ax, ax")
        ]

    def told(text: bytes) -> list[tuple[int, str, str]]:
        found = [each for each in words(text) if each[1] != "nop"]
        while found and found[-1][1] == "int3":
            found.pop()
        return found

    return told(code) == told(changed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000, help="changes in all")
    parser.add_argument("--functions", type=int, default=1000, help="functions that are changed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results")
    given = parser.parse_args()
    tree = kernel()[4]
    units = [unit for unit in built_units(tree) if unit.part_of == KERNEL and unit.source]
    random.Random(given.seed).shuffle(units)
    a_unit, each = 5, -(-given.mutations // given.functions)
    counts: Counts = Counter()
    functions, wrong, start = 0, [], time.monotonic()
    with ProcessPoolExecutor(given.jobs) as pool, Progress(transient=True) as progress:
        bar = progress.add_task("changing functions", total=given.functions)
        waiting = iter(units)
        running = [
            pool.submit(judged, unit, a_unit, each, given.seed)
            for _, unit in zip(range(2 * given.jobs), waiting, strict=False)
        ]
        while running and functions < given.functions:
            done, found, bad = running.pop(0).result()
            functions += done
            counts.update(found)
            wrong += bad
            progress.update(bar, completed=functions)
            unit = next(waiting, None)
            if unit is not None and functions < given.functions:
                running.append(pool.submit(judged, unit, a_unit, each, given.seed))
    made = sum(number for (_, what), number in counts.items() if what == "made")
    print(f"{made} changes of {functions} functions, seed {given.seed}, {time.monotonic() - start:.0f} s:")
    for kind in KINDS:
        accepted = {what: n for (k, what), n in sorted(counts.items()) if k == kind and what != "made"}
        told = ", ".join(f"{n} {what}" for what, n in accepted.items()) or "none accepted"
        print(f"  {kind:<12} {counts[kind, 'made']:>7} made: {told}")
    for line in wrong[:50]:
        print(f"  WRONG {line}")
    print(f"  accepted though they must not be, or not agreed on: {len(wrong)}")
    if given.json:
        rows = [{"kind": k, "what": what, "number": n} for (k, what), n in sorted(counts.items())]
        given.json.write_text(json.dumps({"functions": functions, "counts": rows, "wrong": wrong}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Small pieces of real objects and of the memory of real, running kernels, and both matchers on them.

`fixtures/run-memory` holds them: `objects/NAME.o` are functions of stock units, cut out; `STATE.json` is
what a kernel's memory held in one state, with where it comes from. `capture_run_memory.py` makes them of
stock kernels, `capture_cfi.py` those of a kernel built with clang.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kdiff_kernel_linux
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.bind import Bound
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.elf.read import read
from kdiff.errors import Refusal
from kdiff.graph import Node, SectionGraph
from kdiff.kernel import KernelFacts, SpecialSection, Structure
from kdiff.matchable import graph_to_match
from kdiff.memory import Extent
from kdiff.plan import plan
from kdiff.proof import dump, prove
from kdiff.sites import sites
from kdiff.solve import solve
from kdiff.target import proof_reader
from kdiff.target.match import Run, difference
from kdiff.update import Replacement
from kdiff.verdict import Match

FIXTURES = Path(__file__).parent / "fixtures" / "run-memory"
OBJECTS = FIXTURES / "objects"


@dataclass(frozen=True)
class Excerpt:
    """Satisfies `kdiff.memory.MemorySource`, as far as the excerpt goes."""

    name: str
    told: Mapping[str, Any]
    """Where it comes from: release, version, command line, processor, what was done."""
    pieces: Mapping[int, bytes]
    book: AddressBook
    known: KernelFacts
    changed: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    """Address to byte, where a test changes memory."""
    pristine: bool = False

    def read(self, address: int, size: int) -> bytes | None:
        for start, data in self.pieces.items():
            if start <= address and address + size <= start + len(data):
                found = data[address - start : address - start + size]
                return bytes(self.changed.get(address + at, byte) for at, byte in enumerate(found))
        return None

    def address_book(self) -> AddressBook:
        return self.book

    def extents(self) -> tuple[Extent, ...]:
        return tuple(Extent(start, len(data)) for start, data in self.pieces.items())

    def listed(self, owner: str, start: str) -> tuple[int, ...]:
        """What kallsyms lists of an owner under names that begin so."""
        return tuple(e.address for e in self.book.entries if e.owner == owner and e.name.startswith(start))

    def facts(self) -> KernelFacts:
        return self.known

    def patched(self, address: int, data: bytes) -> Excerpt:
        """This memory with other bytes at an address."""
        return replace(self, changed={**self.changed, **dict(enumerate(data, address))})


@cache
def excerpt(state: str) -> Excerpt:
    """Read one state's file."""
    told = json.loads((FIXTURES / f"{state}.json").read_text())
    lines = [(name, int(address, 16), kind, owner) for name, address, kind, owner in told["symbols"]]
    facts = KernelFacts(
        release=told["release"],
        version=told["version"],
        machine=told["machine"],
        config=MappingProxyType(told["config"]),
        structures=MappingProxyType(
            {name: Structure(size, members) for name, (size, members) in told["structures"].items()}
        ),
    )
    pieces = {int(address, 16): bytes.fromhex(data) for address, data in told["memory"].items()}
    return Excerpt(state, told, pieces, AddressBook(lines), facts)


def states() -> tuple[str, ...]:
    """All states there are excerpts of."""
    return tuple(sorted(path.stem for path in FIXTURES.glob("*.json")))


def special(facts: KernelFacts) -> Mapping[str, SpecialSection]:
    return {row.name: row for row in kdiff_kernel_linux.kdiff_special_sections(facts)}


def pre(unit: str, facts: KernelFacts) -> SectionGraph:
    """The graph of an object of the fixtures."""
    habits = _habits(facts)
    return graph_to_match(read(OBJECTS / f"{unit}.o"), ARCHITECTURE, special(facts), habits)


@cache
def _registry() -> Any:
    from kdiff import registry

    return registry.load()


def _habits(facts: KernelFacts) -> Any:
    return _registry().habits(facts)


class Judge:
    """One function of an excerpt under both matchers.

    The proof is made of the memory as it was captured: that it must match is the first thing a test asks.
    """

    def __init__(self, memory: Excerpt, unit: str, function: str) -> None:
        self.memory, self.function = memory, function
        self.graph = pre(unit, memory.known)
        self.sites = sites(self.graph)
        self.node = self._named(function)
        self.run = solve(self.graph, self.sites, memory, memory.book)
        found = self.run.matches.get(self.node.id)
        why = self.run.open.get(self.node.id)
        assert found is not None, why
        self.match: Match = found
        pairing = correlate(self.graph, self.graph)
        whole = plan(self.graph, self.graph, pairing, diff(self.graph, self.graph, pairing), KERNEL)
        unit_ = Bound(whole, self.run, memory.book)
        replaced = Replacement(function, 1, found.address, found.size, function, 0, self.node.id)
        self.proof = proof_reader.read(
            dump(prove((unit_,), (replaced,), (), memory.book, memory.known, "_text"))
        )

    def _named(self, function: str) -> Node:
        return next(node for node in self.graph.nodes if function in node.names)

    @property
    def address(self) -> int:
        return self.match.address

    def verdicts(self, memory: Excerpt) -> tuple[bool, bool]:
        """Whether the engine and the target take what is in memory for the function."""
        return self._engine(memory), self.target(memory)

    def _engine(self, memory: Excerpt) -> bool:
        run = solve(self.graph, self.sites, memory, memory.book)
        found = run.matches.get(self.node.id)
        return found is not None and found.address == self.address and not run.refusals

    def refusals(self, memory: Excerpt) -> tuple[Refusal, ...]:
        """What the engine says against the unit."""
        return solve(self.graph, self.sites, memory, memory.book).refusals

    def target(self, memory: Excerpt) -> bool:
        where = tuple(symbol.address for symbol in self.proof.symbols)
        run = Run(memory.read, self.proof.word, self.proof.byte_order, where, self.proof.nops, memory.listed)
        (node,) = self.proof.nodes
        data = memory.read(self.address, node.size)
        return data is not None and difference(node.parts, data, self.address, run) is None

    def site(self, offset: int) -> str:
        """The rewrite whose site an offset of the function lies in, or nothing."""
        found = (s for s in self.sites.get(self.node.id, ()) if s.offset <= offset < s.offset + s.size)
        return next((each.rewrite for each in found), "")

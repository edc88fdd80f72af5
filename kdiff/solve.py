# SPDX-License-Identifier: Apache-2.0
"""Stage 8: one consistent address per node of a unit, and one value per symbol.

In: the pre graph of one unit and a memory. Out: a `RunMatch`. One node matched by itself proves little,
because nothing contradicts what its fields teach; so all nodes of the unit are solved together. The flood
starts from names that kallsyms lists once; every match teaches where its targets are; exactly one candidate
must survive, or lie beside a neighbour; whatever is learned twice must agree, with kallsyms too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import field
from functools import cached_property

from kdiff.addressbook import AddressBook
from kdiff.doubt import Doubts
from kdiff.errors import Refusal
from kdiff.fields import WORD
from kdiff.graph import Node, SectionGraph
from kdiff.habits import Standing
from kdiff.insn import around
from kdiff.intruders import intruder
from kdiff.kernel import Site
from kdiff.memory import MemorySource
from kdiff.neighbours import Neighbours
from kdiff.redirected import NOTHING, redirected
from kdiff.runpre import Matcher
from kdiff.split import Kind
from kdiff.values import dataclass
from kdiff.verdict import Fact, Match, Mismatch


@dataclass(frozen=True, slots=True)
class RunMatch:
    """What run memory proved about one unit.

    `addresses`: node id -> run address, of nodes matched themselves and of those only referred to.
    `learned`: node id -> how its address is known. `open`: nodes without an address, with the reason.
    """

    graph: SectionGraph
    owner: str
    addresses: Mapping[int, int]
    matches: Mapping[int, Match]
    learned: Mapping[int, str]
    open: Mapping[int, Refusal]
    unverified: Mapping[int, str]
    """Nodes whose address nothing but references confirms: not matched, and unknown to kallsyms; and why, if
    they were looked at."""
    refusals: tuple[Refusal, ...]
    """Contradictions and mismatches that forbid an update whatever it needs."""
    redirects: Mapping[int, int] = field(default_factory=lambda: NOTHING)
    """Functions that live patches have moved: linked address -> newest code's, which `addresses` has."""

    def entry(self, address: int) -> int:
        """Where a function that was found at an address is entered: at its linked address."""
        return next((old for old, new in self.redirects.items() if new == address), address)

    def unconfirmed(self, match: Match) -> tuple[Fact, ...]:
        """What a match says of other nodes that nothing else says."""
        return _unconfirmed(match, self.unverified, self)


def _unconfirmed(match: Match, unverified: Container[int], found: RunMatch | _Flood) -> tuple[Fact, ...]:
    """Facts about nodes that nothing confirms, and about the inside of code that is not matched."""
    inside = (f.node for f in match.facts if f.node is not None and f.offset and f.node not in found.matches)
    untold = {index for index in inside if found.graph.nodes[index].kind is Kind.FUNCTION}
    return tuple(f for f in match.facts if f.node in unverified or (f.offset and f.node in untold))


def solve(
    graph: SectionGraph,
    sites: Mapping[int, tuple[Site, ...]],
    memory: MemorySource,
    book: AddressBook,
    owner: str = "vmlinux",
) -> RunMatch:
    """Match every node of a unit that can be matched."""
    redirects = redirected(memory)
    matcher = Matcher(graph, sites, memory, book, owner, redirects)
    work = _Flood(graph, matcher, memory, book, owner)
    work.run()
    contradictions = tuple(work.contradictions())
    unmatched = {node.id: work.explain(node) for node in graph.nodes if work.is_wanted(node)}
    refusals = [unmatched[index] for index in unmatched if work.is_fatal(graph.nodes[index])]
    return RunMatch(
        graph,
        owner,
        work.addresses,
        work.matches,
        work.learned,
        unmatched,
        work.unverified(),
        (*contradictions, *refusals),
        redirects,
    )


class _Flood:
    """The addresses found so far."""

    def __init__(
        self, graph: SectionGraph, matcher: Matcher, memory: MemorySource, book: AddressBook, owner: str
    ) -> None:
        self.graph, self.matcher, self.memory, self.book, self.owner = graph, matcher, memory, book, owner
        self.redirects = matcher.redirects
        self.addresses: dict[int, int] = {}
        self.matches: dict[int, Match] = {}
        self.learned: dict[int, str] = {}
        self.facts: dict[int, list[Fact]] = {}
        self.failures: dict[int, tuple[Mismatch, ...]] = {}
        self.ambiguous: dict[int, tuple[int, ...]] = {}
        self._tried: dict[tuple[int, int], Match | Mismatch] = {}
        self._waiting: deque[int] = deque()
        self._queued: set[int] = set()
        self._listed: dict[int, tuple[int, ...]] = {}
        self._taking_part = dict.fromkeys(
            node.id for node in graph.nodes if self.can_match(node) or self._has_initial_value(node)
        )

    # Which nodes take part ---------------------------------------------------------------------------

    def can_match(self, node: Node) -> bool:
        """Contents of code, constants and strings are compared; writable data and tables are not."""
        if node.table is not None:
            return False
        return node.kind in (Kind.FUNCTION, Kind.CONSTANT, Kind.STRING)

    def is_wanted(self, node: Node) -> bool:
        """Whether a node without a match deserves an explanation."""
        if node.id in self.matches or not self.can_match(node):
            return False
        if self.graph.is_piece(node):
            return node.id in self.addresses
        return node.kind is Kind.FUNCTION or (node.kind is Kind.CONSTANT and bool(node.name))

    def is_fatal(self, node: Node) -> bool:
        """A function that kallsyms lists or run code calls, and that is not there, is other code."""
        if node.kind is not Kind.FUNCTION or node.id in self.ambiguous:
            return False
        if self._is_freed(node):
            return False
        return not node.weak and (node.id in self.addresses or bool(self.failures.get(node.id)))

    def _is_freed(self, node: Node) -> bool:
        """Boot code and the payload of tables are gone once the kernel runs."""
        if self.memory.pristine:
            return False
        return node.standing in (Standing.BOOT, Standing.EXIT) or self.graph.is_piece(node)

    # The flood ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Match until nothing teaches anything new; what may be in several places waits for what is not."""
        for index in self._taking_part:
            self._wait(index)
        while self._round(several=False) or self._round(several=True) or self._infer():
            pass

    def _round(self, several: bool) -> bool:
        """Try what waits, nodes with several candidates only if asked; tell whether that taught anything."""
        progress = False
        for _ in range(len(self._waiting)):
            node = self.graph.nodes[self._waiting.popleft()]
            self._queued.discard(node.id)
            candidates = len(self._candidates(node))
            if (candidates == 1 or (candidates and several)) and self._try(node):
                progress = True
            elif candidates and node.id not in self.matches:
                self._wait(node.id)
        return progress

    def _wait(self, index: int) -> None:
        if index not in self._queued and index in self._taking_part:
            self._queued.add(index)
            self._waiting.append(index)

    def _try(self, node: Node) -> bool:
        if node.id in self.matches:
            return False
        if not self.can_match(node):
            return self._try_data(node)
        candidates = self._candidates(node)
        if not candidates:
            return False
        results = [self._checked(node, address) for address in candidates]
        survivors = [each for each in results if isinstance(each, Match)]
        self.failures[node.id] = tuple(each for each in results if isinstance(each, Mismatch))
        if not survivors:
            return False
        possible = {each.address for each in survivors} | self._hidden(node)
        if len(possible) > 1:
            self.ambiguous[node.id] = tuple(sorted(possible))
            return False
        self.ambiguous.pop(node.id, None)
        self._commit(node, survivors[0], "run-pre")
        return True

    def _hidden(self, node: Node) -> set[int]:
        """Where a node may be though it does not match: what refuses it is perhaps not other code."""
        return {each.address for each in self.failures[node.id] if self._doubts.may_be(node, each)}

    @cached_property
    def _doubts(self) -> Doubts:
        return Doubts(self.matcher, self._agrees)

    def _infer(self) -> bool:
        """Where nothing else helps, tell one function among its copies by what lies beside it."""
        for index, addresses in sorted(self.ambiguous.items()):
            node = self.graph.nodes[index]
            if node.kind is not Kind.FUNCTION or index in self.addresses or self._is_freed(node):
                continue
            found = [each for each in (self._checked(node, address) for address in addresses)
                     if isinstance(each, Match)]  # fmt: skip
            chosen = self.neighbours.choose(node, found, self.matches)
            if chosen is not None:
                del self.ambiguous[index]
                self._commit(node, chosen[0], f"run-pre, beside {chosen[1].label}")
                return True
        return False

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours(self.graph, self.memory)

    def _checked(self, node: Node, address: int) -> Match | Mismatch:
        """Match a node at an address, and hold the result against what is known by now."""
        found = self._compared(node, address)
        if isinstance(found, Match) and not self._agrees(found):
            return Mismatch(node.id, address, 0, 0, "its references contradict those of matched code")
        return found

    def _try_data(self, node: Node) -> bool:
        """Initial values in pristine memory teach where the functions they name are."""
        candidates = self._candidates(node)
        if len(candidates) != 1 or not self._has_initial_value(node):
            return False
        found = self.matcher.references(node, candidates[0])
        if not isinstance(found, Match) or not self._agrees(found):
            return False
        self._commit(node, found, "initial value")
        return True

    def _has_initial_value(self, node: Node) -> bool:
        """Whether memory still holds what the compiler wrote into a variable, and that names something."""
        if node.kind is not Kind.DATA or not self.memory.pristine or node.table is not None:
            return False
        return bool(self.graph.references[node.id])

    def _candidates(self, node: Node) -> tuple[int, ...]:
        """Where a node may be: where it is known to be, else where kallsyms lists all of its names."""
        known = self.addresses.get(node.id)
        if known is not None:
            return (known,)
        found = self._listed.get(node.id)
        if found is None:
            listed = [{e.address for e in self.book.named(name, self.owner)} for name in node.names]
            listed = [each for each in listed if each]
            everywhere = set.intersection(*listed) if listed else set()
            found = self._listed[node.id] = tuple(sorted(map(self.matcher.reader.newest, everywhere)))
        return found

    def _agrees(self, match: Match) -> bool:
        """Whether a match contradicts nothing that has been learned so far."""
        for fact in match.facts:
            if fact.node == match.node:
                offset = match.run_offset(fact.offset)
                address = fact.address if fact.offset else self.matcher.reader.newest(fact.address)
                if offset is not None and match.address + offset != address:
                    return False
                continue
            base = self._base(fact)
            if base is not None and not self._fits(fact, base):
                return False
        return True

    def _fits(self, fact: Fact, base: int) -> bool:
        """Whether a fact's node may start at `base`: where it is known to, or where a copy of it is."""
        if fact.node is None or self.addresses.get(fact.node, base) == base:
            return True
        node = self.graph.nodes[fact.node]
        return self.graph.has_copies(node) and isinstance(self._compared(node, base), Match)

    def _compared(self, node: Node, address: int) -> Match | Mismatch:
        """Match a node at an address, once."""
        if (node.id, address) not in self._tried:
            self._tried[node.id, address] = self.matcher.match(node, address)
        return self._tried[node.id, address]

    def _base(self, fact: Fact) -> int | None:
        """The address of the target's start, where the fact tells it."""
        if fact.node is None:
            return None
        if fact.offset and self.graph.nodes[fact.node].kind is Kind.FUNCTION:
            found = self.matches.get(fact.node)
            run_offset = found.run_offset(fact.offset) if found is not None else None
            return None if run_offset is None else (fact.address - run_offset) & WORD
        return self.matcher.reader.newest((fact.address - fact.offset) & WORD)

    def _commit(self, node: Node, match: Match, how: str) -> None:
        self.matches[node.id] = match
        self.addresses[node.id] = match.address
        self.learned[node.id] = how
        for fact in match.facts:
            if fact.node is None:
                continue
            self.facts.setdefault(fact.node, []).append(fact)
            base = self._base(fact)
            if base is not None and fact.node not in self.addresses:
                self.addresses[fact.node] = base
                self.learned.setdefault(fact.node, f"reference at {fact.source(self.graph)}")
                self._wait(fact.node)

    # What is left ------------------------------------------------------------------------------------

    def contradictions(self) -> Iterator[Refusal]:
        """What was learned twice must agree: each fact with the final addresses and with kallsyms."""
        for index, facts in sorted(self.facts.items()):
            node = self.graph.nodes[index]
            sound: set[tuple[int, int]] = set()
            for fact in facts:
                said = fact.offset, fact.address
                base = None if said in sound else self._base(fact)
                if base is None:
                    continue
                if not self._fits(fact, base):
                    yield Refusal(
                        "solve.contradiction", fact.source(self.graph),
                        f"places {node.label} at {base:#x}, but it is at {self.addresses[index]:#x}"
                        f" ({self.learned.get(index, 'learned')})",
                        "the running code is not what this source compiles to",
                    )  # fmt: skip
                elif not self.matcher.reader.names_allow(node, base):
                    yield Refusal(
                        "solve.kallsyms", fact.source(self.graph),
                        f"places {node.label} at {base:#x}, where kallsyms does not list it",
                        "the running code is not what this source compiles to",
                    )  # fmt: skip
                else:
                    sound.add(said)

    def unverified(self) -> dict[int, str]:
        """Nodes whose address rests on nothing but the fields that refer to them, and constants that do."""
        others = (self.graph.nodes[index] for index in self.facts if index not in self.matches)
        found = {
            node.id
            for node in others
            if not self.matcher.reader.is_listed(node) and not self._is_undefined(node)
        }
        constants = [i for i in self.matches if self.graph.nodes[i].kind is Kind.CONSTANT]
        while more := {i for i in constants if i not in found and _unconfirmed(self.matches[i], found, self)}:
            found |= more
        return {index: self.failures[index][0].reason if self.failures.get(index) else "" for index in found}

    def _is_undefined(self, node: Node) -> bool:
        """Whether a node is at 0, as it may be that nobody need define."""
        return node.kind is Kind.EXTERN and node.weak and self.addresses.get(node.id) == 0

    def explain(self, node: Node) -> Refusal:
        """Why a node has no match."""
        where = self.graph.where(node)
        if self._is_freed(node):
            return Refusal("solve.freed", where, f"{node.label} is gone: the kernel frees its boot code")
        if node.id in self.ambiguous:
            places = ", ".join(f"{address:#x}" for address in self.ambiguous[node.id])
            return Refusal(
                "solve.ambiguous", where, f"{node.label} matches at {places} and nothing tells which it is"
            )  # fmt: skip
        failures = self.failures.get(node.id, ())
        if not failures:
            reason = "kallsyms does not list it and no matched code refers to it"
            return Refusal("solve.no_candidate", where, f"{node.label} is not in the kernel: {reason}")
        if node.weak:
            reason = f"{node.label} is weak, and what the kernel has under this name is another definition"
            return Refusal("solve.overridden", where, reason)
        best = max(failures, key=lambda each: each.offset)
        by, remedy = intruder(self.graph, self.matcher.sites(node), self.memory, self.book, best)
        if best.address in self.redirects.values():
            by = f"; a live patch has put this code in place of {node.label}"
            remedy = "use the source with that patch's change in it, or undo it first"
        return Refusal(
            "runpre.content",
            self.graph.where(node, best.offset),
            f"{node.label} is not what runs at {best.address:#x}+{best.run_offset:#x}: {best.reason}{by}",
            remedy or "use the exact source, configuration and compiler of the running kernel",
            tuple(self._both_sides(node, best)),
        )

    def _both_sides(self, node: Node, mismatch: Mismatch) -> Iterable[str]:
        if node.kind is not Kind.FUNCTION:
            return
        yield "pre:"
        yield from around(self.graph.arch, self.graph.contents(node), mismatch.offset)
        run = self.memory.read(mismatch.address, node.size)
        if run is not None:
            yield "run:"
            yield from around(self.graph.arch, run, mismatch.run_offset, mismatch.address)

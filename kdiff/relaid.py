# SPDX-License-Identifier: Apache-2.0
"""Code that the linker laid out differently: compared instruction by instruction.

Built without function sections, a jump to a neighbouring function is short, and everything behind it moves.
So branches and no-ops may have other lengths in run; a map of pre offsets to run offsets is kept, and every
branch inside the function must lead to the place that the map gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from kdiff.fields import WORD, Reader, Spot, field_of
from kdiff.graph import Node, Reference
from kdiff.kernel import Literal, Pad, Place, Site
from kdiff.verdict import Fact, Match, Mismatch, RunPart


class Walk:
    """Compares instruction by instruction, so that branches and no-ops may have other lengths in run."""

    def __init__(self, reader: Reader, sites: Iterable[Site], node: Node, address: int) -> None:
        self.reader, self.node, self.address = reader, node, address
        self.graph, self.arch = reader.graph, reader.graph.arch
        self.pre = self.graph.contents(node)
        self.run = self._readable(2 * node.size + 64)
        self.fields = {each.offset: each for each in self.graph.references[node.id]}
        self.sites = {each.offset: each for each in sites}
        self.moved: dict[int, int] = {}
        self.promised: list[tuple[int, int, int]] = []
        self.parts: list[RunPart] = []
        self.facts: list[Fact] = []

    def _readable(self, most: int) -> bytes:
        """As many bytes as there are, at most `most`."""
        found = self.reader.memory.read(self.address, most)
        least = 0
        while found is None and least < most:
            middle = (least + most + 1) // 2
            if self.reader.memory.read(self.address, middle) is None:
                most = middle - 1
            else:
                least = middle
        return found if found is not None else self.reader.memory.read(self.address, least) or b""

    def walk(self) -> Match | Mismatch:
        """Go through the pre instructions and find each in run."""
        p = r = 0
        skip_to = 0
        for instruction in self.graph.code(self.node):
            if instruction.offset < skip_to:
                continue
            p = instruction.offset
            site = self.sites.get(p)
            stop = p + (site.size if site else instruction.size)
            if site is None and self._is_nop(p, stop) and not self._same_bytes(p, stop, r):
                self.moved[p] = r
                skip_to = stop
                continue
            if site is None:
                r = self._skip_run_nops(p, stop, r)
            self.moved[p] = r
            if site is None:
                problem, length = self._instruction(p, stop, r)
            else:
                stop = self._instruction_end(stop)
                problem, length = self._site(site, stop, r)
            if problem:
                return Mismatch(self.node.id, self.address, p, r, problem)
            r += length
            skip_to = stop
        self.moved[len(self.pre)] = r
        for offset, target, at in self.promised:
            if self.moved.get(target) != at:
                return Mismatch(
                    self.node.id, self.address, offset, self.moved[offset], "branches to another place"
                )
        moved = tuple(sorted(self.moved.items()))
        return Match(self.node.id, self.address, r, partial(tuple, self.parts), tuple(self.facts), moved)

    def _is_nop(self, start: int, stop: int) -> bool:
        return self.pre[start:stop] in self.arch.nops and not any(
            o in self.fields for o in range(start, stop)
        )

    def _same_bytes(self, start: int, stop: int, r: int) -> bool:
        return self.run[r : r + stop - start] == self.pre[start:stop]

    def _skip_run_nops(self, start: int, stop: int, r: int) -> int:
        """Step over no-ops that only run has."""
        while self.pre[start:stop] not in self.arch.nops:
            step = next((len(nop) for nop in self.arch.nops if self.run.startswith(nop, r)), 0)
            if not step or self.pre.startswith(self.run[r : r + step], start):
                break
            self.parts.append(Pad(step))
            r += step
        return r

    def _spot(self, offset: int, r: int) -> Spot:
        return Spot(self.node, offset, self.address + r, None)

    def _instruction_end(self, offset: int) -> int:
        """The end of the instruction that `offset` cuts; `offset` itself between two instructions."""
        return next(
            (i.offset + i.size for i in self.graph.code(self.node) if i.offset < offset < i.offset + i.size),
            offset,
        )

    def _site(self, site: Site, stop: int, r: int) -> tuple[str, int]:
        """Compare a site and what follows of its last instruction (a lock prefix is a site by itself)."""
        run = self.run[r : r + site.size]
        problem = self.reader.site(self._spot(site.offset, r), site, run, self.parts, self.facts)
        if problem:
            return problem, 0
        problem = self._range(site.offset + site.size, stop, r + site.size)
        return problem, stop - site.offset

    def _instruction(self, start: int, stop: int, r: int) -> tuple[str, int]:
        """Compare one instruction; return (reason, length in run)."""
        pre, run = self.pre[start:stop], self.run[r:]
        ours, theirs = self.arch.branch(pre), self.arch.branch(run)
        if ours is not None and theirs is not None and ours.operation == theirs.operation:
            field = self.fields.get(start + ours.field_offset)
            if field is None or ours.field_size != theirs.field_size:
                return self._branch(start, field, r), theirs.length
        return self._range(start, stop, r), stop - start

    def _range(self, start: int, stop: int, r: int) -> str:
        """Compare bytes and fields of equal length; return a reason if they differ."""
        position = start
        for offset in (o for o in range(start, stop) if o in self.fields):
            if self.pre[position:offset] != self.run[r + position - start : r + offset - start]:
                return self._difference(start, stop, r)
            self._literal(r + position - start, r + offset - start)
            part = field_of(self.graph, self.pre, self.fields[offset])
            at = r + offset - start
            field_bytes = self.run[at : at + part.size]
            problem = self.reader.learn(self._spot(offset, at), part, field_bytes, self.facts)
            if problem:
                return problem
            self.parts.append(part)
            position = offset + part.size
        if self.pre[position:stop] != self.run[r + position - start : r + stop - start]:
            return self._difference(start, stop, r)
        self._literal(r + position - start, r + stop - start)
        return ""

    def _branch(self, start: int, reference: Reference | None, r: int) -> str:
        ours, theirs = self.arch.branch(self.pre[start:]), self.arch.branch(self.run[r:])
        if ours is None or theirs is None:
            return "no branch"
        destination = r + theirs.length + theirs.displacement
        self._literal(r, r + theirs.length)
        if reference is None:
            self.promised.append((start, start + ours.length + ours.displacement, destination))
            return ""
        place = Place(reference.target, self.graph.nodes[reference.target].name, reference.addend)
        address = (self.address + destination) & WORD
        if not self.reader.plausible(place, (address - place.offset) & WORD):
            return f"branches to {address:#x}, which is not {place.name}"
        at = self.address + r
        self.facts.append(
            Fact(place.node, place.name, place.offset, address, at, self.node.id, reference.offset)
        )
        return ""

    def _literal(self, start: int, stop: int) -> None:
        if stop > start:
            self.parts.append(Literal(self.run[start:stop]))

    def _difference(self, start: int, stop: int, r: int) -> str:
        return f"pre has {self.pre[start:stop].hex(' ')}, run has {self.run[r : r + stop - start].hex(' ')}"

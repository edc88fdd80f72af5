# SPDX-License-Identifier: Apache-2.0
"""Stage 7: is this pre node what lies at this address in run memory?

In: one node, one candidate address, the memory and its address book. Out: a `Match` with every value the
run bytes taught, or a `Mismatch` with the place and the reason. Nothing is masked out: each run byte equals
its pre byte, or belongs to a field whose value becomes a `Fact`, or to a site whose rewrite has a form that
fits, or to a branch or no-op that the linker's layout made shorter or longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kdiff.arch import Howto
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.kernel import AddressBook, Field, Form, Literal, OneOf, Pad, Part, Place, Site, Through
from kdiff.memory import MemorySource
from kdiff.sites import parts as pre_parts
from kdiff.split import Kind

WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Fact:
    """The run bytes at `source` say that `offset` bytes into `node` (or symbol `name`) lies at `address`."""

    node: int | None
    name: str
    offset: int
    address: int
    source: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """In a match's parts: the bytes of a site, which may have any of its forms."""

    site: Site
    size: int


RunPart: TypeAlias = Part | Allowed


@dataclass(frozen=True, slots=True)
class Match:
    """A node found at `address`. `parts` are the run bytes in order, `size` bytes together.

    `moved` maps pre offsets of instructions to run offsets where the layout differs, else it is empty.
    """

    node: int
    address: int
    size: int
    parts: tuple[RunPart, ...]
    facts: tuple[Fact, ...]
    moved: tuple[tuple[int, int], ...] = ()

    def run_offset(self, offset: int) -> int | None:
        """Where a pre offset lies in the run copy; None if nothing there was matched."""
        if not self.moved:
            return offset
        return dict(self.moved).get(offset)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A node that is not at `address`: first difference at pre offset `offset`, run offset `run_offset`."""

    node: int
    address: int
    offset: int
    run_offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in both worlds: pre `offset` of a node, and the run `address` it is compared with.

    `start` is the run address of the node's start where its layout is the pre layout, else None.
    """

    node: Node
    offset: int
    address: int
    start: int | None

    def plus(self, distance: int) -> Spot:
        """The spot some bytes further on."""
        return Spot(self.node, self.offset + distance, self.address + distance, self.start)


class Matcher:
    """Compares nodes of one graph with one memory."""

    def __init__(
        self,
        graph: SectionGraph,
        sites: dict[int, tuple[Site, ...]],
        memory: MemorySource,
        book: AddressBook,
        owner: str = "vmlinux",
    ) -> None:
        self.graph, self.memory, self.book, self.owner = graph, memory, book, owner
        self._sites = sites
        self._order = graph.arch.byte_order

    def match(self, node: Node, address: int) -> Match | Mismatch:
        """Compare a node with the memory at an address; code by instruction where the layout differs."""
        run = self.memory.read(address, node.size)
        same: Match | Mismatch = Mismatch(node.id, address, 0, 0, "no memory at this address")
        if run is not None:
            same = self._same_layout(node, address, run)
        if isinstance(same, Match) or node.kind is not Kind.FUNCTION or self.graph.is_piece(node):
            return same
        walked = _Walk(self, node, address).walk()
        if isinstance(walked, Match) or walked.offset > same.offset:
            return walked
        return same

    def references(self, node: Node, address: int) -> Match | Mismatch:
        """Compare only the references of writable data whose initial value is still in memory."""
        run = self.memory.read(address, node.size)
        if run is None:
            return Mismatch(node.id, address, 0, 0, "no memory at this address")
        facts: list[Fact] = []
        for reference in self.graph.references[node.id]:
            field = run[reference.offset : reference.offset + reference.howto.size]
            spot = Spot(node, 0, address, address).plus(reference.offset)
            problem = self.learn(spot, _field(self.graph, node, reference), field, facts)
            if problem:
                return Mismatch(node.id, address, reference.offset, reference.offset, problem)
        return Match(node.id, address, node.size, (), tuple(facts))

    def _same_layout(self, node: Node, address: int, run: bytes) -> Match | Mismatch:
        """Compare byte for byte, which is how nearly all nodes match."""
        pre = self.graph.contents(node)
        parts: list[RunPart] = []
        facts: list[Fact] = []
        position = 0
        for offset, size, item in self._special_ranges(node):
            if offset < position:
                continue
            if pre[position:offset] != run[position:offset]:
                return _unequal(node, address, pre, run, position, offset)
            if offset > position:
                parts.append(Literal(run[position:offset]))
            spot = Spot(node, 0, address, address).plus(offset)
            problem = self._item(spot, item, run[offset : offset + size], parts, facts)
            if problem:
                return Mismatch(node.id, address, offset, offset, problem)
            position = offset + size
        if pre[position:] != run[position:]:
            return _unequal(node, address, pre, run, position, len(pre))
        if len(pre) > position:
            parts.append(Literal(run[position:]))
        return Match(node.id, address, node.size, tuple(parts), tuple(facts))

    def _special_ranges(self, node: Node) -> list[tuple[int, int, Site | Reference]]:
        """Sites and the references outside of sites, by offset; at one offset the site comes first."""
        ranges: list[tuple[int, int, Site | Reference]] = [
            (site.offset, site.size, site) for site in self._sites.get(node.id, ())
        ]
        ranges += [(each.offset, each.howto.size, each) for each in self.graph.references[node.id]]
        return sorted(ranges, key=lambda item: (item[0], isinstance(item[2], Reference)))

    def _item(
        self, spot: Spot, item: Site | Reference, run: bytes, parts: list[RunPart], facts: list[Fact]
    ) -> str:
        if isinstance(item, Site):
            return self.site(spot, item, run, parts, facts)
        part = _field(self.graph, spot.node, item)
        parts.append(part)
        return self.learn(spot, part, run, facts)

    def site(self, spot: Spot, site: Site, run: bytes, parts: list[RunPart], facts: list[Fact]) -> str:
        """Find the form that the run bytes have; return a reason if none fits.

        Where nothing has run yet nothing has been rewritten either.
        """
        reasons: list[str] = []
        original = pre_parts(self.graph, spot.node, site.offset, site.offset + site.size)
        rewritten = () if self.memory.pristine else site.forms
        for form in (original, *rewritten):
            learned: list[Fact] = []
            reason = self._form(spot, form, run, learned)
            if not reason:
                facts += learned
                parts.append(Allowed(site, site.size))
                return ""
            reasons.append(reason)
        return f"{site.rewrite} site holds {run.hex(' ')}, none of its {len(reasons)} allowed forms"

    def _form(self, spot: Spot, form: Form, run: bytes, facts: list[Fact]) -> str:
        position = 0
        for part in form:
            piece = run[position : position + part.size]
            if isinstance(part, Literal):
                reason = "" if part.data == piece else "bytes differ"
            elif isinstance(part, Pad):
                reason = "" if is_pad(self.graph.arch.nops, piece) else "no padding"
            else:
                reason = self.learn(spot.plus(position), part, piece, facts)
            if reason:
                return reason
            position += part.size
        return ""

    def learn(self, spot: Spot, part: Field | Through | OneOf, run: bytes, facts: list[Fact]) -> str:
        """Invert a field. Append what it teaches to `facts`; return a reason if kallsyms contradicts it."""
        howto = part.howto
        if isinstance(part, Field):
            outside = ((1 << (8 * howto.size)) - 1) & ~howto.mask
            if (
                int.from_bytes(run, self._order) & outside
                != int.from_bytes(part.background, self._order) & outside
            ):
                return f"bits around a {howto.name} field differ"
        destination = self._destination(howto, run, spot.address, part.insn_addend)
        if isinstance(part, OneOf):
            known = [entry.address for name in part.names for entry in self.book.named(name)]
            return (
                "" if destination in known else f"refers to {destination:#x}, none of {', '.join(part.names)}"
            )
        if isinstance(part, Through):
            return self._through(part.place, destination)
        address = (destination - part.place.offset) & WORD
        if part.place.node == spot.node.id and spot.start not in (None, address):
            return (
                f"refers to {destination:#x}, another place of {spot.node.label} than {part.place.offset:#x}"
            )
        if not self.plausible(part.place, address):
            return f"refers to {destination:#x}, which is not {part.place.name or 'the target'}"
        source = self.graph.where(spot.node, spot.offset)
        facts.append(Fact(part.place.node, part.place.name, part.place.offset, destination, source))
        return ""

    def _destination(self, howto: Howto, run: bytes, place: int, insn_addend: int) -> int:
        value = howto.extract(run, self._order)
        if howto.pc_relative:
            value += place
        return (value - insn_addend) & WORD

    def _through(self, place: Place, destination: int) -> str:
        size = self.graph.arch.elf_class // 8
        for entry in self.book.named(place.name):
            slot = self.memory.read(entry.address + place.offset, size)
            if slot is not None and int.from_bytes(slot, self._order) == destination:
                return ""
        return f"goes to {destination:#x}, which {place.name}+{place.offset:#x} does not hold"

    def plausible(self, place: Place, address: int) -> bool:
        """Whether kallsyms allows a place's symbol at an address; moved code, unknown names: anywhere."""
        if place.node is None:
            return any(entry.address == address for entry in self.book.named(place.name))
        node = self.graph.nodes[place.node]
        if self.graph.is_piece(node) and not self.memory.pristine:
            return False
        if node.kind is Kind.FUNCTION and place.offset:
            return True
        return self.names_allow(node, address)

    def names_allow(self, node: Node, address: int) -> bool:
        """Whether the book lists one of the node's names at this address, or lists none of them at all."""
        owners = (
            (self.owner,) if node.kind is not Kind.EXTERN else tuple(dict.fromkeys((self.owner, "vmlinux")))
        )
        listed = [e.address for name in node.names for owner in owners for e in self.book.named(name, owner)]
        return not listed or address in listed


class _Walk:
    """Compares instruction by instruction, so that branches and no-ops may have other lengths in run."""

    def __init__(self, matcher: Matcher, node: Node, address: int) -> None:
        self.matcher, self.node, self.address = matcher, node, address
        self.graph, self.arch = matcher.graph, matcher.graph.arch
        self.pre = self.graph.contents(node)
        self.run = self._readable(2 * node.size + 64)
        self.fields = {each.offset: each for each in self.graph.references[node.id]}
        self.sites = {each.offset: each for each in matcher._sites.get(node.id, ())}
        self.moved: dict[int, int] = {}
        self.promised: list[tuple[int, int, int]] = []
        self.parts: list[RunPart] = []
        self.facts: list[Fact] = []

    def _readable(self, most: int) -> bytes:
        """As many bytes as there are, at most `most`."""
        found = self.matcher.memory.read(self.address, most)
        least = 0
        while found is None and least < most:
            middle = (least + most + 1) // 2
            if self.matcher.memory.read(self.address, middle) is None:
                most = middle - 1
            else:
                least = middle
        return found if found is not None else self.matcher.memory.read(self.address, least) or b""

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
        return Match(self.node.id, self.address, r, tuple(self.parts), tuple(self.facts), moved)

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
        problem = self.matcher.site(self._spot(site.offset, r), site, run, self.parts, self.facts)
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
            part = _field(self.graph, self.node, self.fields[offset])
            at = r + offset - start
            field_bytes = self.run[at : at + part.size]
            problem = self.matcher.learn(self._spot(offset, at), part, field_bytes, self.facts)
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
        if not self.matcher.plausible(place, (address - place.offset) & WORD):
            return f"branches to {address:#x}, which is not {place.name}"
        source = self.graph.where(self.node, reference.offset)
        self.facts.append(Fact(place.node, place.name, place.offset, address, source))
        return ""

    def _literal(self, start: int, stop: int) -> None:
        if stop > start:
            self.parts.append(Literal(self.run[start:stop]))

    def _difference(self, start: int, stop: int, r: int) -> str:
        return f"pre has {self.pre[start:stop].hex(' ')}, run has {self.run[r : r + stop - start].hex(' ')}"


def _field(graph: SectionGraph, source: Node, reference: Reference) -> Field:
    target = graph.nodes[reference.target]
    place = Place(target.id, target.name, reference.addend)
    background = graph.contents(source)[reference.offset : reference.offset + reference.howto.size]
    return Field(reference.howto, place, reference.insn_addend, background)


def _unequal(node: Node, address: int, pre: bytes, run: bytes, start: int, stop: int) -> Mismatch:
    at = next(i for i in range(start, stop) if pre[i] != run[i])
    return Mismatch(node.id, address, at, at, f"pre has {pre[at]:#04x}, run has {run[at]:#04x}")


def is_pad(nops: tuple[bytes, ...], data: bytes) -> bool:
    """Whether the bytes split completely into no-op instructions."""
    reachable = {0}
    for at in range(len(data)):
        if at in reachable:
            reachable |= {at + len(nop) for nop in nops if data.startswith(nop, at)}
    return len(data) in reachable

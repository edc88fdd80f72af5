# SPDX-License-Identifier: Apache-2.0
"""Fields and sites in run memory: what do they say, and is it possible?

In: a spot that exists in the pre object and in run memory. A field is inverted and teaches where its target
is; a site must have one of its forms. kallsyms and the node's own address are asked at once; whether
everything that was learned fits together is for `kdiff.solve` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kdiff.addressbook import KERNEL, AddressBook, BookEntry
from kdiff.arch import ByteOrder, Howto, Overflow
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.kernel import (
    Contains,
    Field,
    Form,
    Holds,
    Listed,
    Literal,
    Mixed,
    OneOf,
    Pad,
    Place,
    Site,
    Through,
    ToCode,
)
from kdiff.memory import MemorySource
from kdiff.redirected import NOTHING
from kdiff.sites import parts as pre_parts
from kdiff.split import Kind
from kdiff.verdict import Allowed, Fact, RunPart

WORD = (1 << 64) - 1
_CODE = frozenset("tTwW")
"""Letters of functions in kallsyms."""


class Spot(NamedTuple):
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


class Reader:
    """Reads fields and sites of one graph's nodes in one memory."""

    def __init__(
        self,
        graph: SectionGraph,
        memory: MemorySource,
        book: AddressBook,
        owner: str,
        redirects: Mapping[int, int] = NOTHING,
    ) -> None:
        """`redirects`: where the newest code of a function is that lies elsewhere by now, by old address."""
        self.graph, self.memory, self.book, self.owner = graph, memory, book, owner
        self._redirects = redirects
        self._order = graph.arch.byte_order
        self._listed: dict[int, frozenset[int] | None] = {}
        self._run_time: dict[tuple[str, str], frozenset[int]] = {}

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
            elif isinstance(part, Holds):
                reason = self._holds(part)
            elif isinstance(part, Contains):
                held = self._held(part.place, len(part.data))
                reason = "" if part.data in held else f"{part.place.name} is not {part.data.hex(' ')}"
            elif isinstance(part, Mixed):
                held = self._held(part.place, part.size)
                known = [mixed(part.data, each, part.negated, self._order) for each in held]
                reason = "" if piece in known else f"not what {part.place.name} makes of it"
            else:
                reason = self.learn(spot.plus(position), part, piece, facts)
            if reason:
                return reason
            position += part.size
        return ""

    def learn(
        self, spot: Spot, part: Field | Through | OneOf | Listed | ToCode, run: bytes, facts: list[Fact]
    ) -> str:
        """Invert a field. Append what it teaches to `facts`; return a reason if kallsyms contradicts it."""
        howto = part.howto
        if not howto.invertible:
            return (
                f"a {howto.name} field does not tell by itself where it leads, which kdiff cannot check yet"
            )
        if isinstance(part, Field) and not howto.plain:
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
        if isinstance(part, Listed):
            return "" if destination in self._made(part) else f"refers to {destination:#x}, no {part.name}"
        if isinstance(part, ToCode):
            held = self.memory.read(destination, len(part.code))
            return (
                "" if held == part.code else f"refers to {destination:#x}, where no {part.code.hex(' ')} is"
            )
        if isinstance(part, Through):
            return self._through(part.place, destination)
        return self._taught(spot, part.place, self.allowed(part.place), destination, facts)

    def field(
        self, node: Node, start: int, reference: Reference, allowed: frozenset[int] | None, run: bytes,
        facts: list[Fact],
    ) -> str:  # fmt: skip
        """The same for a plain invertible field, as nearly all are, of a node that starts at `start`.

        `allowed`: what `where` says of the reference.
        """
        offset, howto, target, inner, share, _, _, _ = reference
        destination = int.from_bytes(run, self._order, signed=howto.overflow is not Overflow.UNSIGNED) - share
        place = start + offset
        if howto.pc_relative:
            destination += place
        destination &= WORD
        address = (destination - inner) & WORD
        if (allowed is not None and address not in allowed) or target == node.id:
            known = Place(target, self.graph.nodes[target].name, inner)
            return self._taught(Spot(node, offset, place, start), known, allowed, destination, facts)
        facts.append(Fact(target, self.graph.nodes[target].name, inner, destination, place, node.id, offset))
        return ""

    def _taught(
        self, spot: Spot, place: Place, allowed: frozenset[int] | None, destination: int, facts: list[Fact]
    ) -> str:
        """Note what a field says, unless that is impossible."""
        target, name, inner = place.node, place.name, place.offset
        node, offset, at, start = spot
        address = (destination - inner) & WORD
        if target == node.id and start is not None and start != self.newest(address):
            return f"refers to {destination:#x}, another place of {node.label} than {inner:#x}"
        if allowed is not None and address not in allowed:
            return f"refers to {destination:#x}, which is not {name or 'the target'}"
        facts.append(Fact(target, name, inner, destination, at, node.id, offset))
        return ""

    def _destination(self, howto: Howto, run: bytes, place: int, insn_addend: int) -> int:
        value = howto.extract(run, self._order)
        if howto.pc_relative:
            value += place
        return (value - insn_addend) & WORD

    def _through(self, place: Place, destination: int) -> str:
        if destination in self._pointers(place):
            return ""
        return f"goes to {destination:#x}, which {place.name}+{place.offset:#x} does not hold"

    def _made(self, part: Listed) -> frozenset[int]:
        key = part.owner, part.name
        if key not in self._run_time:
            self._run_time[key] = frozenset(
                each.address
                for each in self.book.entries
                if each.owner == part.owner and each.name.startswith(part.name)
            )
        return self._run_time[key]

    def _holds(self, part: Holds) -> str:
        allowed = {entry.address for name in part.names if name for entry in self.book.named(name)}
        if "" in part.names:
            allowed.add(0)
        if allowed.intersection(self._pointers(part.place)):
            return ""
        names = ", ".join(name or "nothing" for name in part.names)
        return f"{part.place.name}+{part.place.offset:#x} does not lead to {names}"

    def _pointers(self, place: Place) -> list[int]:
        """What run memory holds at a place, once for each symbol that may be meant."""
        size = self.graph.arch.elf_class // 8
        return [int.from_bytes(each, self._order) for each in self._held(place, size)]

    def _held(self, place: Place, size: int) -> list[bytes]:
        named = self.book.named(place.name)
        found = (self.memory.read(each.address + place.offset, size) for each in named)
        return [each for each in found if each is not None]

    def plausible(self, place: Place, address: int) -> bool:
        """Whether kallsyms allows a place's symbol at an address."""
        allowed = self.allowed(place)
        return allowed is None or address in allowed

    def allowed(self, place: Place) -> frozenset[int] | None:
        """Where kallsyms allows a place's symbol; None for moved code and for unknown names: anywhere."""
        if place.node is None:
            return frozenset(entry.address for entry in self.book.named(place.name))
        return self.where(place.node, place.offset)

    def where(self, target: int, offset: int) -> frozenset[int] | None:
        """The same for an offset in a node."""
        node = self.graph.nodes[target]
        if not self.memory.pristine and self.graph.is_piece(node):
            return frozenset()
        if offset and node.kind is Kind.FUNCTION:
            return None
        return self._places(node)

    def newest(self, address: int) -> int:
        """Where a function's newest code is: where it was linked, or where a live patch has put it."""
        return self._redirects.get(address, address)

    def names_allow(self, node: Node, address: int) -> bool:
        """Whether the book lists one of the node's names at this address, or lists none of them at all."""
        places = self._places(node)
        return places is None or address in places

    def is_listed(self, node: Node) -> bool:
        """Whether the book lists any of the node's names."""
        return self._places(node) is not None

    def known_otherwise(self, node: Node, address: int) -> str:
        """The name of the function that the book has at an address, if it lists the node's names nowhere."""
        if not node.names or self.is_listed(node):
            return ""
        names = [entry.name for entry in self.book.at(address) if entry.kind in _CODE]
        return "" if not names or set(names) & set(node.names) else names[0]

    def _places(self, node: Node) -> frozenset[int] | None:
        if node.id not in self._listed:
            found = [entry.address for name in node.names for entry in self.entries(node, name)]
            self._listed[node.id] = frozenset((*found, *map(self.newest, found))) if found else None
        return self._listed[node.id]

    def entries(self, node: Node, name: str) -> tuple[BookEntry, ...]:
        """What the book lists under a node's name: of its owner's, or what its owner may import."""
        if node.kind is not Kind.EXTERN or self.owner == KERNEL:
            return self.book.named(name, self.owner)
        return self.book.of_any(name)


def field_of(graph: SectionGraph, pre: bytes, reference: Reference) -> Field:
    """A reference of a node whose bytes are `pre`, as the part of a form."""
    target = graph.nodes[reference.target]
    place = Place(target.id, target.name, reference.addend)
    background = pre[reference.offset : reference.offset + reference.howto.size]
    return Field(reference.howto, place, reference.insn_addend, background)


def mixed(data: bytes, other: bytes, negated: bool, order: ByteOrder) -> bytes:
    """The value of a `Mixed` where memory has `other`."""
    sign, modulus = -1 if negated else 1, 1 << 8 * len(data)
    plain = sign * int.from_bytes(data, order) % modulus
    return (sign * (plain ^ int.from_bytes(other, order)) % modulus).to_bytes(len(data), order)


def is_pad(nops: tuple[bytes, ...], data: bytes) -> bool:
    """Whether the bytes split completely into no-op instructions."""
    reachable = {0}
    for at in range(len(data)):
        if at in reachable:
            reachable |= {at + len(nop) for nop in nops if data.startswith(nop, at)}
    return len(data) in reachable

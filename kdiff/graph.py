# SPDX-License-Identifier: Apache-2.0
"""Stage 2: an object as a graph.

In: an `Object`, its `Architecture`, the rows of special sections. Out: a `SectionGraph`. Its nodes are
the pieces of all allocated sections plus one node for each symbol of another unit; its edges are the
relocations, freed of how symbols happen to be written: a reference names the node it reaches and the
offset in that node, and what the instruction's encoding adds is kept apart (`insn_addend`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from kdiff.alike import Scope
from kdiff.arch import Architecture, Howto
from kdiff.compound import Record, records
from kdiff.elf.read import (
    RESERVED,
    SHF_EXECINSTR,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    STT_SECTION,
    Column,
    Object,
)
from kdiff.errors import KdiffError
from kdiff.habits import NO_HABITS, Habits, RemadeData, Standing
from kdiff.insn import Code, Instruction, decoded, insn_addend
from kdiff.kernel import SpecialSection
from kdiff.naming import is_fragment, stem
from kdiff.owners import behind_padding, follows, owners_of, stands_alone, tails_of
from kdiff.resolved import resolved
from kdiff.split import Kind, Piece, is_mapping, pieces_in, split
from kdiff.tables import counts_nothing
from kdiff.values import dataclass


class Node(NamedTuple):
    """A node. `names`: the symbols at its start, preferred first; `label` is unique within the graph.

    `start` and `size` are bytes in section `section` (index; 0 for externs). `table` and `row` are set for
    entries of special sections only. A tuple, as a reference is, because they are made quickly.
    """

    id: int
    label: str
    kind: Kind
    section: int = 0
    section_name: str = ""
    start: int = 0
    size: int = 0
    align: int = 1
    names: tuple[str, ...] = ()
    local: bool = True
    weak: bool = False
    table: SpecialSection | None = None
    row: int = -1
    standing: Standing = Standing.ORDINARY
    remade: RemadeData | None = None
    """Set where macro or compiler makes this anew at each use."""

    @property
    def name(self) -> str:
        """The preferred symbol name, empty where there is none."""
        return self.names[0] if self.names else ""

    @property
    def is_fragment(self) -> bool:
        """Whether the compiler split it off another function (`foo.cold`): it is never entered by itself."""
        return self.kind is Kind.FUNCTION and is_fragment(self.name)


class Reference(NamedTuple):
    """A relocation seen from the graph: the field at `offset` of its node reaches `target` + `addend`.

    The stored value is target + addend + insn_addend + entry (- the field's address, or - `minus`: a node and
    an offset in it). `branch`: the field is the displacement of a jump or call. `entry`: where such a jump
    enters a function that its own module calls, counted from its address.
    """

    offset: int
    howto: Howto
    target: int
    addend: int
    insn_addend: int
    branch: bool
    minus: tuple[int, int] | None = None
    entry: int = 0


@dataclass(frozen=True, slots=True)
class SectionGraph:
    """All nodes and references of one object. `entries[n]` are the table entries node n owns, in order."""

    obj: Object
    arch: Architecture
    special: Mapping[str, SpecialSection]
    nodes: tuple[Node, ...]
    references: tuple[tuple[Reference, ...], ...]
    entries: Mapping[int, tuple[int, ...]]
    owners: Mapping[int, int]
    """Owner of a table entry."""
    inner: Mapping[int, tuple[tuple[int, str], ...]]
    """Symbols inside a node (offset > 0): (offset, name)."""
    pieces: frozenset[str]
    """Names of the sections that hold code for table entries only (`SpecialSection.pieces`)."""
    habits: Habits = NO_HABITS
    tails: frozenset[int] = frozenset()
    """Code without a name behind the functions of a section, which others of its nodes or tables refer to."""

    def is_piece(self, node: Node) -> bool:
        """Whether a node is only a part of others, or a table entry's payload, never called by itself."""
        return node.section_name in self.pieces or node.id in self.tails

    def is_pool_word(self, node: Node) -> bool:
        """Whether a node is an address that the compiler keeps for code to load; not that of another such."""
        if node.kind is not Kind.CONSTANT or node.names or node.section_name not in self.arch.pools:
            return False
        targets = (self.nodes[each.target] for each in self.references[node.id])
        return all(each.section_name not in self.arch.pools for each in targets)

    def contents(self, node: Node) -> bytes:
        """The node's raw bytes; zeros for SHT_NOBITS."""
        part = slice(node.start, node.start + node.size)
        raw = bytes(self.obj.contents(node.section)[part]) if node.section else b""
        return raw or bytes(node.size)

    def where(self, node: Node, offset: int | None = None) -> str:
        """A place for messages: `tcp_ipv4.o: .text.tcp_v4_rcv+0x1c`."""
        name = node.section_name or node.label
        at = "" if offset is None else f"+{node.start + offset:#x}"
        return f"{self.obj.path}: {name}{at}" if self.obj.path else f"{name}{at}"

    def has_copies(self, node: Node) -> bool:
        """Whether a node is nothing but its contents, which a linked kernel may hold in several places."""
        unnamed = node.kind is Kind.CONSTANT and not node.names and not self.references[node.id]
        return node.kind is Kind.STRING or unnamed

    def code(self, node: Node) -> tuple[Instruction, ...]:
        """The instructions of a function node."""
        return decoded(self.arch, self.contents(node))

    def references_within(self, node: Node, start: int, stop: int) -> tuple[Reference, ...]:
        """Those of a node's references whose fields begin in a range of it."""
        found = self.references[node.id]
        first = bisect_left(found, start, key=_offset)
        return found[first : bisect_left(found, stop, first, key=_offset)]

    def leads_to(self, source: int) -> Iterator[int]:
        """The nodes that a node refers to, and its entries that travel with it."""
        for reference in self.references[source]:
            yield reference.target
            if reference.minus is not None:
                yield reference.minus[0]
        yield from (entry for entry in self.entries.get(source, ()) if follows(self.nodes[entry]))

    def closure(self, sources: Iterable[int], within: set[int]) -> set[int]:
        """All nodes that `sources` reach through nodes of `within` only, the sources included."""
        found = set(sources)
        waiting = list(found)
        while waiting:
            new = within.intersection(self.leads_to(waiting.pop())) - found
            found |= new
            waiting += new
        return found


_offset = attrgetter("offset")


def build(
    obj: Object, arch: Architecture, special: Mapping[str, SpecialSection], habits: Habits = NO_HABITS,
    scope: Scope | None = None,
) -> SectionGraph:  # fmt: skip
    """Make the graph of an object, or of a part of it; KdiffError for relocations kdiff does not know."""
    nodes = _unique(_nodes(obj, habits, split(obj, arch, special, scope, habits.ahead)))
    lookup = _Lookup(obj, arch, nodes, habits)
    references = _references(obj, arch, nodes, lookup, None if scope is None else scope.references)
    nodes += lookup.externs
    references += [()] * len(lookup.externs)
    owners = owners_of(nodes, references)
    entries: dict[int, list[int]] = {}
    for entry, owner in owners.items():
        entries.setdefault(owner, []).append(entry)
    owned = {owner: tuple(found) for owner, found in entries.items()}
    return SectionGraph(
        obj, arch, special, tuple(nodes), tuple(references), owned, owners, lookup.inner,
        frozenset(map(obj.section_name, pieces_in(obj, special, scope))), habits, tails_of(nodes, references),
    )  # fmt: skip


def _nodes(obj: Object, habits: Habits, pieces: Iterable[Piece]) -> Iterator[Node]:
    aligns, name, current, aligned = obj.sections["align"].tolist(), "", 0, 1
    standing, constant = Standing.ORDINARY, False
    for index, piece in enumerate(pieces):
        if piece.section != current:
            current, name = piece.section, obj.section_name(piece.section)
            aligned = max(aligns[current], 1)
            standing, constant = habits.standing(name), habits.is_constant(name)
        names, local, weak = tuple[str, ...](), True, False
        if piece.symbols:
            names = tuple(dict.fromkeys(text for each in piece.symbols if (text := obj.symbol_name(each))))
            bindings = [obj.symbols["binding"][each] for each in piece.symbols]
            local, weak = all(each == STB_LOCAL for each in bindings), STB_WEAK in bindings
        label = names[0] if names else f"{name}+{piece.start:#x}" if piece.start or piece.row >= 0 else name
        kind = Kind.CONSTANT if constant and piece.kind is Kind.DATA else piece.kind
        yield Node(
            index, label, kind, current, name,
            piece.start, piece.size, min(aligned, piece.start & -piece.start or aligned), names, local, weak,
            piece.table, piece.row, standing, _remade(habits, piece, names[0] if names else "", name),
        )  # fmt: skip


def _remade(habits: Habits, piece: Piece, name: str, section: str) -> RemadeData | None:
    if piece.kind is Kind.FUNCTION or piece.table is not None:
        return None
    return habits.remade(stem(name), section)


def _unique(nodes: Iterable[Node]) -> list[Node]:
    """Tell nodes of one label apart by their place."""
    nodes = list(nodes)
    seen: dict[str, int] = {}
    for node in nodes:
        seen[node.label] = seen.get(node.label, 0) + 1
    return [
        n if seen[n.label] == 1 else n._replace(label=f"{n.label}@{n.section_name}+{n.start:#x}")
        for n in nodes
    ]


class _Lookup:
    """Finds the node for (section, offset) and for symbols; collects externs while the graph is built."""

    def __init__(self, obj: Object, arch: Architecture, nodes: list[Node], habits: Habits) -> None:
        self.obj, self.arch, self.marks = obj, arch, habits.ahead
        self.symbols = obj.symbols.tolist()
        self.externs: list[Node] = []
        self._first_extern = len(nodes)
        self._by_name: dict[str, int] = {}
        self._undefined: dict[int, int] = {}
        self.nodes = nodes
        self._others = {(row[6], row[1]): row[5] for row in self.symbols if row[3] == STT_FUNC and row[5]}
        self._sections: dict[int, tuple[list[int], list[Node]]] = {}
        for node in nodes:
            starts, found = self._sections.setdefault(node.section, ([], []))
            starts.append(node.start)
            found.append(node)
        self.inner = self._inner_symbols()

    def at(self, section: int, offset: int) -> Node | None:
        """The node that holds `offset`, or ends there, or begins behind it (in a section's padding)."""
        starts, found = self._sections.get(section, ([], []))
        index = bisect_right(starts, offset) - 1
        return found[max(index, 0)] if found else None

    def extern(self, name: str, weak: bool = False) -> int:
        if name not in self._by_name:
            number = self._by_name[name] = self._first_extern + len(self.externs)
            self.externs.append(Node(number, name, Kind.EXTERN, names=(name,), local=False, weak=weak))
        return self._by_name[name]

    def undefined(self, symbol: int) -> int:
        """The node of a symbol of another unit."""
        if symbol not in self._undefined:
            name, binding = self.obj.symbol_name(symbol), self.symbols[symbol][4]
            self._undefined[symbol] = self.extern(name, binding == STB_WEAK)
        return self._undefined[symbol]

    def entered(self, entry: Callable[[int], int], symbol: int, target: int, addend: int) -> tuple[int, int]:
        """Tell what a call adds to reach a function's local entry from its addend: (addend, entry).

        Assemblers write either the function's symbol, or its section's with the entry in the addend.
        """
        _, _, _, kind, _, other, _ = self.symbols[symbol]
        if kind != STT_SECTION or target >= len(self.nodes):
            return addend, entry(other)
        return self.way_in(entry, self.nodes[target], addend)

    def way_in(self, entry: Callable[[int], int], node: Node, addend: int) -> tuple[int, int]:
        """The same for a place in a node."""
        way = entry(self._others.get((node.section, node.start), 0))
        return (0, way) if way and addend == way else (addend, 0)

    def is_shared(self, node: Node) -> bool:
        """Whether a section has several nodes, other than what lies in front of its function."""
        return not stands_alone(self.obj, self._sections[node.section][1], node, self.marks)

    def _inner_symbols(self) -> dict[int, tuple[tuple[int, str], ...]]:
        found: dict[int, list[tuple[int, str]]] = {}
        for index, (_, value, _, kind, _, _, section) in enumerate(self.symbols):
            if section not in self._sections or kind == STT_SECTION:
                continue
            node = self.at(section, value)
            if node is not None and value > node.start and not is_mapping(self.obj, self.arch, index):
                found.setdefault(node.id, []).append((value - node.start, self.obj.symbol_name(index)))
        return {node: tuple(sorted(names)) for node, names in found.items()}


def _references(
    obj: Object, arch: Architecture, nodes: list[Node], lookup: _Lookup, speaking: Column | None
) -> list[tuple[Reference, ...]]:
    """The references of each node; none of those in sections that are not `speaking`."""
    result: list[tuple[Reference, ...]] = []
    bounds, sizes = obj.relocation_bounds.tolist(), obj.sections["size"].tolist()
    code = (obj.sections["flags"] & SHF_EXECINSTR > 0).tolist()
    silent = () if speaking is None else frozenset(np.flatnonzero(~speaking).tolist())
    section, rows, places = 0, [], []
    for node in nodes:
        low, high = bounds[node.section], bounds[node.section + 1]
        near = code[node.section] and node.kind is Kind.FUNCTION and lookup.is_shared(node)
        if node.section in silent or not (near or low < high):
            result.append(())
            continue
        if section != node.section:
            section, rows = node.section, obj.records(node.section).rows()
            places = [row[1] for row in rows]
        first, last = 0, len(rows)
        if node.size != sizes[node.section]:
            first, last = bisect_left(places, node.start), bisect_left(places, node.start + node.size)
        found = records(obj, arch, rows[first:last]) if first < last else []
        if not found and not near:
            result.append(())
            continue
        fields = None
        if code[node.section] and node.kind is Kind.FUNCTION:
            fields = Code(arch, bytes(obj.contents(node.section)[node.start : node.start + node.size]))
        made = tuple([_reference(obj, arch, node, record, fields, lookup) for record in found])
        if near and fields is not None:
            further = _resolved(obj, arch, node, fields, made, lookup)
            made = tuple(sorted((*made, *further), key=lambda each: each.offset))
        result.append(made)
    return result


def _resolved(
    obj: Object, arch: Architecture, node: Node, fields: Code, made: tuple[Reference, ...], lookup: _Lookup
) -> Iterator[Reference]:
    """The references that branches without relocations make to other nodes of their section."""
    around = -node.start, int(obj.sections["size"][node.section]) - node.start
    for each in resolved(arch, fields.data, fields.decoded, {reference.offset for reference in made}, around):
        target = lookup.at(node.section, node.start + each.destination)
        if target is None or target.id == node.id:
            continue
        inner, entry = node.start + each.destination - target.start, 0
        if each.howto.entry is not None:
            inner, entry = lookup.way_in(each.howto.entry, target, inner)
        yield Reference(each.offset, each.howto, target.id, inner, each.share, True, None, entry)


def _reference(
    obj: Object, arch: Architecture, node: Node, record: Record, code: Code | None, lookup: _Lookup
) -> Reference:
    place, howto, symbol, addend, implicit, minus, origin = record
    offset = place - node.start
    if offset + howto.size > node.size:
        where = f"{obj.path}: {node.section_name}+{place:#x}"
        raise KdiffError("elf.relocations", f"{howto.name} reaches beyond its node {node.label}", place=where)
    if implicit:
        raw = bytes(obj.contents(node.section)[place : place + howto.size])
        addend = howto.addend(raw, arch.byte_order)
    share, branch = 0, False
    if code is not None and not (howto.pc_relative or howto.end_relative):
        share = howto.bias
    elif code is not None:
        end, branch = code.around(howto, offset)
        share = insn_addend(howto, offset, end)
    if origin is not None:
        share = place - origin
    elif node.table is not None and node.table.from_start and howto.pc_relative:
        share = offset
    target, inner = _target(obj, symbol, addend - share, lookup)
    if node.table is not None:
        if node.table.ahead:
            target, inner = behind_padding(lookup.nodes, target, inner)
        if counts_nothing(node.table, obj.contents(node.section)[node.start :], offset):
            target, inner = node.id, 0
    less = None if minus is None else _target(obj, *minus, lookup)
    if howto.base:
        less = lookup.extern(howto.base), 0
    entry = 0
    if howto.entry is not None:
        inner, entry = lookup.entered(howto.entry, symbol, target, inner)
    return Reference(offset, howto, target, inner, share, branch, less, entry)


def _target(obj: Object, index: int, addend: int, lookup: _Lookup) -> tuple[int, int]:
    _, value, _, kind, _, _, section = lookup.symbols[index]
    if section == 0 or section >= RESERVED:
        return lookup.undefined(index), addend
    node = lookup.at(section, value + addend if kind == STT_SECTION else value)
    if node is None:
        return lookup.extern(f"{obj.section_name(section)}:{obj.symbol_name(index)}"), addend
    return node.id, value + addend - node.start

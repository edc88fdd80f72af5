# SPDX-License-Identifier: Apache-2.0
"""Stage 2, continued: where each relocation of a node leads to.

In: the `Places` of some objects. Out: the references of each node. Most records say everything by themselves,
and those of all nodes of all objects are looked at together, in columns. What is left is read node by node:
records that mean something together only, addends that lie in the field, tables whose fields count otherwise.
Code that shares its section also has branches that the assembler filled in, without a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from operator import attrgetter
from typing import cast

import numpy as np

from kdiff.arch import Architecture, Howto
from kdiff.compound import Record
from kdiff.compound import records as records_of
from kdiff.elf.read import Column
from kdiff.elf.relocations import Raw
from kdiff.errors import KdiffError
from kdiff.howtos import Howtos, howtos_of
from kdiff.insn import Code, insn_addend
from kdiff.lookup import Lookup
from kdiff.nodes import Node, Reference
from kdiff.owners import behind_padding
from kdiff.places import Places
from kdiff.resolved import resolved
from kdiff.split import Kind
from kdiff.tables import counts_nothing

_offset = attrgetter("offset")
_made = cast(Callable[[tuple[object, ...]], Reference], partial(tuple.__new__, Reference))
"""Reference._make, which looks again at how many fields there are."""


def references_of(
    places: Places, arch: Architecture, speaking: Column | None
) -> list[list[tuple[Reference, ...]]]:
    """By object, the references of each node, by offset; none of those in sections that are not `speaking`.

    KdiffError for relocations that kdiff does not know, and for fields that reach beyond their node.
    """
    records, nodes, howtos = places.stack.records, places.nodes, howtos_of(arch)
    chosen, counts = _chosen(places, speaking)
    number = np.arange(len(nodes)).repeat(counts)
    offset = records.offset.take(chosen) - places.starts.take(number)
    kind = howtos.number(records.type.take(chosen))
    alone = np.array([node.table is not None and node.table.indirect for node in nodes], bool)
    beyond = offset + howtos.size.take(kind) > places.sizes.take(number)
    alone[number[beyond | records.implicit.take(chosen) | ~howtos.alone.take(kind)]] = True
    codes, columns = _Codes(places, arch), (number, offset, kind, chosen)
    rows = list[Raw]()
    if np.count_nonzero(alone):
        single = alone.take(number)
        rows = _rows(places, chosen[single], number[single])
        columns = tuple([each[~single] for each in columns])
    made = _together(howtos, codes, places, *columns)
    result: list[list[tuple[Reference, ...]]] = [[] for _ in places.lookups]
    at = first = 0
    each_node = zip(nodes, places.owner.tolist(), alone.tolist(), counts.tolist(), strict=True)
    for place, (node, owner, apart, count) in enumerate(each_node):
        if apart:
            lookup = places.lookups[owner]
            own = records_of(lookup.obj, arch, rows[first : first + count])
            code = codes[place] if node.kind is Kind.FUNCTION else None
            result[owner].append(tuple([_reference(arch, node, each, code, lookup) for each in own]))
            first += count
        else:
            result[owner].append(tuple(made[at : at + count]))
            at += count
    for place, node in enumerate(nodes):
        if node.kind is not Kind.FUNCTION:
            continue
        owner = int(places.owner[place])
        lookup, found = places.lookups[owner], result[owner]
        if lookup.is_shared(node) and (speaking is None or speaking[places.section(place)]):
            further = _resolved(arch, node, codes[place], found[node.id], lookup)
            found[node.id] = tuple(sorted((*found[node.id], *further), key=_offset))
    return result


class _Codes(dict[int, Code]):
    """The code of functions that are asked for, by node."""

    def __init__(self, places: Places, arch: Architecture) -> None:
        self._places, self._arch = places, arch

    def __missing__(self, place: int) -> Code:
        node, owner = self._places.nodes[place], self._places.owner[place]
        data = self._places.lookups[owner].obj.contents(node.section)[node.start : node.start + node.size]
        found = self[place] = Code(self._arch, bytes(data))
        return found


def _chosen(places: Places, speaking: Column | None) -> tuple[Column, Column]:
    """The records in nodes, in the order of these, and how many each of them has."""
    records, bounds, held = places.stack.records, places.stack.bounds, places.first >= 0
    says = held if speaking is None else held & speaking
    chosen = says.repeat(bounds[1:] - bounds[:-1]).nonzero()[0]
    keys = places.key(records.section.take(chosen), records.offset.take(chosen))
    begins = keys.searchsorted(places.keys)
    counts = keys.searchsorted(places.keys + places.sizes) - begins
    total = int(counts.sum())
    if total < len(chosen):
        before = counts.cumsum() - counts
        chosen = chosen.take((begins - before).repeat(counts) + np.arange(total))
    return chosen, counts


def _rows(places: Places, chosen: Column, number: Column) -> list[Raw]:
    """Records one by one, as their own object has them. `number`: the node of each."""
    stack, owner = places.stack, places.owner.take(number)
    section, offset, kind, symbol, addend, implicit = (each.take(chosen) for each in stack.records)
    section -= np.array(stack.first_section).take(owner)
    symbol -= np.array(stack.first_symbol).take(owner)
    columns = section, offset, kind, symbol, addend, implicit
    return list(zip(*(each.tolist() for each in columns), strict=True))


def _together(
    howtos: Howtos,
    codes: _Codes,
    places: Places,
    number: Column,
    offset: Column,
    kind: Column,
    chosen: Column,
) -> list[Reference]:
    """The references of records that say everything by themselves. `number`: the node of each."""
    records = places.stack.records
    rows = [cast(Howto, howtos.rows[each]) for each in kind.tolist()]
    offsets, branches = offset.tolist(), [False] * len(offset)
    is_code = np.array([node.kind is Kind.FUNCTION for node in places.nodes], bool).take(number)
    share = howtos.bias.take(kind) * is_code
    told = (is_code & (howtos.pc_relative | howtos.end_relative).take(kind)).nonzero()[0]
    ways, last = [], -1
    for at, node in zip(told.tolist(), number.take(told).tolist(), strict=True):
        if node != last:
            last, around = node, codes[node].around
        end, branches[at] = around(rows[at], offsets[at])
        ways.append(offsets[at] - end)
    share[told] = np.where(howtos.end_relative.take(kind.take(told)), np.array(ways, "i8"), share.take(told))
    target, inner = places.reached(
        places.owner.take(number), records.symbol.take(chosen), records.addend.take(chosen) - share
    )
    columns = offsets, rows, target.tolist(), inner.tolist(), share.tolist(), branches
    return list(map(_made, zip(*columns, repeat(None), repeat(0), strict=False)))


def _resolved(
    arch: Architecture, node: Node, fields: Code, made: tuple[Reference, ...], lookup: Lookup
) -> Iterator[Reference]:
    """The references that branches without relocations make to other nodes of their section."""
    around = -node.start, int(lookup.obj.sections["size"][node.section]) - node.start
    relocated = {reference.offset for reference in made}
    for each in resolved(arch, fields.data, fields.decoded, relocated, around):
        target = lookup.at(node.section, node.start + each.destination)
        if target is None or target.id == node.id:
            continue
        inner, entry = node.start + each.destination - target.start, 0
        if each.howto.entry is not None:
            inner, entry = lookup.way_in(each.howto.entry, target, inner)
        yield Reference(each.offset, each.howto, target.id, inner, each.share, True, None, entry)


def _reference(
    arch: Architecture, node: Node, record: Record, code: Code | None, lookup: Lookup
) -> Reference:
    place, howto, symbol, addend, implicit, minus, origin = record
    obj, offset = lookup.obj, place - node.start
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
    target, inner = lookup.reached(symbol, addend - share)
    if node.table is not None:
        if node.table.ahead:
            target, inner = behind_padding(lookup.nodes, target, inner)
        if counts_nothing(node.table, obj.contents(node.section)[node.start :], offset):
            target, inner = node.id, 0
    less = None if minus is None else lookup.reached(*minus)
    if howto.base:
        less = lookup.extern(howto.base), 0
    entry = 0
    if howto.entry is not None:
        inner, entry = lookup.entered(howto.entry, symbol, target, inner)
    return Reference(offset, howto, target, inner, share, branch, less, entry)

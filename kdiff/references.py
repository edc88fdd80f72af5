# SPDX-License-Identifier: Apache-2.0
"""Stage 2, continued: where each relocation of a node leads to.

In: an `Object`, its nodes and their `Lookup`. Out: the references of each node. Most records say everything
by themselves, and those of all nodes are looked at together, in columns. What is left is read node by node:
records that mean something together only, addends that lie in the field, tables whose fields count otherwise.
Code that shares its section also has branches that the assembler filled in, without a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import repeat
from operator import attrgetter
from typing import NamedTuple, cast

import numpy as np

from kdiff.arch import Architecture, Howto
from kdiff.compound import Record, records
from kdiff.elf.read import Column, Object
from kdiff.elf.relocations import Raw, Relocations
from kdiff.errors import KdiffError
from kdiff.insn import Code, insn_addend
from kdiff.lookup import Lookup
from kdiff.nodes import Node, Reference
from kdiff.owners import behind_padding
from kdiff.resolved import resolved
from kdiff.split import Kind
from kdiff.tables import counts_nothing

_offset = attrgetter("offset")
_made = cast(Callable[[tuple[object, ...]], Reference], partial(tuple.__new__, Reference))
"""Reference._make, which looks again at how many fields there are."""


def references_of(
    obj: Object, arch: Architecture, nodes: list[Node], lookup: Lookup, speaking: Column | None
) -> list[tuple[Reference, ...]]:
    """The references of each node, by offset; none of those in sections that are not `speaking`.

    KdiffError for relocations that kdiff does not know, and for fields that reach beyond their node.
    """
    found, counts = _records(obj, nodes, lookup, speaking)
    number, kinds = np.arange(len(nodes)).repeat(counts), _kinds(arch)
    offset = found["offset"].astype("i8") - lookup.starts.take(number)
    kind = np.minimum(found["type"], len(kinds.plain) - 1)
    alone = np.array([node.table is not None and node.table.indirect for node in nodes], bool)
    beyond = offset + kinds.size.take(kind) > lookup.sizes.take(number)
    alone[number[beyond | found["implicit"] | ~kinds.plain.take(kind)]] = True
    codes, rows = _Codes(obj, arch, nodes), list[Raw]()
    columns: tuple[Column, ...] = number, offset, kind, found["symbol"], found["addend"]
    if np.count_nonzero(alone):
        together, rows = (~alone.take(number)).nonzero()[0], found.rows()
        columns = tuple([each.take(together) for each in columns])
    made = _together(kinds, codes, lookup, *columns)
    result: list[tuple[Reference, ...]] = []
    at = first = 0
    for node, single, count in zip(nodes, alone.tolist(), counts.tolist(), strict=True):
        if single:
            own = records(obj, arch, rows[first : first + count])
            code = codes[node.id] if node.kind is Kind.FUNCTION else None
            result.append(tuple([_reference(obj, arch, node, each, code, lookup) for each in own]))
        else:
            result.append(tuple(made[at : at + count]))
            at += count
        first += count
    for node in nodes:
        if node.kind is not Kind.FUNCTION or not lookup.is_shared(node):
            continue
        if speaking is None or speaking[node.section]:
            further = _resolved(obj, arch, node, codes[node.id], result[node.id], lookup)
            result[node.id] = tuple(sorted((*result[node.id], *further), key=_offset))
    return result


class _Codes(dict[int, Code]):
    """The code of functions that are asked for, by node."""

    def __init__(self, obj: Object, arch: Architecture, nodes: list[Node]) -> None:
        self._obj, self._arch, self.nodes = obj, arch, nodes

    def __missing__(self, number: int) -> Code:
        node = self.nodes[number]
        data = self._obj.contents(node.section)[node.start : node.start + node.size]
        found = self[number] = Code(self._arch, bytes(data))
        return found


def _records(
    obj: Object, nodes: list[Node], lookup: Lookup, speaking: Column | None
) -> tuple[Relocations, Column]:
    """The records in nodes, in the order of these, and how many each of them has."""
    every, bounds, held = obj.relocations, obj.relocation_bounds, lookup.first >= 0
    says = held if speaking is None else held & speaking
    chosen = says.repeat(bounds[1:] - bounds[:-1]).nonzero()[0]
    keys = lookup.key(every["section"].take(chosen), every["offset"].take(chosen).astype("i8"))
    begins = keys.searchsorted(lookup.keys)
    counts = keys.searchsorted(lookup.keys + lookup.sizes) - begins
    total = int(counts.sum())
    if total < len(chosen):
        before = counts.cumsum() - counts
        chosen = chosen.take((begins - before).repeat(counts) + np.arange(total))
    return every.of(chosen), counts


class _Kinds(NamedTuple):
    """What records need of their type, by its number; the last row stands for all that are not known.

    `plain`: those that mean something alone, and count from nothing else. `relative`: in code, what is around
    the field matters.
    """

    howtos: list[Howto | None]
    plain: Column
    relative: Column
    from_end: Column
    size: Column
    bias: Column


@lru_cache(maxsize=64)
def _kinds(arch: Architecture) -> _Kinds:
    count = max(arch.howtos, default=0) + 2
    flags, numbers = np.zeros((3, count), bool), np.zeros((2, count), "i8")
    found = _Kinds([None] * count, *flags, *numbers)
    for kind, howto in arch.howtos.items():
        found.howtos[kind], found.size[kind], found.bias[kind] = howto, howto.size, howto.bias
        found.plain[kind] = howto.alone and not howto.base and howto.entry is None
        found.from_end[kind] = howto.end_relative
        found.relative[kind] = howto.end_relative or howto.pc_relative
    return found


def _together(
    kinds: _Kinds, codes: _Codes, lookup: Lookup,
    number: Column, offset: Column, kind: Column, symbol: Column, addend: Column,
) -> list[Reference]:  # fmt: skip
    """The references of records that say everything by themselves. `number`: the node of each."""
    howtos = [cast(Howto, kinds.howtos[each]) for each in kind.tolist()]
    offsets, branches = offset.tolist(), [False] * len(offset)
    is_code = np.array([node.kind is Kind.FUNCTION for node in codes.nodes], bool).take(number)
    share = kinds.bias.take(kind) * is_code
    told = (is_code & kinds.relative.take(kind)).nonzero()[0]
    ways, last = [], -1
    for at, node in zip(told.tolist(), number.take(told).tolist(), strict=True):
        if node != last:
            last, around = node, codes[node].around
        end, branches[at] = around(howtos[at], offsets[at])
        ways.append(offsets[at] - end)
    share[told] = np.where(kinds.from_end.take(kind.take(told)), np.array(ways, "i8"), share.take(told))
    target, inner = lookup.all_reached(symbol, addend - share)
    columns = offsets, howtos, target.tolist(), inner.tolist(), share.tolist(), branches
    return list(map(_made, zip(*columns, repeat(None), repeat(0), strict=False)))


def _resolved(
    obj: Object, arch: Architecture, node: Node, fields: Code, made: tuple[Reference, ...], lookup: Lookup
) -> Iterator[Reference]:
    """The references that branches without relocations make to other nodes of their section."""
    around = -node.start, int(obj.sections["size"][node.section]) - node.start
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
    obj: Object, arch: Architecture, node: Node, record: Record, code: Code | None, lookup: Lookup
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

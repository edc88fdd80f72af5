# SPDX-License-Identifier: Apache-2.0
"""A reference as the relocation records that store it: the way back from `kdiff.compound`.

In: a reference of a node. Out: `Term`s, one for each record to be written. Hints to the linker do not come
back: without them it leaves code as the assembler laid it out, which is what was compared.
"""

from __future__ import annotations

from typing import NamedTuple

from kdiff.elf.read import RESERVED
from kdiff.graph import Node, Reference, SectionGraph


class Term(NamedTuple):
    """One record. `node`: whose symbol it names; None is no symbol. `label`: the symbol must stand there."""

    type: int
    node: int | None
    addend: int
    label: int | None = None
    """Offset in `node`; None is the node's own symbol, at its start."""


def terms(graph: SectionGraph, source: Node, reference: Reference) -> tuple[Term, ...]:
    """The records for one field, in the order in which they must stand."""
    howto = graph.arch.howtos[reference.howto.type]
    origin = reference.offset - reference.insn_addend
    if howto.stack:
        return _operations(graph, source, reference)
    if howto.labelled:
        return (Term(howto.type, source.id, 0, origin),)
    if howto.partner is None:
        return (Term(howto.type, reference.target, reference.addend + reference.insn_addend),)
    less = reference.minus or _place(graph, source, origin)
    return Term(howto.type, reference.target, reference.addend), Term(howto.partner, *less)


def _place(graph: SectionGraph, source: Node, offset: int) -> tuple[int, int]:
    """A place in the section of `source` as a node and an offset in it."""
    at = source.start + offset
    if not 0 <= offset <= source.size:
        for node in graph.nodes:
            if node.section == source.section and node.start <= at < node.start + node.size:
                return node.id, at - node.start
    return source.id, offset


def _operations(graph: SectionGraph, source: Node, reference: Reference) -> tuple[Term, ...]:
    """A stack machine's computation, whose records say more than the value they compute."""
    obj, target, howtos = graph.obj, graph.nodes[reference.target], graph.arch.howtos
    found = []
    for _, place, kind, symbol, addend, _ in obj.records(source.section).rows():
        if place != source.start + reference.offset or not (howtos[kind].size or howtos[kind].stack):
            continue
        record = obj.symbols[symbol]
        if 0 < int(record["section"]) < RESERVED:
            addend += int(record["value"]) - target.start
        found.append(Term(kind, target.id if symbol else None, addend))
    return tuple(found)

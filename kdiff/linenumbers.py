# SPDX-License-Identifier: Apache-2.0
"""Code that differs in nothing but the numbers of source lines.

WARN, might_sleep and others compile `__LINE__` into the code as the argument of a call, so a patch that
inserts a line changes every such function behind it. In: a pair of functions. Out: the numbers, if all that
differs are constants, loaded into registers, that are line numbers on both sides. There are two proofs: the
next call goes to a function whose argument in that register tells a line and nothing else (a `LineTaker`
row); or both line tables say that one place of the code has moved from the one number to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from kdiff.arch import Architecture, BitField, ConstantLoad
from kdiff.dwarflines import SourceLines
from kdiff.graph import Node, SectionGraph
from kdiff.split import Kind

Tables = Callable[[], tuple[SourceLines, SourceLines]]
"""The line tables of both objects; asked for only where they decide."""


@dataclass(frozen=True, slots=True)
class LineMove:
    """A line number in code: what the instruction at `offset` loads in either object."""

    offset: int
    register: int
    before: int
    after: int


def moved_lines(
    pre: SectionGraph, post: SectionGraph, one: Node, other: Node, tables: Tables
) -> tuple[LineMove, ...]:
    """The line numbers that are all that differs between two functions; empty if anything else does."""
    moves = _differences(pre, post, one, other) if one.kind is Kind.FUNCTION else ()
    if not moves:
        return ()
    if all(_told(post, other, move) for move in moves):
        return moves
    places = _places(one, other, *tables())
    return moves if all(_told(post, other, m) or (m.before, m.after) in places for m in moves) else ()


def _differences(pre: SectionGraph, post: SectionGraph, one: Node, other: Node) -> tuple[LineMove, ...]:
    """The constants that differ; empty if anything else does."""
    ours, theirs = pre.contents(one), post.contents(other)
    before, after = pre.code(one), post.code(other)
    if len(ours) != len(theirs) or [each[:2] for each in before] != [each[:2] for each in after]:
        return ()
    known: tuple[dict[int, int], dict[int, int]] = ({}, {})
    found = []
    for offset, size, _ in after:
        mine, yours = ours[offset : offset + size], theirs[offset : offset + size]
        old, new = _load(pre.arch, mine, known[0]), _load(post.arch, yours, known[1])
        for load, held in zip((old, new), known, strict=True):
            if load is not None:
                held[load[0]] = load[1]
        if mine == yours or _masked(pre, one, offset, mine) == _masked(post, other, offset, yours):
            continue
        if old is None or new is None or old[0] != new[0] or old[1] <= 0 or new[1] <= 0:
            return ()
        found.append(LineMove(offset, old[0], old[1], new[1]))
    return tuple(found)


def _masked(graph: SectionGraph, node: Node, start: int, code: bytes) -> bytes:
    """An instruction without the contents of its fields, which records describe."""
    plain = bytearray(code)
    for reference in graph.references[node.id]:
        at = reference.offset - start
        if at >= 0 and at + reference.howto.size <= len(plain):
            field = slice(at, at + reference.howto.size)
            word = int.from_bytes(plain[field], graph.arch.byte_order) & ~reference.howto.mask
            plain[field] = word.to_bytes(reference.howto.size, graph.arch.byte_order)
    return bytes(plain)


def _load(arch: Architecture, code: bytes, held: dict[int, int]) -> tuple[int, int] | None:
    """(register, constant) if an instruction loads one; `held` are those known before."""
    word = int.from_bytes(code, arch.byte_order)
    for row in arch.constants:
        if row.size != len(code) or word & row.mask != row.match:
            continue
        value = _gathered(row, word)
        if row.source is not None:
            source = _bits(word, row.source) + row.base
            if source not in held:
                return None
            value += held[source]
        return _bits(word, row.register) + row.base, value
    return None


def _gathered(row: ConstantLoad, word: int) -> int:
    value = 0
    for bits in row.fields:
        value |= ((word & bits.mask) >> bits.field_lsb) << bits.value_lsb
    top = _top(row.fields)
    return value - (1 << top) if row.signed and value >> (top - 1) & 1 else value


@lru_cache(maxsize=64)
def _top(fields: tuple[BitField, ...]) -> int:
    return max(bits.value_lsb + bits.width for bits in fields)


def _bits(word: int, where: tuple[int, int]) -> int:
    lowest, width = where
    return word >> lowest & ((1 << width) - 1)


# Proofs ----------------------------------------------------------------------------------------------


def _told(graph: SectionGraph, node: Node, move: LineMove) -> bool:
    """Whether the next call behind the load takes the number as a line; nothing loads the register anew."""
    code = graph.contents(node)
    for offset, size, _ in graph.code(node):
        if offset <= move.offset:
            continue
        branch = graph.arch.branch(code[offset:])
        if branch is not None and (branch.call or not branch.falls_through):
            names = _called(graph, node, offset, offset + branch.length)
            takers = [graph.habits.line_takers[name] for name in names if name in graph.habits.line_takers]
            arguments = graph.arch.arguments
            return any(
                taker.argument < len(arguments) and arguments[taker.argument] == move.register
                for taker in takers
            )
        load = _load(graph.arch, code[offset : offset + size], {})
        if load is not None and load[0] == move.register:
            return False
    return False


def _called(graph: SectionGraph, node: Node, start: int, stop: int) -> Iterator[str]:
    for reference in graph.references[node.id]:
        if start <= reference.offset < stop and not reference.addend:
            yield from graph.nodes[reference.target].names


def _places(one: Node, other: Node, before: SourceLines, after: SourceLines) -> frozenset[tuple[int, int]]:
    """How the lines of a function moved: (line in the pre object, line in the post object) of each place."""
    ours, theirs = (dict(lines.within(node.section, node.start, node.size)) for lines, node in
                    ((before, one), (after, other)))  # fmt: skip
    return frozenset(
        (ours[offset].line, theirs[offset].line)
        for offset in ours.keys() & theirs.keys()
        if ours[offset].file == theirs[offset].file
    )

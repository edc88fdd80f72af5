# SPDX-License-Identifier: Apache-2.0
"""Code that differs in nothing but the numbers of source lines.

WARN, might_sleep and others compile `__LINE__` into the code as the argument of a call, so a patch that
inserts a line changes every such function behind it. In: a pair of functions. Out: the numbers, if all that
differs are constants, loaded into registers, that are line numbers on both sides. That is proved by a table
entry of the function, such as that of WARN, which moved from the one number to the other. Else the line
tables decide if both objects have one: a place of the code must have moved so. Else the number must reach a
call of a function whose argument in that register, or in one it is copied to, tells a line and nothing else
(a `LineTaker` row). It must do so, too, where no place has its line: code of an inlined function has that
function's lines, and not the line of the call that it is told. A place a few lines in front then must have
moved as far.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kdiff.arch import Architecture, BitField, ConstantLoad
from kdiff.graph import Node, Reference, SectionGraph
from kdiff.insn import texts
from kdiff.split import Kind
from kdiff.values import dataclass

if TYPE_CHECKING:
    from kdiff.dwarflines import SourceLines

_FEW = 32
"""Lines between a place of the code and a call behind it that has no place."""
Tables: TypeAlias = "Callable[[], tuple[SourceLines, SourceLines]]"
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
    rows = _rows(pre, post, one, other)
    open_moves = [each for each in moves if (each.before, each.after) not in rows]
    if not open_moves:
        return moves
    before, after = tables()
    if before.sections and after.sections:
        places = _places(one, other, before, after)
        open_moves = [each for each in open_moves if (each.before, each.after) not in places]
        if not all(_is_behind(each, places) for each in open_moves):
            return ()
    return moves if all(_told(post, other, each) for each in open_moves) else ()


def _differences(pre: SectionGraph, post: SectionGraph, one: Node, other: Node) -> tuple[LineMove, ...]:
    """The constants that differ; empty if anything else does."""
    ours, theirs = pre.contents(one), post.contents(other)
    if len(ours) != len(theirs) or not _may_be_loads(pre, post, one, other):
        return ()
    before, after = pre.code(one), post.code(other)
    if before != after and [each[:2] for each in before] != [each[:2] for each in after]:
        return ()
    known: tuple[dict[int, int], dict[int, int]] = ({}, {})
    in_parts = any(row.source is not None for row in pre.arch.constants)
    found = []
    for offset, size, _ in after:
        mine, yours = ours[offset : offset + size], theirs[offset : offset + size]
        if mine == yours and not in_parts:
            continue
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


def _may_be_loads(pre: SectionGraph, post: SectionGraph, one: Node, other: Node) -> bool:
    """Whether each byte that differs may lie in an instruction that loads a constant; if not, why decode."""
    ours, theirs, rows = pre.contents(one), post.contents(other), pre.arch.constants
    sizes = {row.size for row in rows}
    plain, others = bytearray(ours), bytearray(theirs)
    for reference in (*pre.references[one.id], *post.references[other.id]):
        field = slice(reference.offset, reference.offset + reference.howto.size)
        plain[field] = others[field] = bytes(len(plain[field]))

    def loads(code: bytes, at: int, size: int) -> bool:
        word = int.from_bytes(code[at : at + size], pre.arch.byte_order)
        return any(row.size == size and word & row.mask == row.match for row in rows)

    differ = np.frombuffer(plain, "u1") != np.frombuffer(others, "u1")
    return all(
        any(
            loads(ours, start, size) and loads(theirs, start, size)
            for size in sizes
            for start in range(max(at - size + 1, 0), min(at, len(ours) - size) + 1)
        )
        for at in differ.nonzero()[0].tolist()
    )


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


def _adds(arch: Architecture, code: bytes, register: int) -> bool:
    """Whether an instruction adds a further part of a constant to what the register holds."""
    word = int.from_bytes(code, arch.byte_order)
    return any(
        row.source is not None
        and row.size == len(code)
        and word & row.mask == row.match
        and _bits(word, row.source) + row.base == _bits(word, row.register) + row.base == register
        for row in arch.constants
    )


def _gathered(row: ConstantLoad, word: int) -> int:
    value = 0
    for bits in row.fields:
        value |= ((word & bits.mask) >> bits.field_lsb) << bits.value_lsb
    top = _top(row.fields)
    return value - (1 << top) if row.signed and value >> (top - 1) & 1 else value


@lru_cache(maxsize=64)
def _top(fields: tuple[BitField, ...]) -> int:
    return max((bits.value_lsb + bits.width for bits in fields), default=0)


def _bits(word: int, where: tuple[int, int]) -> int:
    lowest, width = where
    return word >> lowest & ((1 << width) - 1)


# Proofs ----------------------------------------------------------------------------------------------


def _told(graph: SectionGraph, node: Node, move: LineMove) -> bool:
    """Whether the number reaches a call that takes it as a line.

    From the load on, all ways through the code are followed up to a call, which ends what an argument's
    register holds, or to an instruction that names the register. Where the number is copied to another one,
    that one is followed as well. What the number may reach on other ways needs no proof: it equals the line
    of that call in both objects.
    """
    arch, code = graph.arch, graph.contents(node)
    sizes = {each.offset: each.size for each in graph.code(node)}
    known = {each.register: each for each in (*arch.saved, *arch.arguments)}
    kept = {each.register for each in arch.saved} - {each.register for each in arch.arguments}
    spelled = {at: text for at, _, text in texts(arch, code)}
    waiting, seen = [(move.offset + sizes[move.offset], move.register)], set[tuple[int, int]]()
    while waiting:
        offset, register = waiting.pop()
        if (offset, register) in seen or offset not in sizes or register not in known:
            continue
        seen.add((offset, register))
        step = code[offset : offset + sizes[offset]]
        copy = _copied(arch, step, register)
        if copy is not None:
            waiting += [(offset + sizes[offset], each) for each in (register, copy)]
            continue
        if not _adds(arch, step, register):
            load = _load(arch, step, {})
            if load is not None and load[0] == register:
                continue
            if known[register].is_in(step, arch.byte_order, spelled.get(offset, "")):
                continue
        branch = arch.branch(code[offset:])
        if branch is None:
            waiting.append((offset + sizes[offset], register))
            continue
        behind = offset + branch.length
        reference = next((r for r in graph.references[node.id] if offset <= r.offset < behind), None)
        if branch.call or (reference is not None and reference.target != node.id):
            if _takes(graph, reference, register):
                return True
        else:
            target = behind + branch.displacement if reference is None else reference.addend
            waiting.append((target, register))
        if branch.falls_through and (not branch.call or register in kept):
            waiting.append((behind, register))
    return False


def _copied(arch: Architecture, code: bytes, register: int) -> int | None:
    """The register that an instruction copies another one to."""
    found = _load(arch, code, {register: 0})
    if found is None or found[1] or found[0] == register or _load(arch, code, {}) is not None:
        return None
    return found[0]


def _takes(graph: SectionGraph, reference: Reference | None, register: int) -> bool:
    """Whether a call goes to a function that takes what is in the register as a line, and nothing else."""
    names = graph.nodes[reference.target].names if reference is not None and not reference.addend else ()
    takers = [graph.habits.line_takers[name] for name in names if name in graph.habits.line_takers]
    arguments = [each.register for each in graph.arch.arguments]
    return any(arguments[each.argument : each.argument + 1] == [register] for each in takers)


def _is_behind(move: LineMove, places: frozenset[tuple[int, int]]) -> bool:
    """Whether a place a few lines in front of a number moved as far."""
    return any((move.before - lines, move.after - lines) in places for lines in range(1, _FEW))


def _rows(pre: SectionGraph, post: SectionGraph, one: Node, other: Node) -> frozenset[tuple[int, int]]:
    """How lines moved by the table entries of a function, such as those of WARN."""
    ours, theirs = (
        [graph.nodes[entry] for entry in graph.entries.get(node.id, ())]
        for graph, node in ((pre, one), (post, other))
    )
    if [each.section_name for each in ours] != [each.section_name for each in theirs]:
        return frozenset()
    return frozenset(
        moved
        for mine, yours in zip(ours, theirs, strict=True)
        for moved in zip(_lines(pre, mine), _lines(post, yours), strict=False)
    )


def _lines(graph: SectionGraph, entry: Node) -> list[int]:
    fields = entry.table.ignored if entry.table is not None else ()
    data = graph.contents(entry)
    return [int.from_bytes(data[at : at + size], graph.arch.byte_order) for at, size in fields]


def _places(one: Node, other: Node, before: SourceLines, after: SourceLines) -> frozenset[tuple[int, int]]:
    """How the lines of a function moved, for each place of its code: (line before, line after)."""
    ours = dict(before.within(one.section, one.start, one.size))
    theirs = dict(after.within(other.section, other.start, other.size))
    return frozenset(
        (ours[offset].line, theirs[offset].line)
        for offset in ours.keys() & theirs.keys()
        if ours[offset].file == theirs[offset].file
    )


# Names of places -------------------------------------------------------------------------------------

_PLACE = re.compile(rb"((?:[^\0]*[^\w./-])?[\w./-]+\.[ch]):[0-9]+\0?")


def same_but_line(one: bytes, other: bytes) -> bool:
    """Whether two strings end in a line of one source file each: `__FILE__ ":" __stringify(__LINE__)`.

    Text may stand in front: `field "a" at file.c:12` (include/linux/fortify-string.h).
    """
    ours, theirs = _PLACE.fullmatch(one), _PLACE.fullmatch(other)
    return ours is not None and theirs is not None and ours[1] == theirs[1]

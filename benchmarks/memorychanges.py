# SPDX-License-Identifier: Apache-2.0
"""Changes of a matched function's memory, one at a time, for bench_strictness.py: from a bit to all of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kdiff.split import Kind
from kdiff.verdict import Fact, Match

if TYPE_CHECKING:
    from bench_strictness import Subject

KINDS = ("bit", "byte", "instruction", "operand", "reference", "copy", "swap")

LINE = 64
"""A cache line: what is moved keeps its place in one, and so its alignment."""

Edits = tuple[tuple[int, bytes], ...]
"""Addresses and what stands there instead; the first is in the function's code."""


def changes(subject: Subject, index: int, rng: random.Random, engine: Any) -> Iterator[tuple[str, Edits]]:
    """Endless (kind, what is changed)."""
    match = subject.run.matches[index]
    code = subject.memory.read(match.address, match.size) or b""
    instructions = list(engine.disasm_lite(code, match.address))
    makers = {
        "bit": lambda: bit(code, match.address, rng),
        "byte": lambda: byte(code, match.address, rng),
        "instruction": lambda: instruction(code, match.address, instructions, rng),
        "operand": lambda: operand(code, match.address, instructions, rng, engine),
        "reference": lambda: reference(subject, match, rng),
        "copy": lambda: copy(subject, match, rng),
        "swap": lambda: swap(subject, index, rng),
    }
    while True:
        for kind in KINDS:
            made = makers[kind]()
            if made is not None:
                yield kind, made


def bit(code: bytes, start: int, rng: random.Random) -> Edits:
    at = rng.randrange(len(code))
    return ((start + at, bytes([code[at] ^ 1 << rng.randrange(8)])),)


def byte(code: bytes, start: int, rng: random.Random) -> Edits:
    at = rng.randrange(len(code))
    return ((start + at, bytes([(code[at] + rng.randrange(1, 256)) & 0xFF])),)


def instruction(code: bytes, start: int, instructions: list[Any], rng: random.Random) -> Edits | None:
    """Another instruction of the function of the same length, or no-ops, in place of one."""
    address, size, _, _ = rng.choice(instructions)
    here = code[address - start : address - start + size]
    others = {code[a - start : a - start + s] for a, s, _, _ in instructions if s == size} | {b"\x90" * size}
    others.discard(here)
    return ((address, rng.choice(sorted(others))),) if others else None


def operand(
    code: bytes, start: int, instructions: list[Any], rng: random.Random, engine: Any
) -> Edits | None:
    """One instruction that stays as long and of the same name, with another operand."""
    address, size, mnemonic, operands = rng.choice(instructions)
    here = code[address - start : address - start + size]
    for _ in range(20):
        at = rng.randrange(size)
        changed = here[:at] + bytes([here[at] ^ 1 << rng.randrange(8)]) + here[at + 1 :]
        found = next(engine.disasm_lite(changed, address), None)
        if found and found[1:3] == (size, mnemonic) and found[3] != operands:
            return ((address, changed),)
    return None


def reference(subject: Subject, match: Match, rng: random.Random) -> Edits | None:
    """A field that leads to another thing of the same kind: function for function, string for string."""
    facts = [fact for fact in match.facts if fact.node is not None]
    if not facts:
        return None
    fact: Fact = rng.choice(facts)
    nodes = subject.graph.nodes
    kind = nodes[fact.node or 0].kind
    others = sorted({a for i, a in subject.run.addresses.items() if nodes[i].kind is kind} - {fact.address})
    if not others:
        return None
    return moved(subject, match, fact, rng.choice(others))


def copy(subject: Subject, match: Match, rng: random.Random) -> Edits | None:
    """A field that leads to a buffer among the kernel's variables that reads as its constant does."""
    nodes, start, stop = subject.graph.nodes, *(subject.book.address(name) for name in ("_sdata", "_edata"))
    facts = [
        fact
        for fact in match.facts
        if fact.node is not None and nodes[fact.node].kind in (Kind.STRING, Kind.CONSTANT)
    ]
    if not facts or start is None or stop is None:
        return None
    fact = rng.choice(facts)
    node = nodes[fact.node or 0]
    text = subject.memory.read(fact.address - fact.offset, node.size)
    if text is None or not 0 <= fact.offset < node.size:
        return None
    place = rng.randrange(start, stop - node.size - LINE, LINE) + (fact.address - fact.offset) % LINE
    field = moved(subject, match, fact, place + fact.offset)
    return (*field, (place, text)) if field else None


def moved(subject: Subject, match: Match, fact: Fact, address: int) -> Edits | None:
    """The field that taught a fact, leading elsewhere; None if it cannot."""
    field = next(
        (
            r
            for r in subject.graph.references[match.node]
            if match.run_offset(r.offset) == fact.place - match.address
        ),
        None,
    )
    if field is None:
        return None
    here = subject.memory.read(fact.place, field.howto.size) or b""
    order = subject.graph.arch.byte_order
    value = field.howto.extract(here, order) + address - fact.address
    try:
        return ((fact.place, field.howto.insert(here, value, order)),)
    except OverflowError:
        return None


def swap(subject: Subject, index: int, rng: random.Random) -> Edits | None:
    """The code of another function, as it would be if it had been linked here."""
    others = [each for each in subject.functions if each != index]
    if not others:
        return None
    here, there = subject.run.matches[index], subject.run.matches[rng.choice(others)]
    size = min(here.size, there.size)
    data = bytearray(subject.memory.read(there.address, size) or b"")
    order = subject.graph.arch.byte_order
    for field in subject.graph.references[there.node]:
        at, howto = there.run_offset(field.offset), field.howto
        if at is not None and howto.pc_relative and at + howto.size <= size:
            old = bytes(data[at : at + howto.size])
            try:
                value = howto.extract(old, order) + there.address - here.address
                data[at : at + howto.size] = howto.insert(old, value, order)
            except OverflowError:
                continue
    if bytes(data) == subject.memory.read(here.address, size):
        return None
    return ((here.address, bytes(data)),)

# SPDX-License-Identifier: Apache-2.0
"""What capstone says of instructions in real code: where branches lead, and which bits fields are.

    assert not disagreements(graph(CROSS, compiled(CROSS, UNIT)))

capstone does not tell where an operand is encoded. So values with a single bit set are stored in a field by
its howto, one after the other. Each time the same number in capstone's text must be the value, or its part
that is stored, or the target that it leads to: always the same of these.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from kdiff.arch import Architecture, Howto, Overflow
from kdiff.graph import Node, SectionGraph
from kdiff.insn import texts
from kdiff.split import Kind

_NUMBER = re.compile(r"(?<![\w.])-?(?:0x[0-9a-f]+|\d+)\b(?![\w.])")
_BRANCHES = {
    "x86_64": r"(?:(?:data16|notrack|bnd) )?(?:j\w+|call|loop\w*) (0x[0-9a-f]+|\d+)",
    "i386": r"(?:(?:data16|notrack|bnd) )?(?:j\w+|call|loop\w*) (0x[0-9a-f]+|\d+)",
    "aarch64": r"(?:b|bl|b\.\w+|cbn?z|tbn?z) (?:.*, )?#(0x[0-9a-f]+|\d+)",
    "arm": r"bl?(?:eq|ne|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)? #(0x[0-9a-f]+|\d+)",
    "ppc64le": r"b(?!\w*a[+-]? )\w*[+-]? (?:.*, )?(0x[0-9a-f]+|\d+)",
    "s390x": r"(?:j\w*|br\w+|c\w*j\w*) (?:.*, )?(-?0x[0-9a-f]+|-?\d+)",
    "riscv64": r"(?:c\.)?(?:j|jal|b\w+) (?:.*, )?(-?0x[0-9a-f]+|-?\d+)",
}
"""capstone's text for relative branches by architecture; the group is their target."""
_ADDED_UP = re.compile(r"cl?g?ij")
"""s390x: capstone 5 adds the operand of these to the target."""


def disagreements(graph: SectionGraph) -> list[str]:
    """A line for each instruction of each function about which kdiff and capstone say different things."""
    return [line for node in graph.nodes if node.kind is Kind.FUNCTION for line in _of_function(graph, node)]


def checked(graph: SectionGraph) -> tuple[int, set[str]]:
    """How many branches there are to compare, and the names of the howtos."""
    branches, howtos = 0, set()
    for node in graph.nodes:
        if node.kind is Kind.FUNCTION:
            code = graph.contents(node)
            branches += sum(graph.arch.branch(code[at:]) is not None for at, _, _ in graph.code(node))
            howtos |= {howto.name for howto, _, _ in _fields(graph, node)}
    return branches, howtos


def _of_function(graph: SectionGraph, node: Node) -> Iterator[str]:
    code = graph.contents(node)
    data = {each.offset for each in graph.references[node.id] if is_data(graph.arch, each.howto)}
    for at, size, known in graph.code(node):
        if known and at not in data:
            yield from _branch(graph.arch, code[at : at + 8], size, graph.where(node, at))
    for howto, instruction, at in _fields(graph, node):
        if not field_agrees(graph.arch, howto, instruction, at):
            yield f"{graph.where(node)}: {howto.name} in {instruction.hex()} is no operand of it"


def _branch(arch: Architecture, code: bytes, size: int, where: str) -> Iterator[str]:
    branch = arch.branch(code[:size])
    text = _text(arch, code[:size])
    found = re.fullmatch(_BRANCHES[arch.name], text)
    target = 0 if branch is None else (branch.length + branch.displacement) % (1 << arch.elf_class)
    if branch is not None and found is None and not target:
        return  # capstone leaves this target out
    if branch is None or found is None:
        if (branch is None) != (found is None):
            yield f"{where}: {text}: kdiff {branch}"
        return
    if branch.length != size:
        yield f"{where}: {text} has {size} bytes, not {branch.length}"
    elif int(found[1], 0) % (1 << arch.elf_class) != target and not _ADDED_UP.match(text):
        yield f"{where}: {text} goes to {target:#x}"


def _fields(graph: SectionGraph, node: Node) -> Iterator[tuple[Howto, bytes, int]]:
    """Each reference's howto, the instruction it lies in, and where in the instruction."""
    code = graph.contents(node)
    found = {at: (at, size) for at, size, known in graph.code(node) if known}
    starts = sorted(found)
    for reference in graph.references[node.id]:
        before = bisect_right(starts, reference.offset)
        if not before:
            continue
        at, size = found[starts[before - 1]]
        howto, inside = reference.howto, reference.offset - at
        if howto.fields and inside + howto.size <= size and not is_data(graph.arch, howto):
            yield howto, code[at : at + size], inside


def is_data(arch: Architecture, howto: Howto) -> bool:
    """Whether a field is a word in code, and no operand: only x86 has operands that are whole words."""
    return howto.plain and not arch.name.endswith("86") and arch.name != "x86_64"


def field_agrees(arch: Architecture, howto: Howto, instruction: bytes, at: int) -> bool:
    """Whether one number in the text follows each bit of the field."""
    candidates: set[tuple[int, str]] | None = None
    modulus = 1 << min(howto.span, arch.elf_class)
    field = slice(at, at + howto.size)
    for value in _values(howto):
        changed = howto.insert(instruction[field], value, arch.byte_order)
        text = _text(arch, instruction[:at] + changed + instruction[at + howto.size :])
        numbers = [int(each, 0) for each in _NUMBER.findall(text)]
        fits = {
            (index - len(numbers), meaning)
            for index, number in enumerate(numbers)
            for meaning, read in (
                ("value", number),
                ("part", number << howto.drops),
                ("target", number - (len(instruction) if howto.end_relative else at - howto.bias)),
            )
            if (read - value) % modulus == 0
        }
        candidates = fits if candidates is None else candidates & fits
    return bool(candidates)


def _values(howto: Howto) -> Iterator[int]:
    """A value for each bit that is stored; for a sign the least value, but none where it flips the others."""
    top = howto.span - 1
    for bits in howto.fields:
        for bit in range(bits.value_lsb, bits.value_lsb + bits.width):
            if bit < top or howto.overflow is not Overflow.SIGNED:
                yield 1 << bit
            elif not any(howto.flips):
                yield -1 << bit


def _text(arch: Architecture, instruction: bytes) -> str:
    return texts(arch, instruction)[0][2]

# SPDX-License-Identifier: Apache-2.0
"""Relative branches: the opcodes whose operand is a displacement from the end of the instruction.

Intel SDM volume 2, opcode maps A.2: 70-7f and 0f 80-8f (jcc), e0-e3 (loop, jrcxz or jecxz), e8 (call), e9, eb
(jmp).
"""

from __future__ import annotations

from kdiff.api import Branch

_PREFIXES = {0x2E: "cs", 0x3E: "ds"}
"""Segment prefixes without effect: the compiler's filler before retpoline calls, and branch hints."""
_CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
_LOOPS = {0xE0: "loopne", 0xE1: "loope", 0xE2: "loop"}
_NO_COUNT = 0xE3
_LONGEST = 15


def branch(code: bytes, no_count: str) -> Branch | None:
    """Decode a relative branch at the start of `code`; None for anything else and for cut-off code.

    `no_count`: what the jump is called that is taken where the counter, a register of that mode, is 0.
    """
    at = 0
    words = []
    while at < len(code) and at < _LONGEST and code[at] in _PREFIXES:
        words.append(_PREFIXES[code[at]])
        at += 1
    found = _opcode(code[at : at + 2])
    if found is None:
        return None
    name, opcode_size, size = found
    name = name or no_count
    start = at + opcode_size
    length = start + size
    if length > min(len(code), _LONGEST):
        return None
    return Branch(
        operation=" ".join((*words, name)),
        length=length,
        displacement=int.from_bytes(code[start:length], "little", signed=True),
        field_offset=start,
        field_size=size,
        call=name == "call",
        falls_through=name != "jmp",
    )


def _opcode(code: bytes) -> tuple[str, int, int] | None:
    """(operation or "" for what has a name in each mode, bytes of opcode, bytes of displacement)."""
    if not code:
        return None
    first = code[0]
    if first == 0xE8:
        return "call", 1, 4
    if first == 0xE9:
        return "jmp", 1, 4
    if first == 0xEB:
        return "jmp", 1, 1
    if 0x70 <= first <= 0x7F:
        return f"j{_CONDITIONS[first - 0x70]}", 1, 1
    if first in _LOOPS:
        return _LOOPS[first], 1, 1
    if first == _NO_COUNT:
        return "", 1, 1
    if first == 0x0F and len(code) > 1 and 0x80 <= code[1] <= 0x8F:
        return f"j{_CONDITIONS[code[1] - 0x80]}", 2, 4
    return None

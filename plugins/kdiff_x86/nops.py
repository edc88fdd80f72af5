# SPDX-License-Identifier: Apache-2.0
"""Encodings of "do nothing" that a kernel's text shows in both modes."""

from __future__ import annotations

from collections.abc import Iterable

_MULTI_BYTE = tuple(
    bytes.fromhex(each)
    for each in (
        "90",
        "6690",
        "0f1f00",
        "0f1f4000",
        "0f1f440000",
        "660f1f440000",
        "0f1f8000000000",
        "0f1f840000000000",
        "660f1f840000000000",
    )
)
"""The processor manuals' recommended forms; x86_nops of the kernel are the first eight."""

_ENDBR_POISON = bytes.fromhex("660f1f00")
_CS_NOP = bytes.fromhex("2e0f1f840000000000")
_LONGEST = 15
"""An x86 instruction has at most 15 bytes."""

_PREFIXED_LONG = tuple(b"\x66" * count + _CS_NOP for count in range(_LONGEST - len(_CS_NOP) + 1))
"""gas and LLVM lengthen the 8-byte form by a cs prefix and as many operand-size prefixes as it takes."""

_PREFIXED_SHORT = tuple(b"\x66" * count + b"\x90" for count in range(2, 5))
"""K8 forms, 3 to 5 bytes: `66 66 90`, `66 66 66 90`, and the kernel's former atomic 5-byte no-op."""


def nops(others: Iterable[bytes] = ()) -> tuple[bytes, ...]:
    """These and others, longest first."""
    found = {*_MULTI_BYTE, _ENDBR_POISON, *_PREFIXED_LONG, *_PREFIXED_SHORT, *others}
    return tuple(sorted(found, key=lambda nop: (-len(nop), nop)))

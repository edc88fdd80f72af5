# SPDX-License-Identifier: Apache-2.0
"""Sizes and offsets of table entries, from facts. Nothing is assumed where a fact is missing."""

from __future__ import annotations

from kdiff.api import KernelFacts

RELATIVE_WORD = 4
"""An `s32` that counts from its own address, as the kernel declares its arrays of code addresses."""

_NARROW = frozenset(("i386", "arm", "mips", "m68k"))
"""Machines with 32-bit pointers."""

Layout = tuple[int, ...]
"""Member offsets of one structure, in the order its reader documents."""


def size(facts: KernelFacts, structure: str) -> int:
    """The size of a structure in bytes, 0 where the kernel's type information does not have it."""
    known = facts.structures.get(structure)
    return known.size if known is not None else 0


def members(facts: KernelFacts, structure: str, *names: str) -> Layout | None:
    """The offsets of members in bytes; None unless all of them are known."""
    known = facts.structures.get(structure)
    if known is None or not known.members.keys() >= set(names):
        return None
    return tuple(known.members[name] for name in names)


def first(facts: KernelFacts, structure: str, *names: str) -> int:
    """The offset of a structure's owner field, whichever of its historical names it has.

    0 without type information: in every table of the kernel that names code, the code comes first.
    """
    for name in names:
        found = members(facts, structure, name)
        if found is not None:
            return found[0]
    return 0


def width(facts: KernelFacts) -> int:
    """The size of a pointer: as configured, else as the machine has it."""
    if facts.config.get("CONFIG_64BIT") == "y":
        return 8
    return 4 if facts.machine in _NARROW or facts.config.get("CONFIG_X86_32") == "y" else 8

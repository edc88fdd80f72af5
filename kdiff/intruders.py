# SPDX-License-Identifier: Apache-2.0
"""Who may have written over code that does not match, for the message: probes and tracers.

In: a mismatch in a kernel in use. Out: words made of the row that fits (`kdiff.habits.Intrusion`), if any. An
answer explains a refusal and never lifts it.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.addressbook import AddressBook
from kdiff.graph import SectionGraph
from kdiff.habits import Intrusion
from kdiff.kernel import Site
from kdiff.memory import MemorySource
from kdiff.verdict import Mismatch

_LONGEST = 16
"""Bytes that surely hold one instruction."""
_PAGE = 4096
"""Code made at run time is listed by where it, or its page, begins."""


def intruder(
    graph: SectionGraph, sites: Iterable[Site], memory: MemorySource, book: AddressBook, mismatch: Mismatch
) -> tuple[str, str]:
    """Tell who, as `; a breakpoint is set at FUNCTION+OFFSET`, and what to do; both empty without a clue.

    `sites`: those of the node that does not match.
    """
    found = _row(graph, sites, memory, book, mismatch)
    if found is None:
        return "", ""
    label = graph.nodes[mismatch.node].label
    return f"; {found.what} at {label}+{mismatch.run_offset:#x}", found.remedy


def _row(
    graph: SectionGraph, sites: Iterable[Site], memory: MemorySource, book: AddressBook, mismatch: Mismatch
) -> Intrusion | None:
    address = mismatch.address + mismatch.run_offset
    data = memory.read(address, _LONGEST) or b""
    rewrites = {site.rewrite for site in sites if site.offset == mismatch.offset}
    branch = graph.arch.branch(data) if data else None
    target = None if branch is None else address + branch.length + branch.displacement
    for row in graph.habits.intrusions:
        if not data.startswith(row.found) or (row.rewrite and row.rewrite not in rewrites):
            continue
        if target is None or _leads(book, row, target):
            return row
    return None


def _leads(book: AddressBook, row: Intrusion, target: int) -> bool:
    """Whether a branch leads to code of the kind a row names, or, if it names none, out of the kernel."""
    if row.symbol:
        return any(
            each.owner == row.owner
            and each.name.startswith(row.symbol)
            and 0 <= target - each.address < _PAGE
            for each in book.entries
        )
    start, stop = book.address("_text"), book.address("_end")
    return start is not None and stop is not None and not start <= target < stop

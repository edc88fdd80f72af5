# SPDX-License-Identifier: Apache-2.0
"""From virtual to physical addresses, through the page tables of a machine seen from outside.

In: a reader of physical memory, how an architecture's tables are laid out (its `PageTables`), where the top
table may be. Out: the `Translation` that maps a kernel. Tables may be damaged or hostile: a
walk reads as many tables as there are levels, a search as many as `_MOST_TABLES`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field

from kdiff.arch import PageTables, Root
from kdiff.errors import KdiffError
from kdiff.values import dataclass

Read = Callable[[int, int], bytes | None]
"""Exactly `size` bytes at an address, or None."""

_MOST_TABLES, _MOST_PAGES = 1 << 13, 1 << 16
"""What a search may read and find: a kernel's image takes a few tables and large pages."""


@dataclass(frozen=True, slots=True)
class Run:
    """`size` bytes at a virtual address that lie at `physical` on."""

    address: int
    size: int
    physical: int


@dataclass(frozen=True, slots=True)
class Translation:
    """One address space. Tables that were read are kept."""

    tables: PageTables
    read: Read
    root: Root
    place: str
    """For messages."""
    _kept: dict[int, tuple[int, ...] | None] = field(default_factory=dict)

    def physical(self, address: int) -> tuple[int, int] | None:
        """Where an address lies, and how many bytes from there on lie behind each other; None if nowhere."""
        rows = self.tables
        table = self.root.address
        for level in range(self.root.levels - 1, -1, -1):
            shift = rows.page + level * rows.bits
            entries = self._entries(table)
            entry = entries[address >> shift & (1 << rows.bits) - 1] if entries else 0
            if entry & rows.present != rows.present:
                return None
            if not level or (level <= rows.large_levels and entry & rows.large):
                inside = address & (1 << shift) - 1
                return (self._target(entry) >> shift << shift) + inside, (1 << shift) - inside
            table = self._target(entry)
        return None

    def runs(self, first: int, last: int) -> tuple[Run, ...]:
        """All that is mapped from `first` up to `last`, what lies behind each other on both sides as one."""
        merged: list[Run] = []
        for count, run in enumerate(self._leaves(self.root.address, self.root.levels - 1, first, last)):
            if count >= _MOST_PAGES:
                raise self._endless()
            before = merged[-1] if merged else None
            if (
                before is not None
                and before.address + before.size == run.address
                and before.physical + before.size == run.physical
            ):
                merged[-1] = Run(before.address, before.size + run.size, before.physical)
            else:
                merged.append(run)
        return tuple(merged)

    def _leaves(self, table: int, level: int, first: int, last: int) -> Iterator[Run]:
        """Each page that a table and those below it map from `first` up to `last`."""
        rows = self.tables
        shift = rows.page + level * rows.bits
        entries = self._entries(table)
        for index in range(first >> shift, ((last - 1) >> shift) + 1) if entries else ():
            entry = entries[index & (1 << rows.bits) - 1] if entries else 0
            if entry & rows.present != rows.present:
                continue
            start, stop = max(first, index << shift), min(last, index + 1 << shift)
            if not level or (level <= rows.large_levels and entry & rows.large):
                page = self._target(entry) >> shift << shift
                yield Run(start, stop - start, page + (start & (1 << shift) - 1))
            else:
                yield from self._leaves(self._target(entry), level - 1, start, stop)

    def _target(self, entry: int) -> int:
        return entry & self.tables.address & ~self.root.encrypted

    def _entries(self, table: int) -> tuple[int, ...] | None:
        if table not in self._kept:
            if len(self._kept) >= _MOST_TABLES:
                raise self._endless()
            count = 1 << self.tables.bits
            data = self.read(table, 8 * count)
            self._kept[table] = struct.unpack(f"<{count}Q", data) if data is not None else None
        return self._kept[table]

    def _endless(self) -> KdiffError:
        return KdiffError(
            "memory.page_tables",
            f"the page tables below {self.root.address:#x} map more than a kernel can be",
            place=self.place,
            remedy="take the memory again",
        )

    def virtual(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes at a virtual address; None if any is not mapped or not there."""
        pieces = []
        while size:
            found = self.physical(address)
            piece = self.read(found[0], min(size, found[1])) if found else None
            if piece is None:
                return None
            pieces.append(piece)
            address += len(piece)
            size -= len(piece)
        return b"".join(pieces)


def find_kernel(
    tables: PageTables, read: Read, roots: Iterable[Root], place: str
) -> tuple[Translation, tuple[Run, ...]] | None:
    """Of these address spaces the one that maps most where a kernel's image may be, and what it maps there.

    None if none maps anything there. `place` is for messages.
    """
    best: tuple[Translation, tuple[Run, ...]] | None = None
    for root in roots:
        space = Translation(tables, read, root, place)
        runs = space.runs(*tables.image)
        if runs and (best is None or _mapped(runs) > _mapped(best[1])):
            best = space, runs
    return best


def _mapped(runs: Iterable[Run]) -> int:
    return sum(each.size for each in runs)

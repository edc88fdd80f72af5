# SPDX-License-Identifier: Apache-2.0
"""From virtual to physical addresses, through the page tables of a machine seen from outside.

In: a reader of physical memory, how an architecture's tables are laid out (`PageTables`, a row of data),
where the top table may be. Out: the `Translation` that maps a kernel. Tables may be damaged or hostile: a
walk reads as many tables as there are levels, a search as many as `_MOST_TABLES`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kdiff.errors import KdiffError

Read = Callable[[int, int], bytes | None]
"""Exactly `size` bytes at an address, or None."""

_MOST_TABLES, _MOST_PAGES = 1 << 13, 1 << 16
"""What a search may read and find: a kernel's image takes a few tables and large pages."""


@dataclass(frozen=True, slots=True)
class PageTables:
    """A radix tree of 64-bit entries.

    `image` is where the kernel's own code and data may lie, from the first address up to the one behind;
    `modules` where those of modules may.
    """

    bits: int
    """Address bits that one table resolves."""
    page: int
    """Address bits within a page."""
    present: int
    """Bits of an entry that must all be set."""
    large: int
    """Bits that make an entry of a level above 0 a page."""
    large_levels: int
    """The highest level at which an entry can be a page; the lowest level is 0."""
    address: int
    """Bits of an entry that are a physical address."""
    image: tuple[int, int]
    modules: tuple[int, int]


X86_64 = PageTables(
    bits=9,
    page=12,
    present=1,
    large=0x80,
    large_levels=2,
    address=0x000F_FFFF_FFFF_F000,
    image=(0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_C000_0000),
    modules=(0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_FF00_0000),
)
"""Intel SDM volume 3, 4.5; the windows: Documentation/arch/x86/x86_64/mm.rst of the kernel, with KASLR."""

TABLES: Mapping[int, PageTables] = {62: X86_64}
"""ELF machine to page tables."""


@dataclass(frozen=True, slots=True)
class Run:
    """`size` bytes at a virtual address that lie at `physical` on."""

    address: int
    size: int
    physical: int


@dataclass(frozen=True, slots=True)
class Root:
    """The physical address of the top one of `levels` tables.

    `encrypted`: bits of an entry that belong to memory encryption and not to the address.
    """

    address: int
    levels: int
    encrypted: int = 0


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


def x86_roots(cr3: int, cr4: int) -> tuple[Root, ...]:
    """Where the kernel's tables may be while a processor has these control registers.

    While user code runs, page table isolation has it use the upper one of two tables that lie side by side.
    """
    levels = 5 if cr4 & 1 << 12 else 4
    table = cr3 & X86_64.address
    return tuple(Root(address, levels) for address in dict.fromkeys((table & ~0x1000, table)))


def find_kernel(
    machine: int, read: Read, roots: Iterable[Root], place: str
) -> tuple[Translation, tuple[Run, ...]] | None:
    """Of these address spaces the one that maps most where a kernel's image may be, and what it maps there.

    None if none maps anything there, or the machine's page tables are not known. `place` is for messages.
    """
    tables = TABLES.get(machine)
    best: tuple[Translation, tuple[Run, ...]] | None = None
    if tables is None:
        return None
    for root in roots:
        space = Translation(tables, read, root, place)
        runs = space.runs(*tables.image)
        if runs and (best is None or _mapped(runs) > _mapped(best[1])):
            best = space, runs
    return best


def _mapped(runs: Iterable[Run]) -> int:
    return sum(each.size for each in runs)

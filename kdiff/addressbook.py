# SPDX-License-Identifier: Apache-2.0
"""The symbols of one kernel: names to addresses and back.

In: the lines of its symbol table, or columns of them, in the order of that table. Livepatch counts equal
names in that order (kernel/livepatch/core.c, klp_find_callback). A table has 100 000 lines and more, and few
are ever asked for, so it is kept as columns, and an entry is made when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import compress
from operator import ne
from typing import NamedTuple

KERNEL = "vmlinux"
"""The owner of what is not a module's."""


class BookEntry(NamedTuple):
    """One line of kallsyms. `position` counts equal names of one owner in table order, from 1."""

    name: str
    address: int
    kind: str
    """The letter nm prints: `T`, `t`, `D`, `A` ..."""
    owner: str = KERNEL
    position: int = 1


class AddressBook:
    """The symbols of one kernel; what is returned is in table order where nothing else is said."""

    def __init__(self, lines: Iterable[tuple[str, int, str, str]]) -> None:
        """`lines`: (name, address, kind, owner) in table order."""
        self.names: Sequence[str] = ()
        self.addresses: Sequence[int] = ()
        self._kinds: Sequence[str] = ()
        self._owners: Sequence[str] = ()
        self._beside: frozenset[str] = frozenset()
        columns = tuple(zip(*lines, strict=True))
        if columns:
            self.names, self.addresses, self._kinds, self._owners = columns

    @classmethod
    def of_columns(cls, names: Sequence[str], addresses: Sequence[int], kinds: Sequence[str]) -> AddressBook:
        """The book of vmlinux's symbols; the columns are of one length, and `kinds` may be a string."""
        if not len(names) == len(addresses) == len(kinds):
            raise ValueError(f"columns of {len(names)}, {len(addresses)} and {len(kinds)} symbols")
        return cls._of(names, addresses, kinds, (KERNEL,) * len(names))

    @cached_property
    def entries(self) -> tuple[BookEntry, ...]:
        """All lines of the table."""
        return tuple(map(self._entry, range(len(self.names))))

    def lines(self) -> Iterator[tuple[str, int, str, str]]:
        """(name, address, kind, owner) of every entry."""
        return zip(self.names, self.addresses, self._kinds, self._owners, strict=True)

    def only(self, owner: str) -> AddressBook:
        """The part of one owner."""
        own = [each == owner for each in self._owners]
        return self._of(
            tuple(compress(self.names, own)),
            tuple(compress(self.addresses, own)),
            tuple(compress(self._kinds, own)),
            tuple(compress(self._owners, own)),
        )

    def joined(self, lines: Iterable[tuple[str, int, str, str]]) -> AddressBook:
        """This book with the lines of further owners behind it."""
        more = AddressBook(lines)
        return self._of(
            (*self.names, *more.names),
            (*self.addresses, *more.addresses),
            (*self._kinds, *more._kinds),
            (*self._owners, *more._owners),
        )

    @staticmethod
    def _of(
        names: Sequence[str], addresses: Sequence[int], kinds: Sequence[str], owners: Sequence[str]
    ) -> AddressBook:
        book = AddressBook(())
        book.names, book.addresses, book._kinds, book._owners = names, addresses, kinds, owners
        return book

    def beside(self, other: AddressBook) -> AddressBook:
        """This book with the lines of all further owners of another, from whom nobody imports (`of_any`)."""
        owners = frozenset(self._owners)
        found = self.joined(line for line in other.lines() if line[3] not in owners)
        found._beside = frozenset(found._owners) - owners
        return found

    def named(self, name: str, owner: str = KERNEL) -> tuple[BookEntry, ...]:
        """All entries of that name and owner."""
        return tuple([self._entry(row) for row in self._rows(name) if self._owners[row] == owner])

    def of_any(self, name: str) -> tuple[BookEntry, ...]:
        """All entries of that name, whoever owns them, but for owners that are only `beside`."""
        return tuple([self._entry(row) for row in self._rows(name) if self._owners[row] not in self._beside])

    def at(self, address: int) -> tuple[BookEntry, ...]:
        """All entries at exactly that address."""
        addresses, rows = self._in_order
        first = bisect_left(addresses, address)
        return tuple(map(self._entry, rows[first : bisect_right(addresses, address, first)]))

    def address(self, name: str) -> int | None:
        """The address of a name that is unique in vmlinux, else None."""
        rows = (row for row in self._rows(name) if self._owners[row] == KERNEL)
        only = next(rows, None)
        return self.addresses[only] if only is not None and next(rows, None) is None else None

    def sympos(self, entry: BookEntry) -> int:
        """The position livepatch wants: 0 for a unique name, else counted from 1."""
        return entry.position if len(self.named(entry.name, entry.owner)) > 1 else 0

    @cached_property
    def _last(self) -> Mapping[str, int]:
        """The last row of each name."""
        return dict(zip(self.names, range(len(self.names)), strict=True))

    @cached_property
    def _repeated(self) -> Mapping[str, tuple[int, ...]]:
        """The rows of each name that has several."""
        last = self._last
        found: dict[str, list[int]] = {}
        if len(last) != len(self.names):
            rows = range(len(self.names))
            for row in compress(rows, map(ne, map(last.__getitem__, self.names), rows)):
                found.setdefault(self.names[row], []).append(row)
        return {name: (*rows, last[name]) for name, rows in found.items()}

    @cached_property
    def _positions(self) -> Mapping[int, int]:
        """The position of each of those rows."""
        found = {}
        for rows in self._repeated.values():
            counts: dict[str, int] = {}
            for row in rows:
                owner = self._owners[row]
                found[row] = counts[owner] = counts.get(owner, 0) + 1
        return found

    @cached_property
    def _in_order(self) -> tuple[Sequence[int], Sequence[int]]:
        """Addresses ascending, and the row of each; equal ones in table order."""
        rows = sorted(range(len(self.names)), key=self.addresses.__getitem__)
        return [self.addresses[row] for row in rows], rows

    def _rows(self, name: str) -> tuple[int, ...]:
        last = self._last.get(name)
        return () if last is None else self._repeated.get(name, (last,))

    def _entry(self, row: int) -> BookEntry:
        return BookEntry(
            self.names[row],
            self.addresses[row],
            self._kinds[row],
            self._owners[row],
            self._positions.get(row, 1),
        )

# SPDX-License-Identifier: Apache-2.0
"""Whether a place is in memory that nobody writes to once the kernel runs.

In: what plugins say of the kernel's memory (`ReadOnlyMemory`), a memory and its address book. Strings and
constants without a name are told by their contents alone, and a buffer may hold the same contents at this
moment: only where nobody writes do equal contents stay equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from kdiff.addressbook import AddressBook
from kdiff.arch import ByteOrder
from kdiff.habits import Habits
from kdiff.memory import Extent, MemorySource
from kdiff.module_symbols import module_constants


class ReadOnly:
    """What one kernel and its modules have of such memory."""

    def __init__(self, habits: Habits, memory: MemorySource, book: AddressBook, order: ByteOrder) -> None:
        self._habits, self._memory, self._book, self._order = habits, memory, book, order

    def holds(self, address: int, size: int) -> bool:
        """Whether all bytes of a place are in such memory, for all that rows and the memory itself say."""
        return _holds(self._kernels, address, size) or _holds(self._modules, address, size)

    @cached_property
    def _kernels(self) -> tuple[Extent, ...]:
        """The kernel's own, and what the file of a module says."""
        found = [each for each in self._memory.extents() if each.writable is False]
        for row in self._habits.read_only:
            start, end = self._book.address(row.name), self._book.address(row.end)
            if start is not None and end is not None and start < end:
                found.append(Extent(start, end - start))
        return tuple(found)

    @cached_property
    def _modules(self) -> tuple[Extent, ...]:
        """What a kernel in use says of its modules, updates among them."""
        if self._memory.pristine:
            return ()
        return module_constants(self._memory.read, self._book, self._memory.facts().structures, self._order)


def _holds(parts: Iterable[Extent], address: int, size: int) -> bool:
    return any(each.address <= address and address + size <= each.address + each.size for each in parts)

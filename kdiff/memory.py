# SPDX-License-Identifier: Apache-2.0
"""Where run code and run data are read from.

A `MemorySource` answers for one kernel: bytes at an address, and the symbols that kernel itself lists.
Sources are opened by scheme (`image:/boot/vmlinuz`, `kcore:`) through `MemoryScheme` values of plugins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from kdiff.addressbook import AddressBook
from kdiff.arch import Architectures
from kdiff.kernel import KernelFacts
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """`size` bytes from an address on. `writable`: whether the file says that a kernel writes there."""

    address: int
    size: int
    writable: bool | None = None


def merged(parts: Iterable[tuple[int, int]]) -> tuple[Extent, ...]:
    """Addresses and sizes, in order of address, with what lies behind each other as one."""
    found: list[Extent] = []
    for address, size in parts:
        if found and found[-1].address + found[-1].size == address:
            found[-1] = Extent(found[-1].address, found[-1].size + size)
        else:
            found.append(Extent(address, size))
    return tuple(found)


class MemorySource(Protocol):
    """The memory of one kernel, on disk or alive."""

    @property
    def name(self) -> str:
        """What a person calls it: `image:/boot/vmlinuz-6.1.0-56-amd64`."""

    @property
    def pristine(self) -> bool:
        """True where nothing has run yet, so that writable data still holds its initial values."""

    def read(self, address: int, size: int) -> bytes | None:
        """Return exactly `size` bytes, or None where that memory does not exist in this source."""

    def address_book(self) -> AddressBook:
        """The kernel's own list of symbols (kallsyms), at the addresses `read` uses."""

    def facts(self) -> KernelFacts:
        """What can be observed of this kernel here."""

    def extents(self) -> tuple[Extent, ...]:
        """What `read` can read, in order of address; of a kernel in use at least its own code and data."""


@dataclass(frozen=True, slots=True)
class MemoryScheme:
    """One kind of source.

    `open` takes what follows the colon and the architectures of all plugins; KdiffError if it cannot.
    """

    scheme: str
    summary: str
    open: Callable[[str, Architectures], MemorySource]

# SPDX-License-Identifier: Apache-2.0
"""The kernel of a machine that QEMU runs.

The machine stands still while the kernel's own code and data are copied, once and as a whole, with the list
of modules. Other addresses, such as the code of a module, are read in short sessions of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kdiff.api import (
    Architectures,
    Extent,
    KdiffError,
    LiveKernel,
    Run,
    Translation,
    architecture_of,
    find_kernel,
    merged,
)
from kdiff_memory_gdb.stub import Stub

_WHERE = re.compile(r"(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})")
_PAGE = 1 << 12
_AT_ONCE = 16
"""Pages that a session of its own reads."""


class GdbMemory(LiveKernel):
    """Satisfies `MemorySource`."""

    def __init__(self, place: str, connect: Callable[[], Stub], architectures: Architectures) -> None:
        self._place, self._connect, self._architectures = place, connect, architectures
        self._pages: dict[int, bytes | None] = {}
        with connect() as stub:
            self._session: Translation | None
            self._session, runs = _space(stub, place, architectures)
            extents = merged((run.address, run.size) for run in runs)
            read = ((each, self._session.virtual(each.address, each.size)) for each in extents)
            self._copied = tuple((each.address, data) for each, data in read if data is not None)
            image = tuple(Extent(address, len(data)) for address, data in self._copied)
            super().__init__(place, self._read, image, architecture_of(architectures, stub.machine, "little"))
            self.address_book()
        self._session = None

    def _read(self, address: int, size: int) -> bytes | None:
        for start, data in self._copied:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        pieces = []
        while size:
            number, inside = divmod(address, _PAGE)
            page = self._page(number)
            if page is None:
                return None
            piece = page[inside : inside + size]
            pieces.append(piece)
            address += len(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _page(self, number: int) -> bytes | None:
        if number not in self._pages:
            if self._session is not None:
                self._pages[number] = self._session.virtual(number * _PAGE, _PAGE)
            else:
                with self._connect() as stub:
                    space, _ = _space(stub, self._place, self._architectures)
                    for each in range(number, number + _AT_ONCE):
                        self._pages[each] = space.virtual(each * _PAGE, _PAGE)
        return self._pages[number]


def open_memory(where: str, architectures: Architectures) -> GdbMemory:
    """Copy the kernel of the machine behind `HOST:PORT`; KdiffError `gdb.*`, `memory.*`."""
    found = _WHERE.fullmatch(where)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        raise KdiffError(
            "gdb.where", f"{where!r} is not HOST:PORT", remedy="gdb:127.0.0.1:1234 is what QEMU's -s opens"
        )
    host, port, place = found[1] or found[2] or "127.0.0.1", int(found[3]), f"gdb:{where}"
    return GdbMemory(place, lambda: Stub(host, port, place), architectures)


def _space(stub: Stub, place: str, architectures: Architectures) -> tuple[Translation, tuple[Run, ...]]:
    """The address space the first processor is in, and the kernel's image there."""
    architecture = architecture_of(architectures, stub.machine, "little")
    tables = architecture.page_tables if architecture else None
    if tables is None:
        raise KdiffError(
            "gdb.machine",
            f"page tables of ELF machine {stub.machine} cannot be read without a plugin",
            place=place,
            remedy="do not disable the plugin of its architecture",
        )
    roots = tables.roots(*(stub.register(name) for name in tables.registers))
    found = find_kernel(tables, stub.read, roots, place)
    if found is None:
        raise KdiffError(
            "gdb.no_kernel",
            "the machine has not mapped a kernel yet",
            place=place,
            remedy="wait until it has started",
        )
    return found

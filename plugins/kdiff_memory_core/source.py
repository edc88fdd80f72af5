# SPDX-License-Identifier: Apache-2.0
"""Open a dump as the memory of the kernel in it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

from kdiff.api import (
    AddressBook,
    Architecture,
    Architectures,
    Extent,
    KdiffError,
    LiveKernel,
    PageTables,
    Run,
    Translation,
    architecture_of,
    find_kernel,
    merged,
)
from kdiff_memory_core import flattened, kdump
from kdiff_memory_core.elfcore import ElfCore
from kdiff_memory_core.flattened import Flattened
from kdiff_memory_core.kdump import KdumpCore


class CoreMemory(LiveKernel):
    """The kernel in a dump; satisfies `MemorySource`."""

    def __init__(
        self,
        name: str,
        core: ElfCore | KdumpCore,
        architecture: Architecture | None,
        space: Translation | None,
        image: tuple[Extent, ...],
    ) -> None:
        self._core, self._space = core, space
        super().__init__(name, self._read, image, architecture, core.order)

    def address_book(self) -> AddressBook:
        """As of any kernel that has run; KdiffError `core.contradiction` if the dump says otherwise."""
        return self._checked

    @cached_property
    def _checked(self) -> AddressBook:
        book, left = super().address_book(), self._core.left
        start, release = left.symbol("_stext"), self.facts().release
        for what, said, found in (
            ("release", left.release or release, release),
            ("_stext", start, start if start is None else book.address("_stext")),
        ):
            if said != found:
                raise KdiffError(
                    "core.contradiction",
                    f"VMCOREINFO and the kernel in the dump do not agree about {what}: {said!r}, {found!r}",
                    place=self.name,
                    remedy="take the dump again; it may hold the kernel that was crashed into, too",
                )
        return book

    def _read(self, address: int, size: int) -> bytes | None:
        found = self._core.read_virtual(address, size)
        return found if found is not None or self._space is None else self._space.virtual(address, size)


def open_memory(path: str, architectures: Architectures) -> CoreMemory:
    """Open a dump; a file that is unchanged is opened once. KdiffError `core.*`, `image.*`."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _opened(path, architectures, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=2)
def _opened(path: str, architectures: Architectures, _version: tuple[int, ...]) -> CoreMemory:
    core = _format(_map(path), path)
    architecture = architecture_of(architectures, core.machine, core.order)
    tables = architecture.page_tables if architecture else None
    found = find_kernel(tables, core.read_physical, core.left.roots(tables), path) if tables else None
    if found is not None:
        image = merged(_in_the_dump(core, found[1]))
    else:
        image = _as_told(core, tables)
    if not image:
        raise _untranslatable(core, tables, path)
    return CoreMemory(f"core:{path}", core, architecture, found[0] if found else None, image)


def _as_told(core: ElfCore | KdumpCore, tables: PageTables | None) -> tuple[Extent, ...]:
    """Where the dump itself says that the kernel was mapped.

    Of a machine whose layout is not known only what VMCOREINFO points at: all else may be all its memory.
    """
    if tables is not None:
        return core.mapped(*tables.image)
    start = core.left.symbol("_stext")
    mapped = core.mapped(0, 1 << 64) if start is not None else ()
    return tuple(each for each in mapped if start is not None and 0 <= start - each.address < each.size)


def _in_the_dump(core: ElfCore | KdumpCore, runs: tuple[Run, ...]) -> Iterator[tuple[int, int]]:
    """What is mapped and was dumped: pages may have been left out, those of freed boot code among them."""
    for run in runs:
        for physical, size in core.stored(run.physical, run.size):
            yield run.address + physical - run.physical, size


def _format(data: mmap.mmap, path: str) -> ElfCore | KdumpCore:
    whole: mmap.mmap | Flattened = data
    if data[:16] == flattened.MAGIC:
        whole = Flattened(data, path)
    magic = whole[:8]
    if magic[:4] == b"\x7fELF":
        return ElfCore(whole, path)
    if magic == kdump.MAGIC:
        return KdumpCore(whole, path)
    raise KdiffError(
        "core.unknown",
        f"neither an ELF core nor a compressed dump (it begins with {magic.hex(' ')})",
        place=path,
        remedy="give what kdump, makedumpfile or QEMU's dump-guest-memory wrote; make an ELF core of others",
    )


def _map(path: str) -> mmap.mmap:
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise KdiffError("core.truncated", "the file is empty", place=path, remedy="copy it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError | ValueError) -> KdiffError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return KdiffError("core.unreadable", reason, place=path, remedy="name a dump you may read")


def _untranslatable(core: ElfCore | KdumpCore, tables: PageTables | None, path: str) -> KdiffError:
    if tables is None:
        return KdiffError(
            "core.machine",
            f"the dump does not say where the kernel was, and page tables of ELF machine {core.machine} "
            "cannot be read",
            place=path,
            remedy="take a dump that has virtual addresses and VMCOREINFO: kdump's /proc/vmcore",
        )
    return KdiffError(
        "core.untranslatable",
        "nothing in the dump says where the kernel was mapped, or nothing is mapped there",
        place=path,
        remedy="dump with VMCOREINFO (kdump; QEMU: -device vmcoreinfo and the guest's qemu_fw_cfg), or with "
        "dump-guest-memory -p",
    )

# SPDX-License-Identifier: Apache-2.0
"""Open a file as the memory of a kernel."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from functools import cached_property, lru_cache
from pathlib import Path

from kdiff.api import (
    AddressBook,
    Architecture,
    Architectures,
    ElfImage,
    Extent,
    KdiffError,
    KernelFacts,
    Segment,
    architecture_of,
    decode_kallsyms,
    image_sections,
    image_symbols,
    observe,
    open_image,
)
from kdiff_memory_image import store
from kdiff_memory_image.unpack import unpack

_ET_CORE = 4
_RAW = re.compile(r"(.+)@0x([0-9a-fA-F]{1,16})")


class ImageMemory:
    """The memory that one file holds; satisfies `MemorySource`."""

    def __init__(self, name: str, image: ElfImage, architecture: Architecture | None) -> None:
        self._architecture = architecture
        self.name = name
        self.pristine = image.type != _ET_CORE
        self._image = image

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes; of an unstarted kernel's .bss, zeros."""
        return self._image.read(address, size)

    def address_book(self) -> AddressBook:
        """The kallsyms tables inside, else an unstripped vmlinux's symbol table in order of address."""
        return self._book

    def facts(self) -> KernelFacts:
        """What memory says; KdiffError as `address_book`, and for broken type information."""
        return self._facts

    def extents(self) -> tuple[Extent, ...]:
        """Its segments."""
        return tuple(Extent(each.address, each.size) for each in self._image.segments)

    @cached_property
    def _book(self) -> AddressBook:
        image = self._image
        failure: KdiffError | None = None
        for each in image.segments:
            try:
                return decode_kallsyms(
                    image.data,
                    each.address,
                    image.byte_order,
                    8 if image.elf_class == 64 else 4,
                    slice(each.offset, each.offset + each.file_size),
                )
            except KdiffError as error:
                failure = failure or error
        symbols = image_symbols(image) if self.pristine else ()
        if not symbols:
            raise KdiffError(
                "kallsyms.not_found",
                "the kernel's symbol table was not found in this image",
                place=image.place,
                remedy="give the whole image of a kernel that has CONFIG_KALLSYMS",
            ) from failure
        return AddressBook(symbols)

    @cached_property
    def _facts(self) -> KernelFacts:
        image = self._image
        return observe(
            image.read, self._book, self._architecture, image.byte_order, (image.data,), self._contents
        )

    def _contents(self, name: str) -> bytes | None:
        if not self.pristine:
            return None
        image = self._image
        found = next((each for each in image_sections(image) if each.name == name), None)
        return bytes(image.data[found.offset : found.offset + found.size]) if found else None


def open_memory(text: str, architectures: Architectures) -> ImageMemory:
    """Open `FILE` or `FILE@0xBASE`; a file that is unchanged is opened once. KdiffError `image.*`."""
    raw = _RAW.fullmatch(text)
    path, base = (raw[1], int(raw[2], 16)) if raw else (text, None)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _opened(path, base, architectures, version)


@lru_cache(maxsize=4)
def _opened(
    path: str, base: int | None, architectures: Architectures, _version: tuple[int, ...]
) -> ImageMemory:
    data = _map(path)
    if base is not None:
        segment = Segment(base, len(data), 0, len(data))
        image = ElfImage(path, data, _ET_CORE, 0, 64 if base >> 32 else 32, "little", (segment,))
        return ImageMemory(f"image:{path}@{base:#x}", image, None)
    if bytes(data[:4]) != b"\x7fELF":
        data = _unpacked(data, path)
    if bytes(data[16:18]) in (b"\1\0", b"\0\1"):
        raise KdiffError(
            "image.object",
            "an object or a module, which has no addresses before it is loaded",
            place=path,
            remedy="give the kernel's image; a module for `kdiff match` goes to --module",
        )
    image = open_image(data, path)
    if image.type == _ET_CORE:
        raise KdiffError("image.core", "a core, not an image", place=path, remedy=f"give it as core:{path}")
    if image.data.find(b"Linux version ") < 0:
        raise KdiffError("image.not_kernel", "an ELF file, but no Linux kernel", place=path)
    architecture = architecture_of(architectures, image.machine, image.byte_order)
    return ImageMemory(f"image:{path}", image, architecture)


def _map(path: str) -> bytes | mmap.mmap:
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise KdiffError("image.truncated", "the file is empty", place=path)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError | ValueError) -> KdiffError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return KdiffError("image.unreadable", reason, place=path, remedy="name a kernel image you may read")


def _unpacked(data: bytes | mmap.mmap, path: str) -> bytes | mmap.mmap:
    key = hashlib.sha256(data).hexdigest()
    kept = store.find(key)
    if kept is not None:
        return kept
    found, slow = unpack(data, path)
    if slow:
        store.keep(key, found)
    return found

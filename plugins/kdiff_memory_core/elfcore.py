# SPDX-License-Identifier: Apache-2.0
"""Dumps that are ELF cores: /proc/vmcore of a kdump kernel, makedumpfile -E, QEMU's dump-guest-memory.

Program headers say which physical memory lies where in the file. kdump and `dump-guest-memory -p` add where
it was mapped; without -p QEMU repeats the physical address there.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator

from kdiff.api import ElfImage, Extent, KdiffError, Segment, merged, open_image, segment_at
from kdiff_memory_core.flattened import Flattened
from kdiff_memory_core.left import MOST_NOTES, Left

_ET_CORE = 4
_MOST_UNFLATTENED = 1 << 30


class ElfCore:
    """Physical and, where the dump says so, virtual memory."""

    def __init__(self, data: mmap.mmap | Flattened, place: str) -> None:
        if isinstance(data, Flattened) and len(data) > _MOST_UNFLATTENED:
            raise KdiffError(
                "core.flattened",
                f"a flattened ELF core of {len(data)} bytes",
                place=place,
                remedy=f"put it in order first: makedumpfile -R ordered <{place}",
            )
        whole = data if isinstance(data, mmap.mmap) else data[:]
        self.image: ElfImage = open_image(whole, place)
        if self.image.type != _ET_CORE:
            raise KdiffError(
                "core.image", "an image, not a core", place=place, remedy=f"give it as image:{place}"
            )
        self.machine = self.image.machine
        self.order = self.image.byte_order
        segments = self.image.segments
        self._virtual = _apart(each for each in segments if each.address != each.physical)
        self._physical = _apart(
            Segment(each.physical, each.size, each.offset, each.file_size) for each in segments
        )
        self.left = Left(
            (
                bytes(whole[each.offset : each.offset + min(each.file_size, MOST_NOTES)])
                for each in self.image.notes
            ),
            self.order,
            place,
        )

    def read_physical(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes, which may lie in neighbouring segments."""
        return self._read(self._physical, address, size)

    def read_virtual(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes of segments that say where they were mapped."""
        return self._read(self._virtual, address, size)

    def mapped(self, first: int, last: int) -> tuple[Extent, ...]:
        """What of an address range the segments map."""
        return merged(_within(self._virtual, first, last))

    def stored(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """What of a physical range is in the file: address and size of each part, in order."""
        return _within(self._physical, address, address + size)

    def _read(self, segments: tuple[Segment, ...], address: int, size: int) -> bytes | None:
        pieces = []
        while size:
            segment = segment_at(segments, address, 1)
            if segment is None:
                return None
            inside = address - segment.address
            start = segment.offset + inside
            piece = bytes(self.image.data[start : start + min(size, max(0, segment.file_size - inside))])
            if not piece:
                return None
            pieces.append(piece)
            address += len(piece)
            size -= len(piece)
        return b"".join(pieces)


def _within(segments: tuple[Segment, ...], first: int, last: int) -> Iterator[tuple[int, int]]:
    """What of segments lies in a range: address and size of each part."""
    for each in segments:
        start, end = max(each.address, first), min(each.address + each.size, last)
        if start < end:
            yield start, end - start


def _apart(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """What is in the file, in order of address and each byte once: kdump lists the kernel's text twice."""
    found: list[Segment] = []
    end = 0
    for each in sorted(segments, key=lambda each: (each.address, -each.file_size)):
        skipped = max(0, end - each.address)
        size = each.file_size - skipped
        if size > 0:
            found.append(Segment(each.address + skipped, size, each.offset + skipped, size))
            end = each.address + each.file_size
    return tuple(found)

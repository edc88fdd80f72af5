# SPDX-License-Identifier: Apache-2.0
"""Dumps in the kdump-compressed format: makedumpfile -c, -l, -z, or QEMU's dump-guest-memory -z, -l.

Layout (makedumpfile's IMPLEMENTATION, diskdump_mod.h), of 64-bit little-endian machines: a header block, a
sub header, two bitmaps with a bit for each page of the machine (the second tells which pages are in the
dump), a descriptor for each page in the dump, the pages.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import lzallright
import numpy as np
import zstandard

from kdiff.api import ByteOrder, Extent, KdiffError
from kdiff_memory_core.flattened import Flattened
from kdiff_memory_core.left import MOST_NOTES, Left

MAGIC = b"KDUMP   "
_MACHINES = {"x86_64": 62}
_HEADER = struct.Struct("<8si65s65s65s65s65s65s6x16xIiiIIII")
_SUB = struct.Struct("<QiiQQqQqQqQ")
_WIDE = struct.Struct("<QQQ")
"""From version 6: first and last page of this part, and how many pages there are."""
_DESCRIPTOR = struct.Struct("<qIIQ")
_COMPRESSED = 0x2F
_INCOMPLETE = 8
_KEPT = 1 << 14


def _zstd(data: bytes, size: int) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)


def _zlib(data: bytes, size: int) -> bytes:
    return zlib.decompressobj().decompress(data, size + 1)


def _lzo(data: bytes, size: int) -> bytes:
    return bytes(lzallright.LZOCompressor.decompress(data, output_size_hint=size))


_CODECS: Mapping[int, tuple[str, Callable[[bytes, int], bytes]]] = {
    0x01: ("zlib", _zlib),
    0x02: ("lzo", _lzo),
    0x20: ("zstd", _zstd),
}
"""Bits of a page's flags (DUMP_DH_COMPRESSED_*); 4 is snappy."""


class KdumpCore:
    """Physical memory out of compressed pages."""

    order: ByteOrder = "little"

    def __init__(self, data: mmap.mmap | Flattened, place: str) -> None:
        self._data, self._place = data, place
        head = data[: _HEADER.size]
        if len(head) < _HEADER.size:
            raise self._truncated("the header")
        _, version, *names, status, block, sub, bitmap, pages, _, _ = _HEADER.unpack(head)
        name = names[4].split(b"\0")[0].decode("ascii", "replace")
        if name not in _MACHINES:
            raise KdiffError(
                "core.machine",
                f"a compressed dump of a machine called {name!r}, whose layout is not known",
                place=place,
                remedy="make an ELF core with makedumpfile -E -d 0; of a QEMU guest: dump-guest-memory -p",
            )
        if status & _INCOMPLETE:
            raise KdiffError(
                "core.incomplete",
                "makedumpfile did not finish this dump",
                place=place,
                remedy="take it again, with more room for it",
            )
        self.machine = _MACHINES[name]
        if block not in (4096, 8192, 16384, 65536) or sub <= 0 or bitmap <= 0:
            raise self._truncated("the header is damaged")
        self._page = block
        fixed = data[block : block + _SUB.size + _WIDE.size]
        if len(fixed) < _SUB.size + _WIDE.size:
            raise self._truncated("the sub header")
        _, _, split, _, _, info_at, info_size, notes_at, notes_size, _, _ = _SUB.unpack_from(fixed)
        if split:
            raise KdiffError(
                "core.split",
                "one part of a dump that was split",
                place=place,
                remedy="join its parts: makedumpfile --reassemble PART... WHOLE",
            )
        if version >= 6:
            pages = _WIDE.unpack_from(fixed, _SUB.size)[2] or pages
        self._load(block * (1 + sub), block * bitmap, pages)
        self.left = Left((self._part(notes_at, notes_size),), "little", place, self._part(info_at, info_size))
        self._decoded = lru_cache(_KEPT)(self._read_page)

    def read_virtual(self, address: int, size: int) -> bytes | None:
        """None: nothing is said of virtual addresses."""
        return None

    def mapped(self, first: int, last: int) -> tuple[Extent, ...]:
        """Nothing."""
        return ()

    def read_physical(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes; None if a page of them was left out of the dump."""
        pieces = []
        while size:
            number, inside = divmod(address, self._page)
            page = self._decoded(number)
            if page is None:
                return None
            piece = page[inside : inside + size]
            pieces.append(piece)
            address += len(piece)
            size -= len(piece)
        return b"".join(pieces)

    def stored(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        """What of a physical range is in the file: address and size of each part, in order."""
        first, last = address // self._page, -(-(address + size) // self._page)
        last = min(last, 8 * len(self._bits))
        if first >= last:
            return
        low = first // 8
        bits = np.unpackbits(
            np.frombuffer(self._bits, "u1")[low : -(-last // 8)], bitorder="little", count=last - 8 * low
        )
        edges = np.flatnonzero(np.diff(bits[first - 8 * low :].astype("i1"), prepend=0, append=0)) + first
        for start, stop in edges.reshape(-1, 2).tolist():
            begin, end = max(start * self._page, address), min(stop * self._page, address + size)
            yield begin, end - begin

    def _part(self, at: int, size: int) -> bytes:
        return self._data[at : at + min(size, MOST_NOTES)] if at > 0 and size else b""

    def _load(self, start: int, size: int, pages: int) -> None:
        """Read the second bitmap, and count the pages before each of its bytes."""
        half = size // 2
        bits = self._data[start + half : start + size]
        if len(bits) < half or pages > 8 * half:
            raise self._truncated("the bitmaps")
        self._bits = bits
        ones = np.unpackbits(np.arange(256, dtype="u1")[:, None], axis=1).sum(axis=1)
        counts = ones[np.frombuffer(bits, "u1")]
        self._before = np.concatenate(([0], np.cumsum(counts, dtype="i8")))
        self._descriptors = start + size
        if self._descriptors + _DESCRIPTOR.size * int(self._before[-1]) > len(self._data):
            raise self._truncated("the page descriptors")
        if self._before[-1]:
            offset, stored, _, _ = self._descriptor(int(self._before[-1]) - 1)
            if offset + stored > len(self._data):
                raise self._truncated("the last page")

    def _read_page(self, number: int) -> bytes | None:
        byte, bit = divmod(number, 8)
        if number < 0 or byte >= len(self._bits) or not self._bits[byte] >> bit & 1:
            return None
        index = int(self._before[byte]) + (self._bits[byte] & (1 << bit) - 1).bit_count()
        offset, size, flags, _ = self._descriptor(index)
        if offset < 0 or size > self._page or offset + size > len(self._data):
            raise self._truncated(f"page {number:#x}")
        stored = self._data[offset : offset + size]
        kind = flags & _COMPRESSED
        if not kind:
            return self._whole(stored, number)
        if kind not in _CODECS:
            raise KdiffError(
                "core.codec",
                f"its pages are packed by {'snappy' if kind == 4 else f'a codec with flags {flags:#x}'}",
                place=self._place,
                remedy="make an ELF core (makedumpfile -E -d 0), or pack with zlib (makedumpfile -c -d 0)",
            )
        name, unpack = _CODECS[kind]
        try:
            return self._whole(unpack(stored, self._page), number)
        except (zlib.error, zstandard.ZstdError, lzallright.LZOError) as error:
            raise self._truncated(f"page {number:#x} is no {name} data: {error}") from error

    def _descriptor(self, index: int) -> tuple[int, int, int, int]:
        at = self._descriptors + _DESCRIPTOR.size * index
        offset, size, flags, page = _DESCRIPTOR.unpack(self._data[at : at + _DESCRIPTOR.size])
        return offset, size, flags, page

    def _whole(self, page: bytes, number: int) -> bytes:
        if len(page) != self._page:
            raise self._truncated(f"page {number:#x} has {len(page)} bytes")
        return page

    def _truncated(self, what: str) -> KdiffError:
        return KdiffError(
            "core.truncated",
            f"the compressed dump is cut off or damaged: {what}",
            place=self._place,
            remedy="copy the file again",
        )

# SPDX-License-Identifier: Apache-2.0
"""Files of lzop, which packs kernels with CONFIG_KERNEL_LZO.

A header, then blocks: length, packed length, checksums as the header's flags say, data; a length of 0 ends
them. A block that did not get smaller is stored as it is. The kernel's own reader: lib/decompress_unlzo.c.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import lzallright

MAGIC = b"\x89LZO\0\r\n\x1a\n"
_ADLER, _ADLER_PACKED, _CRC, _CRC_PACKED = 1, 2, 0x100, 0x200
_FILTER, _MULTIPART = 0x800, 0x400
_EXTRA = 0x40
_LARGEST_BLOCK = 64 << 20


class BrokenFile(Exception):
    """The bytes are damaged, cut off or something else."""


def unpack(data: bytes, most: int) -> bytes:
    """The one file inside; BrokenFile also if it is larger than `most`."""
    try:
        flags, at = _header(data)
        pieces, size = [], 0
        for piece in _blocks(data, flags, at):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise BrokenFile("it unpacks to more than a kernel can be")
    except (struct.error, IndexError) as error:
        raise BrokenFile("it is cut off") from error
    except lzallright.LZOError as error:
        raise BrokenFile(f"a block is damaged: {error}") from error
    return b"".join(pieces)


def _header(data: bytes) -> tuple[int, int]:
    """The flags, and where the first block is."""
    at = len(MAGIC)
    (version,) = struct.unpack_from(">H", data, at)
    at += 6 if version >= 0x940 else 4
    method = data[at]
    at += 2 if version >= 0x940 else 1
    (flags,) = struct.unpack_from(">I", data, at)
    at += 4
    if not 1 <= method <= 3 or flags & (_FILTER | _MULTIPART):
        raise BrokenFile(f"packed by method {method} with flags {flags:#x}, which no kernel is")
    at += 12 if version >= 0x940 else 8
    at += 1 + data[at]
    (checksum,) = struct.unpack_from(">I", data, at)
    head = data[len(MAGIC) : at]
    if checksum != (zlib.crc32(head) if flags & 0x1000 else zlib.adler32(head)):
        raise BrokenFile("the checksum of its header is wrong")
    at += 4
    if flags & _EXTRA:
        at += 8 + int(struct.unpack_from(">I", data, at)[0])
    return flags, at


def _blocks(data: bytes, flags: int, at: int) -> Iterator[bytes]:
    while True:
        (size,) = struct.unpack_from(">I", data, at)
        if not size:
            return
        (packed,) = struct.unpack_from(">I", data, at + 4)
        at += 8
        if not 0 < packed <= size <= _LARGEST_BLOCK:
            raise BrokenFile(f"a block of {size} bytes is packed into {packed}")
        plain = [kind for bit, kind in ((_ADLER, zlib.adler32), (_CRC, zlib.crc32)) if flags & bit]
        sealed = [
            kind for bit, kind in ((_ADLER_PACKED, zlib.adler32), (_CRC_PACKED, zlib.crc32)) if flags & bit
        ]
        expected = struct.unpack_from(f">{len(plain)}I", data, at)
        at += 4 * len(plain)
        if packed == size:
            sealed = []
        outside = struct.unpack_from(f">{len(sealed)}I", data, at)
        at += 4 * len(sealed)
        stored = data[at : at + packed]
        if len(stored) < packed:
            raise BrokenFile("it is cut off")
        at += packed
        block = stored
        if packed < size:
            block = bytes(lzallright.LZOCompressor.decompress(stored, output_size_hint=size))
        if outside != tuple(kind(stored) for kind in sealed):
            raise BrokenFile("a packed block is not what its checksum says")
        if len(block) != size or expected != tuple(kind(block) for kind in plain):
            raise BrokenFile("a block is not what its checksum says")
        yield block

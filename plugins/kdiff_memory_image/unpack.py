# SPDX-License-Identifier: Apache-2.0
"""Get the kernel's ELF file out of a compressed image.

In: the bytes of a vmlinuz. Out: those of the vmlinux inside. The payload is found through the x86 setup
header (Documentation/arch/x86/boot.rst of the kernel, protocol 2.08 and later), else by looking for the magic
bytes of each compression; only a payload that unpacks to ELF counts.
"""

from __future__ import annotations

import bz2
import lzma
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lz4.block
import zstandard

from kdiff.api import KdiffError
from kdiff_memory_image import lzop
from kdiff_memory_image.lzop import BrokenFile

_ELF = b"\x7fELF"
_MOST = 1 << 30
"""No kernel is larger: what unpacks to more is not one."""
_PIECE = 1 << 14
_LZ4_BLOCK = 8 << 20
"""lz4's legacy frames hold blocks of this size."""
_ZSTD_WINDOW = 1 << 27
"""The kernel is packed with `zstd --ultra -22`."""


@dataclass(frozen=True, slots=True)
class _Codec:
    """One compression. `slow`: unpacking a kernel takes about a second or more."""

    name: str
    magic: bytes
    unpack: Callable[[bytes], bytes]
    slow: bool


def unpack(data: bytes | mmap.mmap, place: str) -> tuple[bytes, bool]:
    """The vmlinux inside, and whether unpacking it was slow.

    KdiffError `image.payload` for a damaged payload, `image.codec` for one that cannot be read, `image.flat`
    for a kernel that is no ELF file, `image.unknown` if there is no kernel at all.
    """
    if bytes(data[0x202:0x206]) == b"HdrS":
        return _from_setup_header(data, place)
    flat = False
    for codec, start in _candidates(data):
        try:
            found = codec.unpack(bytes(data[start:]))
        except BrokenFile:
            continue
        if found.startswith(_ELF):
            return found, codec.slow
        flat = flat or found[56:60] == b"ARM\x64"
    if flat or bytes(data[56:60]) == b"ARM\x64":
        raise KdiffError(
            "image.flat",
            "this kernel is a flat Image, which does not say where it is loaded",
            place=place,
            remedy="unpack it and give image:FILE@0xADDRESS with the address of _text",
        )
    raise KdiffError(
        "image.unknown",
        "neither an ELF file nor a compressed kernel",
        place=place,
        remedy="give a vmlinux, a vmlinuz, or a raw dump as image:FILE@0xADDRESS",
    )


def _from_setup_header(data: bytes | mmap.mmap, place: str) -> tuple[bytes, bool]:
    if len(data) < 0x250:
        raise _damaged(place, "is cut off inside of its header")
    (version,) = struct.unpack_from("<H", data, 0x206)
    offset, size = struct.unpack_from("<II", data, 0x248)
    if version < 0x208 or not size:
        raise _damaged(place, f"has boot protocol {version:#x}, which does not tell where the kernel is")
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = bytes(data[start : start + size])
    if len(payload) < size:
        raise _damaged(place, f"is cut off: {start + size} bytes are announced, {len(data)} are there")
    if payload.startswith(_ELF):
        return payload, False
    codec = next((each for each in _CODECS if payload.startswith(each.magic)), None)
    if codec is None:
        raise KdiffError(
            "image.codec",
            f"packed in a way that cannot be read (it begins with {payload[:6].hex(' ')})",
            place=place,
            remedy="unpack it with scripts/extract-vmlinux of the kernel source and give the result",
        )
    try:
        found = codec.unpack(payload)
    except BrokenFile as error:
        raise _damaged(place, f"holds {codec.name} data that cannot be unpacked: {error}") from error
    if codec.name != "gzip" and int.from_bytes(payload[-4:], "little") != len(found):
        raise _damaged(place, f"unpacks to {len(found)} bytes, which is not what it announces")
    if not found.startswith(_ELF):
        raise _damaged(place, "holds something that is not an ELF file")
    return found, codec.slow


def _damaged(place: str, what: str) -> KdiffError:
    return KdiffError(
        "image.payload", f"the compressed kernel {what}", place=place, remedy="copy the file again"
    )


def _candidates(data: bytes | mmap.mmap) -> Iterator[tuple[_Codec, int]]:
    """Every place where a payload might begin, by position; few, as most magic bytes are long."""
    found: list[tuple[int, _Codec]] = []
    for codec in _CODECS:
        start = data.find(codec.magic)
        while start >= 0 and len(found) < 256:
            found.append((start, codec))
            start = data.find(codec.magic, start + 1)
    for start, codec in sorted(found, key=lambda each: each[0]):
        yield codec, start


def _gzip(data: bytes) -> bytes:
    stream = zlib.decompressobj(31)
    try:
        found = stream.decompress(data, _MOST)
    except zlib.error as error:
        raise BrokenFile(str(error)) from error
    return _whole(found, stream.eof)


def _xz(data: bytes) -> bytes:
    return _lzma(data, lzma.FORMAT_XZ)


def _lzma_alone(data: bytes) -> bytes:
    return _lzma(data, lzma.FORMAT_ALONE)


def _lzma(data: bytes, kind: int) -> bytes:
    stream = lzma.LZMADecompressor(kind)
    try:
        found = stream.decompress(data, _MOST)
    except (lzma.LZMAError, MemoryError) as error:
        raise BrokenFile(str(error)) from error
    return _whole(found, stream.eof)


def _bzip2(data: bytes) -> bytes:
    stream = bz2.BZ2Decompressor()
    try:
        found = stream.decompress(data, _MOST)
    except OSError as error:
        raise BrokenFile(str(error)) from error
    return _whole(found, stream.eof)


def _zstd(data: bytes) -> bytes:
    stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    pieces = []
    size = 0
    try:
        for start in range(0, len(data), _PIECE):
            pieces.append(stream.decompress(data[start : start + _PIECE]))
            size += len(pieces[-1])
            if stream.eof or size > _MOST:
                break
    except zstandard.ZstdError as error:
        raise BrokenFile(str(error)) from error
    return _whole(b"".join(pieces), stream.eof)


def _lzo(data: bytes) -> bytes:
    return _whole(lzop.unpack(data, _MOST), True)


def _lz4(data: bytes) -> bytes:
    """Unpack the legacy frame that `lz4 -l` writes: blocks behind their sizes, without an end mark."""
    pieces = []
    at, size = 4, 0
    while at + 4 < len(data):
        (packed,) = struct.unpack_from("<I", data, at)
        if not packed or at + 4 + packed > len(data):
            break
        try:
            pieces.append(lz4.block.decompress(data[at + 4 : at + 4 + packed], uncompressed_size=_LZ4_BLOCK))
        except lz4.block.LZ4BlockError as error:
            raise BrokenFile(str(error)) from error
        at += 4 + packed
        size += len(pieces[-1])
        if size > _MOST or len(pieces[-1]) < _LZ4_BLOCK:
            break
    return _whole(b"".join(pieces), bool(pieces))


def _whole(found: bytes, ended: bool) -> bytes:
    if len(found) >= _MOST:
        raise BrokenFile("it unpacks to more than a kernel can be")
    if not ended:
        raise BrokenFile("it has no end")
    return found


_CODECS = (
    _Codec("gzip", b"\x1f\x8b\x08", _gzip, slow=False),
    _Codec("xz", b"\xfd7zXZ\0", _xz, slow=True),
    _Codec("zstd", b"\x28\xb5\x2f\xfd", _zstd, slow=False),
    _Codec("lz4", b"\x02\x21\x4c\x18", _lz4, slow=False),
    _Codec("lzo", lzop.MAGIC, _lzo, slow=False),
    _Codec("lzma", b"\x5d\0\0", _lzma_alone, slow=True),
    _Codec("bzip2", b"BZh", _bzip2, slow=True),
)

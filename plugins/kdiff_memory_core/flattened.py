# SPDX-License-Identifier: Apache-2.0
"""Dumps in the flattened format: what makedumpfile -F and QEMU write where they cannot seek.

Layout (makedumpfile's IMPLEMENTATION): 4096 bytes that begin with `makedumpfile`; then records of offset,
size (big-endian, 8 bytes each) and the bytes that belong there; offset -1 ends them. A later record writes
over an earlier one.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right

from kdiff.api import KdiffError

MAGIC = b"makedumpfile\0\0\0\0"
_HEAD = 4096
_RECORD = struct.Struct(">qq")


class Flattened:
    """The file that the records describe, to be sliced like `bytes`; what no record wrote is zero."""

    def __init__(self, data: mmap.mmap, place: str) -> None:
        self._data = data
        if len(data) < _HEAD:
            raise _truncated("in its header", place)
        if struct.unpack_from(">QQ", data, 16) != (1, 1):
            raise KdiffError(
                "core.flattened",
                "a flattened dump of an unknown kind",
                place=place,
                remedy="put it in order with the makedumpfile that wrote it: makedumpfile -R ordered <dump",
            )
        at, end = _HEAD, 0
        pieces: list[tuple[int, int, int]] = []
        while True:
            offset, size = _RECORD.unpack_from(data, at) if at + _RECORD.size <= len(data) else (0, -1)
            if offset == -1:
                break
            at += _RECORD.size
            if offset < 0 or size <= 0 or at + size > len(data):
                raise _truncated(f"at byte {at - _RECORD.size}", place)
            pieces.append((offset, size, at))
            at += size
            end = max(end, offset + size)
        self._size = end
        self._starts, self._pieces = _without_overlaps(pieces)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        found = bytearray(max(0, stop - start))
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._pieces) and self._pieces[index][0] < stop:
            offset, size, at = self._pieces[index]
            first, last = max(offset, start), min(offset + size, stop)
            if first < last:
                found[first - start : last - start] = self._data[at + first - offset : at + last - offset]
            index += 1
        return bytes(found)


def _truncated(where: str, place: str) -> KdiffError:
    return KdiffError(
        "core.truncated",
        f"the flattened dump is cut off or damaged {where}",
        place=place,
        remedy="copy the file again",
    )


def _without_overlaps(
    pieces: list[tuple[int, int, int]],
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """The pieces by offset, each cut to what no later one wrote over."""
    kept: list[tuple[int, int, int]] = []
    starts: list[int] = []
    for offset, size, at in pieces:
        index = max(0, bisect_right(starts, offset) - 1)
        while index < len(kept) and kept[index][0] < offset + size:
            before, length, source = kept[index]
            left = max(0, min(offset - before, length))
            right = max(0, before + length - max(offset + size, before))
            if left == length:
                index += 1
                continue
            rest = [(before, left, source)] if left else []
            if right:
                rest.append((before + length - right, right, source + length - right))
            kept[index : index + 1] = rest
            starts[index : index + 1] = [each[0] for each in rest]
            index += 1 if left else 0
            if right:
                break
        index = bisect_right(starts, offset)
        kept.insert(index, (offset, size, at))
        starts.insert(index, offset)
    return starts, kept

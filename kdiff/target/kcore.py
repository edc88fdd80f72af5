# SPDX-License-Identifier: Apache-2.0
"""The running kernel's memory: /proc/kcore, an ELF core file whose segments are address ranges."""

from __future__ import annotations

import errno
import os
import struct
from typing import Literal, NamedTuple

from kdiff.errors import KdiffError
from kdiff.target.machine import Machine

PT_LOAD = 1
HEADER = 64


class _Range(NamedTuple):
    address: int
    size: int
    offset: int


class Kcore:
    """An open /proc/kcore; `close` it."""

    def __init__(self, path: str) -> None:
        """Open it. KdiffError `target.no_kcore` or `target.lockdown`."""
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            self._ranges = self._read_ranges(path)
        except OSError as error:
            self.close()
            raise _unreadable(path, error) from error
        except KdiffError:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._file)

    def read(self, address: int, size: int) -> bytes | None:
        """Return exactly `size` bytes, or None where the kernel has no such memory."""
        for each in self._ranges:
            if each.address <= address and address + size <= each.address + each.size:
                try:
                    data = os.pread(self._file, size, each.offset + address - each.address)
                except OSError:
                    return None
                return data if len(data) == size else None
        return None

    def _read_ranges(self, path: str) -> list[_Range]:
        header = os.pread(self._file, HEADER, 0)
        if (
            len(header) < HEADER
            or header[:4] != b"\x7fELF"
            or header[4] not in (1, 2)
            or header[5] not in (1, 2)
        ):
            raise KdiffError("target.no_kcore", "is no ELF core file", place=path)
        self.word = 4 if header[4] == 1 else 8
        """Bytes of a pointer."""
        self.order: Literal["little", "big"] = "little" if header[5] == 1 else "big"
        mark = "<" if header[5] == 1 else ">"
        if self.word == 8:
            start, entry, count = (
                *struct.unpack_from(mark + "Q", header, 32),
                *struct.unpack_from(mark + "HH", header, 54),
            )
            row = struct.Struct(mark + "II6Q")
            kind, offset, address, size = 0, 2, 3, 5
        else:
            start, entry, count = (
                *struct.unpack_from(mark + "I", header, 28),
                *struct.unpack_from(mark + "HH", header, 42),
            )
            row = struct.Struct(mark + "8I")
            kind, offset, address, size = 0, 1, 2, 4
        table = os.pread(self._file, entry * count, start)
        if entry < row.size or len(table) != entry * count:
            raise KdiffError("target.no_kcore", "has no whole table of segments", place=path)
        rows = [row.unpack_from(table, entry * index) for index in range(count)]
        return [_Range(each[address], each[size], each[offset]) for each in rows if each[kind] == PT_LOAD]


def open_kcore(machine: Machine) -> Kcore:
    """Open the machine's /proc/kcore."""
    return Kcore(f"{machine.proc}/kcore")


def _unreadable(path: str, error: OSError) -> KdiffError:
    if error.errno == errno.EPERM:
        return KdiffError(
            "target.lockdown",
            "the kernel does not let anybody read its memory (lockdown)",
            place=path,
            remedy="boot with lockdown=integrity or without lockdown",
        )
    return KdiffError(
        "target.no_kcore",
        f"cannot read the kernel's memory: {error.strerror}",
        place=path,
        remedy="the kernel needs CONFIG_PROC_KCORE, and /proc must be mounted",
    )

# SPDX-License-Identifier: Apache-2.0
"""What the kernel says from now on: the records of /dev/kmsg behind a position."""

from __future__ import annotations

import os

from kdiff.target.machine import Machine

RECORD = 8192
"""Bytes, the longest record /dev/kmsg hands out."""


class KernelLog:
    """Listens from the moment it is made; silent if the log cannot be read."""

    def __init__(self, machine: Machine) -> None:
        self._file = -1
        try:
            self._file = os.open(f"{machine.dev}/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            os.lseek(self._file, 0, os.SEEK_END)
        except OSError:
            self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def lines(self, most: int = 12) -> tuple[str, ...]:
        """Return the texts of the last records that have come since, oldest first."""
        found: list[str] = []
        while self._file >= 0:
            try:
                data = os.read(self._file, RECORD)
            except BrokenPipeError:
                continue
            except OSError:
                break
            if not data:
                break
            for line in data.decode("utf-8", "replace").splitlines():
                if not line.startswith(" "):
                    found.append(line.partition(";")[2])
        return tuple(found[-most:])

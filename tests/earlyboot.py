# SPDX-License-Identifier: Apache-2.0
"""Set bits in a kernel's memory while it boots, through QEMU's gdbstub: what its processor would have said.

QEMU must wait for the debugger (`-S`), and the kernel must lie where it was linked (`nokaslr`). Packets are
those of gdb's manual, appendix E: `Z1` sets a breakpoint, `c` goes on, `m` and `M` read and write, `D`
leaves.
"""

from __future__ import annotations

import threading
import time

from kdiff_memory_gdb.protocol import Connection

from kdiff.errors import KdiffError

PATIENCE = 120.0
"""Seconds until QEMU listens, and until the kernel gets to the function."""


class EarlyBits(threading.Thread):
    """Waits for the kernel at the function `stop`, sets `bits` (address: mask of one byte) and lets it go."""

    def __init__(self, port: int, stop: int, bits: dict[int, int]) -> None:
        super().__init__(daemon=True)
        self._port, self._stop_at, self._bits = port, stop, bits
        self.done = False

    def run(self) -> None:
        connection = self._connect()
        try:
            assert connection.ask(b"Z1,%x,1" % self._stop_at) == b"OK"
            stopped = connection.ask(b"c")
            assert stopped[:1] in (b"T", b"S"), stopped
            for address, mask in self._bits.items():
                before = int(connection.ask(b"m%x,1" % address), 16)
                assert connection.ask(b"M%x,1:%02x" % (address, before | mask)) == b"OK"
            assert connection.ask(b"z1,%x,1" % self._stop_at) == b"OK"
            self.done = connection.ask(b"D") == b"OK"
        finally:
            connection.close()

    def _connect(self) -> Connection:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return Connection("127.0.0.1", self._port, "gdb", PATIENCE)
            except KdiffError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

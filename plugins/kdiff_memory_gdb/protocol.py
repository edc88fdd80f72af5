# SPDX-License-Identifier: Apache-2.0
"""Packets of gdb's remote serial protocol over a socket.

`$data#checksum`, each acknowledged by `+` or asked for again by `-`; appendix E of gdb's manual. Everything
the other side sends may be wrong, late or endless.
"""

from __future__ import annotations

import re
import socket
import time

from kdiff.api import KdiffError

TIMEOUT = 10.0
"""Seconds that an answer may take."""
_TRIES = 4
_LONGEST = 1 << 20
_ESCAPED = re.compile(rb"\}(.)", re.DOTALL)
_REPEATED = re.compile(rb"([^*])\*([ -~])", re.DOTALL)


class Connection:
    """One connection to a stub."""

    def __init__(self, host: str, port: int, place: str, timeout: float = TIMEOUT) -> None:
        self._place, self._timeout = place, timeout
        self._buffer = b""
        self.unasked: list[bytes] = []
        """Packets that came where none was asked for: a machine says so that it has stopped."""
        try:
            self._socket = socket.create_connection((host, port), timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise KdiffError(
                "gdb.connect",
                f"no connection: {error.strerror or error}",
                place=place,
                remedy="start QEMU with -s or -gdb tcp:HOST:PORT; let no other debugger be connected",
            ) from error

    def close(self) -> None:
        """Hang up; what that means for the machine is the stub's affair."""
        self._socket.close()

    def ask(self, question: bytes) -> bytes:
        """Send a packet and return the answer to it."""
        self.send(question)
        return self.receive()

    def send(self, data: bytes) -> None:
        """Send a packet until it is acknowledged."""
        packet = b"$" + data + b"#%02x" % (sum(data) & 0xFF)
        deadline = time.monotonic() + self._timeout
        for _ in range(_TRIES):
            self._write(packet)
            while (byte := self._take(1, deadline)) not in (b"+", b"-"):
                if byte == b"$":
                    self.unasked.append(self._body(deadline) or b"")
                    self._write(b"+")
            if byte == b"+":
                return
        raise self._broken("does not accept packets: it asks for every one again")

    def receive(self) -> bytes:
        """The next packet, its escapes and repetitions undone."""
        deadline = time.monotonic() + self._timeout
        for _ in range(_TRIES):
            while self._take(1, deadline) != b"$":
                pass
            data = self._body(deadline)
            if data is not None:
                self._write(b"+")
                return _expanded(data)
            self._write(b"-")
        raise self._broken("sends packets whose checksums are wrong")

    def interrupt(self) -> None:
        """Ask a machine that runs to stop."""
        self._write(b"\x03")

    def _body(self, deadline: float) -> bytes | None:
        """What is left of a packet behind its `$`; None if its checksum is wrong."""
        while (end := self._buffer.find(b"#")) < 0 or len(self._buffer) < end + 3:
            if len(self._buffer) > _LONGEST:
                raise self._broken("sends a packet without an end")
            self._fill(deadline)
        data, check = self._buffer[:end], self._buffer[end + 1 : end + 3]
        self._buffer = self._buffer[end + 3 :]
        return data if check.lower() == b"%02x" % (sum(data) & 0xFF) else None

    def _take(self, size: int, deadline: float) -> bytes:
        while len(self._buffer) < size:
            self._fill(deadline)
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _fill(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(1 << 16)
        except TimeoutError as error:
            raise KdiffError(
                "gdb.timeout",
                f"no answer for {self._timeout:g} seconds",
                place=self._place,
                remedy="see that this is a gdbstub, and that no other debugger is connected",
            ) from error
        except OSError as error:
            raise self._broken(f"is gone: {error.strerror or error}") from error
        if not data:
            raise self._broken("hung up")
        self._buffer += data

    def _write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken(f"is gone: {error.strerror or error}") from error

    def _broken(self, what: str) -> KdiffError:
        return KdiffError(
            "gdb.protocol", f"the stub {what}", place=self._place, remedy="see that this is QEMU's gdbstub"
        )


def _expanded(data: bytes) -> bytes:
    """Undo run lengths (`0*"` is six zeros) and escapes (`}` and a byte changed by 0x20)."""
    data = _REPEATED.sub(lambda found: found[1] * (found[2][0] - 28), data)
    return _ESCAPED.sub(lambda found: bytes((found[1][0] ^ 0x20,)), data)

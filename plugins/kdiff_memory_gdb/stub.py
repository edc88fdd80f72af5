# SPDX-License-Identifier: Apache-2.0
"""QEMU's gdbstub: stop the machine, read registers and physical memory, let it go on.

    with Stub(host, port, place) as stub:
        stub.register("cr3")
        stub.read(0x1000000, 4096)

The machine stands still inside of the `with` block: QEMU stops it when a debugger connects. Whether it ran
until then must be found out, because one that stood must not run afterwards. Up to 8.0 QEMU tells unasked
that it has stopped a machine that ran. Later ones do not (758370052fb6); there its monitor names every other
reason to stand (`prelaunch`, `debug`, `guest-panicked` …) but `stop`, which looks as if it had run.
"""

from __future__ import annotations

import contextlib
import re
from types import TracebackType

from kdiff.api import KdiffError
from kdiff_memory_gdb.protocol import TIMEOUT, Connection

_TELLS_UNASKED = (8, 1)
"""The first version of QEMU that does not any more."""
_REGISTER = re.compile(rb"<reg\s([^>]*)>")
_NAME = re.compile(rb'\bname="(\w+)"')
_BITS = re.compile(rb'\bbitsize="(\d{1,4})"')
_NUMBER = re.compile(rb'\bregnum="(\d{1,6})"')
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_INCLUDE = re.compile(rb'<xi:include\s+href="([\w.-]+)"')
_MACHINE = re.compile(rb"<architecture>([\w:.-]+)</architecture>")
_MACHINES = {b"i386:x86-64": 62}
_MOST_PIECES, _MOST_ANSWERS = 4096, 64
_LEAST_PACKET, _MOST_READ = 64, 1 << 16


class Stub:
    """One session; `machine` is ELF's number."""

    def __init__(self, host: str, port: int, place: str, timeout: float = TIMEOUT) -> None:
        self._place = place
        self._connection = Connection(host, port, place, timeout)
        self._ran = True
        self._physical = b""
        try:
            self._open()
        except BaseException:
            with contextlib.suppress(KdiffError):
                # What came before says more: most likely this is no stub at all.
                self.close()
            raise

    def __enter__(self) -> Stub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the machine as it was and hang up; KdiffError `gdb.detach` if that may have failed."""
        try:
            if self._physical:
                self._connection.ask(b"Qqemu.PhyMemMode:" + self._physical)
            if self._ran:
                self._connection.ask(b"D")
        except KdiffError as error:
            raise KdiffError(
                "gdb.detach",
                f"the machine may stand still now: {error.message}",
                place=self._place,
                remedy="let it go on with `cont` in QEMU's monitor",
            ) from error
        finally:
            self._connection.close()

    def register(self, name: str) -> int:
        """What a register of the first processor holds."""
        if name not in self._registers:
            raise self._odd(f"knows no register {name}", "gdb.machine")
        number, size = self._registers[name]
        answer = self._connection.ask(b"p%x" % number)
        return int.from_bytes(self._hexadecimal(answer, size), "little")

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes of physical memory; None where the machine has none."""
        pieces = []
        while size:
            piece = self._read(address, min(size, self._most))
            if not piece:
                return None
            pieces.append(piece)
            address += len(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _read(self, address: int, size: int) -> bytes | None:
        if self._binary:
            answer = self._connection.ask(b"x%x,%x" % (address, size))
            if answer[:1] == b"b" and 0 < len(answer) - 1 <= size:
                return answer[1:]
        else:
            answer = self._connection.ask(b"m%x,%x" % (address, size))
            if len(answer) != 3 or answer[:1] != b"E":
                return self._hexadecimal(answer, size)
        if answer[:1] == b"E":
            return None
        raise self._odd(f"answers {answer[:20]!r} when asked for memory")

    def _open(self) -> None:
        features = self._features()
        self._most = min(_MOST_READ, (_number(features.get(b"PacketSize", b"")) - 4) // 2)
        self._binary = features.get(b"binary-upload") == b"+"
        before = self._connection.ask(b"qqemu.PhyMemMode")
        if before not in (b"0", b"1"):
            raise self._odd(
                "cannot read physical memory; it is not QEMU's, or one older than 4.1", "gdb.stub"
            )
        if self._most < _LEAST_PACKET:
            raise self._odd("takes packets that are too small")
        self._ran = self._has_run()
        self._physical = before
        self._connection.ask(b"Qqemu.PhyMemMode:1")
        target = self._description(b"target.xml")
        machine = _MACHINE.search(target)
        self.machine = _MACHINES.get(machine[1] if machine else b"", 0)
        if not self.machine:
            what = machine[1].decode() if machine else "that it does not name"
            raise self._odd(
                f"is for an architecture ({what}) whose page tables cannot be read", "gdb.machine"
            )
        self._registers = self._named_registers(target)

    def _features(self) -> dict[bytes, bytes]:
        """What the stub can do. It answers only while the machine stands: one that runs is stopped first."""
        try:
            answer = self._connection.ask(b"qSupported:xmlRegisters=i386")
        except KdiffError as error:
            if error.key != "gdb.timeout":
                raise
            self._connection.interrupt()
            self._connection.unasked.append(self._connection.receive())
            answer = self._connection.ask(b"qSupported:xmlRegisters=i386")
        found = {}
        for word in answer.split(b";"):
            name, equals, value = word.partition(b"=")
            found[name if equals else name[:-1]] = value if equals else name[-1:]
        return found

    def _has_run(self) -> bool:
        if any(each[:1] in (b"T", b"S") for each in self._connection.unasked):
            return True
        if "(" in self._monitor("info status"):
            return False
        version = re.match(r"(\d+)\.(\d+)", self._monitor("info version"))
        return version is None or (int(version[1]), int(version[2])) >= _TELLS_UNASKED

    def _monitor(self, command: str) -> str:
        """What QEMU's monitor answers to a line."""
        said = b""
        answer = self._connection.ask(b"qRcmd," + command.encode().hex().encode())
        for _ in range(_MOST_ANSWERS):
            if answer[:1] != b"O" or answer == b"OK":
                break
            said += self._hexadecimal(answer[1:], None)
            answer = self._connection.receive()
        return said.decode("utf-8", "replace")

    def _named_registers(self, target: bytes) -> dict[str, tuple[int, int]]:
        """Each register's number and size: they are numbered through the files in their order."""
        found: dict[str, tuple[int, int]] = {}
        number = 0
        for file in _INCLUDE.findall(target):
            for register in _REGISTER.findall(_COMMENT.sub(b"", self._description(file))):
                name, bits, given = (each.search(register) for each in (_NAME, _BITS, _NUMBER))
                number = int(given[1]) if given else number
                if name and bits:
                    found[name[1].decode()] = number, -(-int(bits[1]) // 8)
                number += 1
        return found

    def _description(self, file: bytes) -> bytes:
        text = b""
        for _ in range(_MOST_PIECES):
            answer = self._connection.ask(b"qXfer:features:read:%s:%x,%x" % (file, len(text), self._most))
            text += answer[1:]
            if answer[:1] == b"l":
                return text
            if answer[:1] != b"m" or len(answer) == 1:
                break
        raise self._odd(f"does not describe its registers ({file.decode()})")

    def _hexadecimal(self, text: bytes, size: int | None) -> bytes:
        """Bytes of hexadecimal digits: exactly `size`, if it is given."""
        try:
            found = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            found = b""
        if not found or (size is not None and len(found) != size):
            raise self._odd(f"answers {text[:20]!r} where hexadecimal digits are due")
        return found

    def _odd(self, what: str, key: str = "gdb.protocol") -> KdiffError:
        return KdiffError(
            key, f"the stub {what}", place=self._place, remedy="give the gdbstub of QEMU for x86-64"
        )


def _number(text: bytes) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0

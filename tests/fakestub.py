# SPDX-License-Identifier: Apache-2.0
"""A gdbstub for tests: a thread behind a socket that answers as QEMU's does, or as badly as a test wants.

with FakeStub(machine) as stub:
    open_memory(f"127.0.0.1:{stub.port}")
stub.asked        # the packets that came, in order
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping

from fakedump import ROOT, FakeMachine

Answer = Callable[[bytes], bytes | None]
DESCRIPTION = b"""<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>
<architecture>%s</architecture><xi:include href="core.xml"/></target>"""
REGISTERS = b"""<feature><reg name="rip" bitsize="64"/><!-- <reg name="old" bitsize="32"/> -->
<reg name="cr0" bitsize="64" type="x"/><reg name="cr3" bitsize="64"/><reg name="cr4" bitsize="64"/>
</feature>"""


class FakeStub:
    """`changed`: other answers, by how a question begins. None as an answer is silence."""

    def __init__(
        self,
        machine: FakeMachine,
        changed: Mapping[bytes, bytes | None] | None = None,
        *,
        ran: bool = True,
        tells: bool = True,
        status: bytes = b"VM status: paused",
        version: bytes = b"7.2.22",
        binary: bool = False,
        spoil: Callable[[bytes, int], bytes] = lambda packet, number: packet,
        deaf: bool = False,
    ) -> None:
        self._memory = machine.physical()
        self._changed = dict(changed or {})
        self._tells = ran and tells
        self._monitor = {b"info status": status, b"info version": version}
        self._registers = (0, 0x80050033, ROOT, 1 << 12 if machine.levels == 5 else 0)
        self._binary = binary
        self.spoil = spoil
        self._deaf = deaf
        self._sent = 0
        self.physical = b"0"
        self.resumed = 0
        self.asked: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeStub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        waiting = b""
        if self._tells:
            self._send(connection, b"T02thread:01;")
        while True:
            try:
                data = connection.recv(1 << 16)
            except OSError:
                return
            if not data:
                return
            waiting += data
            if self._deaf and b"\x03" in waiting:
                self._deaf, waiting = False, b""
                self._send(connection, b"T02thread:01;")
            while not self._deaf and b"#" in waiting and len(waiting) >= waiting.index(b"#") + 3:
                start, end = waiting.index(b"$"), waiting.index(b"#")
                question, waiting = waiting[start + 1 : end], waiting[end + 3 :]
                self.asked.append(question)
                connection.sendall(b"+")
                for answer in self._answers(question):
                    self._send(connection, answer)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        self._sent += 1
        packet = b"$" + data + b"#%02x" % (sum(data) & 0xFF)
        connection.sendall(self.spoil(packet, self._sent))

    def _answers(self, question: bytes) -> list[bytes]:
        for start, answer in self._changed.items():
            if question.startswith(start):
                return [] if answer is None else [answer]
        name, _, rest = question.partition(b":")
        if name == b"qSupported":
            return [b"PacketSize=400;qXfer:features:read+" + (b";binary-upload+" if self._binary else b"")]
        if name == b"qqemu.PhyMemMode":
            return [self.physical]
        if name == b"Qqemu.PhyMemMode":
            self.physical = rest
            return [b"OK"]
        if question.startswith(b"qRcmd,"):
            said = self._monitor[bytes.fromhex(question[6:].decode())] + b"\r\n"
            return [b"O" + said[:4].hex().encode(), b"O" + said[4:].hex().encode(), b"OK"]
        if question.startswith(b"qXfer:features:read:"):
            _, _, _, file, span = question.split(b":")
            text = {b"target.xml": DESCRIPTION % b"i386:x86-64", b"core.xml": REGISTERS}.get(file)
            if text is None:
                return [b"E00"]
            start, size = (int(each, 16) for each in span.split(b","))
            part = text[start : start + size // 4]
            return [(b"m" if start + len(part) < len(text) else b"l") + part]
        if question[:1] == b"p":
            number = int(question[1:], 16)
            known = number < len(self._registers)
            return [self._registers[number].to_bytes(8, "little").hex().encode() if known else b"E14"]
        if question[:1] in (b"m", b"x"):
            return [self._read(question)]
        assert question == b"D", question
        self.resumed += 1
        return [b"OK"]

    def _read(self, question: bytes) -> bytes:
        address, size = (int(each, 16) for each in question[1:].split(b","))
        data = self._memory[address : address + size]
        if len(data) < size or size > 0x200 or self.physical != b"1":
            return b"E14"
        if question[:1] == b"m":
            return data.hex().encode()
        escaped = data.replace(b"}", b"}\x5d")
        for byte in b"#$*":
            escaped = escaped.replace(bytes((byte,)), b"}" + bytes((byte ^ 0x20,)))
        return b"b" + escaped

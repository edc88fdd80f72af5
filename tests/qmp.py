# SPDX-License-Identifier: Apache-2.0
"""QEMU's machine protocol: one JSON value a line, over a Unix socket (docs/interop/qmp-spec of QEMU)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


def options(socket_file: Path) -> tuple[str, ...]:
    """What QEMU is started with."""
    return ("-qmp", f"unix:{socket_file},server=on,wait=off")


def ask(socket_file: Path, command: str, timeout: float = 120, **arguments: Any) -> Any:
    """Run one command on a connection of its own."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(socket_file))
        with connection.makefile("rw") as stream:
            stream.readline()
            for name, values in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": name, "arguments": values}) + "\n")
                stream.flush()
                answer = _answer(stream)
            return answer


def _answer(stream: Any) -> Any:
    """The next answer; what QEMU tells on its own account is passed over."""
    while True:
        line = json.loads(stream.readline())
        if "return" in line:
            return line["return"]
        assert "error" not in line, line["error"]


def free_port() -> int:
    """A TCP port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

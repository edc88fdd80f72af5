# SPDX-License-Identifier: Apache-2.0
"""A machine made of files, whose kernel moves one step each time a program sleeps.

It plays the parts of sysfs, /proc and the module loader that kdiff.target talks to: a loaded update starts a
transition, `enabled` turns it round, and a patch that is disabled for good disappears.
"""

from __future__ import annotations

import errno
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdiff.emit import EmittedModule
from kdiff.package import Package, write
from kdiff.target.machine import Machine

RELEASE = "6.1.0-56-amd64"
VERSION = f"Linux version {RELEASE} (builder@host) (gcc-12) #1 SMP Debian 6.1.192-2"
BUILD_ID = "00112233445566778899aabbccddeeff00112233"
LINKED = 0xFFFFFFFF81000000
SLIDE = 0x1C000000
ID = "abcd1234"
MODULE = f"ksplice_{ID}"
PATCH = b"--- a/net/ipv4/tcp_ipv4.c\n+++ b/net/ipv4/tcp_ipv4.c\n@@ -1 +1 @@\n-old \xe4\n+new\n"
CALL = bytes.fromhex("e800000000")
NOP5 = bytes.fromhex("0f1f440000")
CODE = NOP5 + bytes.fromhex("554889e5") + CALL + bytes.fromhex("5dc3cccccccc")
PC32: dict[str, Any] = {
    "name": "PC32",
    "size": 4,
    "fields": [[0, 0, 32]],
    "overflow": "signed",
    "pc_relative": True,
}
SYMBOLS = (("_text", 0), ("tcp_v4_rcv", 0x1000), ("helper", 0x2000))


def proof() -> dict[str, Any]:
    """A proof of one replaced function, 20 bytes that call `helper`."""
    return {
        "format": 5,
        "release": RELEASE,
        "version": VERSION,
        "build_id": BUILD_ID,
        "byte_order": "little",
        "word_size": 8,
        "anchor": "_text",
        "nops": ["0f1f440000", "6690", "90"],
        "howtos": [dict(PC32)],
        "modules": [],
        "symbols": [
            {"name": name, "position": 1, "count": 1, "address": LINKED + offset, "slides": True}
            for name, offset in SYMBOLS
        ],
        "nodes": [
            {
                "name": "tcp_v4_rcv",
                "symbol": 1,
                "offset": 0,
                "size": 20,
                "role": "replaced",
                "parts": [
                    ["site", "fentry", 5, [[["pad", 5]]]],
                    ["lit", "554889e5e8"],
                    ["field", "PC32", 2, -4, "00000000"],
                    ["lit", "5dc3cccccccc"],
                ],
            }
        ],
    }


def code() -> bytes:
    """What run memory holds where `proof` is fulfilled."""
    displacement = struct.pack("<i", 0x2000 - 0x1000 - 14)
    return NOP5 + bytes.fromhex("554889e5e8") + displacement + bytes.fromhex("5dc3cccccccc")


def package(**changes: Any) -> Package:
    values: dict[str, Any] = {
        "id": ID,
        "patch": PATCH,
        "description": "drop what nobody wants",
        "utsname": ("Linux", "x86_64", RELEASE, "#1 SMP Debian 6.1.192-2"),
        "timestamp": 1_700_000_000,
        "manifest": {"kernel": RELEASE, "replaced": [{"name": "tcp_v4_rcv", "position": 0}]},
        "proof": json.dumps(proof()).encode(),
        "modules": (EmittedModule(("vmlinux",), MODULE, f"{MODULE}.ko", b"\x7fELF and so on"),),
    }
    return Package(**{**values, **changes})


def core(ranges: dict[int, bytes], order: str = "<", word: int = 8) -> bytes:
    """An ELF core file like /proc/kcore."""
    ident = b"\x7fELF" + bytes([1 if word == 4 else 2, 1 if order == "<" else 2, 1]) + bytes(9)
    size, row = (52, 32) if word == 4 else (64, 56)
    letter = "I" if word == 4 else "Q"
    sizes = (size, row, len(ranges) + 1, 0, 0, 0)
    header = ident + struct.pack(f"{order}HHI3{letter}I6H", 4, 62, 1, 0, size, 0, 0, *sizes)
    offset = size + row * (len(ranges) + 1)
    rows = struct.pack(f"{order}I", 4) + bytes(row - 4)
    body = b""
    for address, data in ranges.items():
        if word == 8:
            rows += struct.pack(
                f"{order}II6Q", 1, 7, offset + len(body), address, 0, len(data), len(data), 4096
            )
        else:
            rows += struct.pack(
                f"{order}8I", 1, offset + len(body), address, 0, len(data), len(data), 7, 4096
            )
        body += data
    return header + rows + body


def notes(build_id: str) -> bytes:
    other = struct.pack("<III", 6, 4, 0x101) + b"Linux\0\0\0" + bytes(4)
    return other + struct.pack("<III", 4, len(build_id) // 2, 3) + b"GNU\0" + bytes.fromhex(build_id)


class FakeMachine:
    """See the module. Numbers of steps are numbers of sleeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = 0.0
        self.steps = 3
        """How long a transition takes; None: it never ends."""
        self.steps_back: int | None = 2
        self.insert_status = 0
        self.insert_says = ""
        self.fresh = ""
        """What the update's module says of modules that must be loaded after it."""
        self.remove_status: list[int] = []
        """What the next removals answer."""
        self.on_sleep: Callable[[int], None] = lambda count: None
        self.visited: list[int] = []
        """The processors a program has moved to, in turn."""
        self.on_visit: Callable[[int], None] = lambda number: None
        self.sleeps = 0
        self.inserted = 0
        self._target: dict[str, str] = {}
        self._left: dict[str, int | None] = {}
        for folder in ("sys/kernel/livepatch", "sys/kernel/security", "sys/module/module/parameters", "dev"):
            (root / folder).mkdir(parents=True)
        (root / "state/updates").mkdir(parents=True)
        (root / "proc/sys/kernel").mkdir(parents=True)
        self.put("sys/kernel/notes", notes(BUILD_ID))
        self.put("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        self.put("sys/module/module/parameters/sig_enforce", "N\n")
        self.put("proc/sys/kernel/osrelease", f"{RELEASE}\n")
        self.put("proc/version", f"{VERSION}\n")
        self.put("dev/kmsg", "6,1,1,-;earlier\n")
        self.kallsyms()
        self.memory(code())
        self.task(1, "init")
        self.task(77, "server", 78)

    def put(self, name: str, content: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def kallsyms(self, slide: int = SLIDE, more: str = "") -> None:
        listed = (f"{LINKED + offset + slide:016x} T {name}\n" for name, offset in SYMBOLS)
        tail = "ffffffffc0000000 t helper\t[some_module]\n"
        self.put("proc/kallsyms", "".join(listed) + more + tail)

    def memory(self, data: bytes, slide: int = SLIDE) -> None:
        self.put("proc/kcore", core({LINKED + slide: bytes(0x1000) + data + bytes(64)}))

    def task(self, process: int, name: str, thread: int | None = None) -> None:
        here = f"proc/{process}/task/{thread or process}"
        self.put(f"{here}/comm", f"{name}\n")
        self.put(f"{here}/patch_state", "-1\n")
        self.put(f"{here}/stack", f"[<0>] {name}_sleeps+0x10/0x20\n[<0>] schedule+0x5/0x10\n")

    def foreign_patch(self, name: str, function: str) -> None:
        here = f"sys/kernel/livepatch/{name}"
        (self.root / here / "vmlinux" / function).mkdir(parents=True)
        self.put(f"{here}/enabled", "1\n")
        self.put(f"{here}/transition", "0\n")
        self._target[name], self._left[name] = "1", 0

    @property
    def machine(self) -> Machine:
        return Machine(
            sys=str(self.root / "sys"),
            proc=str(self.root / "proc"),
            dev=str(self.root / "dev"),
            state=str(self.root / "state"),
            user=lambda: 0,
            architecture=lambda: "x86_64",
            insert=self._insert,
            remove=self._remove,
            on_processor=self._on_processor,
            now=lambda: self.clock,
            sleep=self._sleep,
        )

    @contextmanager
    def _on_processor(self, number: int) -> Iterator[None]:
        self.visited.append(number)
        self.on_visit(number)
        yield

    def running(self, process: int, processor: int) -> None:
        """Let a task run: the kernel shows no stack of it."""
        here = f"proc/{process}/task/{process}"
        self.put(f"{here}/stack", "")
        self.put(
            f"{here}/stat", f"{process} (a (b) c) R {' '.join(map(str, range(4, 39)))} {processor} 0 0\n"
        )

    def tarball(self, **changes: Any) -> str:
        path = self.root / "update.tar.gz"
        path.write_bytes(write(package(**changes)))
        return str(path)

    def snapshot(self) -> dict[str, bytes | None]:
        """Everything a program could have changed."""
        found = (each for folder in ("sys", "proc", "state") for each in (self.root / folder).rglob("*"))
        return {
            str(each.relative_to(self.root)): each.read_bytes() if each.is_file() else None for each in found
        }

    def loaded(self) -> bool:
        return (self.root / "sys/module" / MODULE).exists()

    def _patch(self, name: str = MODULE) -> Path:
        return self.root / "sys/kernel/livepatch" / name

    def _insert(self, module: bytes) -> int:
        if self.insert_says:
            with (self.root / "dev/kmsg").open("a") as log:
                log.write(f"3,2,2,-;{self.insert_says}\n SUBSYSTEM=module\n")
        if self.insert_status:
            return self.insert_status
        self.inserted += 1
        (self.root / "sys/module" / MODULE).mkdir()
        if self.fresh:
            self.put(f"sys/module/{MODULE}/parameters/fresh", f"{self.fresh}\n")
            self.put(f"sys/module/{MODULE}/parameters/open", "0")
        self.foreign_patch(MODULE, "tcp_v4_rcv,1")
        self._head(MODULE, "1")
        return 0

    def _head(self, name: str, target: str) -> None:
        """Start a transition, or turn one round."""
        self._target[name] = target
        self._left[name] = self.steps if target == "1" else self.steps_back
        (self._patch(name) / "transition").write_text("1\n")
        self._states("0" if target == "1" else "1")

    def _states(self, state: str) -> None:
        for file in (self.root / "proc").glob("*/task/*/patch_state"):
            file.write_text(f"{state}\n")

    def _sleep(self, seconds: float) -> None:
        self.clock += seconds
        self.sleeps += 1
        self.on_sleep(self.sleeps)
        for name in list(self._target):
            if (self._patch(name) / "enabled").exists():
                self._step(name)

    def _step(self, name: str) -> None:
        here = self._patch(name)
        wanted = (here / "enabled").read_text().strip()
        if wanted != self._target[name]:
            self._head(name, wanted)
        left = self._left[name]
        if left is None or (here / "transition").read_text() == "0\n":
            return
        self._left[name] = left - 1
        if left <= 1:
            self._settle(name)

    def _settle(self, name: str) -> None:
        here = self._patch(name)
        self._states("-1")
        (here / "transition").write_text("0\n")
        if self._target.get(name) == "0":
            for file in ("enabled", "transition"):
                (here / file).unlink()
            for folder in (*(here / "vmlinux").iterdir(), here / "vmlinux", here):
                folder.rmdir()
            del self._target[name]

    def _remove(self, name: str) -> int:
        if self.remove_status:
            return self.remove_status.pop(0)
        if self._patch(name).exists():
            return errno.EWOULDBLOCK
        shutil.rmtree(self.root / "sys/module" / name)
        return 0

# SPDX-License-Identifier: Apache-2.0
"""What was left in a dump for its readers: notes with the kernel's VMCOREINFO and with registers.

VMCOREINFO is text that a kernel writes for whoever reads its dump (its lines are explained in
Documentation/admin-guide/kdump/vmcoreinfo.rst of the kernel). QEMU adds what its processors hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from kdiff.api import ByteOrder, KdiffError, PageTables, Root, notes

MOST_NOTES = 1 << 24
_VERSION = 1
"""Of QEMU's note: its first word."""


class Left:
    """VMCOREINFO's lines, `NAME=value`, and what QEMU left."""

    def __init__(self, parts: Iterable[bytes], order: ByteOrder, place: str, info: bytes = b"") -> None:
        self._place = place
        self._states = []
        for owner, _, body in (each for part in parts for each in notes(part, order)):
            if owner == b"VMCOREINFO":
                info = info or body
            elif owner == b"QEMU":
                self._states.append(body)
        lines = (line.partition("=") for line in info.split(b"\0")[0].decode("utf-8", "replace").splitlines())
        self.lines: Mapping[str, str] = MappingProxyType({name: value for name, _, value in lines})

    @property
    def release(self) -> str:
        """The kernel's; empty if it left nothing."""
        return self.lines.get("OSRELEASE", "")

    def symbol(self, name: str) -> int | None:
        """The virtual address of a symbol."""
        return self._number(f"SYMBOL({name})", 16)

    def roots(self, tables: PageTables) -> Iterator[Root]:
        """Where the kernel's page tables may be: by VMCOREINFO, then by the registers."""
        yield from tables.told(self._number)
        for state in self._states:
            if len(state) >= max(tables.noted) + 8 and struct.unpack_from("<I", state)[0] == _VERSION:
                yield from tables.roots(*(struct.unpack_from("<Q", state, at)[0] for at in tables.noted))

    def _number(self, name: str, base: int) -> int | None:
        text = self.lines.get(name)
        if text is None:
            return None
        try:
            return int(text, base)
        except ValueError:
            raise KdiffError(
                "core.vmcoreinfo",
                f"VMCOREINFO says {name}={text!r}, which is no number",
                place=self._place,
                remedy="take the dump again",
            ) from None

# SPDX-License-Identifier: Apache-2.0
"""What was left in a dump for its readers: notes with the kernel's VMCOREINFO and with registers.

VMCOREINFO is text that a kernel writes for whoever reads its dump (its lines are explained in
Documentation/admin-guide/kdump/vmcoreinfo.rst of the kernel). QEMU adds what its processors hold (struct
QEMUCPUState of its x86 target).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from kdiff.api import PAGE_TABLES, ByteOrder, KdiffError, Root, notes, x86_roots

MOST_NOTES = 1 << 24
_CONTROL = 392
"""Where QEMUCPUState has cr0 to cr4: behind version, size, 18 registers, 10 segments of 24 bytes."""
_STATE = 440
_X86_64 = 62


class Left:
    """VMCOREINFO's lines, `NAME=value`, and what QEMU left."""

    def __init__(self, parts: Iterable[bytes], order: ByteOrder, place: str, info: bytes = b"") -> None:
        self._place = place
        self._states = []
        for owner, _, body in (each for part in parts for each in notes(part, order)):
            if owner == b"VMCOREINFO":
                info = info or body
            elif owner == b"QEMU" and len(body) >= _STATE:
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

    def roots(self, machine: int) -> Iterator[Root]:
        """Where the kernel's page tables may be: by VMCOREINFO, then by the registers."""
        if machine != _X86_64:
            return
        table, base = self.symbol("swapper_pg_dir"), self._number("NUMBER(phys_base)", 10)
        if table is not None and base is not None:
            levels = 5 if self._number("NUMBER(pgtable_l5_enabled)", 10) else 4
            physical = table - PAGE_TABLES[machine].image[0] + base
            yield Root(physical & (1 << 64) - 1, levels, self._number("NUMBER(sme_mask)", 10) or 0)
        for state in self._states:
            if struct.unpack_from("<I", state)[0] == 1:
                *_, cr3, cr4 = struct.unpack_from("<5Q", state, _CONTROL)
                yield from x86_roots(cr3, cr4)

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

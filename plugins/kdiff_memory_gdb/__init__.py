# SPDX-License-Identifier: Apache-2.0
"""The memory of a machine that QEMU runs: `gdb:HOST:PORT`, its gdbstub (`-s`, `-gdb tcp:…`).

`protocol.py` exchanges packets, `stub.py` asks QEMU's stub for registers and physical memory and leaves the
machine as it was, `source.py` finds the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.api import Architectures, MemoryScheme, MemorySource, hookimpl


def open_memory(what: str, architectures: Architectures) -> MemorySource:
    """Open it, with code that is imported only now."""
    from kdiff_memory_gdb import source

    return source.open_memory(what, architectures)


@hookimpl
def kdiff_memory_schemes() -> Iterable[MemoryScheme]:
    """Provide `gdb:`."""
    return (MemoryScheme("gdb", "a machine in QEMU, through its gdbstub, as HOST:PORT", open_memory),)

# SPDX-License-Identifier: Apache-2.0
"""The memory of a kernel that was dumped: `core:FILE`.

`source.py` opens a dump and finds the kernel in it, `elfcore.py` and `kdump.py` are the two formats,
`flattened.py` puts the pieces of a dump that was written to a pipe in order, `vmcoreinfo.py` reads what the
kernel left for whoever reads its dump.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.api import Architectures, MemoryScheme, MemorySource, hookimpl


def open_memory(what: str, architectures: Architectures) -> MemorySource:
    """Open it, with code that is imported only now."""
    from kdiff_memory_core import source

    return source.open_memory(what, architectures)


@hookimpl
def kdiff_memory_schemes() -> Iterable[MemoryScheme]:
    """Provide `core:`."""
    return (MemoryScheme("core", "a dump by kdump, makedumpfile or QEMU's dump-guest-memory", open_memory),)

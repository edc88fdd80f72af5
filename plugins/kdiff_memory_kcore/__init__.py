# SPDX-License-Identifier: Apache-2.0
"""The running kernel's memory: `kcore:`, or `kcore:DIRECTORY` with copies of what it reads."""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.api import Architectures, MemoryScheme, MemorySource, hookimpl


def open_memory(what: str, architectures: Architectures) -> MemorySource:
    """Open it, with code that is imported only now."""
    from kdiff_memory_kcore import source

    return source.open_memory(what, architectures)


@hookimpl
def kdiff_memory_schemes() -> Iterable[MemoryScheme]:
    """Provide `kcore:`."""
    return (MemoryScheme("kcore", "the running kernel, through /proc/kcore (needs root)", open_memory),)

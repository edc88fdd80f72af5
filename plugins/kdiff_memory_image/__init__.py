# SPDX-License-Identifier: Apache-2.0
"""Kernel memory on disk: `image:FILE` and, for a raw dump, `image:FILE@0xBASE`.

`source.py` opens files, `unpack.py` gets the kernel out of a vmlinuz, `lzop.py` is one of its compressions,
`store.py` keeps what was slow to unpack.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdiff.api import Architectures, MemoryScheme, MemorySource, hookimpl


def open_memory(what: str, architectures: Architectures) -> MemorySource:
    """Open it, with code that is imported only now."""
    from kdiff_memory_image import source

    return source.open_memory(what, architectures)


@hookimpl
def kdiff_memory_schemes() -> Iterable[MemoryScheme]:
    """Provide `image:`."""
    return (MemoryScheme("image", "vmlinux, vmlinuz, or a raw dump as FILE@0xBASE", open_memory),)

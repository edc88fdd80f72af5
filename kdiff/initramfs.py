# SPDX-License-Identifier: Apache-2.0
"""The file system a guest starts with: busybox, an init script and the few modules it needs.

The archive is cpio's "newc" format, which the kernel unpacks (Documentation/driver-api/early-userspace/
buffer-format.rst). Equal inputs give equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from kdiff.errors import KdiffError
from kdiff.module_files import builtin_modules, canonical, contents, module_files
from kdiff.values import dataclass

DIRECTORY = 0o040755
EXECUTABLE = 0o100755
PLAIN = 0o100644

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive; `path` has no leading slash."""

    path: str
    mode: int
    data: bytes = b""


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the entries as one newc archive; directories must precede what they hold."""
    numbered = [*entries, Entry("TRAILER!!!", 0)]
    return b"".join(_member(number, entry) for number, entry in enumerate(numbered, start=1))


def _member(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
    return _pad(head) + _pad(entry.data)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def modules(tree: Path, wanted: Iterable[str]) -> tuple[tuple[str, bytes], ...]:
    """Return (name, object) of the wanted modules below `tree` and all they depend on, in loading order.

    `tree` is a /lib/modules/ABI directory; a module that is built into the kernel is left out. Dependencies
    come from the modules themselves, because modules.dep is made when a package is installed. KdiffError
    `guest.module` for one that is in neither place.
    """
    files, builtin = module_files(tree), builtin_modules(tree)
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in files:
            raise KdiffError(
                "guest.module",
                f"no module {name}, which a guest needs to see this machine's files",
                place=str(tree),
                remedy="name the image's own modules; a kernel built without this one cannot be a guest",
            )
        data = contents(files[name])
        found = _DEPENDS.search(data)
        for needed in found[1].decode().split(",") if found and found[1] else ():
            add(canonical(needed))
        ordered[name] = data

    for name in wanted:
        add(name)
    return tuple(ordered.items())

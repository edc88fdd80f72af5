# SPDX-License-Identifier: Apache-2.0
"""Kernels that were slow to unpack, kept in `$XDG_CACHE_HOME/kdiff/images`.

A file is called HASH-OF-VMLINUZ.HASH-OF-VMLINUX (SHA-256): the first half finds it, the second is checked
whenever it is used. What cannot be kept is not kept; what is damaged is made again.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from pathlib import Path

_KEPT = 8


def directory() -> Path:
    """Where images are kept; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "kdiff" / "images"


def find(key: str) -> mmap.mmap | None:
    """The kept vmlinux of the vmlinuz with that hash, checked."""
    try:
        for path in sorted(directory().glob(f"{key}.*")):
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if path.name == _name(key, data):
                os.utime(path)
                return data
            path.unlink()
    except (OSError, ValueError):
        return None
    return None


def keep(key: str, data: bytes) -> None:
    """Keep a vmlinux; the ones that were used longest ago make room."""
    folder = directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=".part-", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(part, folder / _name(key, data))
        except OSError:
            os.unlink(part)
            return
        used = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_last_use)
        for path in used[:-_KEPT]:
            path.unlink()
    except OSError:
        return


def _name(key: str, data: bytes | mmap.mmap) -> str:
    return f"{key}.{hashlib.sha256(data).hexdigest()}"


def _last_use(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name

# SPDX-License-Identifier: Apache-2.0
"""The modules of a kernel as its package installed them: where they lie, and what is in the files.

A tree is a /lib/modules/RELEASE directory. The kernel writes `_` for `-` in the names of modules.
"""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import zstandard

from kdiff.errors import KdiffError

_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": lambda data: data,
    ".ko.gz": gzip.decompress,
    ".ko.xz": lzma.decompress,
    ".ko.zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


def canonical(name: str) -> str:
    """A module's name as the kernel has it: `nf-log` -> `nf_log`."""
    return name.replace("-", "_")


def module_files(tree: Path) -> Mapping[str, str]:
    """The files of all modules below `tree`, by the modules' names."""
    found = {}
    for where, name in sorted((where, name) for where, _, names in os.walk(tree) for name in names):
        stem, dot, ending = name.partition(".ko")
        if dot + ending in _UNPACK:
            found[canonical(stem)] = f"{where}/{name}"
    return MappingProxyType(found)


def builtin_modules(tree: Path) -> frozenset[str]:
    """Names of what could be a module and is part of the kernel."""
    listing = tree / "modules.builtin"
    if not listing.is_file():
        return frozenset()
    return frozenset(canonical(Path(line).stem) for line in listing.read_text().splitlines())


def contents(file: str) -> bytes:
    """The module's ELF file; KdiffError `module.unreadable`."""
    try:
        path = Path(file)
        return _UNPACK["." + path.name.partition(".")[2]](path.read_bytes())
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise KdiffError(
            "module.unreadable",
            f"cannot be read: {error}",
            place=file,
            remedy="install the kernel's package again",
        ) from error

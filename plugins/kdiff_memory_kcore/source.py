# SPDX-License-Identifier: Apache-2.0
"""The running kernel's memory, as /proc shows it.

/proc/kcore is an ELF core whose program headers map all of kernel memory; symbols come from /proc/kallsyms.
Addresses are those of this boot, so KASLR needs no care here.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from kdiff.api import (
    AddressBook,
    Architectures,
    ElfImage,
    Extent,
    KdiffError,
    KernelFacts,
    btf_structures,
    note_build_id,
    parse_kallsyms,
    read_program_headers,
    segment_at,
)

_HEAD = 1 << 16
"""Holds the program headers of any kernel's kcore; there are about ten."""
_CONFIG_LINE = re.compile(r"(CONFIG_\w+)=(.*)")


@dataclass(frozen=True, slots=True)
class Files:
    """Where a kernel shows itself; the last three need not be there."""

    kcore: Path
    kallsyms: Path
    version: Path
    notes: Path
    btf: Path
    config: Path
    arch: Path


RUNNING = Files(
    kcore=Path("/proc/kcore"),
    kallsyms=Path("/proc/kallsyms"),
    version=Path("/proc/version"),
    notes=Path("/sys/kernel/notes"),
    btf=Path("/sys/kernel/btf/vmlinux"),
    config=Path("/proc/config.gz"),
    arch=Path("/proc/sys/kernel/arch"),
)


class KcoreMemory:
    """Kernel memory read through an open kcore; satisfies `MemorySource`."""

    def __init__(self, name: str, files: Files, descriptor: int, image: ElfImage) -> None:
        self.name = name
        self.pristine = False
        self._files = files
        self._descriptor = descriptor
        self._image = image

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes; None where kcore maps nothing or may not show what it maps."""
        segment = segment_at(self._image.segments, address, size)
        if segment is None:
            return None
        offset = segment.offset + address - segment.address
        pieces = []
        while size:
            try:
                piece = os.pread(self._descriptor, size, offset)
            except OSError:
                return None
            if not piece:
                return None
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return b"".join(pieces)

    def address_book(self) -> AddressBook:
        """What /proc/kallsyms lists, modules included."""
        return self._book

    def facts(self) -> KernelFacts:
        """What /proc and /sys say; KdiffError if the version or the notes are missing."""
        return self._facts

    @cached_property
    def _book(self) -> AddressBook:
        return parse_kallsyms(_required(self._files.kallsyms), str(self._files.kallsyms))

    @cached_property
    def _facts(self) -> KernelFacts:
        files = self._files
        version = _required(files.version).decode("utf-8", "replace").rstrip("\n")
        words = version.split()
        btf = _optional(files.btf)
        return KernelFacts(
            release=words[2] if len(words) > 2 else "",
            version=version,
            machine=_optional(files.arch).decode("ascii", "replace").strip() or os.uname().machine,
            build_id=note_build_id(_required(files.notes), self._image.byte_order),
            config=_config(_optional(files.config)),
            structures=btf_structures(btf) if btf else MappingProxyType({}),
        )

    def extents(self) -> tuple[Extent, ...]:
        """What kcore's program headers map; of it, what belongs to devices cannot be read."""
        return tuple(Extent(each.address, each.size) for each in self._image.segments)

    def __del__(self) -> None:
        os.close(self._descriptor)


def open_memory(directory: str, _: Architectures) -> KcoreMemory:
    """Open the running kernel's memory, or that which a directory of copies holds; KdiffError `kcore.*`."""
    files = _copies(Path(directory)) if directory else RUNNING
    try:
        descriptor = os.open(files.kcore, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(files.kcore, error) from error
    try:
        head = os.pread(descriptor, _HEAD, 0)
        image = read_program_headers(head, str(files.kcore))
    except OSError as error:
        os.close(descriptor)
        raise _refused(files.kcore, error) from error
    except KdiffError:
        os.close(descriptor)
        raise
    return KcoreMemory(f"kcore:{directory}", files, descriptor, image)


def _copies(directory: Path) -> Files:
    return Files(
        *(directory / name for name in ("kcore", "kallsyms", "version", "notes", "btf", "config.gz", "arch"))
    )


def _refused(path: Path, error: OSError) -> KdiffError:
    if error.errno in (errno.EPERM, errno.EACCES):
        if os.geteuid() == 0:
            return KdiffError(
                "kcore.lockdown",
                "the kernel does not let root read its memory (lockdown, or a container)",
                place=str(path),
                remedy="boot without lockdown (often: without Secure Boot), or match against image:VMLINUZ",
            )
        return KdiffError("kcore.denied", "not readable", place=str(path), remedy="run as root")
    if error.errno == errno.ENOENT:
        return KdiffError(
            "kcore.missing",
            "does not exist",
            place=str(path),
            remedy="it needs CONFIG_PROC_KCORE and a mounted /proc; or match against image:VMLINUZ",
        )
    return KdiffError("kcore.unreadable", error.strerror or str(error), place=str(path))


def _required(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KdiffError("kcore.unreadable", error.strerror or str(error), place=str(path)) from error


def _optional(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _config(packed: bytes) -> Mapping[str, str]:
    try:
        text = gzip.decompress(packed).decode("utf-8", "replace") if packed else ""
    except (OSError, EOFError, zlib.error):
        return MappingProxyType({})
    found = (_CONFIG_LINE.fullmatch(line) for line in text.splitlines())
    return MappingProxyType({each[1]: each[2] for each in found if each})

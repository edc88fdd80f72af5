# SPDX-License-Identifier: Apache-2.0
"""Stage 12: an update as one tarball, the same bytes for the same update.

In: a `Package`. Out: the bytes of `ksplice-ID.tar.gz`. docs/package.md describes the files, and
kdiff/target/tarball.py reads them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from kdiff.emit import EmittedModule
from kdiff.errors import KdiffError
from kdiff.target import layout
from kdiff.values import dataclass

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
"""Deflate, no name, no time, strongest compression, unknown system (RFC 1952)."""


@dataclass(frozen=True, slots=True)
class Package:
    """Everything a tarball is made of."""

    id: str
    patch: bytes
    """As it was given."""
    description: str
    """One line, or empty."""
    utsname: tuple[str, str, str, str]
    """Sysname, Machine, Release, Version."""
    timestamp: int
    """Seconds since 1970; `creation_time` asks SOURCE_DATE_EPOCH."""
    manifest: Mapping[str, object]
    """What JSON can hold, without `files`, which `write` adds."""
    proof: bytes
    """The text of proof.json."""
    modules: tuple[EmittedModule, ...]


def creation_time(environment: Mapping[str, str] = os.environ) -> int:
    """Seconds since 1970: SOURCE_DATE_EPOCH if it is set, else now."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return int(time.time())
    if not (text.isascii() and text.isdigit()):
        raise KdiffError("package.time", f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds")
    return int(text)


def write(package: Package) -> bytes:
    """Return the tarball's bytes. KdiffError if the values cannot make one."""
    files = _files(package)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {**package.manifest, "files": hashes}
    files[layout.MANIFEST] = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    return _gzip(_tar(layout.folder(package.id), files, package.timestamp))


def save(package: Package, directory: Path) -> Path:
    """Write `ksplice-ID.tar.gz` into `directory`, whole or not at all; KdiffError `package.unwritable`."""
    data = write(package)
    path = directory / layout.tarball_name(package.id)
    scratch: str | None = None
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=directory)
        with open(handle, "wb") as file:
            file.write(data)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as error:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)
        raise KdiffError(
            "package.unwritable",
            f"cannot write the update: {error.strerror}",
            place=str(path),
            remedy="make room, or change to a directory you may write to",
        ) from error
    return path


def _files(package: Package) -> dict[str, bytes]:
    id = layout.checked_id(package.id)
    if [(module.name, module.file) for module in package.modules] != [
        (layout.module_name(id), layout.module_file(id))
    ] or not package.modules[0].targets:
        names = ", ".join(module.file for module in package.modules)
        raise KdiffError("package.modules", f"a package holds {layout.module_file(id)}, not {names!r}")
    if "\n" in package.description or any("\n" in each for each in package.utsname):
        raise KdiffError("package.description", "the description and uname's values are one line each")
    files = {
        layout.API: f"{layout.API_VERSION}\n".encode(),
        layout.CONTENTS: "".join(
            layout.change_line(target, module.name, module.file)
            for module in package.modules
            for target in module.targets
        ).encode(),
        layout.PATCH: package.patch,
        layout.PROOF: package.proof,
        layout.TIMESTAMP: f"{package.timestamp}\n".encode(),
        layout.UTSNAME: "".join(f"{each}\n" for each in package.utsname).encode(),
        **{module.file: module.data for module in package.modules},
    }
    if package.description:
        files[layout.DESCRIPTION] = f"{package.description}\n".encode()
    return files


def _tar(folder: str, files: Mapping[str, bytes], timestamp: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        top = _info(folder, tarfile.DIRTYPE, 0o755, timestamp)
        archive.addfile(top)
        for name in sorted(files):
            info = _info(f"{folder}/{name}", tarfile.REGTYPE, 0o644, timestamp)
            info.size = len(files[name])
            archive.addfile(info, io.BytesIO(files[name]))
    return out.getvalue()


def _info(name: str, kind: bytes, mode: int, timestamp: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, timestamp
    return info


def _gzip(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    return GZIP_HEADER + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)

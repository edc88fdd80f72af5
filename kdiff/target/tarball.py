# SPDX-License-Identifier: Apache-2.0
"""An update's tarball, read and checked whole before anything else happens.

In: a path. Out: an `Update`. Whatever is not exactly as kdiff/package.py writes it is an error with a key
of its own. The tar format is read here and not by the standard library, which would forgive what must
not be forgiven and costs five times as long to import.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any, NamedTuple

from kdiff.errors import KdiffError
from kdiff.target import layout

BLOCK = 512
LARGEST = 256 << 20
"""Bytes an update may unpack to."""
AGAIN = "copy it again, or create it again with ksplice-create"


class Update(NamedTuple):
    """What a tarball holds. `files` are all its files, by name."""

    id: str
    targets: tuple[str, ...]
    """`vmlinux` and the modules whose code it changes."""
    patch: bytes
    description: str
    release: str
    """The kernel release the update was made for."""
    timestamp: int
    """Seconds since 1970."""
    manifest: dict[str, Any]
    proof: bytes
    module: bytes
    files: dict[str, bytes]


class _Member(NamedTuple):
    name: str
    kind: bytes
    data: bytes


def read(path: str) -> Update:
    """Read and check the tarball at `path`; KdiffError `package.…` if anything is wrong with it."""
    id, files = _one_folder(_members(_unpacked(_raw(path), path), path), path)
    _api_version(files, path)
    _complete(id, files, path)
    manifest = _manifest(files, path)
    targets = _targets(id, files, path)
    return Update(
        id=id,
        targets=targets,
        patch=files[layout.PATCH],
        description=_text(files, layout.DESCRIPTION, path).strip() if layout.DESCRIPTION in files else "",
        release=_release(files, path),
        timestamp=_timestamp(files, path),
        manifest=manifest,
        proof=files[layout.PROOF],
        module=files[layout.module_file(id)],
        files=files,
    )


def _wrong(key: str, path: str, message: str, remedy: str = AGAIN) -> KdiffError:
    return KdiffError(f"package.{key}", message, place=path, remedy=remedy)


def _raw(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise _wrong("unreadable", path, f"cannot be read: {error.strerror}", "check the path") from error


def _unpacked(raw: bytes, path: str) -> bytes:
    if raw[:2] != b"\x1f\x8b":
        raise _wrong("not_tarball", path, "is not a gzip-compressed tarball", "give a ksplice-ID.tar.gz")
    stream = zlib.decompressobj(wbits=31)
    try:
        data = stream.decompress(raw, LARGEST)
    except zlib.error as error:
        raise _wrong("corrupt", path, "is damaged: its compressed data do not add up") from error
    if stream.unconsumed_tail:
        raise _wrong("too_large", path, f"unpacks to more than {LARGEST >> 20} MiB")
    if not stream.eof:
        raise _wrong("truncated", path, "is truncated: the compressed data stop in the middle")
    if stream.unused_data:
        raise _wrong("corrupt", path, "is damaged: something follows the compressed data")
    return data


def _members(data: bytes, path: str) -> list[_Member]:
    members = []
    offset = 0
    while True:
        header = data[offset : offset + BLOCK]
        if len(header) < BLOCK:
            if offset == 0:
                raise _wrong("not_tarball", path, "holds no tar archive", "give a ksplice-ID.tar.gz")
            raise _wrong("truncated", path, "is truncated: the archive has no end")
        if not any(header):
            break
        size = _number(header[124:136])
        total = _number(header[148:156])
        if size is None or total is None or sum(header) - sum(header[148:156]) + 8 * 0x20 != total:
            if offset == 0:
                raise _wrong("not_tarball", path, "holds no tar archive", "give a ksplice-ID.tar.gz")
            raise _wrong("corrupt", path, "is damaged: a header's checksum is wrong")
        content = data[offset + BLOCK : offset + BLOCK + size]
        if len(content) < size:
            raise _wrong("truncated", path, "is truncated: a file stops in the middle")
        prefix = _name(header[345:500]) if header[257:263] == b"ustar\0" else ""
        name = _name(header[:100])
        members.append(_Member(f"{prefix}/{name}" if prefix else name, header[156:157], content))
        offset += BLOCK + -(-size // BLOCK) * BLOCK
    if any(data[offset:]):
        raise _wrong("corrupt", path, "is damaged: something follows the end of the archive")
    return members


def _number(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if all(0x30 <= each < 0x38 for each in digits) else None


def _name(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _one_folder(members: list[_Member], path: str) -> tuple[str, dict[str, bytes]]:
    """Return the update's id and its files by name, all of which lie in the one directory `ksplice-ID`."""
    if not members:
        raise _wrong("missing", path, "holds no files")
    top = members[0].name.split("/", 1)[0]
    id = top.removeprefix("ksplice-")
    files: dict[str, bytes] = {}
    for member in members:
        folder, _, name = member.name.partition("/")
        if folder != top or ".." in member.name.split("/") or "/" in name.rstrip("/"):
            raise _wrong("path", path, f"{member.name!r} lies outside the update's directory {top!r}")
        if member.kind == b"5" and not name.rstrip("/"):
            continue
        if member.kind not in (b"0", b"\0") or not name:
            raise _wrong("kind", path, f"{member.name!r} is no regular file (type {member.kind!r})")
        if name in files:
            raise _wrong("repeated", path, f"{member.name!r} occurs twice")
        files[name] = member.data
    if not top.startswith("ksplice-") or not layout.is_id(id):
        raise _wrong("id", path, f"its directory {top!r} is not ksplice-ID")
    return id, files


def _api_version(files: dict[str, bytes], path: str) -> None:
    if layout.API in files:
        version = _text(files, layout.API, path).strip()
        if version != layout.API_VERSION:
            raise _wrong(
                "api_version",
                path,
                f"has api-version {version!r}, this program knows {layout.API_VERSION}",
                "use the kdiff it was created with",
            )


def _complete(id: str, files: dict[str, bytes], path: str) -> None:
    required = {*layout.REQUIRED, layout.module_file(id)}
    missing = sorted(required - files.keys())
    if missing:
        raise _wrong("missing", path, f"has no {', '.join(missing)}")
    extra = sorted(files.keys() - required - set(layout.OPTIONAL))
    if extra:
        raise _wrong("extra", path, f"holds what no update holds: {', '.join(extra)}")


def _targets(id: str, files: dict[str, bytes], path: str) -> tuple[str, ...]:
    """What the lines of `contents` say is changed, each by the one module of the update."""
    text = _text(files, layout.CONTENTS, path)
    targets = tuple(line.split(" ")[1] for line in text.splitlines() if line.count(" ") == 3)
    module, file = layout.module_name(id), layout.module_file(id)
    lines = "".join(layout.change_line(target, module, file) for target in targets)
    named = all(layout.is_target(target) for target in targets) and len(set(targets)) == len(targets)
    if text != lines or not targets or not named:
        raise _wrong("contents", path, f"its `contents` do not describe what {module} changes")
    return targets


def _manifest(files: dict[str, bytes], path: str) -> dict[str, Any]:
    """Return the manifest after comparing the hash of every other file with it."""
    try:
        manifest = json.loads(files[layout.MANIFEST])
        hashes = manifest["files"]
        listed = set(hashes)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _wrong("manifest", path, "its manifest.json is not a manifest") from error
    if not isinstance(manifest, dict) or not isinstance(hashes, dict):
        raise _wrong("manifest", path, "its manifest.json is not a manifest")
    others = files.keys() - {layout.MANIFEST}
    if listed != others:
        names = ", ".join(sorted(listed ^ others))
        raise _wrong("tampered", path, f"was changed: manifest and files do not name the same: {names}")
    for name in sorted(others):
        if hashlib.sha256(files[name]).hexdigest() != hashes[name]:
            raise _wrong("tampered", path, f"was changed: {name} is not what the manifest says")
    return manifest


def _text(files: dict[str, bytes], name: str, path: str) -> str:
    try:
        return files[name].decode()
    except UnicodeDecodeError as error:
        raise _wrong("metadata", path, f"{name} is not UTF-8 text") from error


def _release(files: dict[str, bytes], path: str) -> str:
    lines = _text(files, layout.UTSNAME, path).splitlines()
    if len(lines) != len(layout.UTSNAME_LINES):
        raise _wrong("metadata", path, f"utsname has {len(lines)} lines, not {len(layout.UTSNAME_LINES)}")
    return lines[layout.UTSNAME_LINES.index("Release")]


def _timestamp(files: dict[str, bytes], path: str) -> int:
    text = _text(files, layout.TIMESTAMP, path).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise _wrong("metadata", path, f"timestamp {text!r} is no number of seconds")
    return int(text)

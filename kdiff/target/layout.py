# SPDX-License-Identifier: Apache-2.0
"""How an update is laid out as a tarball: one directory `ksplice-ID/` of plain files.

The writer (kdiff/package.py) and the reader (tarball.py) share these names.
"""

from __future__ import annotations

from kdiff.errors import KdiffError

API_VERSION = "3"
"""What follows Ksplice's 2: other modules, a manifest and a proof."""

API = "api-version"
CONTENTS = "contents"
DESCRIPTION = "description"
MANIFEST = "manifest.json"
PATCH = "patch"
PROOF = "proof.json"
TIMESTAMP = "timestamp"
UTSNAME = "utsname"

REQUIRED = (API, CONTENTS, MANIFEST, PATCH, PROOF, TIMESTAMP, UTSNAME)
"""Besides the module file."""
OPTIONAL = (DESCRIPTION,)
UTSNAME_LINES = ("Sysname", "Machine", "Release", "Version")

ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
ID_LENGTH = 32
"""Module names have at most 55 characters, and file names want some too."""

KERNEL = "vmlinux"
MODULE_NAME = 56
"""Bytes of a module's name with its end: MODULE_NAME_LEN of include/linux/module.h on 64-bit machines."""


def is_id(text: str) -> bool:
    """Tell whether `text` can name an update."""
    return 0 < len(text) <= ID_LENGTH and ID_CHARACTERS.issuperset(text)


def is_target(text: str) -> bool:
    """Tell whether `text` can be the kernel's name or a module's."""
    return 0 < len(text) < MODULE_NAME and ID_CHARACTERS.issuperset(text)


def checked_id(text: str) -> str:
    """Return `text` if it can name an update, else KdiffError `update.id`."""
    if not is_id(text):
        raise KdiffError(
            "update.id",
            f"{text!r} cannot name an update",
            remedy=f"use 1 to {ID_LENGTH} letters, digits or underscores",
        )
    return text


def bare(id: str) -> str:
    """Remove what people copy along with an id."""
    for prefix in ("ksplice_", "ksplice-"):
        id = id.removeprefix(prefix)
    return id.removesuffix(".tar.gz")


def module_name(id: str) -> str:
    """Name an update's module, and its directory in sysfs."""
    return f"ksplice_{id}"


def module_file(id: str) -> str:
    return f"{module_name(id)}.ko"


def folder(id: str) -> str:
    return f"ksplice-{id}"


def tarball_name(id: str) -> str:
    return f"{folder(id)}.tar.gz"


def change_line(target: str, module: str, file: str) -> str:
    """One line of `contents`, with its end."""
    return f"change {target} {module} {file}\n"

# SPDX-License-Identifier: Apache-2.0
"""Which kernel an update is for: find its image, and make sure that everything given is about that one."""

from __future__ import annotations

import hashlib
import os
from itertools import compress
from operator import ne
from pathlib import Path

from kdiff.addressbook import AddressBook
from kdiff.confdir import Config
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.kallsyms import parse_text
from kdiff.kernel import KernelFacts
from kdiff.memory import MemorySource


def find_memory(config: Config) -> str:
    """The memory to match against, where none is named: the image in CONFDIR, or the installed one."""
    release = config.release
    places = (
        config.directory / "vmlinux",
        config.directory / "vmlinuz",
        Path("/boot") / f"vmlinuz-{release}",
        Path("/usr/lib/modules") / release / "vmlinuz",
        Path("/lib/modules") / release / "vmlinuz",
    )
    for place in places:
        if place.exists():
            return f"image:{place}"
    if os.uname().release == release and os.access("/proc/kcore", os.R_OK):
        return "kcore:"
    raise KdiffError(
        "memory.missing",
        f"no image of kernel {release} was found",
        place=str(config.directory),
        remedy=f"put its vmlinuz into {config.directory}, or name it with --memory image:FILE",
    )


def image_digest(memory: MemorySource) -> str:
    """SHA-256 of the file a memory was read from, hexadecimal; empty for a live kernel."""
    scheme, _, rest = memory.name.partition(":")
    path = Path(rest.rpartition("@")[0] if "@0x" in rest else rest)
    if scheme != "image" or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_same_kernel(config: Config, facts: KernelFacts, book: AddressBook, pristine: bool) -> None:
    """Refuse headers or a System.map of another kernel than the one in memory."""
    if facts.release and facts.release != config.release:
        raise Refused(
            Refusal(
                "config.other_kernel",
                str(config.headers),
                f"the headers are for kernel {config.release}, the image is {facts.release}",
                "use the headers, configuration, source and image of one kernel",
            )
        )
    try:
        given = parse_text(config.system_map.read_bytes(), str(config.system_map))
    except KdiffError as error:
        if error.key == "kallsyms.stub":
            return
        raise
    wrong = _first_contradiction(given, book, pristine)
    if wrong is not None:
        raise Refused(
            Refusal(
                "config.system_map",
                str(config.system_map),
                f"it is not this kernel's: {wrong}",
                "take System.map from the same package as the kernel, or make it with `kdiff setup`",
            )
        )


def _first_contradiction(given: AddressBook, book: AddressBook, pristine: bool) -> str | None:
    """The first unique name that both lists have at different places. A live kernel may have been moved."""
    slide = 0
    if not pristine:
        ours, theirs = book.address("_text"), given.address("_text")
        slide = ours - theirs if ours is not None and theirs is not None else 0
    start = next((entry.address for entry in given.of_any("_text")), 0)
    places = dict(zip(book.names, book.addresses, strict=True))
    addresses = [each + slide for each in given.addresses] if slide else given.addresses
    others = map(ne, map(places.get, given.names), addresses)
    for name, address in compress(zip(given.names, given.addresses, strict=True), others):
        if address < start:
            continue
        known = book.address(name)
        if known in (None, address + slide) or given.address(name) is None:
            continue
        if book.named(name)[0].kind.lower() != "a":
            return f"{name} is at {known - slide:#x}, not {address:#x}"
    return None

# SPDX-License-Identifier: Apache-2.0
"""Which kernel an update is for: find its image, and make sure that everything given is about that one."""

from __future__ import annotations

import hashlib
import os
from operator import itemgetter
from pathlib import Path

from kdiff.confdir import Config
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.kallsyms import parse_text
from kdiff.kernel import AddressBook, KernelFacts
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
    start = next((entry.address for entry in given.entries if entry.name == "_text"), 0)
    place = itemgetter(0, 1)
    agreed = {(name, at - slide) for name, at in map(place, book.entries)}
    for entry in (each for each in given.entries if place(each) not in agreed):
        if entry.address < start:
            continue
        known = book.named(entry.name)
        if len(known) != 1 or known[0].kind.lower() == "a" or len(given.named(entry.name)) != 1:
            continue
        if known[0].address != entry.address + slide:
            return f"{entry.name} is at {known[0].address - slide:#x}, not {entry.address:#x}"
    return None

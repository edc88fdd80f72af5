# SPDX-License-Identifier: Apache-2.0
"""Give a module the build id of what it now is.

The linker's own counted sections that are gone, among them names of directories; without this, equal updates
built in two places would differ. The kernel shows the id in /sys/module/NAME/notes and in an oops.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

from kdiff.api import Relocatable, Section, write_object

SECTION = ".note.gnu.build-id"
NOTE_HEADER = 12
"""Size of the name, size of the description, type: a word each."""


def stamp(module: Relocatable) -> Relocatable:
    """Put a hash of the whole module, but for the id itself, in place of the id, if there is one."""
    blank = _with_id(module, b"")
    return _with_id(module, hashlib.sha1(write_object(blank), usedforsecurity=False).digest())


def _with_id(module: Relocatable, digest: bytes) -> Relocatable:
    endian = "<" if module.byte_order == "little" else ">"
    sections = (_note(each, digest, endian) if each.name == SECTION else each for each in module.sections)
    return replace(module, sections=tuple(sections))


def _note(section: Section, digest: bytes, endian: str) -> Section:
    name_size, size, _ = struct.unpack_from(f"{endian}III", section.data)
    start = NOTE_HEADER + name_size + -name_size % 4
    head, rest = section.data[:start], section.data[start + size :]
    return replace(section, data=head + digest[:size].ljust(size, b"\0") + rest)

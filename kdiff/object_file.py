# SPDX-License-Identifier: Apache-2.0
"""An object on its way into a file: written as a whole or not at all, and confirmed by a second reader.

The second reader shares no code with the writer (`kdiff.elf.second`). It must find the same sections,
undefined symbols and relocations, by number and name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from kdiff.elf.second import ModuleDescription, describe_module
from kdiff.elf.write import Relocatable, write
from kdiff.errors import KdiffError


def save(obj: Relocatable, path: Path) -> None:
    """Write `obj` to `path`; KdiffError `output.unwritable` or `output.second_reader`, and no file."""
    write_whole(path, write(obj), lambda data: confirm(obj, data, str(path)))


def write_whole(path: Path, data: bytes, check: Callable[[bytes], None] | None = None) -> None:
    """Write a file under another name, let `check` look at what can be read back, and give it its name."""
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            scratch = Path(file.name)
            file.write(data)
        try:
            if check is not None:
                check(scratch.read_bytes())
            scratch.chmod(0o666 & ~_umask())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise KdiffError(
            "output.unwritable", f"cannot be written: {error.strerror or error}", place=str(path)
        ) from error


def confirm(obj: Relocatable, data: bytes, place: str) -> None:
    """Raise KdiffError `output.second_reader` unless a second reader finds in `data` what `obj` says."""
    problems = list(_differences(obj, describe_module(data, place)))
    if problems:
        raise KdiffError(
            "output.second_reader",
            f"a second reader disagrees about what was written: {problems[0]}",
            place=place,
            details=tuple(problems[1:]),
        )


def _differences(obj: Relocatable, found: ModuleDescription) -> Iterator[str]:
    if found.machine != obj.machine:
        yield f"machine {found.machine} for {obj.machine}"
    read = [(each.name, each.type, each.flags, each.size) for each in found.sections]
    for section in obj.sections:
        if (section.name, section.type, section.flags, section.size) not in read:
            yield f"no section {section.name} of {section.size} bytes"
    names = {
        each.name for each in obj.symbols if each.section is None and each.reserved is None and each.name
    }
    for name in sorted(names ^ set(found.undefined)):
        yield f"undefined symbol {name} in one of both only"
    wanted = Counter(_relocations(obj))
    there = Counter(
        (each.section, each.offset, each.type, each.symbol, each.addend if obj.explicit else 0)
        for each in found.relocations
    )
    for key, count in (wanted - there).items():
        yield f"relocation {key} is missing {count} times"
    for key, count in (there - wanted).items():
        yield f"relocation {key} is found {count} times too often"


def _relocations(obj: Relocatable) -> Iterator[tuple[str, int, int, str, int]]:
    for section in obj.sections:
        for each in section.relocations:
            name = obj.symbols[each.symbol].name if each.symbol >= 0 else ""
            yield section.name, each.offset, each.type, name, each.addend


def _umask() -> int:
    """The process's umask; there is no way to ask but to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

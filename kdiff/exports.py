# SPDX-License-Identifier: Apache-2.0
"""Module.symvers: the symbols a kernel's modules may use, and the CRC each one's type had at build time.

In: the file of a kernel build or of a headers package. Out: `Export`s by name. One line is
`0xCRC <tab> name <tab> owner <tab> EXPORT_SYMBOL[_GPL] <tab> namespace`
(Documentation/kbuild/modules.rst, 6.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from kdiff.errors import KdiffError
from kdiff.values import dataclass

_LINES = re.compile(
    r"^((?:0x)?[0-9a-fA-F]+\t([^\t\r\n]+)\t[^\t\r\n]+\tEXPORT_[^\t\r\n]*(?:\t[^\t\r\n]*)?)$", re.MULTILINE
)
"""A sound line, and the name in it."""


@dataclass(frozen=True, slots=True)
class Export:
    """One exported symbol. `owner` is `vmlinux` or a module's name as /proc/modules has it."""

    name: str
    crc: int
    """0 where the kernel was built without MODVERSIONS, or no CRC could be computed."""
    owner: str
    gpl: bool
    namespace: str
    """Empty, or what a module must declare to import before it may use the symbol."""


def read_symvers(path: Path) -> Mapping[str, Export]:
    """Read a Module.symvers; KdiffError `exports.unreadable` or `exports.malformed`."""
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise KdiffError(
            "exports.unreadable",
            f"cannot read the list of exported symbols: {reason}",
            place=str(path),
            remedy="install the kernel's headers package, or build the kernel's modules",
        ) from error
    found = _LINES.findall(text)
    if len(found) == text.count("\n") and text.endswith("\n"):
        return _Exports({name: line for line, name in found}, str(path))
    lines = enumerate(text.split("\n"), start=1)
    exports = (_export(line, f"{path}:{number}") for number, line in lines if line)
    return MappingProxyType({export.name: export for export in exports})


class _Exports(Mapping[str, Export]):
    """The exports of a list that is sound, each made when it is asked for: few of thousands are."""

    def __init__(self, lines: Mapping[str, str], place: str) -> None:
        self._lines, self._place = lines, place

    def __getitem__(self, name: str) -> Export:
        return _export(self._lines[name], self._place)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def _export(line: str, place: str) -> Export:
    fields = line.split("\t")
    if len(fields) == 4:
        fields.append("")
    try:
        crc, name, owner, kind, namespace = fields
        if not name or not owner or not kind.startswith("EXPORT_"):
            raise ValueError(line)
        return Export(name, int(crc, 16), _module_name(owner), "GPL" in kind, namespace)
    except ValueError as error:
        raise KdiffError(
            "exports.malformed",
            f"not a line of CRC, name, owner, kind and namespace: {line[:80]!r}",
            place=place,
            remedy="use the Module.symvers of the kernel's own headers",
        ) from error


def _module_name(owner: str) -> str:
    """`net/ipv6/ipv6-foo` -> `ipv6_foo`, as the module loader calls it."""
    return owner.rsplit("/", 1)[-1].replace("-", "_")

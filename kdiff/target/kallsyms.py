# SPDX-License-Identifier: Apache-2.0
"""Addresses of a few names in the running kernel's own list, in one pass that does not depend on how many.

A line is `ADDRESS KIND NAME`, all addresses equally long; symbols of modules follow those of vmlinux and end
in `\\t[MODULE]` (kernel/kallsyms.c).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress
from operator import itemgetter

from kdiff.errors import KdiffError
from kdiff.target.machine import Machine


def addresses(machine: Machine, wanted: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the addresses of each wanted name of vmlinux, in the list's order; absent names are left out.

    KdiffError `target.kallsyms` if there is no list, `target.kptr_restrict` if it shows no addresses.
    """
    path = f"{machine.proc}/kallsyms"
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except OSError as error:
        raise _missing(path, f"cannot read the kernel's symbols: {error.strerror}") from error
    module = data.find(b"\t[")
    if module >= 0:
        data = data[: data.rfind(b"\n", 0, module) + 1]
    width = data.find(b" ")
    if width < 0:
        raise _missing(path, "lists no symbols")
    names = frozenset(name.encode() for name in wanted)
    lines = data.split(b"\n")
    found: dict[str, tuple[int, ...]] = {}
    name_of = itemgetter(slice(width + 3, None))
    for line in compress(lines, map(names.__contains__, map(name_of, lines))):
        name = name_of(line).decode()
        found[name] = (*found.get(name, ()), int(line[:width], 16))
    if found and not any(any(each) for each in found.values()):
        raise KdiffError(
            "target.kptr_restrict",
            "the kernel hides the addresses of its symbols",
            place=path,
            remedy="sysctl kernel.kptr_restrict=1, as root",
        )
    return found


def _missing(path: str, message: str) -> KdiffError:
    return KdiffError(
        "target.kallsyms",
        message,
        place=path,
        remedy="the kernel needs CONFIG_KALLSYMS, and /proc must be mounted",
    )

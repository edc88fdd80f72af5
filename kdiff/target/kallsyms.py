# SPDX-License-Identifier: Apache-2.0
"""Addresses of a few names in the running kernel's own list, in one pass that does not depend on how many.

A line is `ADDRESS KIND NAME`, all addresses equally long; symbols of modules follow those of vmlinux and end
in `\\t[MODULE]` (kernel/kallsyms.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress
from operator import itemgetter

from kdiff.errors import KdiffError
from kdiff.target.layout import KERNEL
from kdiff.target.machine import Machine

PAGE = 4096


def addresses(machine: Machine, wanted: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the addresses of each wanted name of vmlinux, in the list's order; absent names are left out.

    KdiffError `target.kallsyms` if there is no list, `target.kptr_restrict` if it shows no addresses.
    """
    return all_addresses(machine, {KERNEL: frozenset(wanted)})[KERNEL]


def all_addresses(
    machine: Machine, wanted: Mapping[str, frozenset[str]]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """The same for several owners, the kernel and modules; `wanted`: names by owner."""
    path = f"{machine.proc}/kallsyms"
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except OSError as error:
        raise _missing(path, f"cannot read the kernel's symbols: {error.strerror}") from error
    width = data.find(b" ")
    if width < 0:
        raise _missing(path, "lists no symbols")
    found = {}
    for owner, names in wanted.items():
        suffix = b"" if owner == KERNEL else f"\t[{owner}]".encode()
        found[owner] = _found(_share(data, suffix), names, suffix, width)
    every = [address for each in found.values() for listed in each.values() for address in listed]
    if every and not any(every):
        raise KdiffError(
            "target.kptr_restrict",
            "the kernel hides the addresses of its symbols",
            place=path,
            remedy="sysctl kernel.kptr_restrict=1, as root",
        )
    return found


def _share(data: bytes, suffix: bytes) -> bytes:
    """The lines of one owner, which stand together."""
    if not suffix:
        module = data.find(b"\t[")
        return data if module < 0 else data[: data.rfind(b"\n", 0, module) + 1]
    first, last = data.find(suffix + b"\n"), data.rfind(suffix + b"\n")
    return data[data.rfind(b"\n", 0, first) + 1 : last + len(suffix)] if first >= 0 else b""


def _found(data: bytes, wanted: Iterable[str], suffix: bytes, width: int) -> dict[str, tuple[int, ...]]:
    names = frozenset(name.encode() + suffix for name in wanted)
    lines = data.split(b"\n")
    found: dict[str, tuple[int, ...]] = {}
    name_of = itemgetter(slice(width + 3, None))
    for line in compress(lines, map(names.__contains__, map(name_of, lines))):
        name = name_of(line)[: -len(suffix) or None].decode()
        found[name] = (*found.get(name, ()), int(line[:width], 16))
    return found


def below(machine: Machine, owner: str, address: int) -> str:
    """The last name of an owner's that is at an address or less than a page below it; empty without one."""
    found = _all(machine, owner)
    return max(((at, name) for at, name in found if at <= address < at + PAGE), default=(0, ""))[1]


def beginning(machine: Machine, owner: str, start: str) -> tuple[int, ...]:
    """The addresses of an owner's names that begin with `start`."""
    return tuple(address for address, name in _all(machine, owner) if name.startswith(start))


def _all(machine: Machine, owner: str) -> list[tuple[int, str]]:
    with open(f"{machine.proc}/kallsyms", "rb") as file:
        lines = _share(file.read(), f"\t[{owner}]".encode()).splitlines()
    return [(int(line.split()[0], 16), line.split()[2].decode()) for line in lines]


def _missing(path: str, message: str) -> KdiffError:
    return KdiffError(
        "target.kallsyms",
        message,
        place=path,
        remedy="the kernel needs CONFIG_KALLSYMS, and /proc must be mounted",
    )

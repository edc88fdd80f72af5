# SPDX-License-Identifier: Apache-2.0
"""A directory with everything `create` and `rehearse` need for one kernel of a distribution.

The distribution's plugin unpacks packages; what is the same for every kernel is done here: System.map out of
the image's own symbol table, and a record, written last, that says the directory is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from kdiff.distribution import Distribution, KernelSetup, Say
from kdiff.errors import KdiffError
from kdiff.kallsyms import format_system_map
from kdiff.memory import MemorySource
from kdiff.registry import Registry
from kdiff.values import dataclass

RECORD = "setup.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which kernel, and where to put it."""

    abi: str
    dest: Path


def cache() -> Path:
    """Where kdiff keeps what it can make again: $XDG_CACHE_HOME/kdiff, by default ~/.cache/kdiff."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdiff"


def default_destination(abi: str) -> Path:
    return cache() / "setups" / abi


def distribution(registry: Registry, os_release: Path = Path("/etc/os-release")) -> Distribution:
    """The plugin for the distribution this machine runs, or for one it derives from."""
    lines = os_release.read_text().splitlines() if os_release.is_file() else []
    fields = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    for name in names:
        if name in registry.distributions:
            return registry.distributions[name]
    raise KdiffError(
        "setup.distribution",
        f"no plugin for this distribution ({names[0] or 'unknown'});"
        f" known: {', '.join(sorted(registry.distributions))}",
        remedy="make CONFDIR and KERNEL_SOURCE by hand as docs/cli.md says",
    )


def choose(registry: Registry, abi: str | None, dest: Path | None) -> Wanted:
    """Decide which kernel is meant.

    Without `abi`: the one `dest` already holds, else the running kernel's if its packages can be had, else
    the newest.
    """
    if abi is None and dest is not None:
        held = recorded(dest)
        abi = held.abi if held else None
    if abi is None:
        found = distribution(registry)
        running = os.uname().release
        abi = running if found.serves(running) else found.newest()
    return Wanted(abi, dest or default_destination(abi))


def make(registry: Registry, wanted: Wanted, say: Say) -> KernelSetup:
    """Make the directory, or go on where it was interrupted; a complete one is returned as it is."""
    wanted.dest.mkdir(parents=True, exist_ok=True)
    held = recorded(wanted.dest)
    if held is not None:
        if held.abi != wanted.abi:
            raise KdiffError(
                "setup.occupied",
                f"holds kernel {held.abi} already, not {wanted.abi}",
                place=str(wanted.dest),
                remedy="name another directory with --dest",
            )
        return held
    setup = distribution(registry).setup(wanted.abi, wanted.dest.resolve(), say)
    say("reading the symbol table inside the kernel image (System.map)")
    _system_map(setup, registry.open_memory)
    _record(setup, wanted.dest.resolve())
    return setup


def recorded(dest: Path) -> KernelSetup | None:
    """The setup that `dest` holds, or None if it holds none that is complete."""
    record = dest / RECORD
    if not record.is_file():
        return None
    try:
        fields = json.loads(record.read_text())
        abi, version = str(fields["abi"]), str(fields["package_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise KdiffError("setup.record", "is damaged", place=str(record), remedy="remove it") from error
    dest = dest.resolve()
    return KernelSetup(abi, version, dest / "config", dest / "source", dest / "image")


def create_line(setup: KernelSetup) -> str:
    """The command to type next."""
    return f"ksplice-create --patch=FILE.patch --config={setup.config} {setup.source}"


def _system_map(setup: KernelSetup, open_memory: Callable[[str], MemorySource]) -> None:
    book = open_memory(f"image:{setup.image / 'vmlinuz'}").address_book()
    part = setup.config / "System.map.part"
    part.write_text(format_system_map(book))
    part.rename(setup.config / "System.map")


def _record(setup: KernelSetup, dest: Path) -> None:
    part = dest / f"{RECORD}.part"
    part.write_text(json.dumps({"abi": setup.abi, "package_version": setup.package_version}, indent=2) + "\n")
    part.rename(dest / RECORD)

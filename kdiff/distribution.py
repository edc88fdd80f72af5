# SPDX-License-Identifier: Apache-2.0
"""Where a distribution keeps a kernel's configuration, headers, source and image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kdiff.values import dataclass

Say = Callable[[str], None]
"""Receives one line of progress for a person."""


@dataclass(frozen=True, slots=True)
class KernelSetup:
    """What `kdiff setup` leaves behind: paths that exist."""

    abi: str
    """The kernel release: `6.1.0-56-amd64`."""
    package_version: str
    config: Path
    """A CONFDIR: System.map, .config, build, flags, vmlinuz."""
    source: Path
    """A KERNEL_SOURCE."""
    image: Path
    """A directory that holds `vmlinuz` and `modules` (the /lib/modules/ABI tree)."""


class Distribution(Protocol):
    """One distribution, keyed by the ID of its /etc/os-release."""

    @property
    def id(self) -> str: ...

    def newest(self) -> str:
        """The newest kernel ABI that can be had."""

    def serves(self, abi: str) -> bool:
        """Whether that kernel's packages can be had."""

    def setup(self, abi: str, dest: Path, say: Say) -> KernelSetup:
        """Make everything below `dest`; done work is not repeated. KdiffError if a package is missing."""

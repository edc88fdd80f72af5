# SPDX-License-Identifier: Apache-2.0
"""Source patches as tests use them: files of tests/patches, made into updates of the fixture's kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kdiff import registry
from kdiff.distribution import KernelSetup
from kdiff.package import Package
from kdiff.pipeline import Request, create

PATCHES = Path(__file__).parent / "patches"
EXAMPLE = Path(__file__).parent.parent / "examples" / "tcp_ipv4.patch"


def request(kernel: KernelSetup, patch: Path, **changes: object) -> Request:
    """What `ksplice-create` would ask for, with some of it changed."""
    asked = Request(
        config=kernel.config, source=kernel.source, patch=patch, id=patch.stem[:32], timestamp=0, jobs=2
    )
    return replace(asked, **changes)  # type: ignore[arg-type]  # names are checked by replace


def make(kernel: KernelSetup, patch: Path, say: Callable[[str], None] = print, **changes: object) -> Package:
    """Create an update."""
    return create(request(kernel, patch, **changes), registry.load(), say)

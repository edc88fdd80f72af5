# SPDX-License-Identifier: Apache-2.0
"""The hooks a plugin may implement. Each is asked once, when a command starts; none is ever in a loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from kdiff.arch import Architecture
    from kdiff.distribution import Distribution
    from kdiff.emit import Emitter
    from kdiff.habits import Habit
    from kdiff.kernel import KernelFacts, SpecialSection
    from kdiff.memory import MemoryScheme

PROJECT = "kdiff"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kdiff_architectures() -> Iterable[Architecture]:  # type: ignore[empty-body]  # no body
    """Return instruction sets, keyed by `elf_machine` and byte order."""


@hookspec
def kdiff_special_sections(  # type: ignore[empty-body]  # no body
    facts: KernelFacts,
) -> Iterable[SpecialSection]:
    """Return the special sections of the kernel these facts describe, keyed by section name."""


@hookspec
def kdiff_habits(facts: KernelFacts) -> Iterable[Habit]:  # type: ignore[empty-body]  # no body
    """Return what names in this kernel's objects mean, keyed by what the row is and its name."""


@hookspec
def kdiff_memory_schemes() -> Iterable[MemoryScheme]:  # type: ignore[empty-body]  # same
    """Return ways to read run memory, keyed by scheme."""


@hookspec
def kdiff_emitters() -> Iterable[Emitter]:  # type: ignore[empty-body]  # same
    """Return ways to write an update, keyed by name."""


@hookspec
def kdiff_distributions() -> Iterable[Distribution]:  # type: ignore[empty-body]  # same
    """Return distributions whose kernels can be set up, keyed by os-release ID."""

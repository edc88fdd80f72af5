# SPDX-License-Identifier: Apache-2.0
"""From a bound update to module files, through an emitter plugin.

An emitter is asked four times: `redirects` which functions it can redirect, `review` what it could never do
of a plan, `check` what it could not write of an update that is bound, and `emit` writes the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kdiff.errors import Refusal
from kdiff.kernel import KernelFacts
from kdiff.update import Update
from kdiff.values import dataclass

if TYPE_CHECKING:
    from kdiff.graph import SectionGraph
    from kdiff.plan import Plan


@dataclass(frozen=True, slots=True)
class Workshop:
    """What an emitter may build with: prepared headers, make arguments, and a directory of its own."""

    headers: Path
    make_arguments: tuple[str, ...]
    scratch: Path


@dataclass(frozen=True, slots=True)
class EmittedModule:
    """One module file of an update. `targets`: the kernel or the modules whose code it changes."""

    targets: tuple[str, ...]
    name: str
    """The module's name in the kernel: `ksplice_abcd1234`."""
    file: str
    """Its file name in the package."""
    data: bytes


class Emitter(Protocol):
    """One way to write an update."""

    @property
    def name(self) -> str: ...

    @property
    def sets_initial(self) -> bool:
        """Whether its modules set what variables of modules start with (`Update.initial`)."""

    def redirects(self, graph: SectionGraph, function: int) -> bool:
        """Whether calls of a function of a pre graph can be redirected; if not, its callers may do."""

    def review(self, plan: Plan, facts: KernelFacts) -> tuple[Refusal, ...]:
        """What this emitter cannot redirect, as refusals."""

    def check(self, update: Update, facts: KernelFacts, headers: Path) -> None:
        """Raise KdiffError, or Refused, for what can be told of `emit` without building anything."""

    def emit(self, update: Update, facts: KernelFacts, shop: Workshop) -> tuple[EmittedModule, ...]:
        """Write the modules. KdiffError if the tools fail."""


Emitters = Mapping[str, Emitter]

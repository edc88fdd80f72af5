# SPDX-License-Identifier: Apache-2.0
"""Updates as livepatch modules: the kernel's own livepatch core does the patching.

`review.py` says what livepatch cannot redirect. `module.py` goes through `workbench.py` (the sources and
what Kbuild makes of them), `convert.py` and `stamp.py` (the module in livepatch's form), `arrival.py` (every
carried byte and reference has arrived) and `second_reader.py` (another ELF reader finds what the loader
wants). `runtime.c` is the C part of every update. All of it is imported only when an update is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdiff.api import KernelFacts, Refusal, hookimpl

if TYPE_CHECKING:
    from kdiff.api import EmittedModule, Emitter, Plan, SectionGraph, Update, Workshop


@dataclass(frozen=True, slots=True)
class LivepatchEmitter:
    """The emitter `livepatch`."""

    name: str = "livepatch"
    sets_initial: bool = True

    def redirects(self, graph: SectionGraph, function: int) -> bool:
        """Whether a function has an ftrace site."""
        from kdiff_emit_livepatch import review

        return review.has_site(graph, function)

    def review(self, plan: Plan, facts: KernelFacts) -> tuple[Refusal, ...]:
        """What livepatch cannot redirect in this kernel."""
        from kdiff_emit_livepatch import review

        return tuple(review.review(plan, facts))

    def check(self, update: Update, facts: KernelFacts, headers: Path) -> None:
        """KdiffError `emit.update` or `emit.headers` if there is no use in trying."""
        from kdiff_emit_livepatch import module

        module.check(update, headers)

    def emit(self, update: Update, facts: KernelFacts, shop: Workshop) -> tuple[EmittedModule, ...]:
        """Build, convert and check the module; KdiffError `emit.*`, or `disk.full`, if that fails."""
        from kdiff_emit_livepatch import module

        return (module.make(update, facts, shop),)


@hookimpl
def kdiff_emitters() -> Iterable[Emitter]:
    """Provide the emitter `livepatch`."""
    return (LivepatchEmitter(),)

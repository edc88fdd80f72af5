# SPDX-License-Identifier: Apache-2.0
"""Updates as livepatch modules: the kernel's own livepatch core does the patching.

`review.py` says what livepatch cannot redirect. `emit` goes through `workbench.py` (the sources and what
Kbuild makes of them), `convert.py` and `stamp.py` (the module in livepatch's form), `arrival.py` (every
carried byte and reference has arrived) and `second_reader.py` (another ELF reader finds what the loader
wants). `runtime.c` is the C part of every update.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdiff.api import (
    EmittedModule,
    Emitter,
    KernelFacts,
    Refusal,
    Update,
    Workshop,
    hookimpl,
    module_file,
    module_name,
    object_model,
    read_bytes,
    write_object,
)
from kdiff_emit_livepatch import arrival, convert, review, second_reader, workbench
from kdiff_emit_livepatch.stamp import stamp

if TYPE_CHECKING:
    from kdiff.api import Plan, SectionGraph


@dataclass(frozen=True, slots=True)
class LivepatchEmitter:
    """The emitter `livepatch`."""

    name: str = "livepatch"

    def redirects(self, graph: SectionGraph, function: int) -> bool:
        """Whether a function has an ftrace site."""
        return review.has_site(graph, function)

    def review(self, plan: Plan, facts: KernelFacts) -> tuple[Refusal, ...]:
        """What livepatch cannot redirect in this kernel."""
        return tuple(review.review(plan, facts))

    def check(self, update: Update, facts: KernelFacts, headers: Path) -> None:
        """KdiffError `emit.update` or `emit.headers` if there is no use in trying."""
        convert.check_update(update)
        workbench.check_headers(headers)

    def emit(self, update: Update, facts: KernelFacts, shop: Workshop) -> tuple[EmittedModule, ...]:
        """Build, convert and check the module; KdiffError `emit.*`, or `disk.full`, if that fails."""
        file = module_file(update.id)
        convert.check_update(update)
        linked = workbench.build(update, shop)
        module = stamp(convert.livepatch(object_model(read_bytes(linked, file)), update.borrowed))
        arrival.check(update, module)
        data = write_object(module)
        second_reader.check(data, linked, update, facts, shop)
        return (EmittedModule(update.targets, module_name(update.id), file, data),)


@hookimpl
def kdiff_emitters() -> Iterable[Emitter]:
    """Provide the emitter `livepatch`."""
    return (LivepatchEmitter(),)

# SPDX-License-Identifier: Apache-2.0
"""From a bound update to its module: built, brought into livepatch's form, and checked twice."""

from __future__ import annotations

from pathlib import Path

from kdiff.api import (
    EmittedModule,
    KernelFacts,
    Update,
    Workshop,
    module_file,
    module_name,
    object_model,
    read_bytes,
    write_object,
)
from kdiff_emit_livepatch import arrival, convert, second_reader, workbench
from kdiff_emit_livepatch.stamp import stamp


def check(update: Update, headers: Path) -> None:
    """KdiffError `emit.update` or `emit.headers` if there is no use in trying."""
    convert.check_update(update)
    workbench.check_headers(headers)


def make(update: Update, facts: KernelFacts, shop: Workshop) -> EmittedModule:
    """Build, convert and check the module; KdiffError `emit.*`, or `disk.full`, if that fails."""
    file = module_file(update.id)
    convert.check_update(update)
    linked = workbench.build(update, shop)
    module = stamp(convert.livepatch(object_model(read_bytes(linked, file)), convert.looked_up(update)))
    arrival.check(update, module)
    data = write_object(module)
    second_reader.check(data, linked, update, facts, shop)
    return EmittedModule(update.targets, module_name(update.id), file, data)

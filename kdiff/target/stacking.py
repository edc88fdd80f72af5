# SPDX-License-Identifier: Apache-2.0
"""Which live patches of a function lie below an update, and which are in its way.

An update that was made of a function's newest code stands on the live patch that brought it, which may stand
on another one: a chain. Sysfs says which patches replace a function, the manifests that are remembered of
applied updates say on what each of them stands.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from kdiff.target import layout, livepatch, store
from kdiff.target.machine import Machine, names


def under(manifest: bytes) -> Mapping[str, str]:
    """On which live patch's code an update stands, by function as `livepatch.label` has it.

    Nothing from what is no manifest: then whatever replaces its functions is in the way.
    """
    try:
        rows = json.loads(manifest)["replaced"]
        return {
            livepatch.label(row.get("target", layout.KERNEL), row["name"], row["position"] or 1): row["on"]
            for row in rows
            if row.get("on")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def in_the_way(
    machine: Machine, id: str, functions: Mapping[str, str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of (live patch, function): those that are there and not below, and those missing below.

    `functions`: what an update replaces, and on whose code each stands, empty for the kernel's own.
    """
    others: dict[str, set[str]] = {function: set() for function in functions}
    for patch, function in livepatch.also_replaced(machine, functions, id):
        others[function].add(patch)
    above, missing = [], []
    for function, stands_on in functions.items():
        below = _chain(machine, function, stands_on)
        above += [(patch, function) for patch in sorted(others[function] - below)]
        missing += [(patch, function) for patch in sorted(below - others[function])]
    return above, missing


def of_other_layouts(
    machine: Machine, id: str, changed: Collection[str], fresh: Collection[str]
) -> list[tuple[str, str]]:
    """Pairs of (live patch, module) that an update cannot share: one lays out data that the other may use.

    `changed`: the modules that the update changes; `fresh`: those whose data it lays out in another way.
    """
    here = f"{machine.sys}/kernel/livepatch"
    return [
        (patch, module)
        for patch in names(here)
        if patch != layout.module_name(id)
        for module in names(f"{here}/{patch}")
        if module in fresh or (module in changed and module in livepatch.fresh(machine, layout.bare(patch)))
    ]


def _chain(machine: Machine, function: str, stands_on: str) -> set[str]:
    found: set[str] = set()
    while stands_on and stands_on not in found:
        found.add(stands_on)
        manifest = store.manifest(machine, layout.bare(stands_on))
        stands_on = under(manifest).get(function, "")
    return found

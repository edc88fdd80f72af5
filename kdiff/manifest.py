# SPDX-License-Identifier: Apache-2.0
"""manifest.json: what an update was made from, what it replaces and what it borrows.

No paths and no times: equal inputs give equal manifests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from kdiff import __version__
from kdiff.addressbook import KERNEL
from kdiff.bind import Bound
from kdiff.confdir import Config
from kdiff.kbuild import Build
from kdiff.kernel import KernelFacts
from kdiff.layoutdiff import LayoutChange
from kdiff.memory import MemorySource
from kdiff.pairs import PairsFile
from kdiff.patch import Patch
from kdiff.proof import borrowed_summary
from kdiff.running import image_digest
from kdiff.update import Update


def manifest(
    config: Config,
    patch: Patch,
    built: Build,
    units: tuple[Bound, ...],
    update: Update,
    facts: KernelFacts,
    memory: MemorySource,
    accepted: tuple[LayoutChange, ...] = (),
    pairs: PairsFile | None = None,
) -> Mapping[str, object]:
    """Describe an update.

    `accepted`: changes of types for which its author answers; `pairs`: what that author said about pairs.
    """
    return {
        "id": update.id,
        "made_by": f"kdiff {__version__}",
        "kernel": {"release": facts.release, "version": facts.version, "build_id": facts.build_id},
        "compiler": built.compiler,
        "inputs": {
            "patch": _sha256(patch.text),
            "config": _sha256(config.text.encode("utf-8", "surrogateescape")),
            "system_map": _sha256(config.system_map.read_bytes()),
            "exports": _sha256((config.headers / "Module.symvers").read_bytes()),
            "make_arguments": list(built.make_arguments),
            "image": image_digest(memory),
            "sources": {path: _sha256(pristine) for path, (pristine, _) in built.sources.items()},
            "units": {
                unit.source: {"pre": _sha256(unit.pre), "post": _sha256(unit.post)} for unit in built.units
            },
        },
        "replaced": [
            {
                "target": each.target,
                "name": each.name,
                "position": each.position,
                "address": f"{each.address:#x}" if each.target == KERNEL else "",
                "size": each.size,
                "on": each.on,
                "unit": units[each.unit].plan.pre.obj.path,
                "pre_code": _pre_hash(units[each.unit], each.node),
            }
            for each in update.replacements
        ],
        "modules": [
            {
                "name": each.name,
                "build_id": each.build_id,
                "source_version": each.source_version,
                "new_layouts": [
                    of for fresh in update.fresh if fresh.module == each.name for of in fresh.types
                ],
            }
            for each in update.modules
        ],
        "initial": initial_as_json(update),
        "borrowed": borrowed_summary(update.borrowed),
        "pairs": None if pairs is None else pairs.as_json(),
        "accepted_layouts": [{"name": each.title, "changes": list(each.what)} for each in accepted],
    }


def utsname(facts: KernelFacts) -> tuple[str, str, str, str]:
    """Sysname, machine, release and version as uname(2) gives them.

    The version is the banner's part from the build number on (init/version.c: "Linux version RELEASE
    (BUILDER) (COMPILER) #1 SMP ...").
    """
    number = facts.version.find("#")
    return "Linux", facts.machine, facts.release, facts.version[number:] if number >= 0 else facts.version


def initial_as_json(update: Update) -> list[Mapping[str, object]]:
    """What variables of modules start with once the update is applied; bytes in hexadecimal."""
    return [
        {
            "module": each.variable.owner,
            "name": each.variable.name,
            "position": each.variable.position,
            "offset": each.offset,
            "old": each.old.hex(),
            "new": each.new.hex(),
        }
        for each in update.initial
    ]


def _pre_hash(unit: Bound, node: int) -> str:
    graph = unit.plan.pre
    return _sha256(graph.contents(graph.nodes[node]))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

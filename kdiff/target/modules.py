# SPDX-License-Identifier: Apache-2.0
"""Modules of the running kernel: whether they are loaded, which build, and where their sections are.

Facts from Documentation/ABI/stable/sysfs-module and kernel/module/sysfs.c: /sys/module/NAME has `initstate`
for what is no part of the kernel, `sections/` with an address a file, and `notes/`.
"""

from __future__ import annotations

from collections.abc import Collection

from kdiff.errors import KdiffError, Refusal
from kdiff.target.identity import build_id_of
from kdiff.target.machine import Machine, names, text
from kdiff.target.proof import Module, Proof

LIVE = "live"


def is_loaded(machine: Machine, name: str) -> bool:
    """Tell whether a module is in the kernel and runs."""
    return text(f"{machine.sys}/module/{name}/initstate") == LIVE


def awaited(machine: Machine, proof: Proof) -> frozenset[str]:
    """The modules of a proof that are not loaded: their code changes when they are."""
    return frozenset(each.name for each in proof.modules if not is_loaded(machine, each.name))


def present(machine: Machine, wanted: Collection[str]) -> tuple[str, ...]:
    """Those of `wanted` that are in the kernel, also while they are being loaded or unloaded.

    /proc/modules lists a module before livepatch hears of it (complete_formation in kernel/module/main.c).
    KdiffError `target.modules` if it cannot be read.
    """
    if not wanted:
        return ()
    lines = text(f"{machine.proc}/modules")
    if lines is None:
        raise KdiffError(
            "target.modules",
            "cannot be read, so it is not known what is loaded",
            place=f"{machine.proc}/modules",
            remedy="mount -t proc proc /proc",
        )
    listed = {line.partition(" ")[0] for line in lines.splitlines()}
    return tuple(sorted(listed.intersection(wanted)))


def other_builds(machine: Machine, proof: Proof) -> tuple[Refusal, ...]:
    """Refuse loaded modules that are other builds than the proof's."""
    return tuple(
        refusal
        for module in proof.modules
        if is_loaded(machine, module.name)
        for refusal in _other_build(machine, module, proof.byte_order)
    )


def _other_build(machine: Machine, module: Module, order: str) -> tuple[Refusal, ...]:
    here = f"{machine.sys}/module/{module.name}"
    try:
        with open(f"{here}/notes/.note.gnu.build-id", "rb") as file:
            build_id = build_id_of(file.read(), order)
    except OSError:
        build_id = ""
    for what, found, wanted in (
        ("build id", build_id, module.build_id),
        ("srcversion", text(f"{here}/srcversion") or "", module.source_version),
    ):
        if wanted and found != wanted:
            return (
                Refusal(
                    "target.other_module",
                    f"module {module.name}",
                    f"its {what} is {found or 'unknown'!r}, the update was made for {wanted!r}",
                    "load the module of the kernel's own package, or create the update for this one",
                ),
            )
    return ()


def sections(machine: Machine, name: str) -> dict[str, int]:
    """The addresses of a module's sections by name; those that cannot be read are left out."""
    here = f"{machine.sys}/module/{name}/sections"
    found = {}
    for section in names(here):
        address = text(f"{here}/{section}") or ""
        if address.startswith("0x") and int(address, 16):
            found[section] = int(address, 16)
    return found

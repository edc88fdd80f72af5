# SPDX-License-Identifier: Apache-2.0
"""What must hold of a machine before its kernel is even looked at."""

from __future__ import annotations

import os

from kdiff.errors import KdiffError, Refused
from kdiff.target.identity import other_release
from kdiff.target.machine import Machine, require_root, text
from kdiff.target.tarball import Update

SIGNATURE = b"~Module signature appended~\n"
"""How a signed module ends (include/linux/module_signature.h)."""


def check(machine: Machine, update: Update) -> None:
    """KdiffError `target.…` if this machine cannot take it; Refused for another kernel's update."""
    require_root(machine)
    if not os.path.isdir(f"{machine.sys}/kernel"):
        raise KdiffError(
            "target.no_sysfs", "is not mounted", place=machine.sys, remedy="mount -t sysfs sysfs /sys"
        )
    refusals = other_release(machine, update.release)
    if refusals:
        raise Refused(*refusals)
    if not os.path.isdir(f"{machine.sys}/kernel/livepatch"):
        raise KdiffError(
            "target.no_livepatch",
            "the running kernel has no live patching",
            remedy="it needs CONFIG_LIVEPATCH=y",
        )
    _lockdown(machine, signed=update.module.endswith(SIGNATURE))
    _signing(machine, signed=update.module.endswith(SIGNATURE))


def _lockdown(machine: Machine, signed: bool) -> None:
    """The active level is the one in brackets: `none [integrity] confidentiality`."""
    levels = text(f"{machine.sys}/kernel/security/lockdown") or ""
    level = levels.partition("[")[2].partition("]")[0]
    if level == "confidentiality" or (level == "integrity" and not signed):
        forbidden = "reading its memory" if level == "confidentiality" else "loading unsigned modules"
        raise KdiffError(
            "target.lockdown",
            f"the kernel is locked down ({level}), which forbids {forbidden}",
            remedy="switch Secure Boot off or boot with lockdown=none"
            if level == "confidentiality"
            else "sign the module with a key the kernel trusts, or boot with lockdown=none",
        )


def _signing(machine: Machine, signed: bool) -> None:
    if not signed and text(f"{machine.sys}/module/module/parameters/sig_enforce") == "Y":
        raise KdiffError(
            "target.module_signing",
            "the kernel loads signed modules only and the update's is not signed",
            remedy="sign the module with a key the kernel trusts, or boot without module.sig_enforce",
        )

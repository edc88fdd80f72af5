# SPDX-License-Identifier: Apache-2.0
"""Why running code may differ from what was compiled.

What the kernel itself says of it counts first, then what the bytes suggest. Only asked once a difference is
certain; an answer explains a refusal and never lifts it.
"""

from __future__ import annotations

from typing import NamedTuple

from kdiff.target.machine import Machine, names, text
from kdiff.target.match import Difference
from kdiff.target.proof import Site


class Cause(NamedTuple):
    """A guess for people."""

    what: str
    remedy: str


class _Sign(NamedTuple):
    """What bytes found at a difference suggest, on machines whose kernel names itself so."""

    machines: tuple[str, ...]
    found: bytes
    at_entry: bool
    """Only at a rewritten place within a function's first instructions."""
    cause: Cause


_TRACED = Cause("the function is traced or already live-patched", "stop the tracer or undo the other patch")
_PROBED = Cause("a breakpoint is set there, perhaps a kprobe's", "remove the probe and try again")
_X86 = ("x86_64", "i686")
ENTRY = 16
"""Bytes from the start of a function within which compilers place the call for tracers."""
SIGNS = (
    _Sign(_X86, b"\xe8", True, _TRACED),
    _Sign(_X86, b"\xe9", True, _TRACED),
    _Sign(_X86, b"\xcc", False, _PROBED),
    _Sign(
        _X86, b"\xe9", False, Cause("a jump was put there, perhaps by an optimized kprobe", _PROBED.remedy)
    ),
)


def likely_cause(machine: Machine, function: str, difference: Difference, found: bytes) -> Cause | None:
    """Guess why `found`, the bytes from the difference on, are there; None without a clue."""
    told = _told_by_kernel(machine, function)
    if told:
        return told
    here = machine.architecture()
    at_entry = isinstance(difference.part, Site) and difference.offset < ENTRY
    for sign in SIGNS:
        if here in sign.machines and found.startswith(sign.found) and (at_entry or not sign.at_entry):
            return sign.cause
    return None


def _told_by_kernel(machine: Machine, function: str) -> Cause | None:
    live = f"{machine.sys}/kernel/livepatch"
    for patch in names(live):
        if any(each.partition(",")[0] == function for each in names(f"{live}/{patch}/vmlinux")):
            return Cause(f"live patch {patch} replaces the function", f"undo {patch} first")
    for folder in ("tracing", "debug/tracing"):
        for line in (text(f"{machine.sys}/kernel/{folder}/enabled_functions") or "").splitlines():
            if line.split(" ", 1)[0] == function:
                return _TRACED
    for line in (text(f"{machine.sys}/kernel/debug/kprobes/list") or "").splitlines():
        if any(word.partition("+")[0] == function for word in line.split()):
            return Cause("a kprobe is set on the function", _PROBED.remedy)
    return None

# SPDX-License-Identifier: Apache-2.0
"""Why running code may differ from what was compiled.

What the kernel itself says of it counts first, then what the bytes suggest. Only asked once a difference is
certain; an answer explains a refusal and never lifts it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kdiff.target import kallsyms
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
_PROBE = "remove the probe and try again"
_X86 = ("x86_64", "i686")
ENTRY = 16
"""Bytes from the start of a function within which compilers place the call for tracers."""
SIGNS = (
    _Sign(_X86, b"\xe8", True, _TRACED),
    _Sign(_X86, b"\xe9", True, _TRACED),
    _Sign(_X86, b"\xcc", False, Cause("a breakpoint is set there, perhaps a kprobe's", _PROBE)),
    _Sign(_X86, b"\xe9", False, Cause("a jump was put there, perhaps by an optimized kprobe", _PROBE)),
)
BRANCH = 5
BRANCHES = dict.fromkeys(_X86, (b"\xe8", b"\xe9"))
"""First bytes of a call and a jump with a 4-byte displacement behind them, by machine."""


class _Maker(NamedTuple):
    """Whose code a branch leads to: owner and name as /proc/kallsyms has them for code made at run time.

    kernel/trace/ftrace.c (ftrace_add_trampoline_to_kallsyms), kernel/kprobes.c (__get_insn_slot),
    kernel/bpf/trampoline.c (bpf_image_ksym_add).
    """

    owner: str
    name: str
    what: str
    remedy: str


MAKERS = (
    _Maker("__builtin__kprobes", "kprobe_optinsn_page", "an optimized kprobe is set there", _PROBE),
    _Maker("__builtin__ftrace", "ftrace_trampoline", "the function is traced", "stop the tracer"),
    _Maker("bpf", "bpf_trampoline_", "a BPF program is attached to the function", "detach the program"),
)


def likely_cause(
    machine: Machine, function: str, difference: Difference, found: bytes, address: int
) -> Cause | None:
    """Guess why `found`, the bytes at `address` from the difference on, are there; None without a clue."""
    told = _told_by_kernel(machine, function, difference.offset) or _branch(machine, found, address)
    if told:
        return told
    here = machine.architecture()
    at_entry = isinstance(difference.part, Site) and difference.offset < ENTRY
    for sign in SIGNS:
        if here in sign.machines and found.startswith(sign.found) and (at_entry or not sign.at_entry):
            return sign.cause
    return None


def _told_by_kernel(machine: Machine, function: str, offset: int) -> Cause | None:
    live = f"{machine.sys}/kernel/livepatch"
    for patch in names(live):
        if any(each.partition(",")[0] == function for each in names(f"{live}/{patch}/vmlinux")):
            return Cause(f"live patch {patch} replaces the function", f"undo {patch} first")
    probes = _probes(machine, function)
    if offset in probes:
        return _probed(function, offset, probes[offset])
    for folder in ("tracing", "debug/tracing"):
        for line in (text(f"{machine.sys}/kernel/{folder}/enabled_functions") or "").splitlines():
            if line.split(" ", 1)[0] == function:
                return _traced(line)
    return next((_probed(function, at, kind) for at, kind in sorted(probes.items())), None)


def _probes(machine: Machine, function: str) -> dict[int, str]:
    """The kprobes on a function, how each is set by its offset (kernel/kprobes.c, report_probe)."""
    found = {}
    for line in (text(f"{machine.sys}/kernel/debug/kprobes/list") or "").splitlines():
        words = line.split()
        name, _, offset = words[2].partition("+") if len(words) > 2 else ("", "", "")
        if name == function and "[DISABLED]" not in words:
            kinds = {"[OPTIMIZED]": "a jump", "[FTRACE]": "ftrace"}
            kind = next((kinds[word] for word in words if word in kinds), "a breakpoint")
            found[int(offset or "0", 16)] = kind
    return found


def _probed(function: str, offset: int, kind: str) -> Cause:
    return Cause(f"a kprobe is set at {function}+{offset:#x}, by {kind}", _PROBE)


def _traced(line: str) -> Cause:
    """`FUNCTION (COUNT) FLAGS tramp: ADDRESS (CALLBACK) ->…` (kernel/trace/ftrace.c, t_show)."""
    callbacks = [part.partition("+")[0] for part in re.findall(r"(?:\(|->)([A-Za-z_][\w.]*[^\s)]*)", line)]
    by = ", ".join(dict.fromkeys(callbacks))
    return Cause(f"the function is traced or already live-patched{f' ({by})' if by else ''}", _TRACED.remedy)


def _branch(machine: Machine, found: bytes, address: int) -> Cause | None:
    """Who made the code that a branch leads to."""
    if found[:1] not in BRANCHES.get(machine.architecture(), ()) or len(found) < BRANCH:
        return None
    target = address + BRANCH + int.from_bytes(found[1:BRANCH], "little", signed=True)
    for maker in MAKERS:
        name = kallsyms.below(machine, maker.owner, target)
        if name.startswith(maker.name):
            more = f" ({name})" if name != maker.name else ""
            return Cause(maker.what + more, maker.remedy)
    return None

# SPDX-License-Identifier: Apache-2.0
"""Which kernel runs here, and whether it is the one a proof is about."""

from __future__ import annotations

from kdiff.errors import Refusal
from kdiff.target.machine import Machine, text
from kdiff.target.proof import Proof

NT_GNU_BUILD_ID = 3


def release(machine: Machine) -> str:
    """The running kernel's release, as `uname -r` prints it; empty if /proc does not tell."""
    return text(f"{machine.proc}/sys/kernel/osrelease") or ""


def build_id(machine: Machine, order: str) -> str:
    """The running kernel's GNU build id in hex from /sys/kernel/notes; empty if it has none."""
    try:
        with open(f"{machine.sys}/kernel/notes", "rb") as file:
            notes = file.read()
    except OSError:
        return ""
    return build_id_of(notes, order)


def build_id_of(notes: bytes, order: str) -> str:
    """The GNU build id among notes, in hex; empty if there is none."""
    offset = 0
    while offset + 12 <= len(notes):
        sizes = (notes[offset + 4 * index : offset + 4 * index + 4] for index in range(3))
        name_size, size, kind = (
            int.from_bytes(each, "big" if order == "big" else "little") for each in sizes
        )
        name = offset + 12
        start = name + (name_size + 3) // 4 * 4
        if kind == NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[start : start + size].hex()
        offset = start + (size + 3) // 4 * 4
    return ""


def other_release(machine: Machine, wanted: str) -> tuple[Refusal, ...]:
    """Refuse a kernel of another release."""
    return _differs("release", release(machine), wanted)


def other_kernel(machine: Machine, proof: Proof) -> tuple[Refusal, ...]:
    """Refuse a kernel that is not the proof's: release, version text and build id must be equal.

    A version or build id the proof does not know (empty) is not compared: its bytes decide then.
    """
    return (
        *other_release(machine, proof.release),
        *(_differs("version", text(f"{machine.proc}/version") or "", proof.version) if proof.version else ()),
        *(
            _differs("build id", build_id(machine, proof.byte_order), proof.build_id)
            if proof.build_id
            else ()
        ),
    )


def _differs(what: str, running: str, wanted: str) -> tuple[Refusal, ...]:
    if running == wanted:
        return ()
    return (
        Refusal(
            "target.other_kernel",
            "the running kernel",
            f"its {what} is {running or 'unknown'!r}, the update was made for {wanted!r}",
            "boot that kernel, or create the update again for this one",
        ),
    )

# SPDX-License-Identifier: Apache-2.0
"""Stage 13: is the code in this machine's memory the code the update was made for?

In: a proof and a machine. Out: refusals, none if every byte is as the proof says.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdiff.errors import Refusal
from kdiff.target import kallsyms
from kdiff.target.causes import likely_cause
from kdiff.target.identity import other_kernel
from kdiff.target.kcore import open_kcore
from kdiff.target.machine import Machine
from kdiff.target.match import Difference, Run, difference, expected
from kdiff.target.proof import Node, Proof, Site, Symbol

AROUND = 16
"""Bytes shown on both sides of a difference."""
ATTEMPTS = 3
PAUSE = 0.05
"""Seconds between attempts: the kernel may be in the middle of rewriting an instruction."""

_OTHER_LAYOUT = Refusal(
    "target.other_kernel",
    "the running kernel",
    "its byte order or word size is not the update's",
    "create the update again for this kernel",
)


def verify(proof: Proof, machine: Machine) -> tuple[Refusal, ...]:
    """Compare this machine's kernel with the proof. KdiffError if it cannot be read."""
    refusals = other_kernel(machine, proof)
    if refusals:
        return refusals
    addresses, refusals = locate(proof, machine)
    if refusals:
        return refusals
    memory = open_kcore(machine)
    try:
        if (memory.order, memory.word) != (proof.byte_order, proof.word):
            return (_OTHER_LAYOUT,)
        run = Run(memory.read, proof.word, proof.byte_order, addresses, proof.nops)
        nodes: Sequence[Node] = proof.nodes
        for _ in range(ATTEMPTS):
            found = [refusal for node in nodes for refusal in compare(node, run, machine)]
            if not found:
                return ()
            machine.sleep(PAUSE)
        return tuple(found)
    finally:
        memory.close()


def locate(proof: Proof, machine: Machine) -> tuple[tuple[int, ...], tuple[Refusal, ...]]:
    """Return the run address of every symbol of the proof, and refusals where kallsyms contradicts them."""
    found = kallsyms.addresses(machine, {each.name for each in proof.symbols if each.position})
    anchor = proof.symbols[proof.anchor]
    listed = found.get(anchor.name, ())
    if len(listed) != anchor.total:
        return (), (_unlisted(anchor, len(listed)),)
    slide = listed[anchor.position - 1] - anchor.address
    addresses = tuple(each.address + (slide if each.slides else 0) for each in proof.symbols)
    refusals = []
    for symbol, address in zip(proof.symbols, addresses, strict=True):
        if not symbol.position:
            continue
        listed = found.get(symbol.name, ())
        if len(listed) != symbol.total:
            refusals.append(_unlisted(symbol, len(listed)))
        elif listed[symbol.position - 1] != address:
            refusals.append(
                Refusal(
                    "verify.symbol",
                    symbol.name,
                    f"is at {listed[symbol.position - 1]:#x} in the running kernel and not at {address:#x}",
                    "create the update again for this kernel",
                )
            )
    return addresses, tuple(refusals)


def compare(node: Node, run: Run, machine: Machine) -> tuple[Refusal, ...]:
    """Compare one node with run memory."""
    address = run.addresses[node.symbol] + node.offset
    data = run.read(address, node.size)
    if data is None:
        reason = f"the running kernel has no memory at {address:#x}"
        return (Refusal("verify.unmapped", node.name, reason, "create the update again for this kernel"),)
    found = difference(node.parts, data, address, run)
    if found is None:
        return ()
    cause = likely_cause(machine, node.name, found, data[found.offset :])
    why = f" at a place the kernel rewrites ({found.part.rewrite})" if isinstance(found.part, Site) else ""
    return (
        Refusal(
            "verify.content",
            f"{node.name}+{found.offset:#x}",
            f"the running code is not what the update was made for{why}"
            + (f"; {cause.what}" if cause else ""),
            cause.remedy
            if cause
            else "create the update from the source and configuration of this very kernel",
            _windows(node, data, found, expected(node.parts, data, address, run)),
        ),
    )


def _windows(node: Node, data: bytes, found: Difference, wanted: bytes) -> tuple[str, ...]:
    start = max(0, found.offset - AROUND)
    end = min(len(data), found.offset + AROUND)
    return (
        f"{node.name}+{start:#x} must be {wanted[start:end].hex(' ')}",
        f"{node.name}+{start:#x} is      {data[start:end].hex(' ')}",
    )


def _unlisted(symbol: Symbol, count: int) -> Refusal:
    return Refusal(
        "verify.symbol",
        symbol.name,
        f"is listed {count} times by the running kernel and not {symbol.total}",
        "create the update again for this kernel",
    )

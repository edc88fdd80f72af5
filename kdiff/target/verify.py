# SPDX-License-Identifier: Apache-2.0
"""Stage 13: is the code in this machine's memory the code the update was made for?

In: a proof and a machine. Out: refusals, none if every byte is as the proof says.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kdiff.errors import Refusal
from kdiff.target import kallsyms, modules
from kdiff.target.causes import likely_cause
from kdiff.target.identity import other_kernel
from kdiff.target.kcore import open_kcore
from kdiff.target.layout import KERNEL
from kdiff.target.machine import Machine
from kdiff.target.match import Difference, Run, difference, expected
from kdiff.target.proof import Node, Proof, Site, Symbol, symbols_of

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
    """Compare this machine's kernel and the modules in it with the proof. KdiffError if it cannot be read."""
    refusals = (*other_kernel(machine, proof), *modules.other_builds(machine, proof))
    if refusals:
        return refusals
    proof = proof.without(modules.awaited(machine, proof))
    addresses, refusals = locate(proof, machine)
    if refusals:
        return refusals
    memory = open_kcore(machine)
    try:
        if (memory.order, memory.word) != (proof.byte_order, proof.word):
            return (_OTHER_LAYOUT,)
        made = partial(kallsyms.beginning, machine)
        run = Run(memory.read, proof.word, proof.byte_order, addresses, proof.nops, made)
        nodes: Sequence[Node] = proof.nodes
        found: list[Refusal] = []
        for _ in range(ATTEMPTS):
            found = [refusal for node in nodes for refusal in compare(node, run, machine)]
            if not found:
                return ()
            machine.sleep(PAUSE)
        return tuple(found)
    finally:
        memory.close()


def locate(proof: Proof, machine: Machine) -> tuple[tuple[int, ...], tuple[Refusal, ...]]:
    """Return the run address of every symbol of the proof, and refusals where kallsyms contradicts them.

    What belongs to a module that is not loaded has none (0), unless a node needs it.
    """
    needed = symbols_of(proof.nodes)
    owners = {each.owner for each in proof.symbols if each.owner != KERNEL}
    loaded = {
        owner: modules.sections(machine, owner) for owner in owners if modules.is_loaded(machine, owner)
    }
    names: dict[str, set[str]] = {owner: set() for owner in (KERNEL, *loaded)}
    for each in proof.symbols:
        if each.position and each.owner in names:
            names[each.owner].add(each.name)
    found = kallsyms.all_addresses(machine, {owner: frozenset(each) for owner, each in names.items()})
    anchor = proof.symbols[proof.anchor]
    listed = found[KERNEL].get(anchor.name, ())
    if len(listed) != anchor.total:
        return (), (_unlisted(anchor, len(listed)),)
    slide = listed[anchor.position - 1] - anchor.address
    addresses: list[int] = []
    refusals = []
    for index, symbol in enumerate(proof.symbols):
        listed = found.get(symbol.owner, {}).get(symbol.name, ()) if symbol.position else ()
        address: int | None
        if symbol.owner == KERNEL:
            address = symbol.address + (slide if symbol.slides else 0)
        elif symbol.section:
            start = loaded.get(symbol.owner, {}).get(symbol.section)
            address = None if start is None else start + symbol.address
        else:
            address = listed[symbol.position - 1] if len(listed) == symbol.total else None
        addresses.append(address or 0)
        if symbol.owner != KERNEL and symbol.owner not in loaded and index not in needed:
            continue
        if symbol.position and len(listed) != symbol.total:
            refusals.append(_unlisted(symbol, len(listed)))
        elif address is None:
            refusals.append(_nowhere(symbol))
        elif symbol.position and listed[symbol.position - 1] != address:
            refusals.append(
                Refusal(
                    "verify.symbol",
                    _title(symbol),
                    f"is at {listed[symbol.position - 1]:#x} in the running kernel and not at {address:#x}",
                    "create the update again for this kernel",
                )
            )
    return tuple(addresses), tuple(refusals)


def compare(node: Node, run: Run, machine: Machine) -> tuple[Refusal, ...]:
    """Compare one node with run memory."""
    address = run.addresses[node.start] + node.offset
    data = run.read(address, node.size)
    if data is None:
        reason = f"the running kernel has no memory at {address:#x}"
        return (Refusal("verify.unmapped", node.name, reason, "create the update again for this kernel"),)
    found = difference(node.parts, data, address, run)
    if found is None:
        return ()
    cause = likely_cause(machine, node.name, found, data[found.offset :], address + found.offset)
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
        _title(symbol),
        f"is listed {count} times by the running kernel and not {symbol.total}",
        "create the update again for this kernel",
    )


def _nowhere(symbol: Symbol) -> Refusal:
    return Refusal(
        "verify.symbol",
        _title(symbol),
        f"is in {symbol.section}, which sysfs does not list, or whose address it hides",
        f"load module {symbol.owner} of the kernel's own package, and read /sys/module as root",
    )


def _title(symbol: Symbol) -> str:
    return symbol.name if symbol.owner == KERNEL else f"{symbol.owner}:{symbol.name or symbol.section}"

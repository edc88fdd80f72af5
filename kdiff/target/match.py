# SPDX-License-Identifier: Apache-2.0
"""Whether bytes of run memory are what a proof says.

In: the parts of a node, its bytes and where they were. Out: nothing, or the first place that differs.
No instruction is decoded: parts are bytes, fields whose value is computed, and lists of alternatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from kdiff.target.proof import (
    Bytes,
    Contains,
    Holds,
    Howto,
    Listed,
    Lit,
    Mixed,
    Pad,
    Part,
    Relocated,
    Site,
    Through,
    ToCode,
    size,
)

Form = tuple[Bytes, ...]
Read = Callable[[int, int], bytes | None]
"""Return exactly that many bytes at that address, or None."""


class Run(NamedTuple):
    """A running kernel as the parts of a proof see it."""

    read: Read
    word: int
    """Bytes of a pointer."""
    order: Literal["little", "big"]
    addresses: tuple[int, ...]
    """Where each symbol of the proof is."""
    nops: tuple[bytes, ...]
    listed: Callable[[str, str], tuple[int, ...]] = lambda owner, name: ()
    """Where kallsyms lists an owner's names that begin with one."""


class Difference(NamedTuple):
    """Where bytes are not what they must be. `expected` are bytes of the form that comes closest."""

    offset: int
    expected: bytes
    part: Part


def difference(parts: tuple[Part, ...], data: bytes, address: int, run: Run) -> Difference | None:
    """Compare `data`, read at `address`, with the parts; their sizes add up to its length."""
    offset = 0
    for part in parts:
        width = size(part)
        found = data[offset : offset + width]
        forms = _forms(part, run)
        if not any(_equal(form, found, address + offset, run) for form in forms):
            wanted = _nearest(forms, found, address + offset, run)
            return Difference(offset + min(_agreement(found)(wanted), width - 1), wanted, part)
        offset += width
    return None


def expected(parts: tuple[Part, ...], data: bytes, address: int, run: Run) -> bytes:
    """The bytes the parts want; where several will do, those of `data` or of the form that comes closest."""
    wanted = b""
    for part in parts:
        place = address + len(wanted)
        found = data[len(wanted) : len(wanted) + size(part)]
        forms = _forms(part, run)
        wanted += _nearest(forms, found, place, run)
    return wanted


def stored(howto: Howto, value: int, background: bytes, run: Run) -> bytes | None:
    """Store `value`, taken modulo the size of a pointer, as `howto` does; None if it does not fit."""
    bits = 8 * run.word
    value &= (1 << bits) - 1
    if howto.overflow != "unsigned" and value >> (bits - 1):
        value -= 1 << bits
    word = int.from_bytes(background, run.order) & ~howto.mask
    kept = 0
    for lsb, value_lsb, width in howto.fields:
        piece = (value >> value_lsb) & ((1 << width) - 1)
        word |= piece << lsb
        kept |= piece << value_lsb
    span = howto.span
    if howto.overflow == "wrap":
        value &= (1 << span) - 1
    elif howto.overflow == "signed" and kept >> (span - 1):
        kept -= 1 << span
    return word.to_bytes(howto.size, run.order) if kept == value else None


def is_padding(data: bytes, nops: tuple[bytes, ...]) -> bool:
    """Tell whether `data` splits into whole no-operations."""
    reached = 1
    for offset in range(len(data)):
        if reached >> offset & 1:
            for nop in nops:
                if data.startswith(nop, offset):
                    reached |= 1 << (offset + len(nop))
    return bool(reached >> len(data) & 1)


def _forms(part: Part, run: Run) -> list[Form]:
    """The forms that what pointers hold now leaves, without their conditions; none if no form is left."""
    found = []
    for form in part.forms if isinstance(part, Site) else ((part,),):
        if all(_holds(each, run) for each in form if isinstance(each, (Holds, Contains))):
            found.append(tuple(each for each in form if not isinstance(each, (Holds, Contains))))
    return found


def _holds(part: Holds | Contains, run: Run) -> bool:
    if isinstance(part, Contains):
        return run.read(run.addresses[part.symbol] + part.slot, len(part.data)) == part.data
    pointer = _pointer(part.symbol, part.slot, run)
    return pointer in [0 if each is None else run.addresses[each] for each in part.symbols]


def _pointer(symbol: int, slot: int, run: Run) -> int | None:
    found = run.read(run.addresses[symbol] + slot, run.word)
    return None if found is None else int.from_bytes(found, run.order)


def _equal(form: Form, found: bytes, address: int, run: Run) -> bool:
    offset = 0
    for part in form:
        width = size(part)
        if not _part_equal(part, found[offset : offset + width], address + offset, run):
            return False
        offset += width
    return True


def _part_equal(part: Bytes, found: bytes, address: int, run: Run) -> bool:
    if isinstance(part, Lit):
        return found == part.data
    if isinstance(part, Pad):
        return is_padding(found, run.nops)
    return found in _choices(part, found, address, run)


def _choices(
    part: Relocated | Through | Listed | ToCode | Mixed, found: bytes, address: int, run: Run
) -> list[bytes]:
    """All contents a field may have; where only memory tells, those it has if they are right."""
    if isinstance(part, Mixed):
        other = run.read(run.addresses[part.symbol] + part.slot, len(part.data))
        return [] if other is None else [_mixed(part, other, run)]
    if isinstance(part, ToCode):
        held = run.read(_destination(part, found, address, run), len(part.code))
        return [found] if held == part.code else []
    background = part.background if isinstance(part, Relocated) else bytes(part.howto.size)
    destinations: list[int] = []
    if isinstance(part, Relocated):
        destinations = [run.addresses[symbol] for symbol in part.symbols]
    elif isinstance(part, Listed):
        destinations = list(run.listed(part.owner, part.name))
    else:
        pointer = _pointer(part.symbol, part.slot, run)
        if pointer is not None:
            destinations = [pointer]
    place = address if part.howto.pc_relative else 0
    values = (stored(part.howto, each + part.addend - place, background, run) for each in destinations)
    return [value for value in values if value is not None]


def _mixed(part: Mixed, other: bytes, run: Run) -> bytes:
    sign, modulus = -1 if part.negated else 1, 1 << 8 * len(part.data)
    plain = sign * int.from_bytes(part.data, run.order) % modulus
    return (sign * (plain ^ int.from_bytes(other, run.order)) % modulus).to_bytes(len(part.data), run.order)


def _destination(part: ToCode, found: bytes, address: int, run: Run) -> int:
    """Where a field leads that holds these bytes."""
    howto = part.howto
    word = int.from_bytes(found, run.order)
    value = sum((word >> lsb & (1 << width) - 1) << value_lsb for lsb, value_lsb, width in howto.fields)
    if howto.overflow != "unsigned" and value >> (howto.span - 1):
        value -= 1 << howto.span
    place = address if howto.pc_relative else 0
    return (value - part.addend + place) % (1 << (8 * run.word))


def _nearest(forms: list[Form], found: bytes, address: int, run: Run) -> bytes:
    """The bytes of the form that agrees longest with `found`; zeros if there is no form."""
    wanted = [_wanted(form, found, address, run) for form in forms]
    return max(wanted, key=_agreement(found), default=bytes(len(found)))


def _wanted(form: Form, found: bytes, address: int, run: Run) -> bytes:
    """The bytes of a form, for people: what it has no answer for is shown as it was found."""
    wanted = b""
    for part in form:
        here = found[len(wanted) : len(wanted) + size(part)]
        if isinstance(part, Lit):
            wanted += part.data
        elif isinstance(part, Pad):
            wanted += here if is_padding(here, run.nops) else _some_padding(part.size, run.nops)
        else:
            choices = _choices(part, here, address + len(wanted), run)
            wanted += max(choices, key=_agreement(here), default=bytes(len(here)))
    return wanted


def _some_padding(width: int, nops: tuple[bytes, ...]) -> bytes:
    shortest = min(nops, key=len, default=b"\0")
    return (shortest * width)[:width]


def _agreement(found: bytes) -> Callable[[bytes], int]:
    """How many leading bytes of a candidate agree with `found`."""

    def count(candidate: bytes) -> int:
        agree = 0
        while agree < min(len(found), len(candidate)) and found[agree] == candidate[agree]:
            agree += 1
        return agree

    return count

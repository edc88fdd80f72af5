# SPDX-License-Identifier: Apache-2.0
"""Random proofs over synthetic memory: what `difference` accepts, and that nothing else passes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kdiff.arch import BitField, Overflow
from kdiff.arch import Howto as EngineHowto
from kdiff.fields import mixed
from kdiff.target.match import Run, difference, expected, is_padding, stored
from kdiff.target.proof import Bytes, Howto, Lit, Mixed, Pad, Part, Relocated, Site, Through, ToCode, size

ADDRESS = 0xFFFFFFFF9D001000
NOPS = (b"\x0f\x1f\x44\0\0", b"\x66\x90", b"\x90")
SYMBOLS = (0xFFFFFFFF9D000000, 0xFFFFFFFF9D123456, 0x1C0DE, 0xFFFFFFFF9E000000)
"""The third is a per-cpu offset; the last is a table of pointers."""
SLOTS = 0xFFFFFFFF9E000000
HOWTOS = (
    Howto("PC32", 4, ((0, 0, 32),), "signed", True),
    Howto("32S", 4, ((0, 0, 32),), "signed", False),
    Howto("64", 8, ((0, 0, 64),), "wrap", False),
    Howto("CALL26", 4, ((0, 2, 26),), "signed", True),
    Howto("LO12", 4, ((10, 0, 12),), "wrap", False),
    Howto("SPLIT", 4, ((29, 0, 2), (5, 2, 19)), "wrap", True),
)
TABLE = b"".join((0xFFFFFFFF9D000000 + 64 * n).to_bytes(8, "little") for n in range(8))


def read(address: int, length: int) -> bytes | None:
    start = address - SLOTS
    return TABLE[start : start + length] if 0 <= start <= len(TABLE) - length else None


RUN = Run(read, 8, "little", SYMBOLS, NOPS)


def engine(howto: Howto) -> EngineHowto:
    fields = tuple(BitField(*each) for each in howto.fields)
    return EngineHowto(1, howto.name, howto.size, fields, Overflow(howto.overflow), howto.pc_relative)


def contents(part: Bytes, address: int, chance: random.Random) -> bytes | None:
    """Bytes that fulfil a part, made with the engine's howtos; None if nothing can."""
    if isinstance(part, Lit):
        return part.data
    if isinstance(part, Pad):
        data = b""
        while len(data) < part.size:
            data += chance.choice([nop for nop in NOPS if len(nop) <= part.size - len(data)])
        return data
    if isinstance(part, Through):
        slot = read(SYMBOLS[part.symbol] + part.slot, 8)
        assert slot is not None
        destination, background = int.from_bytes(slot, "little"), bytes(part.howto.size)
    elif isinstance(part, Mixed):
        found = read(SYMBOLS[part.symbol] + part.slot, len(part.data))
        assert found is not None
        return mixed(part.data, found, part.negated, "little")
    elif isinstance(part, ToCode):
        destination, background = SLOTS + TABLE.index(part.code), bytes(part.howto.size)
    else:
        destination, background = SYMBOLS[chance.choice(part.symbols)], part.background
    value = destination + part.addend - (address if part.howto.pc_relative else 0)
    value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    try:
        return engine(part.howto).insert(background, value, "little")
    except OverflowError:
        return None


def memory(parts: tuple[Part, ...], seed: int) -> bytes | None:
    chance = random.Random(seed)
    data = b""
    for part in parts:
        for plain in chance.choice(part.forms) if isinstance(part, Site) else (part,):
            more = contents(plain, ADDRESS + len(data), chance)
            if more is None:
                return None
            data += more
    return data


literals = st.binary(min_size=1, max_size=9).map(Lit)
pads = st.integers(1, 12).map(Pad)
addends = st.sampled_from([-4, 0, 4, 8, -0x1000, 0x40])
full = st.sampled_from([howto for howto in HOWTOS if howto.mask == (1 << 8 * howto.size) - 1])
fields = st.builds(
    lambda howto, symbol, addend, background: Relocated(howto, (symbol,), addend, background[: howto.size]),
    st.sampled_from(HOWTOS),
    st.integers(0, 2),
    addends,
    st.binary(min_size=8, max_size=8),
)
choices = st.builds(
    lambda howto, symbols, addend: Relocated(howto, tuple(symbols), addend, bytes(howto.size)),
    full,
    st.lists(st.integers(0, 1), min_size=1, max_size=2, unique=True),
    addends,
)
throughs = st.builds(Through, full, st.just(3), st.sampled_from([0, 8, 56]), addends)
codes = st.builds(ToCode, full, st.integers(0, len(TABLE) - 8).map(lambda at: TABLE[at : at + 8]), addends)
mixes = st.builds(
    Mixed, st.just(3), st.sampled_from([0, 8, 52]), st.binary(min_size=1, max_size=8), st.booleans()
)
plains = st.one_of(literals, pads, fields, choices, throughs, codes, mixes)


@st.composite
def sites(draw: st.DrawFn) -> Site:
    forms = [tuple(draw(st.lists(plains, min_size=1, max_size=3))) for _ in range(draw(st.integers(1, 3)))]
    longest = max(sum(map(size, form)) for form in forms)
    missing = (longest - sum(map(size, form)) for form in forms)
    return Site(
        "rewrite",
        longest,
        tuple((*form, Pad(gap)) if gap else form for form, gap in zip(forms, missing, strict=True)),
    )


anything = st.lists(st.one_of(plains, sites()), min_size=1, max_size=8).map(tuple)
seeds = st.integers(0, 1 << 30)


@given(anything, seeds)
def test_memory_that_fulfils_every_part_is_accepted(parts: tuple[Part, ...], seed: int) -> None:
    data = memory(parts, seed)
    assume(data is not None)
    assert data is not None
    assert difference(parts, data, ADDRESS, RUN) is None
    assert expected(parts, data, ADDRESS, RUN) == data


exact = st.lists(st.one_of(literals, fields), min_size=1, max_size=8).map(tuple)


@given(exact, seeds, st.data())
def test_any_flipped_bit_outside_sites_is_refused_where_it_is(
    parts: tuple[Part, ...], seed: int, draw: st.DataObject
) -> None:
    right = memory(parts, seed)
    assume(right is not None)
    assert right is not None
    bit = draw.draw(st.integers(0, 8 * len(right) - 1))
    wrong = bytearray(right)
    wrong[bit // 8] ^= 1 << bit % 8
    found = difference(parts, bytes(wrong), ADDRESS, RUN)
    assert found is not None
    assert found.offset == bit // 8
    assert expected(parts, bytes(wrong), ADDRESS, RUN) == right


@given(anything, seeds, st.data())
def test_what_is_accepted_is_one_of_the_allowed_contents(
    parts: tuple[Part, ...], seed: int, draw: st.DataObject
) -> None:
    """The slow way to say it: every part, on its own, must allow what is there."""
    data = memory(parts, seed)
    assume(data is not None)
    assert data is not None
    changed = bytearray(data)
    changed[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    offset, allowed = 0, True
    for part in parts:
        here = bytes(changed[offset : offset + size(part)])
        allowed = allowed and slowly(part, here, ADDRESS + offset)
        offset += size(part)
    assert (difference(parts, bytes(changed), ADDRESS, RUN) is None) == allowed


def slowly(part: Part, here: bytes, address: int) -> bool:
    if isinstance(part, Site):
        return any(form_slowly(form, here, address) for form in part.forms)
    return form_slowly((part,), here, address)


def form_slowly(form: tuple[Bytes, ...], here: bytes, address: int) -> bool:
    offset = 0
    for part in form:
        piece = here[offset : offset + size(part)]
        if isinstance(part, Pad):
            if not splits(piece):
                return False
        elif piece not in {contents(part, address + offset, random.Random(seed)) for seed in range(12)}:
            return False
        offset += size(part)
    return True


def splits(data: bytes) -> bool:
    return not data or any(data.startswith(nop) and splits(data[len(nop) :]) for nop in NOPS)


@given(st.lists(st.sampled_from(NOPS)).map(b"".join))
def test_any_sequence_of_no_operations_is_padding(data: bytes) -> None:
    assert is_padding(data, NOPS)


@given(st.lists(st.sampled_from([*NOPS, b"\x0f", b"\x66", b"\0", b"\x1f\x44"]), max_size=9).map(b"".join))
def test_padding_is_what_splits_into_no_operations(data: bytes) -> None:
    assert is_padding(data, NOPS) == splits(data)


def test_padding_that_splits_in_very_many_ways_is_decided_at_once() -> None:
    assert not is_padding(b"\x90" * 4000 + b"\xcc", (b"\x90", b"\x90\x90", b"\x90\x90\x90"))


@given(
    st.sampled_from([*HOWTOS, Howto("32", 4, ((0, 0, 32),), "unsigned", False)]),
    st.integers(-(1 << 34), 1 << 34) | st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(min_size=8, max_size=8),
    st.sampled_from(["little", "big"]),
)
def test_a_field_is_stored_exactly_as_the_engine_stores_it(
    howto: Howto, value: int, background: bytes, order: Literal["little", "big"]
) -> None:
    container = background[: howto.size]
    wanted: bytes | None
    try:
        wanted = engine(howto).insert(container, value, order)
    except OverflowError:
        wanted = None
    if howto.overflow == "unsigned" and value < 0:
        wanted = None
    assert stored(howto, value, container, RUN._replace(order=order)) == wanted


def test_a_value_too_large_for_its_field_is_a_difference() -> None:
    far = Relocated(HOWTOS[0], (0,), 1 << 40, bytes(4))
    for data in (bytes(4), b"\xff" * 4):
        assert difference((far,), data, ADDRESS, RUN) is not None


def test_a_per_cpu_field_wraps_round_the_address_space() -> None:
    """Per-cpu offsets are small numbers, 2 GiB and more away from code; the processor adds modulo 2^64."""
    field = Relocated(HOWTOS[0], (2,), -4, bytes(4))
    value = (SYMBOLS[2] - 4 - ADDRESS) % (1 << 64)
    assert value < 1 << 31
    assert difference((field,), value.to_bytes(4, "little"), ADDRESS, RUN) is None


def test_a_pointer_that_cannot_be_read_is_a_difference() -> None:
    part = Through(HOWTOS[0], 0, 0, 0)
    assert difference((part,), bytes(4), ADDRESS, RUN) is not None


@pytest.mark.parametrize("howto", HOWTOS[:3], ids=lambda howto: howto.name)
@pytest.mark.parametrize(("at", "length", "right"), [
    (8, 8, True), (8, 3, True), (9, 8, False), (16, 8, False), (56, 9, False), (-8, 8, False)
])  # fmt: skip
def test_a_field_may_lead_to_where_its_code_is_and_nowhere_else(
    howto: Howto, at: int, length: int, right: bool
) -> None:
    part = ToCode(howto, TABLE[8 : 8 + length], 4)
    value = SLOTS + at + 4 - (ADDRESS if howto.pc_relative else 0)
    data = (value % (1 << 8 * howto.size)).to_bytes(howto.size, "little")
    assert (difference((part,), data, ADDRESS, RUN) is None) is right


@pytest.mark.parametrize(("data", "other", "negated", "wanted"), [
    ("78563412", "01000000", False, "79563412"), ("78563412", "00000000", True, "78563412"),
    ("00000000", "ffffffff", False, "ffffffff"), ("ffffffff", "01000000", True, "00000000"),
    ("01000000", "01000000", True, "02000000"),
])  # fmt: skip
def test_a_number_is_mixed_with_what_memory_has(data: str, other: str, negated: bool, wanted: str) -> None:
    here = bytes.fromhex(other)
    run = Run(lambda address, length: here[:length], 8, "little", SYMBOLS, NOPS)
    part = Mixed(3, 0, bytes.fromhex(data), negated)
    assert difference((part,), bytes.fromhex(wanted), ADDRESS, run) is None
    assert mixed(part.data, here, negated, "little") == bytes.fromhex(wanted)
    for bit in range(32):
        wrong = (int(wanted, 16) ^ 1 << bit).to_bytes(4, "big")
        assert difference((part,), wrong, ADDRESS, run) is not None
    nowhere = Run(lambda address, length: None, 8, "little", SYMBOLS, NOPS)
    assert difference((part,), bytes.fromhex(wanted), ADDRESS, nowhere) is not None


def test_a_pointer_on_a_32_bit_machine_has_four_bytes() -> None:
    part = Through(Howto("32", 4, ((0, 0, 32),), "wrap", False), 0, 0, 0)
    slots: Callable[[int, int], bytes | None] = lambda address, length: b"\x12\x34\x56\x78\x9a"[:length]  # noqa: E731
    run = Run(slots, 4, "big", (0xC0000000,), NOPS)
    assert difference((part,), b"\x12\x34\x56\x78", 0xC0001000, run) is None


@pytest.mark.parametrize("wanted, byte", [(b"\xeb\x05", 1), (b"\x66\x90", 0)])
def test_a_refused_site_shows_the_form_that_comes_closest(wanted: bytes, byte: int) -> None:
    site = Site("jump_label", 2, ((Pad(2),), (Lit(b"\xeb\x05"),)))
    found = bytearray(wanted)
    found[1] ^= 0x10
    different = difference((site,), bytes(found), ADDRESS, RUN)
    assert different is not None
    assert different.part is site
    assert different.expected in (wanted, b"\x90\x90", b"\xeb\x05")
    assert different.offset in (byte, 1)

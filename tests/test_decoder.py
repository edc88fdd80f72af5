# SPDX-License-Identifier: Apache-2.0
"""capstone's library says the same through its Python part and without it."""

from __future__ import annotations

from functools import cache

import capstone
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff import decoder, registry
from kdiff.decoder import Imported, direct
from kdiff.insn import disassemble, instructions

ARCHITECTURES = sorted(
    (each for each in registry.load().architectures.values() if each.capstone), key=lambda each: each.name
)
X86 = "CS_ARCH_X86", ("CS_MODE_64",)


@cache
def both(names: tuple[str, tuple[str, ...]]) -> tuple[decoder.Decoder, decoder.Decoder]:
    found = direct(*names)
    assert found is not None
    return found, Imported(*names)


@pytest.mark.parametrize("names", [each.capstone for each in ARCHITECTURES], ids=str)
@given(code=st.binary(max_size=200), address=st.integers(0, (1 << 64) - 256))
def test_any_code_is_decoded_alike(names: tuple[str, tuple[str, ...]], code: bytes, address: int) -> None:
    one, other = both(names)
    assert one.instructions(code) == other.instructions(code)
    assert one.texts(code, address) == other.texts(code, address)


def test_numbers_are_those_of_capstone() -> None:
    assert {name: getattr(capstone, name) for name in decoder._NUMBERS} == decoder._NUMBERS


def test_a_library_with_other_structures_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As version 6 has, of which each instruction holds more."""
    fields = {name: [*each] for name, each in zip(("names", "formats"), ([], []), strict=True)}
    for name, (kind, _) in (decoder._INSTRUCTION.fields or {}).items():
        fields["names"].append(name)
        fields["formats"].append(kind)
    wider = {**fields, "offsets": [16, 24, 50, 50, 82], "itemsize": 264}
    monkeypatch.setattr(decoder, "_INSTRUCTION", np.dtype(wider))
    assert direct(*X86) is None


def test_a_library_of_another_version_or_elsewhere_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for attribute, value in (("_MAJOR", 6), ("find_spec", lambda name: None)):
        with monkeypatch.context() as other:
            other.setattr(decoder, attribute, value)
            decoder._library.cache_clear()
            assert direct(*X86) is None
    decoder._library.cache_clear()
    assert direct(*X86) is not None


def test_what_the_library_cannot_be_asked_about_is_asked_through_its_python_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = bytes.fromhex("e800000000 06 c3")
    expected = instructions(ARCHITECTURE, code), disassemble(ARCHITECTURE, code, 64)
    monkeypatch.setattr(decoder, "direct", lambda *names: None)
    decoder.decoder.cache_clear()
    assert (instructions(ARCHITECTURE, code), disassemble(ARCHITECTURE, code, 64)) == expected
    decoder.decoder.cache_clear()

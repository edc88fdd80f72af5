# SPDX-License-Identifier: Apache-2.0
"""The part of a proof that is about modules, on a machine that has loaded them, or not, or others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakemachine import LINKED, SLIDE, FakeMachine, code, notes, proof

from kdiff.errors import KdiffError
from kdiff.target import proof_reader
from kdiff.target.verify import verify

BUILD_ID, SOURCE_VERSION = "ab" * 20, "4BE1860AAB795C976411EED"
BASE = LINKED + SLIDE
HERE = "sys/module/dummy"


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    """A machine that has loaded the module; its code lies where the kernel's own lies in other tests."""
    found = FakeMachine(tmp_path)
    found.put(f"{HERE}/initstate", "live\n")
    found.put(f"{HERE}/srcversion", f"{SOURCE_VERSION}\n")
    found.put(f"{HERE}/notes/.note.gnu.build-id", notes(BUILD_ID))
    found.put(f"{HERE}/sections/.text", f"{BASE:#018x}\n")
    listed(found, ("tcp_v4_rcv", 0x1000), ("helper", 0x2000))
    return found


def listed(fake: FakeMachine, *symbols: tuple[str, int]) -> None:
    lines = "".join(f"{BASE + offset:016x} t {name}\t[dummy]\n" for name, offset in symbols)
    fake.put("proc/kallsyms", f"{BASE:016x} T _text\n{lines}{BASE:016x} t helper\t[dummy_too]\n")


def promised() -> dict[str, Any]:
    value = proof()
    value["modules"] = [
        {"name": "dummy", "build_id": BUILD_ID, "source_version": SOURCE_VERSION, "fresh": False}
    ]
    for symbol, offset in zip(value["symbols"][1:], (0x1000, 0x2000), strict=True):
        del symbol["slides"]
        symbol.update(owner="dummy", section=".text", address=offset)
    return value


def keys(fake: FakeMachine, value: dict[str, Any] | None = None) -> list[str]:
    made = proof_reader.read(json.dumps(value or promised()).encode())
    return [each.key for each in verify(made, fake.machine)]


def test_code_of_a_loaded_module_is_found_by_its_section(fake: FakeMachine) -> None:
    assert keys(fake) == []


def test_any_other_byte_of_its_code_is_refused(fake: FakeMachine) -> None:
    for at in range(5, len(code())):
        fake.memory(code()[:at] + bytes([code()[at] ^ 1]) + code()[at + 1 :])
        assert keys(fake) == ["verify.content"], at


@pytest.mark.parametrize(
    ("file", "content"),
    [("srcversion", "other\n"), ("notes/.note.gnu.build-id", notes("cd" * 20)), ("srcversion", "")],
)
def test_another_build_of_the_module_is_refused(fake: FakeMachine, file: str, content: str | bytes) -> None:
    fake.put(f"{HERE}/{file}", content)
    assert keys(fake) == ["target.other_module"]


@pytest.mark.parametrize("address", ["0x0000000000000000", "", f"{BASE + 0x10:#x}"])
def test_a_section_that_is_hidden_or_elsewhere_is_refused(fake: FakeMachine, address: str) -> None:
    fake.put(f"{HERE}/sections/.text", address)
    assert set(keys(fake)) == {"verify.symbol"}


@pytest.mark.parametrize(
    "symbols",
    [
        [("tcp_v4_rcv", 0x1000)],
        [("tcp_v4_rcv", 0x1000), ("helper", 0x2000), ("helper", 0x3000)],
        [("tcp_v4_rcv", 0x1000), ("helper", 0x2008)],
    ],
)
def test_kallsyms_must_list_what_the_proof_says_for_that_module(
    fake: FakeMachine, symbols: list[tuple[str, int]]
) -> None:
    listed(fake, *symbols)
    assert keys(fake) == ["verify.symbol"]


@pytest.mark.parametrize("state", ["coming\n", "going\n", None])
def test_a_module_that_does_not_run_is_not_compared(fake: FakeMachine, state: str | None) -> None:
    if state is None:
        (fake.root / HERE / "initstate").unlink()
    else:
        fake.put(f"{HERE}/initstate", state)
    fake.memory(bytes(len(code())))
    assert keys(fake) == []


def test_a_symbol_that_only_kallsyms_knows_is_taken_from_there(fake: FakeMachine) -> None:
    value = promised()
    value["symbols"][2].update(section="", address=0)
    assert keys(fake, value) == []
    listed(fake, ("tcp_v4_rcv", 0x1000), ("helper", 0x2004))
    assert keys(fake, value) == ["verify.content"]


def test_code_of_a_module_of_which_no_build_is_named_is_malformed() -> None:
    value = promised()
    value["modules"] = []
    with pytest.raises(KdiffError, match="which build") as caught:
        proof_reader.read(json.dumps(value).encode())
    assert caught.value.key == "proof.malformed"

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from fakemachine import LINKED, SLIDE, FakeMachine

from kdiff.errors import KdiffError
from kdiff.target import kallsyms


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def test_only_wanted_names_are_returned(fake: FakeMachine) -> None:
    assert kallsyms.addresses(fake.machine, ["_text"]) == {"_text": (LINKED + SLIDE,)}


def test_equal_names_come_in_the_order_of_the_list(fake: FakeMachine) -> None:
    fake.kallsyms(more="0000000000000020 d helper\n0000000000000010 d helper\n")
    assert kallsyms.addresses(fake.machine, ["helper"])["helper"] == (LINKED + SLIDE + 0x2000, 0x20, 0x10)


def test_symbols_of_modules_do_not_count(fake: FakeMachine) -> None:
    assert len(kallsyms.addresses(fake.machine, ["helper"])["helper"]) == 1


def test_a_name_that_only_contains_a_wanted_one_does_not_count(fake: FakeMachine) -> None:
    fake.kallsyms(more="0000000000000020 t helper.cold\n0000000000000030 t my_helper\n")
    assert len(kallsyms.addresses(fake.machine, ["helper"])["helper"]) == 1


def test_unknown_names_are_left_out(fake: FakeMachine) -> None:
    assert kallsyms.addresses(fake.machine, ["nowhere"]) == {}


def test_a_32_bit_list_is_read(fake: FakeMachine) -> None:
    fake.put("proc/kallsyms", "c0100000 T _text\nc0200000 t helper\n")
    assert kallsyms.addresses(fake.machine, ["helper"]) == {"helper": (0xC0200000,)}


def test_hidden_addresses_are_an_error_that_says_how_to_show_them(fake: FakeMachine) -> None:
    fake.put("proc/kallsyms", "0000000000000000 T _text\n0000000000000000 t helper\n")
    with pytest.raises(KdiffError, match="kptr_restrict") as caught:
        kallsyms.addresses(fake.machine, ["_text", "helper"])
    assert caught.value.key == "target.kptr_restrict"


@pytest.mark.parametrize("content", [None, ""])
def test_no_list_is_an_error(fake: FakeMachine, content: str | None) -> None:
    if content is None:
        (fake.root / "proc/kallsyms").unlink()
    else:
        fake.put("proc/kallsyms", content)
    with pytest.raises(KdiffError) as caught:
        kallsyms.addresses(fake.machine, ["_text"])
    assert caught.value.key == "target.kallsyms"

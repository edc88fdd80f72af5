# SPDX-License-Identifier: Apache-2.0
"""Facts of a kernel from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdiff.errors import KdiffError
from kdiff.factsfile import read_facts
from kdiff.kernel import KernelFacts, Structure

TEXT = """
machine = "x86_64"
[config]
CONFIG_64BIT = "y"
[structures.bug_entry]
size = 16
members = { bug_addr_disp = 0, line = 12 }
[structures.alt_instr]
size = 14
"""


def facts(tmp_path: Path, text: str) -> KernelFacts:
    (tmp_path / "facts").write_text(text)
    return read_facts(tmp_path / "facts")


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    found = facts(tmp_path, TEXT)
    assert found.machine == "x86_64"
    assert found.config == {"CONFIG_64BIT": "y"}
    assert found.structures == {
        "bug_entry": Structure(16, {"bug_addr_disp": 0, "line": 12}),
        "alt_instr": Structure(14, {}),
    }
    again = {
        "machine": "x86_64",
        "config": {"CONFIG_64BIT": "y"},
        "structures": {
            "bug_entry": {"size": 16, "members": {"bug_addr_disp": 0, "line": 12}},
            "alt_instr": {"size": 14},
        },
    }
    assert facts(tmp_path, json.dumps(again)) == found


def test_what_a_file_does_not_say_is_unknown(tmp_path: Path) -> None:
    assert facts(tmp_path, "") == facts(tmp_path, "{}") == KernelFacts(config={}, structures={})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("machine =", "neither TOML nor JSON"),
        ('{"machine": ', "neither TOML nor JSON"),
        ("machine = 3", "machine is no text"),
        ('structure = "x"', "the file has 'structure'"),
        ("structures = 1", "structures is no table"),
        ("structures.bug_entry = 12", "structures.bug_entry is no table"),
        ("structures.bug_entry.size = 0", "structures.bug_entry.size is no number of bytes"),
        ("structures.bug_entry.size = true", "structures.bug_entry.size is no number of bytes"),
        ("structures.bug_entry.members = { line = 8 }", "structures.bug_entry.size is no number of bytes"),
        ("structures.b = { size = 8, members = { line = 8 } }", "structures.b.members.line is at 8, behind"),
        ("structures.b = { size = 8, offsets = { line = 4 } }", "structures.b has 'offsets'"),
        ("config.CONFIG_64BIT = true", "config.CONFIG_64BIT is no text"),
    ],
)
def test_what_no_fact_can_be_is_one_error(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(KdiffError) as caught:
        facts(tmp_path, text)
    assert caught.value.key == "facts.malformed"
    assert what in caught.value.message
    assert caught.value.place == str(tmp_path / "facts")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "facts").write_bytes(content)
    with pytest.raises(KdiffError) as caught:
        read_facts(tmp_path / "facts")
    assert caught.value.key == "facts.unreadable"

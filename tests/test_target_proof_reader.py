# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakemachine import proof
from hypothesis import given
from hypothesis import strategies as st

from kdiff.errors import KdiffError
from kdiff.target import proof_reader
from kdiff.target.proof import (
    Contains,
    Holds,
    Listed,
    Lit,
    Mixed,
    Pad,
    Proof,
    Relocated,
    Site,
    Through,
    ToCode,
    size,
)

Json = dict[str, Any]


def read(value: object) -> Proof:
    return proof_reader.read(json.dumps(value).encode())


def malformed(value: object) -> str:
    with pytest.raises(KdiffError) as caught:
        read(value)
    assert caught.value.key == "proof.malformed"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_part(*part: object, size: int) -> Json:
    value = proof()
    value["nodes"][0]["parts"] = [list(part), ["pad", 20 - size]]
    return value


def test_every_kind_of_part_is_read() -> None:
    value = with_part("lit", "aabb", size=2)
    value["nodes"][0]["parts"] = [
        ["lit", "aabb"],
        ["field", "PC32", 2, -4, "01020304"],
        ["oneof", "PC32", [0, 2], 7],
        ["through", "PC32", 1, 8, -4],
        ["listed", "PC32", "bpf", "bpf_trampoline_", -4],
        ["code", "PC32", "ffe0cc", -4],
        ["mixed", 1, 8, "01020304", True],
        [
            "site",
            "jump_label",
            2,
            [
                [["holds", 1, 8, [0, None]], ["pad", 2]],
                [["contains", 1, 8, "0200"], ["lit", "eb"], ["lit", "02"]],
            ],
        ],
        ["lit", ""],
    ]
    value["nodes"][0]["size"] += 8
    node = read(value).nodes[0]
    howto = read(value).nodes[0].parts[1].howto  # type: ignore[union-attr]  # it is a Relocated
    assert node.parts == (
        Lit(b"\xaa\xbb"),
        Relocated(howto, (2,), -4, b"\1\2\3\4"),
        Relocated(howto, (0, 2), 7, bytes(4)),
        Through(howto, 1, 8, -4),
        Listed(howto, "bpf", "bpf_trampoline_", -4),
        ToCode(howto, b"\xff\xe0\xcc", -4),
        Mixed(1, 8, b"\1\2\3\4", True),
        Site(
            "jump_label",
            2,
            ((Holds(1, 8, (0, None)), Pad(2)), (Contains(1, 8, b"\2\0"), Lit(b"\xeb"), Lit(b"\2"))),
        ),
        Lit(b""),
    )
    assert sum(size(part) for part in node.parts) == node.size == 28


def test_replaced_functions_are_named_with_their_positions() -> None:
    value = proof()
    value["symbols"][1].update(position=2, count=3)
    assert read(value).replaced == (("vmlinux", "tcp_v4_rcv", 2),)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"3", b"null", b"[" * 100_000, b"\xff\xfe", b'{"format": 5}']
)
def test_text_that_is_no_proof_is_an_error(text: bytes) -> None:
    with pytest.raises(KdiffError) as caught:
        proof_reader.read(text)
    assert caught.value.key == "proof.malformed"


@pytest.mark.parametrize(
    "key",
    [
        "format",
        "release",
        "byte_order",
        "anchor",
        "nops",
        "howtos",
        "symbols",
        "nodes",
        "version",
        "build_id",
    ],
)
@pytest.mark.parametrize("junk", [None, 9, ["x"], {"a": 1}, 1.5, True])
def test_a_missing_or_odd_member_is_an_error_that_names_it(key: str, junk: object) -> None:
    value = proof()
    del value[key]
    assert key in malformed(value)
    assert key in malformed({**value, key: junk})


@pytest.mark.parametrize("format", [0, 1, 2, 3, 4, 6, "5", 5.5])
def test_another_format_is_an_error(format: object) -> None:
    malformed({**proof(), "format": format})


@pytest.mark.parametrize("part", [
    ["lit"], ["lit", 3], ["lit", "abc"], ["lit", "zz"], ["pad", 0], ["pad", -1], ["pad", True],
    ["pad", 1 << 40],
    ["field", "PC33", 2, -4, "00000000"], ["field", "PC32", 3, -4, "00000000"],
    ["field", "PC32", -1, 0, "00000000"],
    ["field", "PC32", 2, 1 << 70, "00000000"], ["field", "PC32", 2, -4, "0000"],
    ["field", [], 2, -4, "00000000"],
    ["field", "PC32", 2, "4", "00000000"], ["field", "PC32", True, 4, "00000000"],
    ["oneof", "PC32", [], 0], ["oneof", "PC32", [9], 0], ["oneof", "PC32", 2, 0],
    ["through", "PC32", 2, 0], ["through", "PC32", 2, None, 0], ["through", "PC32", 7, 0, 0],
    ["listed", "PC32", "", "x", 0], ["listed", "PC32", "bpf", "", 0], ["listed", "PC32", 3, "x", 0],
    ["listed", "PC33", "bpf", "x", 0], ["listed", "PC32", "bpf", "x", None],
    ["code", "PC33", "ffe0cc", -4], ["code", "PC32", "", -4], ["code", "PC32", "ffe", -4],
    ["code", "PC32", None, -4], ["code", "PC32", "ffe0cc", None], ["code", "PC32", "ffe0cc"],
    ["mixed", 9, 8, "01020304", True], ["mixed", 1, 8, "", True], ["mixed", 1, 8, "01020304", 1],
    ["mixed", 1, None, "01020304", True], ["mixed", 1, 8, "01020304"],
    ["holds", 1, 8, [0]], ["contains", 1, 8, "02"],
    *(["site", "x", 4, [[each, ["pad", 4]]]] for each in (
        ["holds", 1, 8, []], ["holds", 9, 8, [0]], ["holds", 1, None, [0]], ["holds", 1, 8, [9]],
        ["contains", 9, 8, "02"], ["contains", 1, 8, ""], ["contains", 1, "8", "02"], ["contains", 1, 8],
        ["holds", 1, 8, 0], ["holds", 1, 8, ["null"]], ["holds", 1, 8],
    )),
    ["site", "x", 4, []], ["site", "x", 4, [[]]], ["site", "x", 4, [[["pad", 3]]]],
    ["site", 4, 4, [[["pad", 4]]]],
    ["site", "x", 0, [[]]], ["site", "x", 4, [["pad", 4]]], ["site", "x", 4, "pad"],
    ["site", "x", 4, [[["site", "y", 4, [[["pad", 4]]]]]]],
    ["mask", 4], "lit", None, 4, [], {}, [[]],
])  # fmt: skip
def test_an_odd_part_is_an_error(part: object) -> None:
    value = proof()
    value["nodes"][0]["parts"] = [part, ["pad", 16]]
    assert "tcp_v4_rcv" in malformed(value)


def test_parts_that_do_not_add_up_to_the_node_are_an_error() -> None:
    value = proof()
    value["nodes"][0]["size"] = 21
    assert "20 bytes in place of 21" in malformed(value)


def edit(*path: object, to: object) -> Callable[[], Json]:
    def make() -> Json:
        value = proof()
        place: Any = value
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to
        return value

    return make


@pytest.mark.parametrize("make", [
    edit("nodes", 0, "role", to="context"), edit("nodes", 0, "role", to="other"),
    edit("nodes", 0, "symbol", to=9),
    edit("nodes", 0, "offset", to=-1), edit("nodes", 0, "offset", to=4), edit("nodes", 0, "size", to=0),
    edit("nodes", 0, "name", to=""), edit("nodes", to=[]), edit("nodes", 0, "parts", to={}),
    edit("symbols", 1, "position", to=0), edit("symbols", 1, "position", to=2),
    edit("symbols", 1, "count", to=0),
    edit("symbols", 1, "name", to=""), edit("symbols", 1, "address", to=1 << 64),
    edit("symbols", 1, "address", to=-1),
    edit("symbols", 1, "slides", to=1), edit("symbols", 0, "slides", to=False),
    edit("symbols", 0, "position", to=0),
    edit("anchor", to="_start"), edit("nops", to=[""]), edit("nops", to=["9"]),
    edit("byte_order", to="middle"),
    edit("howtos", 0, "size", to=0), edit("howtos", 0, "size", to=17), edit("howtos", 0, "fields", to=[]),
    edit("howtos", 0, "fields", to=[[0, 0, 33]]), edit("howtos", 0, "fields", to=[[0, 0, 8], [7, 8, 8]]),
    edit("howtos", 0, "fields", to=[[0, 0, 0]]), edit("howtos", 0, "fields", to=[[0, 0]]),
    edit("howtos", 0, "fields", to=[[0, 0, "8"]]), edit("howtos", 0, "overflow", to="maybe"),
    edit("howtos", 0, "pc_relative", to=None), edit("howtos", 0, "name", to=""),
    edit("howtos", to=proof()["howtos"] * 2),
])  # fmt: skip
def test_an_inconsistent_proof_is_an_error(make: Callable[[], Json]) -> None:
    malformed(make())


@pytest.mark.parametrize("part", [
    ["oneof", "PC32", [2], 0], ["through", "PC32", 2, 0, 0], ["listed", "PC32", "bpf", "x", 0],
    ["code", "PC32", "ffe0cc", 0],
])  # fmt: skip
def test_a_field_without_background_must_fill_its_container(part: list[object]) -> None:
    value = with_part(*part, size=4)
    assert read(value)
    value["howtos"][0]["fields"] = [[0, 0, 24]]
    assert "nothing compares" in malformed(value)


@pytest.mark.parametrize(
    ("size", "fields", "overflow"),
    [(4, [[0, 1, 32]], "signed"), (2, [[0, 0, 16]], "wrap"), (4, [[0, 0, 16], [16, 0, 16]], "signed")],
)
def test_a_field_that_leads_to_code_must_tell_where(size: int, fields: list[object], overflow: str) -> None:
    value = with_part("code", "PC32", "ffe0cc", -4, size=size)
    value["howtos"][0].update(size=size, fields=fields, overflow=overflow)
    assert "does not tell" in malformed(value)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x), max_leaves=12)
)
def test_junk_in_place_of_parts_is_never_another_exception(junk: object) -> None:
    value = proof()
    value["nodes"][0]["parts"] = junk
    malformed(value)

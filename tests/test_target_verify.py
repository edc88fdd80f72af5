# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakemachine import BUILD_ID, LINKED, NOP5, RELEASE, SLIDE, FakeMachine, code, proof
from hypothesis import given
from hypothesis import strategies as st

from kdiff.errors import KdiffError, Refusal
from kdiff.target import proof_reader
from kdiff.target.identity import build_id
from kdiff.target.verify import verify

SITE = len(NOP5)
"""Bytes at the start of the function that a rewrite explains; all that follow are exact."""


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def checked(fake: FakeMachine, value: dict[str, Any] | None = None) -> tuple[Refusal, ...]:
    return verify(proof_reader.read(json.dumps(value or proof()).encode()), fake.machine)


def refusal(fake: FakeMachine, value: dict[str, Any] | None = None) -> Refusal:
    (only,) = checked(fake, value)
    assert only.remedy
    return only


@pytest.mark.parametrize("slide", [0, 0x200000, SLIDE, -0x1000000])
def test_the_right_code_is_accepted_wherever_the_kernel_was_loaded(fake: FakeMachine, slide: int) -> None:
    fake.kallsyms(slide)
    fake.memory(code(), slide)
    assert checked(fake) == ()


@given(bit=st.integers(8 * SITE, 8 * len(code()) - 1))
def test_any_flipped_bit_is_refused_with_its_place(
    tmp_path_factory: pytest.TempPathFactory, bit: int
) -> None:
    fake = FakeMachine(tmp_path_factory.mktemp("flip"))
    data = bytearray(code())
    data[bit // 8] ^= 1 << bit % 8
    fake.memory(bytes(data))
    found = refusal(fake)
    assert (found.key, found.place) == ("verify.content", f"tcp_v4_rcv+{bit // 8:#x}")
    wanted, is_now = found.details
    start = max(0, bit // 8 - 16)
    assert wanted.endswith(code()[start : bit // 8 + 16].hex(" "))
    assert is_now.endswith(bytes(data)[start : bit // 8 + 16].hex(" "))


def test_code_that_changes_while_it_is_read_gets_a_second_look(fake: FakeMachine) -> None:
    """The kernel rewrites an instruction with a breakpoint in its place for a moment."""
    fake.memory(b"\xcc" + code()[1:])
    fake.on_sleep = lambda count: fake.memory(code())
    assert checked(fake) == ()


def test_a_breakpoint_is_named_as_the_likely_cause(fake: FakeMachine) -> None:
    fake.memory(code()[:5] + b"\xcc" + code()[6:])
    assert "breakpoint" in refusal(fake).reason


@pytest.mark.parametrize("call", ["e811223344", "e911223344"])
def test_a_call_in_place_of_the_entry_means_tracing(fake: FakeMachine, call: str) -> None:
    fake.memory(bytes.fromhex(call) + code()[5:])
    found = refusal(fake)
    assert "traced or already live-patched" in found.reason
    assert "fentry" in found.reason


def test_bytes_mean_nothing_on_a_machine_whose_instructions_are_others(fake: FakeMachine) -> None:
    fake.memory(bytes.fromhex("e811223344") + code()[5:])
    text = json.dumps(proof()).encode()
    machine = fake.machine._replace(architecture=lambda: "aarch64")
    (found,) = verify(proof_reader.read(text), machine)
    assert "traced" not in found.reason


def test_what_the_kernel_says_of_a_function_is_named_first(fake: FakeMachine) -> None:
    fake.memory(code()[:-1] + b"\0")
    fake.put("sys/kernel/debug/kprobes/list", "ffffffff81001004  k  tcp_v4_rcv+0x4    [OPTIMIZED]\n")
    assert "kprobe" in refusal(fake).reason
    fake.put("sys/kernel/tracing/enabled_functions", "tcp_v4_rcv (1) R   \n")
    assert "traced" in refusal(fake).reason
    fake.foreign_patch("klp_other", "tcp_v4_rcv,1")
    assert "klp_other" in refusal(fake).reason


PROBES = "__builtin__kprobes"


@pytest.mark.parametrize(
    ("flags", "how"), [("", "a breakpoint"), ("    [OPTIMIZED]", "a jump"), ("  [FTRACE]", "ftrace")]
)
def test_a_kprobe_is_named_with_its_place(fake: FakeMachine, flags: str, how: str) -> None:
    fake.memory(code()[:7] + b"\xcc" + code()[8:])
    fake.put("sys/kernel/debug/kprobes/list", f"ffffffff81001007  k  tcp_v4_rcv+0x7{flags}\n")
    assert refusal(fake).reason.endswith(f"a kprobe is set at tcp_v4_rcv+0x7, by {how}")
    fake.put("sys/kernel/debug/kprobes/list", "ffffffff81001007  k  tcp_v4_rcv+0x7    [DISABLED]\n")
    assert "breakpoint" in refusal(fake).reason


@pytest.mark.parametrize(
    ("owner", "name", "at", "said"),
    [
        (PROBES, "kprobe_optinsn_page", 9, "an optimized kprobe"),
        ("__builtin__ftrace", "ftrace_trampoline", 0, "the function is traced"),
        (
            "bpf",
            "bpf_trampoline_6442510",
            0,
            "a BPF program is attached to the function (bpf_trampoline_6442510)",
        ),
    ],
)
def test_who_made_the_code_that_a_branch_leads_to_is_named(
    fake: FakeMachine, owner: str, name: str, at: int, said: str
) -> None:
    fake.kallsyms(more="")
    listed = (fake.root / "proc/kallsyms").read_text()
    start = LINKED + SLIDE + 0x1000
    fake.put("proc/kallsyms", f"{listed}{start + 0x20000000:016x} t {name}\t[{owner}]\n")
    branch = (b"\xe9" if at else b"\xe8") + (0x20000040 - at - 5).to_bytes(4, "little")
    fake.memory(code()[:at] + branch + code()[at + 5 :])
    assert said in refusal(fake).reason


@pytest.mark.parametrize(
    ("owner", "allowed"), [("__builtin__ftrace", True), ("__builtin__kprobes", False), ("vmlinux", False)]
)
def test_a_call_of_code_that_the_kernel_made_is_allowed_where_the_proof_says_whose(
    fake: FakeMachine, owner: str, allowed: bool
) -> None:
    value = proof()
    listed = ["listed", "PC32", "__builtin__ftrace", "ftrace_trampoline", -4]
    value["nodes"][0]["parts"][0] = ["site", "fentry", 5, [[["pad", 5]], [["lit", "e8"], listed]]]
    start = LINKED + SLIDE + 0x1000
    suffix = "" if owner == "vmlinux" else f"\t[{owner}]"
    text = (fake.root / "proc/kallsyms").read_text()
    fake.put("proc/kallsyms", f"{text}{start + 0x20000000:016x} t ftrace_trampoline{suffix}\n")
    fake.memory(b"\xe8" + (0x20000000 - 5).to_bytes(4, "little") + code()[5:])
    assert (checked(fake, value) == ()) is allowed
    fake.memory(b"\xe8" + (0x20000000 - 4).to_bytes(4, "little") + code()[5:])
    assert refusal(fake, value).key == "verify.content"


def test_another_function_of_which_the_kernel_tells_is_no_cause(fake: FakeMachine) -> None:
    fake.memory(code()[:-1] + b"\0")
    fake.put("sys/kernel/debug/kprobes/list", "ffffffff81001004  k  tcp_v4_rcvbuf+0x4\n")
    fake.put("sys/kernel/tracing/enabled_functions", "tcp_v4_rcvbuf (1) R   \n")
    assert ";" not in refusal(fake).reason


def test_a_symbol_that_moved_on_its_own_is_refused(fake: FakeMachine) -> None:
    value = proof()
    value["symbols"][2]["address"] += 16
    found = refusal(fake, value)
    assert (found.key, found.place) == ("verify.symbol", "helper")


def test_a_symbol_that_does_not_slide_stays_where_it_was_linked(fake: FakeMachine) -> None:
    value = proof()
    value["symbols"].append(
        {"name": "this_cpu_off", "position": 1, "count": 1, "address": 0x1C000, "slides": False}
    )
    fake.kallsyms(more="000000000001c000 D this_cpu_off\n")
    assert checked(fake, value) == ()
    fake.kallsyms(more=f"{0x1C000 + SLIDE:016x} D this_cpu_off\n")
    assert refusal(fake, value).place == "this_cpu_off"


def test_one_of_several_equal_names_is_found_by_its_position(fake: FakeMachine) -> None:
    value = proof()
    value["symbols"][2].update(position=1, count=2)
    fake.kallsyms(more="ffffffff9f000000 t helper\n")
    assert checked(fake, value) == ()
    value["symbols"][2].update(position=2)
    assert refusal(fake, value).key == "verify.symbol"


@pytest.mark.parametrize("count", [2, 3])
def test_another_number_of_equal_names_is_refused(fake: FakeMachine, count: int) -> None:
    value = proof()
    value["symbols"][2].update(count=count)
    assert "listed 1 times" in refusal(fake, value).reason


def test_an_anonymous_place_is_where_the_slide_puts_it(fake: FakeMachine) -> None:
    value = proof()
    value["symbols"][2] = {"name": "", "position": 0, "address": LINKED + 0x2000, "slides": True}
    assert checked(fake, value) == ()
    value["symbols"][2]["address"] += 1
    assert refusal(fake, value).key == "verify.content"


def test_an_anchor_the_kernel_does_not_list_is_refused(fake: FakeMachine) -> None:
    fake.put("proc/kallsyms", f"{LINKED:016x} T _stext\n{LINKED:016x} T helper\n")
    assert refusal(fake).place == "_text"


def test_memory_the_kernel_does_not_have_is_refused(fake: FakeMachine) -> None:
    value = proof()
    value["nodes"][0].update(
        size=0x20000, parts=[*value["nodes"][0]["parts"], ["lit", "00" * (0x20000 - 20)]]
    )
    assert refusal(fake, value).key == "verify.unmapped"


@pytest.mark.parametrize(
    "file, content, wanted",
    [
        ("proc/sys/kernel/osrelease", "6.1.0-55-amd64\n", "6.1.0-55-amd64"),
        ("proc/version", "Linux version 6.1.0-56-amd64 (me@here)\n", "me@here"),
        ("sys/kernel/notes", "", "unknown"),
    ],
)
def test_another_kernel_is_refused_with_both_values(
    fake: FakeMachine, file: str, content: str, wanted: str
) -> None:
    fake.put(file, content)
    found = refusal(fake)
    assert found.key == "target.other_kernel"
    assert wanted in found.reason
    assert any(value in found.reason for value in (RELEASE, BUILD_ID))


def test_what_the_proof_does_not_know_of_the_kernel_is_not_compared(fake: FakeMachine) -> None:
    (fake.root / "sys/kernel/notes").unlink()
    fake.put("proc/version", "whatever\n")
    assert checked(fake, {**proof(), "version": "", "build_id": ""}) == ()


def test_another_byte_order_is_refused(fake: FakeMachine) -> None:
    fake.put("sys/kernel/notes", b"")
    assert refusal(fake, {**proof(), "byte_order": "big", "build_id": ""}).key == "target.other_kernel"


def test_the_build_id_is_found_among_other_notes(fake: FakeMachine) -> None:
    assert build_id(fake.machine, "little") == BUILD_ID


@pytest.mark.parametrize("notes", [b"", b"\0" * 11, b"\xff" * 12, b"\4\0\0\0"])
def test_broken_notes_hold_no_build_id(fake: FakeMachine, notes: bytes) -> None:
    fake.put("sys/kernel/notes", notes)
    assert build_id(fake.machine, "little") == ""


def test_memory_that_cannot_be_opened_is_an_error(fake: FakeMachine) -> None:
    (fake.root / "proc/kcore").unlink()
    with pytest.raises(KdiffError) as caught:
        checked(fake)
    assert caught.value.key == "target.no_kcore"

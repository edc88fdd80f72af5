# SPDX-License-Identifier: Apache-2.0
"""What a kernel writes over its code, as captured from running kernels, under both matchers.

The captures are those of tests/capture_run_memory.py and tests/capture_cfi.py. `CASES` says what each
state's memory holds at a site: the very bytes, with `{name}` for the displacement of a branch to a symbol,
`{*name+8}` for one to where a pointer leads, `{=c3}` for one to bytes outside of the kernel, and `{name|9}`
for one to 9 bytes earlier; `{^78563412}` is the hash 0x12345678 mixed with the kernel's seed, and
`{-78563412}` what that is negated.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import pytest
from excerpts import FIXTURES, Excerpt, Judge, excerpt, states

NOP5 = bytes.fromhex("0f1f440000")
ENTRY = "cmdline_proc_show"
LATER, COUNTED = "later-plain", "later-stuffing"


@cache
def judge(state: str, unit: str, function: str) -> Judge:
    return Judge(excerpt(state), unit, function)


class Case(NamedTuple):
    """At `offset` of a function, a site of a rewrite holds `bytes` in a state."""

    rewrite: str
    state: str
    function: str
    offset: int
    bytes: str


FUTEX, WRITEBACK = "futex_cmpxchg_value_locked", "wb_start_background_writeback"
TRAMPOLINE = "__SCT__tp_func_block_getrq"
CASES = (
    Case("alternative", "preempt-none", "read_tsc", 0, "0f01f96690"),
    Case("alternative", "preempt-none", FUTEX, 0x35, "0f01cb"),
    Case("alternative+paravirt", "preempt-none", "set_cyc2ns_scale", 0xE, "9c580f1f4000"),
    Case("alternative+paravirt", "preempt-none", "set_cyc2ns_scale", 0x17, "fa0f1f440000"),
    Case("alternative", LATER, "__switch_to_xtra", 0xA8, "eb2ecccccc"),
    Case("alternative", LATER, "default_idle", 0x4, "e8{*pv_ops+264}90"),
    Case("alternative", COUNTED, "default_idle", 0x4, "e8{*pv_ops+264|9}90"),
    Case("alternative", "clang-kcfi", "entry_ibpb", 0x13, "eb29eb27" + "cc" * 0x27),
    Case("call_depth", LATER, ENTRY, 0x14, "e8{__seq_puts}"),
    Case("call_depth", COUNTED, ENTRY, 0x14, "e8{__seq_puts|9}"),
    Case("call_depth", LATER, "__pfx_vfs_llseek", 0x7, "909090909090909090"),
    Case("call_depth", COUNTED, "__pfx_vfs_llseek", 0x7, "6548c13d{pcpu_hot+16|1}05"),
    Case(
        "call_depth",
        "clang-kcfi-stuffing",
        "__release_child_resources",
        0x2B,
        "e8{__release_child_resources|9}",
    ),
    Case("call_depth", "clang-fineibt-stuffing", "__d_lookup", 0x6E, "e8{_raw_spin_lock}"),
    Case("cfi", "clang-kcfi", "__cfi_vfs_llseek", 0, "b8{^de8718e6}9090909090909090909090"),
    Case("cfi", "clang-kcfi", "__cfi_ksys_read", 0, "b8000000009090909090909090909090"),
    Case("cfi", "clang-kcfi", "vfs_llseek", 0x1F, "41ba{-de8718e6}450353f174020f0b"),
    Case("cfi", "clang-kcfi-norand", "__cfi_vfs_llseek", 0, "b8de8718e69090909090909090909090"),
    Case("cfi", "clang-kcfi-norand", "vfs_llseek", 0x1F, "41ba2278e719450353f174020f0b"),
    Case("cfi", "clang-fineibt", "__cfi_vfs_llseek", 0, "f30f1efa4181ea{^de8718e6}74030f0b90"),
    Case("cfi", "clang-fineibt", "__cfi_ksys_read", 0, "660f1f004181ea0000000074030f0b90"),
    Case("cfi", "clang-fineibt", "vfs_llseek", 0, "660f1f00"),
    Case("cfi", "clang-fineibt", "vfs_llseek", 0x1F, "41ba{^de8718e6}4983eb100f1f4000"),
    Case("cfi", "clang-fineibt-norand", "__cfi_vfs_llseek", 0, "f30f1efa4181eade8718e674030f0b90"),
    Case("cfi", "clang-fineibt-norand", "vfs_llseek", 0x1F, "41bade8718e64983eb100f1f4000"),
    Case(
        "cfi", "clang-kcfi-stuffing", "__cfi__copy_to_user", 0, "b8{^2ca4ffac}90906548c13d{pcpu_hot+16|1}05"
    ),
    Case("cfi", "clang-kcfi-stuffing", "__cfi___d_lookup", 0, "b80000000090906548c13d{pcpu_hot+16|1}05"),
    Case("cfi", "clang-off-stuffing", "__cfi__copy_to_user", 0, "b82ca4ffac90906548c13d{pcpu_hot+16|1}05"),
    Case("cfi", "clang-fineibt-stuffing", "__cfi___d_lookup", 0, "660f1f004181ea0000000074030f0b90"),
    Case("cfi", "clang-off", "vfs_llseek", 0x1F, "eb0c2278e719450353f174020f0b"),
    Case("endbr+cfi", "clang-kcfi", "ksys_read", 0, "660f1f00"),
    Case("endbr+cfi", "clang-off", "ksys_read", 0, "660f1f00"),
    Case("endbr", LATER, "arch_cpu_idle_dead", 0, "660f1f00"),
    Case("fentry", "preempt-none", ENTRY, 0, "0f1f440000"),
    Case("fentry", "function-tracer", ENTRY, 0, "e8{ftrace_trampoline}"),
    Case("fentry", "kprobe-entry", ENTRY, 0, "e8{ftrace_trampoline}"),
    Case("fentry", "bpf-fentry", ENTRY, 0, "e8{bpf_trampoline_6442538863}"),
    Case("fentry", "two-tracers", ENTRY, 0, "e8{ftrace_regs_caller}"),
    Case("jump_label", "preempt-none", "__bpf_prog_enter", 0x29, "6690"),
    Case("jump_label", "bpf-stats", "__bpf_prog_enter", 0x29, "eb0b"),
    Case("jump_label", "tracepoints", WRITEBACK, 0x9, "eb09"),
    Case("paravirt", "preempt-none", "set_pud", 0, "e8{*pv_ops+528}90"),
    Case("paravirt+alternative", "preempt-none", "__p4d", 0, "4889f80f1f00"),
    Case("retpoline", "preempt-none", "vfs_llseek", 0x13, "e9{__x86_indirect_thunk_rax}"),
    Case("retpoline", "mitigations-off", "vfs_llseek", 0x13, "ffe0cc6690"),
    Case("retpoline", "eibrs-its", "vfs_llseek", 0x13, "e9{=ffe0cc}"),
    Case("retpoline", "eibrs-its", "arch_cpu_idle", 0xC, "ffe0cc6690"),
    Case("retpoline", "zen2-lfence", "vfs_llseek", 0x13, "0faee8ffe0"),
    Case("retpoline", "zen2-lfence", "arch_cpu_idle", 0xC, "0faee8ffe0"),
    Case("retpoline", COUNTED, "vfs_llseek", 0x17, "e9{__x86_indirect_jump_thunk_rax}"),
    Case("retpoline", COUNTED, "arch_cpu_idle_dead", 0x10, "e8{__x86_indirect_call_thunk_rax}"),
    Case("retpoline", "clang-fineibt-norand", "vfs_llseek", 0x2D, "41ffe3cc6690"),
    Case("return", "clang-fineibt", "vfs_llseek", 0x11, "c3cccccccccc"),
    Case("return", COUNTED, ENTRY, 0x29, "e9{*x86_return_thunk}"),
    Case("return", "preempt-none", ENTRY, 0x25, "c3cccccccc"),
    Case("return", "zen1-srso", ENTRY, 0x25, "e9{*x86_return_thunk}"),
    Case("return", "zen2-unret", ENTRY, 0x25, "e9{*x86_return_thunk}"),
    Case("return", "eibrs-its", ENTRY, 0x25, "e9{*x86_return_thunk}"),
    Case("return", "icelake-its", ENTRY, 0x25, "e9{*x86_return_thunk}"),
    Case("return", "skylake-retpoline", ENTRY, 0x25, "e9{*x86_return_thunk}"),
    Case("return", "zen3-srso", ENTRY, 0x25, "e9{*x86_return_thunk}"),
    Case("runtime_const", LATER, "vfs_read", 0x53, "00f0ffffffffff00"),
    Case("runtime_const", COUNTED, "vfs_read", 0x53, "00f0ffffff7f0000"),
    Case("runtime_const", "clang-kcfi", "_copy_to_user", 0xD, "00f0ffffffffff00"),
    Case("runtime_const", "clang-fineibt", "__d_lookup", 0x13, "00a0e90f000011ff"),
    Case("runtime_const", "clang-fineibt", "__d_lookup", 0x20, "11"),
    Case("smp_lock", "preempt-none", "hw_perf_event_destroy", 0xA, "f0"),
    Case("smp_lock", "one-processor", "hw_perf_event_destroy", 0xA, "3e"),
    Case("smp_lock", "maxcpus-1", "hw_perf_event_destroy", 0xA, "3e"),
    Case("static_call", "preempt-none", "sched_clock", 0, "e9{*__SCK__pv_sched_clock}"),
    Case("static_call", COUNTED, "set_freezable", 0xA, "e8{*__SCK__might_resched|9}"),
    Case("static_call", "preempt-full", "set_freezable", 0x33, "2e2e2e31c0"),
    Case("static_call", "preempt-full", WRITEBACK, 0x4F, "e8{*__SCK__preempt_schedule_notrace}"),
    Case("static_call", "preempt-none", WRITEBACK, 0x4F, "0f1f440000"),
    Case("static_call", "tracepoints", WRITEBACK, 0x41, "e8{*__SCK__tp_func_writeback_wake_background}"),
    Case("static_call", "tracepoints", TRAMPOLINE, 0, "e9{*__SCK__tp_func_block_getrq}"),
    Case("static_call", "preempt-none", TRAMPOLINE, 0, "e9{__traceiter_block_getrq}"),
)
REFUSED = (
    ("kprobe-breakpoint", 5, "a breakpoint is set, perhaps a kprobe's, at cmdline_proc_show+0x5"),
    ("kprobe-jump", 5, "an optimized kprobe is set at cmdline_proc_show+0x5"),
)
CODE = "53488b35{saved_command_line}"
"""What these probes are set on."""


def unit_of(state: str, function: str) -> str:
    return next(str(each["unit"]) for each in excerpt(state).told["functions"] if each["name"] == function)


def captured(refused: bool = False) -> list[tuple[str, str, str]]:
    """State, unit and function of what was captured and matched then, or did not."""
    return [
        (state, each["unit"], each["name"])
        for state in states()
        for each in excerpt(state).told["functions"]
        if bool(each["refused"]) == refused
    ]


def spelled(memory: Excerpt, text: str, address: int) -> bytes:
    """The bytes of a case at an address."""
    data = b""
    pattern = r"([0-9a-f]{2})|\{([*=^-]?)([\w.]+)(?:\+(\d+))?(?:\|(\d+))?\}"
    for plain, kind, name, offset, earlier in re.findall(pattern, text):
        if plain:
            data += bytes.fromhex(plain)
            continue
        if kind in ("^", "-"):
            data += hashed(memory, bytes.fromhex(name), negated=kind == "-")
            continue
        target = made(memory, bytes.fromhex(name)) if kind == "=" else listed(memory, name) + int(offset or 0)
        if kind == "*":
            held = memory.read(target, 8)
            assert held is not None
            target = int.from_bytes(held, "little")
        target -= int(earlier or 0)
        data += (target - (address + len(data) + 4) & 0xFFFFFFFF).to_bytes(4, "little")
    return data


def hashed(memory: Excerpt, known: bytes, negated: bool) -> bytes:
    """The hash of a type as a kernel with a seed of its own has it."""
    seed = memory.read(listed(memory, "cfi_seed"), 4)
    assert seed is not None
    mixed = int.from_bytes(known, "little") ^ int.from_bytes(seed, "little")
    return (-mixed % (1 << 32) if negated else mixed).to_bytes(4, "little")


def listed(memory: Excerpt, name: str) -> int:
    (entry,) = memory.book.of_any(name)
    return entry.address


def made(memory: Excerpt, code: bytes) -> int:
    """Where code is that the kernel made while it ran."""
    end = listed(memory, "_end")
    (address,) = (address for address, data in memory.pieces.items() if address > end and data == code)
    return address


@pytest.mark.parametrize(("state", "unit", "function"), captured())
def test_what_a_running_kernel_holds_is_accepted_by_both_matchers(
    state: str, unit: str, function: str
) -> None:
    assert judge(state, unit, function).verdicts(excerpt(state)) == (True, True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rewrite}-{case.state}-{case.function}")
def test_a_site_holds_the_very_form_that_its_state_asks_for(case: Case) -> None:
    memory = excerpt(case.state)
    subject = judge(case.state, unit_of(case.state, case.function), case.function)
    address = subject.address + case.offset
    wanted = spelled(memory, case.bytes, address)
    assert memory.read(address, len(wanted)) == wanted
    assert subject.site(case.offset) == case.rewrite


@pytest.mark.parametrize(("state", "offset", "said"), REFUSED)
def test_a_probe_inside_of_a_function_is_refused_by_both_and_named(
    state: str, offset: int, said: str
) -> None:
    memory, unit = excerpt(state), unit_of(state, ENTRY)
    address = memory.book.address(ENTRY)
    assert address is not None
    restored = memory.patched(address + offset, spelled(memory, CODE, address + offset))
    subject = Judge(restored, unit, ENTRY)
    assert subject.verdicts(restored) == (True, True)
    assert subject.verdicts(memory) == (False, False)
    (refusal,) = subject.refusals(memory)
    assert refusal.reason.endswith(said)


def test_a_branch_to_a_thunk_made_for_it_is_refused_once_that_does_something_else() -> None:
    memory = excerpt("eibrs-its")
    subject = judge("eibrs-its", unit_of("eibrs-its", "vfs_llseek"), "vfs_llseek")
    code = bytes.fromhex("ffe0cc")
    for at, byte in enumerate(code):
        for bit in range(8):
            changed = memory.patched(made(memory, code) + at, bytes((byte ^ 1 << bit,)))
            assert subject.verdicts(changed) == (False, False)


@pytest.mark.parametrize(("state", "function", "offset"), [
    (COUNTED, ENTRY, 0x14), (COUNTED, "__pfx_vfs_llseek", 0x7), (COUNTED, "vfs_llseek", 0x17),
    (COUNTED, "default_idle", 0x4), (COUNTED, "set_freezable", 0xA),
    ("clang-kcfi-stuffing", "__cfi__copy_to_user", 0), ("clang-kcfi-stuffing", "__cfi___d_lookup", 0),
    ("clang-off-stuffing", "__cfi__copy_to_user", 0),
    ("clang-kcfi-stuffing", "__release_child_resources", 0x2B),
])  # fmt: skip
def test_counted_calls_are_allowed_only_while_returns_are_counted(
    state: str, function: str, offset: int
) -> None:
    memory = excerpt(state)
    subject = judge(state, unit_of(state, function), function)
    assert subject.site(offset)
    elsewhere = listed(memory, "__x86_return_thunk").to_bytes(8, "little")
    changed = memory.patched(listed(memory, "x86_return_thunk"), elsewhere)
    for site in subject.sites[subject.node.id]:
        if site.rewrite == "return":
            place = subject.address + site.offset
            changed = changed.patched(place, spelled(memory, "e9{__x86_return_thunk}", place))
    assert subject.verdicts(changed) == (False, False)


@pytest.mark.parametrize(("state", "function", "symbol"), [
    ("clang-off", "vfs_llseek", "cfi_mode"),
    *((state, function, symbol)
      for state in ("clang-kcfi", "clang-fineibt", "clang-fineibt-norand")
      for function in ("vfs_llseek", "__cfi_vfs_llseek")
      for symbol in ("cfi_mode", "cfi_seed")),
])  # fmt: skip
def test_hashes_of_types_are_what_mode_and_seed_make_of_them(state: str, function: str, symbol: str) -> None:
    memory, subject = excerpt(state), judge(state, unit_of(state, function), function)
    place = listed(memory, symbol)
    held = memory.read(place, 4)
    assert held is not None
    for at, byte in enumerate(held):
        assert subject.verdicts(memory.patched(place + at, bytes((byte ^ 1,)))) == (False, False)


@pytest.mark.parametrize(("function", "symbol", "size"), [
    ("_copy_to_user", "USER_PTR_MAX", 8), ("__d_lookup", "dentry_hashtable", 8),
    ("__d_lookup", "d_hash_shift", 1),
])  # fmt: skip
def test_constants_of_the_run_are_what_their_variables_hold(function: str, symbol: str, size: int) -> None:
    state = "clang-fineibt"
    memory, subject = excerpt(state), judge(state, unit_of(state, function), function)
    place = listed(memory, symbol)
    held = memory.read(place, size)
    assert held is not None
    for at, byte in enumerate(held):
        assert subject.verdicts(memory.patched(place + at, bytes((byte ^ 1,)))) == (False, False)


def test_every_rewrite_has_a_capture_and_the_table_of_rewrites_names_it() -> None:
    text = (FIXTURES.parents[2] / "docs/safety.md").read_text()
    table = text.partition("\n| rewrite |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = {row.split("|")[1].strip(" `"): row.split("|")[-2] for row in table}
    for name, told in rows.items():
        cases = [case.state for case in CASES if name in case.rewrite.split("+")]
        assert set(re.findall(r"`([^`]+)`", told)) == set(cases), name
        assert cases or "none" in told
    assert {each for case in CASES for each in case.rewrite.split("+")} <= rows.keys()


@pytest.mark.parametrize(("state", "unit", "function"), captured())
def test_a_changed_byte_at_a_site_is_refused_by_both_unless_it_is_another_form(
    state: str, unit: str, function: str
) -> None:
    memory, subject = excerpt(state), judge(state, unit, function)
    found = memory.read(subject.address, subject.match.size)
    assert found is not None
    for site in subject.sites.get(subject.node.id, ()):
        for at in range(site.offset, site.offset + site.size):
            changed = bytes((found[at] ^ 1 << at % 8,))
            verdicts = subject.verdicts(memory.patched(subject.address + at, changed))
            assert verdicts == (False, False), f"{site.rewrite} at +{at:#x}: {found[at]:02x} {changed.hex()}"

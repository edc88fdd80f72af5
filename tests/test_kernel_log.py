# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kdiff.kernel_log import LogRecord, complaints, parse, parse_console

TEXT = (
    "6,339,5140900,-,caller=T1;NET: Registered PF_INET protocol family\n"
    "4,340,6690716,c;WARNING: CPU: 0 PID: 1 at net/ipv4/tcp_ipv4.c:5\n"
    " SUBSYSTEM=acpi\n"
    " DEVICE=+acpi:PNP0A03:00\n"
    "30,341,6700000,-;systemd[1]: \\x5c and \\x09\n"
)


def test_records_have_level_time_and_text() -> None:
    assert parse(TEXT) == (
        LogRecord(6, 5.1409, "NET: Registered PF_INET protocol family"),
        LogRecord(4, 6.690716, "WARNING: CPU: 0 PID: 1 at net/ipv4/tcp_ipv4.c:5"),
        LogRecord(6, 6.7, "systemd[1]: \\ and \t"),
    )


def test_a_console_gives_the_same_records_without_levels() -> None:
    text = "SeaBIOS\n[    5.737123] Kernel panic - not syncing: sysrq triggered crash\n\n"
    assert parse_console(text) == (
        LogRecord(0, 5.737123, "Kernel panic - not syncing: sysrq triggered crash"),
    )


@pytest.mark.parametrize(
    "text, key",
    [
        ("Kernel panic - not syncing: Fatal exception", "log.panic"),
        ("Oops: 0000 [#1] PREEMPT SMP NOPTI", "log.oops"),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000000", "log.bug"),
        ("kernel BUG at mm/mmap.c:100!", "log.bug"),
        ("BUG: soft lockup - CPU#0 stuck for 22s!", "log.bug"),
        ("WARNING: CPU: 1 PID: 77 at kernel/livepatch/core.c:9", "log.warning"),
        ("------------[ cut here ]------------", "log.warning"),
        ("general protection fault, probably for non-canonical address", "log.fault"),
        ("Call Trace:", "log.trace"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "log.stall"),
        ("INFO: task kworker/0:1:9 blocked for more than 120 seconds.", "log.hung"),
        ("WARNING: possible circular locking dependency detected", "log.warning"),
        ("======= possible recursive locking detected", "log.lockdep"),
        ("ksplice_x: Unknown symbol foo (err -2)", "log.module"),
    ],
)
def test_trouble_has_a_name(text: str, key: str) -> None:
    record = LogRecord(3, 1.0, text)
    assert [complaint.key for complaint in complaints([record])] == [key]


@pytest.mark.parametrize(
    "text",
    [
        "hello: loading out-of-tree module taints kernel.",
        "hello: module verification failed: signature and/or required key missing - tainting kernel",
        "livepatch: enabling patch 'ksplice_x'",
        "livepatch: 'ksplice_x': starting patching transition",
        "ksplice: Update abcd1234 applied successfully",
        "DEBUGGING: nothing to see",
    ],
)
def test_what_a_good_update_logs_is_no_trouble(text: str) -> None:
    assert complaints([LogRecord(5, 1.0, text)]) == ()


def test_a_livepatch_error_is_trouble_only_at_an_errors_level() -> None:
    text = "livepatch: symbol 'foo' not found in symbol table"
    assert [complaint.key for complaint in complaints([LogRecord(3, 1.0, text)])] == ["log.livepatch"]
    assert complaints([LogRecord(5, 1.0, text)]) == ()

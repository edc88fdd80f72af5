# SPDX-License-Identifier: Apache-2.0
"""Updates of net/, fs/, mm/ and kernel/ on one stock, running kernel: each seen to work, and undone."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from updates import EXAMPLE, PATCHES, make

from kdiff.distribution import KernelSetup
from kdiff.guest import Guest, Result
from kdiff.kernel_log import complaints
from kdiff.package import save
from kdiff.rehearse import program

pytestmark = [pytest.mark.kernel, pytest.mark.guest]

BIND = """python3 -c "import socket; socket.socket().bind(('127.9.9.9', 0))" 2>/dev/null"""
"""What inet_addr_type decides, by way of an inline function without an ftrace site."""
SLEEP = "sleep 2 & sleep 1; kill -STOP $! && sleep 0.3 && kill -CONT $! && wait $!"
"""It goes on in hrtimer_nanosleep_restart, whose call of a neighbour in its section has no relocation."""
PORT = Path(__file__).parent.parent / "examples" / "port.sh"


@dataclass(frozen=True)
class Case:
    """A patch, and shell lines that hold while its update is applied, and while it is not."""

    patch: Path
    applied: str
    otherwise: str

    @property
    def id(self) -> str:
        return self.patch.stem


CASES = (
    Case(PATCHES / "fs_cmdline.patch", "grep -q ^patched /proc/cmdline", "! grep -q patched /proc/cmdline"),
    Case(
        PATCHES / "mm_commit_limit.patch",
        "grep -q 'CommitLimit:  *16968 kB' /proc/meminfo",
        "! grep -q 'CommitLimit:  *16968 kB' /proc/meminfo",
    ),
    Case(
        PATCHES / "kernel_getppid.patch",
        "test $(sh -c 'echo $PPID') = 6688",
        "test $(sh -c 'echo $PPID') != 6688",
    ),
    Case(PATCHES / "mm_do_mmap.patch", "true; dmesg | grep -q 'kdiff test: first mapping'", "true"),
    Case(
        PATCHES / "kernel_clone.patch", "true; dmesg | grep -Eq 'kdiff test: (one|two|three) tasks'", "true"
    ),
    Case(PATCHES / "kernel_sleep_on.patch", f"{SLEEP}; dmesg | grep -q 'kdiff test: slept on'", SLEEP),
    Case(PATCHES / "net_inline.patch", f"! {BIND}", BIND),
    Case(EXAMPLE, f"{PORT} 6688 silent && {PORT} 6689 answers", f"{PORT} 6688 answers"),
)


OTHERS = ("two_units", "new_global", "kernel_kthreadd", "fs_sleeper")


@pytest.fixture(scope="module")
def tarballs(kernel: KernelSetup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every case's update, and one that touches a function of another."""
    folder = tmp_path_factory.mktemp("updates")
    for patch in (*(case.patch for case in CASES), *(PATCHES / f"{name}.patch" for name in OTHERS)):
        save(make(kernel, patch, description=f"test of {patch.stem}"), folder)
    return folder


@pytest.fixture(scope="module")
def guest(kernel: KernelSetup) -> Iterator[Guest]:
    with Guest.boot(kernel.image / "vmlinuz", kernel.image / "modules") as running:
        yield running


def held(guest: Guest, line: str, folder: Path = Path("/")) -> Result:
    result = guest.run(line, timeout=120, directory=folder)
    assert result.status == 0, f"{line}: status {result.status}\n{result.output}\n{guest.log()[-3000:]}"
    return result


def test_updates_stack_work_and_go_again(guest: Guest, tarballs: Path) -> None:
    start = len(guest.records())
    for case in CASES:
        held(guest, case.otherwise)
        assert held(guest, program("apply", f"ksplice-{case.id}.tar.gz"), tarballs).output.endswith("Done!\n")
        held(guest, case.applied)
        assert f"ksplice: Update {case.id} applied successfully" in guest.log()
    for case in CASES:
        held(guest, case.applied)

    listed = held(guest, program("view")).output.splitlines()
    assert listed == [f"{case.id}: test of {case.id}" for case in CASES]

    for case in reversed(CASES):
        held(guest, program("undo", case.id))
        held(guest, case.otherwise)
        assert f"ksplice: Update {case.id} reversed successfully" in guest.log()
    assert held(guest, program("view")).output == ""
    assert held(guest, "ls /sys/kernel/livepatch /var/lib/kdiff/updates").output.count("\n") <= 3
    assert complaints(guest.records()[start:]) == ()


def test_units_share_what_one_of_them_adds(guest: Guest, tarballs: Path) -> None:
    held(guest, program("apply", "ksplice-new_global.tar.gz"), tarballs)
    held(guest, "cat /proc/cmdline; cat /proc/cmdline | grep '^shared 2 '")
    held(guest, program("undo", "new_global"))
    held(guest, "! grep shared /proc/cmdline")


def test_undo_waits_for_a_task_that_sleeps_in_a_new_function(guest: Guest, tarballs: Path) -> None:
    """The replaced function jumps to it at its end, so livepatch does not see the task."""
    start = len(guest.records())
    held(guest, program("apply", "ksplice-fs_sleeper.tar.gz"), tarballs)
    held(guest, "dd if=/proc/cmdline & sleep 1; true")
    early = guest.run(program("undo", "fs_sleeper"), timeout=120)
    assert early.status == 1
    assert "1 task did not leave its code yet" in early.output
    assert "slowly" in early.output
    held(guest, "killall dd; while pidof dd; do sleep 1; done")
    held(guest, program("undo", "fs_sleeper"))
    assert complaints(guest.records()[start:]) == ()


def test_undo_sees_the_stacks_of_tasks_that_never_stop_running(guest: Guest, tarballs: Path) -> None:
    held(guest, program("apply", "ksplice-fs_cmdline.tar.gz"), tarballs)
    held(guest, "for each in 1 2 3; do sh -c 'while :; do :; done' & echo $! >> /run/busy; done; sleep 1")
    held(guest, program("undo", "fs_cmdline"))
    held(guest, "kill $(cat /run/busy)")


def test_an_update_of_a_function_that_is_patched_already_is_refused(guest: Guest, tarballs: Path) -> None:
    held(guest, program("apply", "ksplice-fs_cmdline.tar.gz"), tarballs)
    again = guest.run(program("apply", "ksplice-fs_cmdline.tar.gz"), directory=tarballs)
    assert again.status == 0
    assert "applied already" in again.output
    other = guest.run(program("apply", "ksplice-two_units.tar.gz"), directory=tarballs)
    assert other.status == 3
    assert "cmdline_proc_show" in other.output
    assert "two_units" not in held(guest, "cat /proc/modules").output
    held(guest, program("undo", "fs_cmdline"))


def test_an_update_that_a_task_holds_up_is_taken_back(guest: Guest, tarballs: Path) -> None:
    """kthreadd never leaves its own main function."""
    line = program("apply", "--timeout=4", "ksplice-kernel_kthreadd.tar.gz")
    result = guest.run(line, timeout=120, directory=tarballs)
    assert result.status == 1
    assert "tasks still in the old code: 1" in result.output
    assert "kthreadd" in result.output.split("tasks still in the old code")[-1]
    assert "ksplice: Update kernel_kthreadd aborted" in guest.log()
    assert "ksplice_kernel_kthreadd" not in held(guest, "cat /proc/modules; ls /sys/kernel/livepatch").output


def unpacks_alike(one: bytes, other: bytes) -> bool:
    """Whether two gzip files hold the same: zeros may be copied from any distance."""
    try:
        return gzip.decompress(one) == gzip.decompress(other)
    except (OSError, EOFError, zlib.error):
        return False


def test_a_tarball_with_one_changed_byte_is_refused(guest: Guest, tarballs: Path) -> None:
    good = (tarballs / "ksplice-fs_cmdline.tar.gz").read_bytes()
    bad = next(
        changed
        for at in range(len(good) // 2, len(good))
        if (changed := good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        and not unpacks_alike(good, changed)
    )
    (tarballs / "ksplice-bad.tar.gz").write_bytes(bad)
    result = guest.run(program("apply", "ksplice-bad.tar.gz"), directory=tarballs)
    assert result.status == 1
    assert len(result.output.splitlines()) == 1


def test_undo_of_an_unknown_update_says_so(guest: Guest) -> None:
    result = guest.run(program("undo", "nosuchid"))
    assert result.status == 1
    assert "nosuchid" in result.output
    assert "not present in the kernel" in result.output


TRACED = "cmdline_proc_show"
TRACING = "cd /sys/kernel/tracing; "
FUNCTION = f"echo {TRACED} > set_ftrace_filter; echo function > current_tracer"
NO_FUNCTION = "echo nop > current_tracer; echo > set_ftrace_filter"


def probe(place: str) -> str:
    return f"echo 'p:kdifftest {place}' > kprobe_events; echo 1 > events/kprobes/kdifftest/enable"


NO_PROBE = "echo 0 > events/kprobes/kdifftest/enable; echo > kprobe_events"
BPF = (
    f"nohup {sys.executable} {Path(__file__).with_name('bpf_fentry.py')} {TRACED} > /run/bpf 2>&1 &"
    " echo $! > /run/pid;"
    " for i in $(seq 90); do grep -q attached /run/bpf && exit; sleep 1; done; cat /run/bpf; exit 1"
)
NO_BPF = "kill $(cat /run/pid); sleep 1"


@pytest.fixture(scope="module")
def tracing(guest: Guest) -> Guest:
    held(guest, "mount -t tracefs none /sys/kernel/tracing; mount -t debugfs none /sys/kernel/debug")
    return guest


@pytest.mark.parametrize(
    ("start", "shown", "stop"),
    [
        pytest.param(FUNCTION, "tramp: ", NO_FUNCTION, id="function-tracer"),
        pytest.param(probe(TRACED), "kprobe_ftrace", NO_PROBE, id="kprobe-at-entry"),
        pytest.param(f"{FUNCTION}; {probe(TRACED)}", "(2)", f"{NO_FUNCTION}; {NO_PROBE}", id="two-tracers"),
        pytest.param(BPF, "call_direct_funcs", NO_BPF, id="bpf-fentry"),
    ],
)
def test_an_update_goes_on_and_off_while_its_function_is_traced(
    tracing: Guest, tarballs: Path, start: str, shown: str, stop: str
) -> None:
    held(tracing, TRACING + start)
    listed = held(tracing, TRACING + f"grep '^{TRACED} ' enabled_functions").output
    assert shown in listed
    held(tracing, program("apply", "ksplice-fs_cmdline.tar.gz"), tarballs)
    held(tracing, "grep -q ^patched /proc/cmdline")
    held(tracing, TRACING + f"grep '^{TRACED} (.*I' enabled_functions")
    held(tracing, program("undo", "fs_cmdline"))
    held(tracing, "! grep -q patched /proc/cmdline")
    assert held(tracing, TRACING + f"grep '^{TRACED} ' enabled_functions").output == listed
    held(tracing, TRACING + stop)


def test_a_tracer_does_not_hide_that_a_function_is_patched_already(tracing: Guest, tarballs: Path) -> None:
    held(tracing, program("apply", "ksplice-fs_cmdline.tar.gz"), tarballs)
    held(tracing, TRACING + FUNCTION)
    other = tracing.run(program("apply", "ksplice-two_units.tar.gz"), directory=tarballs)
    assert other.status == 3
    assert "live patch ksplice_fs_cmdline replaces the function already" in other.output
    held(tracing, TRACING + NO_FUNCTION)
    held(tracing, program("undo", "fs_cmdline"))


@pytest.mark.parametrize(("optimized", "how"), [(0, "a breakpoint"), (1, "a jump")])
def test_a_kprobe_inside_of_a_function_is_refused_with_its_place(
    tracing: Guest, tarballs: Path, optimized: int, how: str
) -> None:
    held(tracing, f"echo {optimized} > /proc/sys/debug/kprobes-optimization")
    held(tracing, TRACING + probe(f"{TRACED}+5") + "; sleep 1")
    result = tracing.run(program("apply", "ksplice-fs_cmdline.tar.gz"), directory=tarballs)
    assert result.status == 3
    assert f"a kprobe is set at {TRACED}+0x5, by {how}" in result.output
    held(tracing, "umount /sys/kernel/debug")
    result = tracing.run(program("apply", "ksplice-fs_cmdline.tar.gz"), directory=tarballs)
    assert result.status == 3
    assert f"{TRACED}+0x5" in result.output
    assert ("an optimized kprobe is set there" if optimized else "a breakpoint is set there") in result.output
    held(tracing, "mount -t debugfs none /sys/kernel/debug")
    held(tracing, TRACING + NO_PROBE)
    assert "ksplice_fs_cmdline" not in held(tracing, "cat /proc/modules").output

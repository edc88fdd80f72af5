# SPDX-License-Identifier: Apache-2.0
"""ksplice-apply, ksplice-view and ksplice-undo on a machine made of files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from pathlib import Path

import pytest
from fakemachine import ID, MODULE, PATCH, FakeMachine, code, package, proof

from kdiff.emit import EmittedModule
from kdiff.package import write
from kdiff.target import livepatch, store
from kdiff.target.machine import Machine
from kdiff.target.main import run_apply, run_undo, run_view

Out = pytest.CaptureFixture[str]
HEADING = "Here is the source code patch associated with this update:\n"
SIGNED = (EmittedModule(("vmlinux",), MODULE, f"{MODULE}.ko", b"\x7fELF" + b"~Module signature appended~\n"),)


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def applied(fake: FakeMachine, capsys: Out) -> None:
    assert run_apply([fake.tarball()], fake.machine) == 0
    capsys.readouterr()


def fails(
    fake: FakeMachine, capsys: Out, *arguments: str, status: int = 1, machine: Machine | None = None
) -> str:
    """Apply fails, says so in one line (and indented details), and leaves the machine as it was."""
    given = [*arguments] or [fake.tarball()]
    before = fake.snapshot()
    assert run_apply(given, machine or fake.machine) == status
    assert fake.snapshot() == before
    said = capsys.readouterr().err
    first, *rest = said.splitlines()
    assert first.startswith("ksplice-apply: ")
    assert all(line.startswith(("    ", "ksplice-apply: ")) for line in rest)
    return said


# Applying and undoing --------------------------------------------------------------------------------


def test_apply_says_done_when_the_kernel_runs_the_new_code(fake: FakeMachine, capsys: Out) -> None:
    assert run_apply([fake.tarball()], fake.machine) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Done!"
    assert livepatch.stage(fake.machine, ID) == livepatch.APPLIED
    assert fake.loaded()


@pytest.mark.parametrize("steps", [0, 1, 25])
@pytest.mark.parametrize("prefix", ["", "ksplice_", "ksplice-"])
def test_undo_brings_the_machine_back_to_what_it_was(
    fake: FakeMachine, capsys: Out, steps: int, prefix: str
) -> None:
    fake.steps = fake.steps_back = steps or 1
    tarball = fake.tarball()
    before = fake.snapshot()
    assert run_apply([tarball], fake.machine) == 0
    assert fake.snapshot() != before
    assert run_undo([prefix + ID], fake.machine) == 0
    assert fake.snapshot() == before
    assert capsys.readouterr().out.count("Done!") == 2


def test_an_undone_update_can_be_applied_again(fake: FakeMachine) -> None:
    for _ in range(2):
        assert run_apply([fake.tarball()], fake.machine) == 0
        assert run_undo([ID], fake.machine) == 0


def test_the_tasks_that_hold_a_transition_up_are_counted_every_second(fake: FakeMachine, capsys: Out) -> None:
    fake.steps = 35
    assert run_apply([fake.tarball()], fake.machine) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "still in" in line]
    assert len(lines) == 4
    assert lines[0] == "tasks still in the old code: 2 - init (1), server (77 thread 78)"


def test_an_update_that_is_there_already_is_a_notice(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    before = fake.snapshot()
    assert run_apply([fake.tarball()], fake.machine) == 0
    assert capsys.readouterr().out == f"Ksplice update {ID} is applied already.\n"
    assert fake.snapshot() == before
    assert fake.inserted == 1


def test_a_module_left_behind_is_replaced(fake: FakeMachine) -> None:
    (fake.root / "sys/module" / MODULE).mkdir()
    assert run_apply([fake.tarball()], fake.machine) == 0


def test_undo_removes_a_module_left_behind(fake: FakeMachine) -> None:
    (fake.root / "sys/module" / MODULE).mkdir()
    assert run_undo([ID], fake.machine) == 0
    assert not fake.loaded()


def test_removal_waits_until_the_kernel_lets_go(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake.remove_status = [errno.EWOULDBLOCK] * 3
    assert run_undo([ID], fake.machine) == 0
    assert not fake.loaded()


def test_removal_waits_until_nobody_sleeps_in_new_code(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    stack = "proc/77/task/78/stack"
    fake.put(stack, f"[<0>] helper.ksplice0_3+0x10/0x20 [{MODULE}]\n[<0>] seq_read+0x5/0x10\n")
    assert run_undo([ID], fake.machine) == 1
    told = capsys.readouterr().err
    assert "1 task did not leave its code yet" in told
    assert "server (77 thread 78)" in told
    assert "helper.ksplice0_3" in told
    assert fake.loaded()
    fake.put(stack, "[<0>] seq_read+0x5/0x10\n[<0>] other+0x1/0x2 [ksplice_other]\n")
    assert run_undo([ID], fake.machine) == 0
    assert not fake.loaded()


def test_removal_looks_at_a_task_that_runs_from_its_processor(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake.running(1, processor=3)
    stack = "proc/1/task/1/stack"
    fake.on_visit = lambda number: fake.put(stack, f"[<0>] helper.ksplice0_3+0x10/0x20 [{MODULE}]\n")
    assert run_undo([ID], fake.machine) == 1
    assert "1 task did not leave its code yet" in capsys.readouterr().err
    assert fake.loaded()
    fake.running(1, processor=3)
    fake.on_visit = lambda number: fake.put(stack, "[<0>] irqentry_exit_to_user_mode+0x9/0x20\n")
    assert run_undo([ID], fake.machine) == 0
    assert set(fake.visited) == {3}
    assert not fake.loaded()


def test_removal_does_not_trust_that_a_task_which_always_runs_is_elsewhere(
    fake: FakeMachine, capsys: Out
) -> None:
    applied(fake, capsys)
    fake.running(1, processor=0)
    assert run_undo([ID], fake.machine) == 1
    assert "1 task ran whenever it was looked at" in capsys.readouterr().err
    assert fake.loaded()


def test_removal_finds_a_task_that_ran_in_new_code_at_first_and_sleeps_there_then(
    fake: FakeMachine, capsys: Out
) -> None:
    applied(fake, capsys)
    fake.running(1, processor=0)
    sleeps = "[<0>] helper.ksplice0_3+0x10/0x20 [" + MODULE + "]\n"
    fake.on_sleep = lambda count: fake.put("proc/1/task/1/stack", sleeps)
    assert run_undo([ID], fake.machine) == 1
    assert "1 task did not leave its code yet" in capsys.readouterr().err
    assert fake.loaded()


# What makes apply refuse -----------------------------------------------------------------------------


def test_another_user_than_root_is_told_so(fake: FakeMachine, capsys: Out) -> None:
    said = fails(fake, capsys, machine=fake.machine._replace(user=lambda: 1000))
    assert "root" in said


def test_a_kernel_without_livepatch_is_told_so(fake: FakeMachine, capsys: Out) -> None:
    (fake.root / "sys/kernel/livepatch").rmdir()
    assert "CONFIG_LIVEPATCH" in fails(fake, capsys)


def test_a_machine_without_sysfs_is_told_so(fake: FakeMachine, capsys: Out) -> None:
    machine = fake.machine._replace(sys=str(fake.root / "nowhere"))
    assert "not mounted" in fails(fake, capsys, machine=machine)


@pytest.mark.parametrize("level, signed", [("integrity", False), ("confidentiality", True)])
def test_lockdown_is_told(fake: FakeMachine, capsys: Out, level: str, signed: bool) -> None:
    levels = "none integrity confidentiality\n".replace(level, f"[{level}]")
    fake.put("sys/kernel/security/lockdown", levels)
    tarball = fake.tarball(modules=SIGNED) if signed else fake.tarball()
    assert f"locked down ({level})" in fails(fake, capsys, tarball)


def test_a_signed_module_passes_the_milder_lockdown_and_enforced_signing(fake: FakeMachine) -> None:
    fake.put("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    fake.put("sys/module/module/parameters/sig_enforce", "Y\n")
    assert run_apply([fake.tarball(modules=SIGNED)], fake.machine) == 0


def test_enforced_module_signing_is_told(fake: FakeMachine, capsys: Out) -> None:
    fake.put("sys/module/module/parameters/sig_enforce", "Y\n")
    assert "signed modules only" in fails(fake, capsys)


def test_another_kernel_release_is_refused(fake: FakeMachine, capsys: Out) -> None:
    fake.put("proc/sys/kernel/osrelease", "6.1.0-55-amd64\n")
    said = fails(fake, capsys, status=3)
    assert "6.1.0-55-amd64" in said
    assert "6.1.0-56-amd64" in said


def test_another_build_of_the_same_release_is_refused(fake: FakeMachine, capsys: Out) -> None:
    fake.put("sys/kernel/notes", b"")
    assert "build id" in fails(fake, capsys, status=3)


@pytest.mark.parametrize("data", [b"hello", write(package())[:500], b""])
def test_a_broken_tarball_is_told(fake: FakeMachine, capsys: Out, data: bytes) -> None:
    (fake.root / "broken").write_bytes(data)
    assert "broken" in fails(fake, capsys, str(fake.root / "broken"))


def test_a_malformed_proof_is_told(fake: FakeMachine, capsys: Out) -> None:
    assert "proof.json" in fails(fake, capsys, fake.tarball(proof=b"{}"))


@pytest.mark.parametrize(
    "replaced", [None, [], 3, [{"name": "tcp_v4_rcv"}], [{"name": "other", "position": 1}]]
)
def test_a_proof_of_other_functions_than_are_replaced_is_told(
    fake: FakeMachine, capsys: Out, replaced: object
) -> None:
    said = fails(fake, capsys, fake.tarball(manifest={"replaced": replaced}))
    assert "functions" in said


def test_code_that_differs_is_refused_with_the_bytes(fake: FakeMachine, capsys: Out) -> None:
    fake.memory(code()[:-1] + b"\0")
    said = fails(fake, capsys, status=3)
    assert "tcp_v4_rcv+0x13" in said
    assert said.count("\n    tcp_v4_rcv+0x3 ") == 2
    assert fake.inserted == 0


def test_a_function_another_live_patch_replaces_is_refused(fake: FakeMachine, capsys: Out) -> None:
    fake.foreign_patch("klp_other", "tcp_v4_rcv,1")
    said = fails(fake, capsys, status=3)
    assert "klp_other" in said
    assert "tcp_v4_rcv" in said


def test_another_function_of_that_name_and_other_live_patches_do_not_matter(fake: FakeMachine) -> None:
    fake.foreign_patch("klp_other", "tcp_v4_rcv,2")
    fake.foreign_patch("klp_third", "tcp_v4_do_rcv,1")
    assert run_apply([fake.tarball()], fake.machine) == 0


def test_an_update_in_transition_is_left_alone(fake: FakeMachine, capsys: Out) -> None:
    fake.foreign_patch(MODULE, "tcp_v4_rcv,1")
    fake.put(f"sys/kernel/livepatch/{MODULE}/transition", "1\n")
    assert "being applied" in fails(fake, capsys)


def test_a_second_apply_at_the_same_time_is_told(fake: FakeMachine, capsys: Out) -> None:
    handle = os.open(fake.root / "state/updates", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another update is being applied" in fails(fake, capsys)
    os.close(handle)


def test_a_full_disk_is_met_before_the_kernel_is_touched(
    fake: FakeMachine, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, *rest: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    assert "No space left" in fails(fake, capsys)
    assert fake.inserted == 0


# What goes wrong once the module is loaded -----------------------------------------------------------


@pytest.mark.parametrize(
    "status, words",
    [
        (errno.EPERM, "lockdown"),
        (errno.ENOMEM, "memory"),
        (errno.EBUSY, "another live patch"),
        (errno.EKEYREJECTED, "signature"),
        (errno.ENOEXEC, "ENOEXEC"),
        (errno.EEXIST, "loaded already"),
        (errno.EIO, "EIO"),
    ],
)
def test_a_module_the_kernel_rejects_is_told_with_error_and_log(
    fake: FakeMachine, capsys: Out, status: int, words: str
) -> None:
    fake.insert_status, fake.insert_says = status, "livepatch: failed to do something"
    said = fails(fake, capsys)
    assert words in said
    assert errno.errorcode[status] in said
    assert "    livepatch: failed to do something\n" in said
    assert "earlier" not in said


def test_a_symbol_the_kernel_cannot_resolve_is_told(fake: FakeMachine, capsys: Out) -> None:
    fake.insert_status = errno.EINVAL
    fake.insert_says = "livepatch: symbol position 9 for symbol 'x' in object 'vmlinux' not found"
    fails(fake, capsys)
    run_apply(["--raw-errors", fake.tarball()], fake.machine)
    assert capsys.readouterr().err.splitlines()[0] == "failed_to_find"


def test_a_log_that_cannot_be_read_costs_only_the_log(fake: FakeMachine, capsys: Out) -> None:
    fake.insert_status = errno.EINVAL
    (fake.root / "dev/kmsg").unlink()
    assert "EINVAL" in fails(fake, capsys)


def test_a_transition_that_does_not_finish_is_taken_back_and_names_the_tasks(
    fake: FakeMachine, capsys: Out
) -> None:
    fake.steps = None  # type: ignore[assignment]  # never
    said = fails(fake, capsys, "--timeout=7", fake.tarball())
    assert 7 <= fake.clock < 9
    assert "2 tasks did not leave the old code within 7 s; the update was taken back (try" in said
    assert "    server (77 thread 78)\n" in said
    assert "server_sleeps+0x10" in said
    assert not fake.loaded()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_transition_takes_the_update_back(
    fake: FakeMachine, capsys: Out, number: signal.Signals
) -> None:
    fake.steps = None  # type: ignore[assignment]  # never
    fake.on_sleep = lambda count: os.kill(os.getpid(), number) if count == 4 else None
    if signal.getsignal(number) is signal.SIG_IGN:  # as nohup leaves it
        signal.signal(number, signal.SIG_DFL)
    handler = signal.getsignal(number)
    assert f"stopped by {number.name}; the update was taken back\n" in fails(fake, capsys)
    assert fake.inserted == 1
    assert signal.getsignal(number) is handler


def test_a_signal_before_the_module_is_loaded_stops_there(fake: FakeMachine, capsys: Out) -> None:
    def interrupt(count: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        fake.memory(code())

    before = fake.tarball()
    fake.memory(b"\xcc" + code()[1:])
    fake.on_sleep = interrupt
    assert run_apply([before], fake.machine) == 1
    assert "SIGTERM" in capsys.readouterr().err
    assert fake.inserted == 0


def test_a_second_signal_does_not_disturb_the_taking_back(fake: FakeMachine, capsys: Out) -> None:
    fake.steps = None  # type: ignore[assignment]  # never
    fake.steps_back = 9
    fake.on_sleep = lambda count: os.kill(os.getpid(), signal.SIGINT) if count in (4, 8) else None
    assert "SIGINT" in fails(fake, capsys)


def test_state_that_cannot_be_kept_takes_the_update_back(
    fake: FakeMachine, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: str, target: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", broken)
    assert "Input/output error" in fails(fake, capsys)
    assert fake.inserted == 1


def test_any_exception_takes_the_update_back(
    fake: FakeMachine, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(machine: Machine, id: str) -> None:
        raise MemoryError

    tarball = fake.tarball()
    before = fake.snapshot()
    monkeypatch.setattr(store, "commit", broken)
    with pytest.raises(MemoryError):
        run_apply([tarball], fake.machine)
    assert fake.snapshot() == before


def test_a_module_that_is_no_live_patch_is_removed(fake: FakeMachine, capsys: Out) -> None:
    def insert(module: bytes) -> int:
        (fake.root / "sys/module" / MODULE).mkdir()
        return 0

    assert "absent" in fails(fake, capsys, machine=fake.machine._replace(insert=insert))


def test_a_transition_that_goes_neither_way_is_told_and_can_be_undone_later(
    fake: FakeMachine, capsys: Out
) -> None:
    fake.steps = fake.steps_back = None  # type: ignore[assignment]  # never
    assert run_apply([fake.tarball()], fake.machine) == 1
    said = capsys.readouterr().err
    assert "within 60 s; and the update cannot be taken back yet: 2 tasks did not go back" in said
    assert f"ksplice-undo {ID}" in said
    assert livepatch.stage(fake.machine, ID) == livepatch.REVERSING
    fake._left[MODULE] = 2
    assert run_undo([ID], fake.machine) == 0
    assert not fake.loaded()


def test_a_module_somebody_keeps_is_told(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake.remove_status = [errno.EWOULDBLOCK] * 1000
    assert run_undo(["--raw-errors", ID], fake.machine) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "module_busy"
    assert f"rmmod {MODULE}" in said[1]


# Undo ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["nothere1", f"ksplice_{ID}", f"ksplice-{ID}.tar.gz"])
def test_undo_of_an_unknown_id_is_told(fake: FakeMachine, capsys: Out, id: str) -> None:
    assert run_undo([id], fake.machine) == 1
    assert "is not present in the kernel" in capsys.readouterr().err


@pytest.mark.parametrize("id", ["../../etc", "a b", ""])
def test_undo_of_what_is_no_id_is_told(fake: FakeMachine, capsys: Out, id: str) -> None:
    assert run_undo([id], fake.machine) == 1
    assert "cannot name an update" in capsys.readouterr().err


def test_undo_by_another_user_than_root_is_told(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    assert run_undo([ID], fake.machine._replace(user=lambda: 1000)) == 1
    assert "root" in capsys.readouterr().err


def test_undo_below_a_later_patch_of_the_same_function_is_refused(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake.foreign_patch("ksplice_later", "tcp_v4_rcv,1")
    before = fake.snapshot()
    assert run_undo([ID], fake.machine) == 3
    assert fake.snapshot() == before
    assert "ksplice_later" in capsys.readouterr().err


@pytest.mark.parametrize("status, words", [(errno.EBUSY, "another live patch"), (errno.EINVAL, "Invalid")])
def test_undo_the_kernel_declines_is_told(
    fake: FakeMachine, capsys: Out, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    applied(fake, capsys)
    before = fake.snapshot()
    monkeypatch.setattr(livepatch, "switch", lambda machine, id, on: status)
    assert run_undo([ID], fake.machine) == 1
    assert words in capsys.readouterr().err
    assert fake.snapshot() == before


def test_undo_that_does_not_finish_leaves_the_update_applied(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    before = fake.snapshot()
    fake.steps_back = None
    assert run_undo(["--timeout", "5", "--raw-errors", ID], fake.machine) == 1
    said = capsys.readouterr().err
    assert said.startswith("code_busy\n")
    assert "2 tasks did not leave the update's code within 5 s; the update stays applied (try" in said
    assert "server_sleeps" in said
    assert fake.snapshot() == before
    assert livepatch.stage(fake.machine, ID) == livepatch.APPLIED


def test_a_signal_during_undo_leaves_the_update_applied(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    before = fake.snapshot()
    fake.steps_back = None
    start = fake.sleeps
    fake.on_sleep = lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == start + 4 else None
    assert run_undo([ID], fake.machine) == 1
    assert "SIGTERM" in capsys.readouterr().err
    assert fake.snapshot() == before


def test_an_undo_that_finishes_at_the_last_moment_is_done(
    fake: FakeMachine, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(fake, capsys)
    switch = livepatch.switch

    def late(machine: Machine, id: str, on: bool) -> int:
        if on:
            fake._settle(MODULE)
        return switch(machine, id, on)

    monkeypatch.setattr(livepatch, "switch", late)
    fake.steps_back = None
    assert run_undo(["--timeout", "3", ID], fake.machine) == 0
    assert not fake.loaded()


def test_an_undo_that_goes_neither_way_is_told(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake.steps = fake.steps_back = None  # type: ignore[assignment]  # never
    assert run_undo(["--timeout", "3", ID], fake.machine) == 1
    assert "cannot be fully applied again yet" in capsys.readouterr().err


def test_an_update_nobody_remembers_is_undone_all_the_same(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    store.remove(fake.machine, ID)
    assert run_undo([ID], fake.machine) == 0


# View ------------------------------------------------------------------------------------------------


def view(fake: FakeMachine, *arguments: str, status: int = 0) -> None:
    assert run_view(arguments, fake.machine) == status


def test_view_lists_ids_with_descriptions(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake.foreign_patch("ksplice_zzz", "other,1")
    fake.foreign_patch("klp_foreign", "third,1")
    view(fake)
    assert capsys.readouterr().out == f"{ID}: drop what nobody wants\nzzz: no description available\n"


def test_view_lists_the_oldest_update_first(fake: FakeMachine, capsys: Out) -> None:
    for name in ("ksplice_b", "ksplice_a", "ksplice_c"):
        fake.foreign_patch(name, "other,1")
    fake.put("proc/modules", "ksplice_a 1 0 - Live\nother 1 0 - Live\nksplice_c 1 0\nksplice_b 1 0\n")
    view(fake, "-q")
    assert capsys.readouterr().out == "b\nc\na\n"


def test_view_of_nothing_prints_nothing(fake: FakeMachine, capsys: Out) -> None:
    view(fake)
    assert capsys.readouterr().out == ""


def test_view_tells_of_a_transition(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake.put(f"sys/kernel/livepatch/{MODULE}/transition", "1\n")
    view(fake)
    assert capsys.readouterr().out == f"{ID}: drop what nobody wants (being applied)\n"


def test_quiet_view_lists_ids_only(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    view(fake, "-q")
    assert capsys.readouterr().out == f"{ID}\n"


@pytest.mark.parametrize("id", [ID, MODULE])
def test_view_of_an_id_shows_its_patch_byte_for_byte(
    fake: FakeMachine, capsysbinary: pytest.CaptureFixture[bytes], id: str
) -> None:
    run_apply(["-q", fake.tarball()], fake.machine)
    view(fake, f"--id={id}")
    out = capsysbinary.readouterr().out
    assert out == f"Ksplice id {ID} is present in the kernel and is applied.\n\n{HEADING}".encode() + PATCH


def test_view_of_a_file_shows_its_patch_with_nothing_applied(
    fake: FakeMachine, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    view(fake, f"--file={fake.tarball()}")
    assert capsysbinary.readouterr().out == HEADING.encode() + PATCH


def test_view_of_an_absent_id_is_told(fake: FakeMachine, capsys: Out) -> None:
    view(fake, "--id=nothere1", status=1)
    assert "Ksplice id nothere1 is not present in the kernel" in capsys.readouterr().err


def test_view_of_a_broken_file_is_told(fake: FakeMachine, capsys: Out) -> None:
    (fake.root / "broken").write_bytes(b"x")
    view(fake, "--file", str(fake.root / "broken"), status=1)
    assert "broken" in capsys.readouterr().err


def test_remembered_updates_that_are_not_in_the_kernel_are_forgotten(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    fake._target[MODULE] = "0"
    fake._settle(MODULE)
    view(fake)
    assert capsys.readouterr().out == ""
    assert list((fake.root / "state/updates").iterdir()) == []


def test_an_update_without_remembered_patch_is_still_shown(fake: FakeMachine, capsys: Out) -> None:
    applied(fake, capsys)
    store.remove(fake.machine, ID)
    view(fake, f"--id={ID}")
    out = capsys.readouterr().out
    assert out.startswith(f"Ksplice id {ID} is present in the kernel and is applied.\n")
    assert "not known" in out


# For programs ----------------------------------------------------------------------------------------


def test_json_is_all_that_is_printed(fake: FakeMachine, capsys: Out) -> None:
    def printed() -> object:
        return json.loads(capsys.readouterr().out)

    fake.steps = 15
    assert run_apply(["--json", fake.tarball()], fake.machine) == 0
    assert printed() == {"id": ID, "already": False, "functions": ["tcp_v4_rcv,1"], "awaited": []}
    view(fake, "--json")
    described = {"id": ID, "stage": "applied", "description": "drop what nobody wants"}
    assert printed() == {"updates": [described]}
    view(fake, "--json", "--id", ID)
    assert printed() == {**described, "patch": PATCH.decode("utf-8", "replace")}
    assert run_undo(["--json", ID], fake.machine) == 0
    assert printed() == {"id": ID}
    view(fake, "--json", "--id", ID, status=1)
    error = printed()
    assert isinstance(error, dict)
    assert error["error"][0]["key"] == "update.absent"


@pytest.mark.parametrize("break_it, code_name", [
    (lambda fake: fake.memory(code()[:-1] + b"\0"), "no_match"),
    (lambda fake: fake.put("sys/kernel/notes", b""), "no_match"),
    (lambda fake: setattr(fake, "steps", None), "code_busy"),
    (lambda fake: setattr(fake, "insert_status", errno.ENOMEM), "out_of_memory"),
    (lambda fake: setattr(fake, "insert_status", errno.EIO), "OTHER"),
    (lambda fake: (fake.root / "sys/kernel/livepatch").rmdir(), "OTHER"),
])  # fmt: skip
def test_raw_errors_begin_with_the_abort_code(
    fake: FakeMachine, capsys: Out, break_it: object, code_name: str
) -> None:
    assert callable(break_it)
    break_it(fake)
    assert run_apply(["--raw-errors", fake.tarball()], fake.machine) != 0
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == code_name
    assert second.startswith("ksplice-apply: ")


def test_quiet_apply_says_nothing(fake: FakeMachine, capsys: Out) -> None:
    assert run_apply(["-q", fake.tarball()], fake.machine) == 0
    assert capsys.readouterr().out == ""


def test_verbose_apply_says_how_much_was_verified(fake: FakeMachine, capsys: Out) -> None:
    assert run_apply(["-v", fake.tarball()], fake.machine) == 0
    assert f"{len(code())} bytes of 1 functions verified" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["--timeout=0", "x"], ["--timeout=soon", "x"], ["--timeout=inf", "x"], ["a", "b"], ["--odd", "x"]],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_apply(arguments)
    assert caught.value.code == 2


def test_view_takes_an_id_or_a_file() -> None:
    with pytest.raises(SystemExit) as caught:
        run_view(["--id=x", "--file=y"])
    assert caught.value.code == 2


@pytest.mark.parametrize("option, words", [("--api-version", "3\n"), ("--version", "."), ("-?", "TARBALL")])
def test_options_that_only_print_exit_at_once(capsys: Out, option: str, words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run_apply([option])
    assert caught.value.code == 0
    assert words in capsys.readouterr().out


def test_the_fake_machine_fulfils_its_own_proof(fake: FakeMachine) -> None:
    """What all refusals above are measured against."""
    assert proof()["nodes"][0]["size"] == len(code())
    assert run_apply([fake.tarball()], fake.machine) == 0

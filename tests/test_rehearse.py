# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdiff import package, rehearse
from kdiff.cli.main import main
from kdiff.distribution import KernelSetup
from kdiff.emit import EmittedModule
from kdiff.errors import KdiffError
from kdiff.rehearse import Checks, Phase, Rehearsal, Step

ID = "abcd1234"
GOOD = {
    "apply": "echo '<6>ksplice: Update abcd1234 applied successfully' >/dev/kmsg; echo 1 >/tmp/state",
    "view": "echo 'abcd1234: no description available'",
    "undo": "echo 0 >/tmp/state",
}


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    """An update that is whole but whose module nobody could load."""
    made = package.Package(
        id=ID,
        patch=b"",
        description="",
        utsname=("Linux", "x86_64", "6.1.0-56-amd64", "#1"),
        timestamp=0,
        manifest={},
        proof=b"{}",
        modules=(EmittedModule(("vmlinux",), f"ksplice_{ID}", f"ksplice_{ID}.ko", b"\x7fELF"),),
    )
    return package.save(made, tmp_path)


def stand_in(monkeypatch: pytest.MonkeyPatch, **lines: str) -> None:
    """Let shell lines stand in for the programs that apply, view and undo."""
    monkeypatch.setattr(rehearse, "program", lambda command, *arguments: {**GOOD, **lines}[command])


def run(tarball: Path, kernel: KernelSetup, checks: Checks = Checks(), timeout: float = 60) -> Rehearsal:  # noqa: B008
    return rehearse.rehearse(
        rehearse.identify(tarball),
        kernel.image / "vmlinuz",
        kernel.image / "modules",
        checks,
        timeout=timeout,
        say=lambda text: None,
        tell=lambda step: None,
    )


def verdicts(steps: tuple[Step, ...]) -> list[tuple[Phase, bool]]:
    return [(step.phase, step.held) for step in steps]


def test_a_tarball_names_its_update_and_kernel(tarball: Path) -> None:
    subject = rehearse.identify(tarball)
    assert (subject.id, subject.release) == (ID, "6.1.0-56-amd64")


def test_a_truncated_tarball_is_an_error(tarball: Path) -> None:
    tarball.write_bytes(tarball.read_bytes()[:-20])
    with pytest.raises(KdiffError):
        rehearse.identify(tarball)


def test_an_image_without_modules_is_an_error(
    tarball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vmlinuz").touch()
    assert main(["rehearse", str(tarball), "--image", str(tmp_path / "vmlinuz")]) == 1
    assert "--modules" in capsys.readouterr().err


@pytest.mark.guest
def test_all_steps_run_in_order_and_hold(
    tarball: Path, kernel: KernelSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    checks = Checks(("! test -e /tmp/state",), ("grep 1 /tmp/state",), ("grep 0 /tmp/state", "true"))
    outcome = run(tarball, kernel, checks)
    assert verdicts(outcome.steps) == [
        (Phase.BEFORE, True),
        (Phase.APPLY, True),
        (Phase.AFTER, True),
        (Phase.VIEW, True),
        (Phase.VIEW, True),
        (Phase.UNDO, True),
        (Phase.UNDONE, True),
        (Phase.UNDONE, True),
    ]
    assert [record.text for record in outcome.log] == ["ksplice: Update abcd1234 applied successfully"]
    assert outcome.held


@pytest.mark.guest
def test_a_check_that_fails_fails_the_rehearsal_and_the_rest_still_runs(
    tarball: Path, kernel: KernelSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    outcome = run(tarball, kernel, Checks(after=("false", "sleep 4000"), undone=("true",)), timeout=3)
    assert [step.result.line for step in outcome.steps if not step.held] == ["false", "sleep 4000"]
    assert [step.result.late for step in outcome.steps if not step.held] == [False, True]
    assert outcome.steps[-1].phase is Phase.UNDONE
    assert not outcome.held


@pytest.mark.guest
def test_nothing_runs_after_an_apply_that_failed(
    tarball: Path, kernel: KernelSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, apply="echo sorry; exit 3")
    outcome = run(tarball, kernel, Checks(after=("true",)))
    assert verdicts(outcome.steps) == [(Phase.APPLY, False)]
    assert outcome.problem == "apply failed"
    assert not outcome.held


@pytest.mark.guest
def test_a_view_that_does_not_name_the_update_does_not_hold(
    tarball: Path, kernel: KernelSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, view="true")
    outcome = run(tarball, kernel)
    assert [step.phase for step in outcome.steps if not step.held] == [Phase.VIEW, Phase.VIEW]


@pytest.mark.guest
def test_a_bad_line_in_the_log_fails_the_rehearsal(
    tarball: Path, kernel: KernelSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, undo="echo '<4>WARNING: CPU: 0 PID: 1 at a test' >/dev/kmsg")
    outcome = run(tarball, kernel)
    assert [complaint.key for complaint in outcome.complaints] == ["log.warning"]
    assert all(step.held for step in outcome.steps)
    assert not outcome.held


@pytest.mark.guest
def test_a_kernel_that_dies_fails_the_rehearsal_with_its_last_words(
    tarball: Path,
    kernel: KernelSetup,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(monkeypatch, apply="echo c >/proc/sysrq-trigger")
    assert main(["rehearse", str(tarball), "--image", str(kernel.image / "vmlinuz"), "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    assert not outcome["held"]
    assert "sysrq triggered crash" in outcome["problem"]
    assert "log.panic" in [complaint["key"] for complaint in outcome["complaints"]]


@pytest.mark.guest
def test_the_command_tells_the_story_and_exits_0_if_all_held(
    tarball: Path,
    kernel: KernelSetup,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in(monkeypatch)
    words = ["--image", str(kernel.image / "vmlinuz"), "--before", "echo a-check"]
    assert main(["rehearse", str(tarball), *words]) == 0
    told = capsys.readouterr().out
    assert "before: echo a-check" in told
    assert "| a-check" in told
    assert "applied successfully" in told
    assert told.splitlines()[-1].startswith(f"Rehearsal of update {ID}: all 5 steps held")

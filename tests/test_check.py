# SPDX-License-Identifier: Apache-2.0
"""`kdiff check`: a verdict for each patch, by the stages of `create`, and nothing written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from updates import EXAMPLE, PATCHES, make, request

from kdiff import registry
from kdiff.cli.main import run_command
from kdiff.distribution import KernelSetup
from kdiff.emit import EmittedModule, Workshop
from kdiff.errors import (
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_NOTHING_CHANGED,
    EXIT_REFUSED,
    Refusal,
    Refused,
)
from kdiff.graph import SectionGraph
from kdiff.kernel import KernelFacts
from kdiff.pipeline import check
from kdiff.plan import Plan
from kdiff.update import Update

pytestmark = pytest.mark.kernel

NOTHING = PATCHES / "no_change.patch"
REFUSED = PATCHES / "refused" / "ambiguous.patch"


def checked(
    capsys: pytest.CaptureFixture[str], config: Path, *patches: Path, more: tuple[str, ...] = ()
) -> tuple[int, list[dict[str, Any]]]:
    """Exit status, and the verdicts."""
    words = [*map(str, patches), "--config", str(config), "--json", "-q", *more]
    status = run_command("check", words, "kdiff check")
    return status, json.loads(capsys.readouterr().out)["patches"]


def test_a_patch_that_applies_is_told_with_all_that_create_would_record(
    kernel: KernelSetup, capsys: pytest.CaptureFixture[str]
) -> None:
    status, (verdict,) = checked(capsys, kernel.config, EXAMPLE)
    manifest = make(kernel, EXAMPLE).manifest
    assert (status, verdict["verdict"]) == (EXIT_DONE, "applies")
    assert [each["name"] for each in verdict["replaced"]] == ["tcp_v4_rcv"]
    recorded: Any = manifest["borrowed"]
    assert [(each["name"], f"{each['address']:#x}", each["learned"]) for each in verdict["borrowed"]] == [
        (each["name"], each["address"], each["learned"]) for each in recorded
    ]
    (unit,) = verdict["units"]
    assert unit["matched"] == unit["functions"] > 70
    assert unit["bytes"] > 20000


def test_a_verdict_in_words_begins_with_one_clear_line(
    kernel: KernelSetup, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(EXAMPLE), str(REFUSED), "--config", str(kernel.config), "-q"]
    assert run_command("check", words, "kdiff check") == EXIT_REFUSED
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if not line.startswith(" ")]
    assert said[0].startswith(f"{EXAMPLE}: APPLIES to {kernel.abi} (image:")
    assert said[1] == f"{REFUSED}: REFUSED, 1 reason(s)"
    assert said[2] == "2 checked: 0 change nothing, 1 apply, 1 refused, 0 in error"
    assert any(line.startswith("  replaces  tcp_v4_rcv at 0x") for line in lines)
    assert any(line.startswith("  borrows   kfree at 0xffffffff8") and "proved by" in line for line in lines)
    assert any(line.startswith("    what to do: ") for line in lines)


def test_one_verdict_does_not_stop_the_next_and_the_worst_decides(
    kernel: KernelSetup, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.patch"
    words = {EXAMPLE: "applies", NOTHING: "nothing", REFUSED: "refused", missing: "error"}
    for patches, wanted in (
        ((missing, REFUSED, NOTHING, EXAMPLE), EXIT_ERROR),
        ((REFUSED, EXAMPLE, NOTHING), EXIT_REFUSED),
        ((NOTHING, EXAMPLE), EXIT_DONE),
        ((NOTHING,), EXIT_NOTHING_CHANGED),
    ):
        status, verdicts = checked(capsys, kernel.config, *patches)
        assert status == wanted
        assert [each["verdict"] for each in verdicts] == [words[patch] for patch in patches]
    (refused,) = checked(capsys, kernel.config, REFUSED)[1]
    assert [each["key"] for each in refused["refused"]] == ["bind.ambiguous"]
    assert all(each["place"] and each["remedy"] for each in refused["refused"])


def test_nothing_is_written(
    kernel: KernelSetup,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdiff_emit_livepatch.workbench.build", None)
    assert checked(capsys, kernel.config, EXAMPLE)[0] == EXIT_DONE
    assert not list(tmp_path.iterdir())


def test_a_configuration_of_another_kernel_than_the_image_is_refused(
    kernel: KernelSetup, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config"
    shutil.copytree(kernel.config, config, ignore=shutil.ignore_patterns("build"))
    (config / "build").symlink_to((kernel.config / "build").resolve())
    listing = config / "System.map"
    text = listing.read_text()
    old = next(line for line in text.splitlines() if line.endswith(" tcp_v4_rcv"))
    listing.unlink()
    listing.write_text(text.replace(old, f"{int(old.split()[0], 16) + 16:016x} T tcp_v4_rcv"))
    status, (verdict,) = checked(capsys, config, EXAMPLE, more=("--source", str(kernel.source)))
    assert (status, verdict["verdict"]) == (EXIT_REFUSED, "refused"), verdict
    assert [each["key"] for each in verdict["refused"]] == ["config.system_map"]


def test_memory_can_be_named(kernel: KernelSetup, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = tmp_path / "a-copy"
    copy.write_bytes((kernel.image / "vmlinuz").read_bytes())
    status, (verdict,) = checked(capsys, kernel.config, EXAMPLE, more=("--memory", f"image:{copy}"))
    assert (status, verdict["memory"]) == (EXIT_DONE, f"image:{copy}")
    status, (verdict,) = checked(capsys, kernel.config, EXAMPLE, more=("--memory", "image:/none"))
    assert (status, verdict["error"][0]["key"]) == (EXIT_ERROR, "image.unreadable")


class Choosy:
    """An emitter that finds out only when all is bound that it cannot write an update."""

    name = "choosy"
    sets_initial = False

    def redirects(self, graph: SectionGraph, function: int) -> bool:
        return True

    def review(self, plan: Plan, facts: KernelFacts) -> tuple[Refusal, ...]:
        return ()

    def check(self, update: Update, facts: KernelFacts, headers: Path) -> None:
        raise Refused(Refusal("choosy.no", update.replacements[0].name, "never"))

    def emit(self, update: Update, facts: KernelFacts, shop: Workshop) -> tuple[EmittedModule, ...]:
        raise AssertionError("it was asked to write what it has declined")


def test_what_the_emitter_would_refuse_is_refused(kernel: KernelSetup) -> None:
    plugins = replace(registry.load(), emitters={"choosy": Choosy()})
    with pytest.raises(Refused) as caught:
        check(request(kernel, EXAMPLE, emitter="choosy"), plugins, print)
    assert [(each.key, each.place) for each in caught.value.refusals] == [("choosy.no", "tcp_v4_rcv")]


def test_one_source_is_not_taken_for_that_of_several_kernels(kernel: KernelSetup) -> None:
    words = [str(EXAMPLE), *("--config", str(kernel.config)) * 2, "--source", str(kernel.source)]
    assert run_command("check", words, "kdiff check") == EXIT_ERROR

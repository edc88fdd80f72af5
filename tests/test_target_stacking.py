# SPDX-License-Identifier: Apache-2.0
"""Updates made of what an earlier update brought: on top of exactly that, proved there, undone in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakemachine import ID, LINKED, RELEASE, SLIDE, FakeMachine, code, core, proof

from kdiff.errors import KdiffError, Refused
from kdiff.target import livepatch, stacking
from kdiff.target.apply import apply
from kdiff.target.undo import undo

FIRST, FUNCTION = "ksplice_first", "tcp_v4_rcv"
MOVED = 0xFFFFFFFFC0800000


def quiet(text: str) -> None:
    pass


def go_on() -> None:
    pass


def replaced(on: str) -> dict[str, Any]:
    return {"kernel": RELEASE, "replaced": [{"name": FUNCTION, "position": 0, "on": on}]}


def stacked(fake: FakeMachine, on: str = FIRST) -> str:
    """The tarball of an update that was made of the first one's code."""
    value = proof()
    value["symbols"].append(
        {"name": FUNCTION, "position": 1, "count": 1, "address": 0, "owner": FIRST, "section": ""}
    )
    value["nodes"][0]["code"] = len(value["symbols"]) - 1
    return fake.tarball(proof=json.dumps(value).encode(), manifest=replaced(on))


def put_first(fake: FakeMachine, data: bytes) -> None:
    """Apply the first update, by hand: its module is loaded and has the newest code."""
    fake.foreign_patch(FIRST, f"{FUNCTION},1")
    fake.put(f"sys/module/{FIRST}/initstate", "live\n")
    text = (fake.root / "proc/kallsyms").read_text()
    fake.put("proc/kallsyms", f"{text}{MOVED:016x} t {FUNCTION}\t[{FIRST}]\n")
    old = bytes(0x1000) + code()[:-1] + b"\0" + bytes(64)
    fake.put("proc/kcore", core({LINKED + SLIDE: old, MOVED: data}))


def moved_code() -> bytes:
    """The function's code at another place: its call has another displacement."""
    target = LINKED + SLIDE + 0x2000
    return code()[:10] + (target - (MOVED + 14)).to_bytes(4, "little", signed=True) + code()[14:]


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def run(fake: FakeMachine, path: str) -> Any:
    return apply(path, 60, fake.machine, quiet, quiet, go_on)


def refused(fake: FakeMachine, path: str) -> set[tuple[str, str]]:
    with pytest.raises(Refused) as caught:
        run(fake, path)
    return {(each.key, each.place) for each in caught.value.refusals}


def near(data: bytes) -> bytes:
    return data + bytes(64)


def test_an_update_of_what_runs_now_goes_on_top_and_both_come_off_in_order(fake: FakeMachine) -> None:
    put_first(fake, near(moved_code()))
    assert run(fake, stacked(fake)).functions == (f"{FUNCTION},1",)
    with pytest.raises(Refused) as caught:
        undo("first", 60, fake.machine, quiet, go_on)
    assert {each.key for each in caught.value.refusals} == {"target.stacked"}
    undo(ID, 60, fake.machine, quiet, go_on)
    assert livepatch.present(fake.machine) == ["first"]


@pytest.mark.parametrize("at", range(20))
def test_code_of_the_first_update_that_is_not_what_was_matched_is_refused(fake: FakeMachine, at: int) -> None:
    data = bytearray(moved_code())
    data[at] ^= 1
    put_first(fake, near(bytes(data)))
    assert {key for key, _ in refused(fake, stacked(fake))} == {"verify.content"}


def test_without_the_update_it_stands_on_it_is_refused(fake: FakeMachine) -> None:
    assert refused(fake, stacked(fake)) == {("target.not_below", FUNCTION)}


def test_with_another_patch_on_the_function_it_is_refused(fake: FakeMachine) -> None:
    put_first(fake, near(moved_code()))
    fake.foreign_patch("klp_other", f"{FUNCTION},1")
    assert refused(fake, stacked(fake)) == {("target.already_patched", FUNCTION)}


def test_an_update_of_the_kernels_own_code_does_not_go_on_top(fake: FakeMachine) -> None:
    put_first(fake, near(moved_code()))
    assert refused(fake, fake.tarball()) == {("target.already_patched", FUNCTION)}


def test_what_lies_below_is_followed_through_all_manifests(fake: FakeMachine) -> None:
    for name in ("first", "second"):
        fake.foreign_patch(f"ksplice_{name}", f"{FUNCTION},1")
    fake.put("state/updates/second/manifest.json", json.dumps(replaced(FIRST)))
    wanted = {f"{FUNCTION},1": "ksplice_second"}
    assert stacking.in_the_way(fake.machine, "third", wanted) == ([], [])
    wanted = {f"{FUNCTION},1": FIRST}
    assert stacking.in_the_way(fake.machine, "third", wanted) == ([("ksplice_second", f"{FUNCTION},1")], [])
    fake.put("state/updates/second/manifest.json", b"[]")
    wanted = {f"{FUNCTION},1": "ksplice_second"}
    assert stacking.in_the_way(fake.machine, "third", wanted) == ([(FIRST, f"{FUNCTION},1")], [])


def of_module(fake: FakeMachine) -> str:
    """The tarball of such an update of a module's function, with the first update in the kernel."""
    value = proof()
    value["modules"] = [{"name": "dummy", "build_id": "", "source_version": "", "fresh": False}]
    for symbol, offset in zip(value["symbols"][1:], (0x1000, 0x2000), strict=True):
        del symbol["slides"]
        symbol.update(owner="dummy", section=".text", address=offset)
    value["symbols"].append(
        {"name": FUNCTION, "position": 1, "count": 1, "address": 0, "owner": FIRST, "section": ""}
    )
    value["nodes"][0]["code"] = len(value["symbols"]) - 1
    put_first(fake, near(moved_code()))
    (fake.root / f"sys/kernel/livepatch/{FIRST}/dummy/{FUNCTION},1").mkdir(parents=True)
    manifest = replaced(FIRST)
    manifest["replaced"][0]["target"] = "dummy"
    return fake.tarball(proof=json.dumps(value).encode(), manifest=manifest)


def load_dummy(fake: FakeMachine) -> None:
    fake.put("sys/module/dummy/initstate", "live\n")
    fake.put("sys/module/dummy/sections/.text", f"{LINKED + SLIDE:#x}\n")
    text = (fake.root / "proc/kallsyms").read_text()
    names = [each["name"] for each in proof()["symbols"][1:]]
    lines = "".join(
        f"{LINKED + SLIDE + offset:016x} t {name}\t[dummy]\n"
        for name, offset in zip(names, (0x1000, 0x2000), strict=True)
    )
    fake.put("proc/kallsyms", text + lines)


def test_code_of_a_module_that_is_not_loaded_cannot_be_compared_in_a_live_patch(fake: FakeMachine) -> None:
    path = of_module(fake)
    assert refused(fake, path) == {("target.not_loaded", "module dummy")}
    with pytest.raises(Refused) as caught:
        apply(path, 60, fake.machine, quiet, quiet, go_on, partial=True)
    assert [(each.key, each.place) for each in caught.value.refusals] == [
        ("target.stacked_module", f"dummy:{FUNCTION}")
    ]


@pytest.mark.parametrize("partial", [False, True])
def test_an_update_of_a_modules_function_goes_on_top_of_the_one_below(
    fake: FakeMachine, partial: bool
) -> None:
    path = of_module(fake)
    load_dummy(fake)
    applied = apply(path, 60, fake.machine, quiet, quiet, go_on, partial=partial)
    assert applied.functions == (f"dummy:{FUNCTION},1",)


@pytest.mark.parametrize("at", range(20))
def test_other_code_of_a_modules_function_in_the_first_update_is_refused(fake: FakeMachine, at: int) -> None:
    path = of_module(fake)
    load_dummy(fake)
    data = bytearray(moved_code())
    data[at] ^= 1
    old = bytes(0x1000) + code() + bytes(64)
    fake.put("proc/kcore", core({LINKED + SLIDE: old, MOVED: near(bytes(data))}))
    assert {key for key, _ in refused(fake, path)} == {"verify.content"}


@pytest.mark.parametrize("on", ["", "ksplice_other"])
def test_a_manifest_that_stands_elsewhere_than_the_proof_is_an_error(fake: FakeMachine, on: str) -> None:
    put_first(fake, near(moved_code()))
    with pytest.raises(KdiffError) as caught:
        run(fake, stacked(fake, on))
    assert caught.value.key == "package.unproved"

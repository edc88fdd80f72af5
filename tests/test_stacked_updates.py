# SPDX-License-Identifier: Apache-2.0
"""A second update of the same function, made of what the first one brought, on a stock kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import qmp
from updates import PATCHES, make

from kdiff.distribution import KernelSetup
from kdiff.errors import Refused
from kdiff.guest import SHARE, Guest, Result
from kdiff.kernel_log import complaints
from kdiff.module_files import contents, module_files
from kdiff.package import save
from kdiff.rehearse import program

pytestmark = [pytest.mark.kernel, pytest.mark.guest]

FIRST, OTHER, SECOND = "fs_cmdline", "kernel_getppid", "fs_cmdline_again"
OF_MODULE, OF_MODULE_AGAIN = "dummy_mtu", "dummy_again"


@dataclass(frozen=True)
class Patched:
    """A guest with the first update applied; `tree`: the source with its patch."""

    guest: Guest
    memory: str
    tree: Path

    def run(self, command: str, *arguments: str) -> Result:
        return self.guest.run(program(command, *arguments))

    def apply(self, name: str, *options: str) -> Result:
        return self.run("apply", *options, f"{SHARE}/ksplice-{name}.tar.gz")

    def device(self) -> list[str]:
        """MTU and queue length of a new device of module dummy."""
        ip, here = "busybox ip link", "/sys/class/net/d0"
        shown = self.guest.run(
            f"{ip} add d0 type dummy && cat {here}/mtu {here}/tx_queue_len && {ip} del d0", timeout=120
        )
        assert shown.held, shown.output
        return shown.output.split()

    def shows(self, start: str) -> bool:
        return self.guest.run(f"grep -q '^{start}' /proc/cmdline").held


@pytest.fixture(scope="module")
def patched(kernel: KernelSetup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patched]:
    folder = tmp_path_factory.mktemp("stacked")
    tree = folder / "source"
    subprocess.run(("cp", "-as", f"{kernel.source.resolve()}/.", str(tree)), check=True)
    for path, name in (("fs/proc/cmdline.c", FIRST), ("drivers/net/dummy.c", OF_MODULE)):
        file = tree / path
        text = file.read_bytes()
        file.unlink()
        file.write_bytes(text)
        command = ("patch", "-s", "-p1", "-d", str(tree), "-i", str(PATCHES / f"{name}.patch"))
        subprocess.run(command, check=True)
    port = qmp.free_port()
    with Guest.boot(
        kernel.image / "vmlinuz", kernel.image / "modules",
        memory=512, timeout=300, hardware=("-gdb", f"tcp:127.0.0.1:{port}"),
    ) as guest:  # fmt: skip
        save(make(kernel, PATCHES / f"{FIRST}.patch", description="the first"), guest.share)
        save(make(kernel, PATCHES / f"{OTHER}.patch"), guest.share)
        found = Patched(guest, f"gdb:127.0.0.1:{port}", tree)
        applied = found.run("apply", f"{SHARE}/ksplice-{FIRST}.tar.gz")
        assert applied.held, applied.output
        yield found


def test_source_without_the_first_patch_is_refused_where_its_update_runs(
    kernel: KernelSetup, patched: Patched
) -> None:
    with pytest.raises(Refused) as caught:
        make(kernel, PATCHES / "two_units.patch", memory=patched.memory)
    (refusal,) = caught.value.refusals
    assert refusal.key == "runpre.content"
    assert "a live patch has put this code in place of cmdline_proc_show" in refusal.reason


def test_an_update_of_the_newest_code_goes_on_top_and_both_come_off_in_order(
    kernel: KernelSetup, patched: Patched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, start = patched.guest, len(patched.guest.records())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    second = make(kernel, PATCHES / f"{SECOND}.patch", source=patched.tree, memory=patched.memory)
    save(second, guest.share)
    tarball = f"{SHARE}/ksplice-{SECOND}.tar.gz"
    assert patched.shows("patched ")
    assert patched.run("apply", f"{SHARE}/ksplice-{OTHER}.tar.gz").held
    applied = patched.run("apply", tarball)
    assert applied.held, applied.output
    assert patched.shows("patched again ")
    listed = [line.partition(":")[0] for line in patched.run("view").output.splitlines()]
    assert listed == [FIRST, OTHER, SECOND]

    early = patched.run("undo", FIRST)
    assert early.status == 3
    assert SECOND in early.output
    assert patched.run("undo", SECOND).held
    assert patched.run("undo", OTHER).held
    assert patched.shows("patched ")
    assert not patched.shows("patched again")
    assert patched.run("undo", FIRST).held
    assert not patched.shows("patched")

    alone = patched.run("apply", tarball)
    assert alone.status == 3
    assert f"live patch ksplice_{FIRST}" in alone.output
    assert complaints(guest.records()[start:]) == ()


def test_updates_of_a_modules_function_stack_too(
    kernel: KernelSetup, patched: Patched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one also replaces a function that the first one left alone, as the module's file has it."""
    guest, start = patched.guest, len(patched.guest.records())
    file = contents(module_files(kernel.image / "modules")["dummy"])
    (guest.share / "dummy.ko").write_bytes(file)
    save(make(kernel, PATCHES / f"{OF_MODULE}.patch"), guest.share)
    assert guest.run(f"insmod {SHARE}/dummy.ko numdummies=0", timeout=60).held
    applied = patched.apply(OF_MODULE)
    assert applied.held, applied.output
    assert patched.device() == ["1234", "1000"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(Refused) as caught:
        make(kernel, PATCHES / "kernel_and_module.patch", memory=patched.memory)
    assert {each.key for each in caught.value.refusals} == {"runpre.content"}
    assert any("in place of dummy_setup" in each.reason for each in caught.value.refusals)
    again = PATCHES / f"{OF_MODULE_AGAIN}.patch"
    save(make(kernel, again, source=patched.tree, memory=patched.memory), guest.share)
    applied = patched.apply(OF_MODULE_AGAIN, "-v")
    assert applied.held, applied.output
    assert "2 functions verified" in applied.output
    assert patched.device() == ["1234", "77"]

    early = patched.run("undo", OF_MODULE)
    assert early.status == 3
    assert "target.stacked: dummy:dummy_setup" in early.output
    assert OF_MODULE_AGAIN in early.output
    assert patched.run("undo", OF_MODULE_AGAIN).held
    assert patched.device() == ["1234", "1000"]
    assert patched.apply(OF_MODULE_AGAIN).held
    assert guest.run("rmmod dummy").held
    load = f"insmod {SHARE}/dummy.ko numdummies=0"
    anew = guest.run(load, timeout=60).held
    if anew:
        assert patched.device() == ["1234", "77"]
    else:  # x86 before 6.3, kernel commit 0c05e7bd2d01: relocations are not cleared
        assert "existing value is nonzero" in guest.log()
    assert patched.run("undo", OF_MODULE_AGAIN).held
    assert patched.run("undo", OF_MODULE).held
    assert anew or guest.run(load, timeout=60).held
    assert patched.device() == ["1500", "1000"]
    alone = patched.apply(OF_MODULE_AGAIN)
    assert alone.status == 3
    assert "target.not_below: dummy:dummy_setup" in alone.output
    assert f"live patch ksplice_{OF_MODULE}, which is not there" in alone.output

    assert guest.run("rmmod dummy").held
    assert patched.apply(OF_MODULE, "--partial").held
    unseen = patched.apply(OF_MODULE_AGAIN, "--partial")
    assert unseen.status == 3
    assert "target.stacked_module" in unseen.output
    assert patched.run("undo", OF_MODULE).held
    assert complaints(guest.records()[start:]) == ()

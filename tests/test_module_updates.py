# SPDX-License-Identifier: Apache-2.0
"""Updates of loadable modules of a stock, running kernel: loaded before, loaded later, of another build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from updates import PATCHES, make

from kdiff.distribution import KernelSetup
from kdiff.guest import Guest, Result
from kdiff.kernel_log import complaints
from kdiff.module_files import contents, module_files
from kdiff.package import save
from kdiff.rehearse import program

pytestmark = [pytest.mark.kernel, pytest.mark.guest]

NAMES = ("dummy_mtu", "kernel_and_module", "bridge_mtu", "ext4_datasync")
EXT4 = ("crc16", "crc32c_generic", "mbcache", "jbd2", "ext4")
IP = "busybox ip link"


@pytest.fixture(scope="module")
def folder(kernel: KernelSetup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every update, and the modules that it changes with those they need."""
    made = tmp_path_factory.mktemp("updates")
    for name in NAMES:
        save(make(kernel, PATCHES / f"{name}.patch"), made)
    files = module_files(kernel.image / "modules")
    for name in ("dummy", "llc", "stp", "bridge", "brd", *EXT4):
        (made / f"{name}.ko").write_bytes(contents(files[name]))
    return made


@pytest.fixture(scope="module")
def guest(kernel: KernelSetup) -> Iterator[Guest]:
    with Guest.boot(kernel.image / "vmlinuz", kernel.image / "modules") as running:
        yield running


def changed(module: bytes, at: int) -> bytes:
    """A module with one other bit, and without the signature that would tell.

    Its layout: include/linux/module_signature.h.
    """
    marker = b"~Module signature appended~\n"
    end = len(module) - len(marker)
    size = int.from_bytes(module[end - 4 : end], "big")
    unsigned = bytearray(module[: end - 12 - size] if module.endswith(marker) else module)
    unsigned[at] ^= 1
    return bytes(unsigned)


def held(guest: Guest, folder: Path, line: str, status: int = 0) -> Result:
    result = guest.run(line, timeout=120, directory=folder)
    assert result.status == status, f"{line}: status {result.status}\n{result.output}\n{guest.log()[-3000:]}"
    return result


def mtu(guest: Guest, folder: Path, device: str) -> str:
    """The MTU of a new device of module dummy."""
    held(guest, folder, f"{IP} add {device} type dummy")
    return held(guest, folder, f"cat /sys/class/net/{device}/mtu && {IP} del {device}").output.strip()


def apply(name: str, *options: str) -> str:
    return program("apply", *options, f"ksplice-{name}.tar.gz")


def test_a_module_that_is_loaded_later_is_updated_then(guest: Guest, folder: Path) -> None:
    start = len(guest.records())
    refused = held(guest, folder, apply("dummy_mtu"), status=3)
    assert "target.not_loaded: module dummy" in refused.output
    assert "Module dummy is not loaded" in held(guest, folder, apply("dummy_mtu", "--partial")).output
    held(guest, folder, "insmod dummy.ko numdummies=0")
    assert mtu(guest, folder, "d0") == "1234"
    held(guest, folder, program("undo", "dummy_mtu"))
    assert mtu(guest, folder, "d1") == "1500"
    held(guest, folder, "rmmod dummy")
    assert complaints(guest.records()[start:]) == ()


def test_a_module_that_is_loaded_is_verified_and_updated(guest: Guest, folder: Path) -> None:
    start = len(guest.records())
    held(guest, folder, "insmod dummy.ko numdummies=0")
    assert "functions verified" in held(guest, folder, apply("dummy_mtu", "-v")).output
    assert mtu(guest, folder, "d2") == "1234"
    refused = held(guest, folder, apply("kernel_and_module"), status=3)
    assert "target.already_patched: dummy:dummy_setup" in refused.output
    held(guest, folder, program("undo", "dummy_mtu"))
    assert mtu(guest, folder, "d3") == "1500"
    held(guest, folder, "rmmod dummy")
    assert complaints(guest.records()[start:]) == ()


def test_one_update_changes_the_kernel_and_a_module(guest: Guest, folder: Path) -> None:
    start = len(guest.records())
    held(guest, folder, apply("kernel_and_module", "--partial"))
    held(guest, folder, "grep -q '^both ' /proc/cmdline")
    held(guest, folder, "insmod dummy.ko numdummies=0")
    assert mtu(guest, folder, "d4") == "1111"
    held(guest, folder, "rmmod dummy")
    held(guest, folder, "insmod dummy.ko numdummies=0")
    assert mtu(guest, folder, "d5") == "1111"
    held(guest, folder, program("undo", "kernel_and_module"))
    assert mtu(guest, folder, "d6") == "1500"
    held(guest, folder, "rmmod dummy; ! grep -q '^both ' /proc/cmdline")
    assert complaints(guest.records()[start:]) == ()


def test_code_that_uses_what_other_modules_export_works(guest: Guest, folder: Path) -> None:
    start = len(guest.records())
    held(guest, folder, apply("bridge_mtu", "--partial"))
    held(guest, folder, "insmod llc.ko && insmod stp.ko && insmod bridge.ko")
    held(guest, folder, f"{IP} add br0 type bridge && {IP} set br0 up && {IP} del br0")
    assert "kdiff test: a bridge" in guest.log()
    held(guest, folder, program("undo", "bridge_mtu"))
    held(guest, folder, "rmmod bridge stp llc")
    assert complaints(guest.records()[start:]) == ()


def test_a_loaded_module_of_another_build_is_refused(guest: Guest, folder: Path) -> None:
    other = (folder / "dummy.ko").read_bytes()
    (folder / "other.ko").write_bytes(changed(other, other.index(b"GNU\0") + 4))
    held(guest, folder, "insmod other.ko numdummies=0")
    refused = held(guest, folder, apply("dummy_mtu"), status=3)
    assert "target.other_module: module dummy: its build id is" in refused.output
    held(guest, folder, "rmmod dummy")


def test_a_module_of_other_code_is_kept_out_once_the_update_waits_for_it(guest: Guest, folder: Path) -> None:
    """The kernel refuses to load it, because the update's own look at its code says no."""
    other = (folder / "dummy.ko").read_bytes()
    place = other.index(MULTICAST) + len(MULTICAST) - 1
    (folder / "changed.ko").write_bytes(changed(other, place))
    held(guest, folder, apply("dummy_mtu", "--partial"))
    assert guest.run("insmod changed.ko numdummies=0", timeout=60, directory=folder).status != 0
    assert "was made for another build of module dummy: dummy_setup differs" in guest.log()
    held(guest, folder, "! test -e /sys/module/dummy")
    held(guest, folder, "insmod dummy.ko numdummies=0 && rmmod dummy")  # it left nothing behind
    held(guest, folder, program("undo", "dummy_mtu"))
    held(guest, folder, "insmod dummy.ko numdummies=0 && rmmod dummy")


MULTICAST = bytes.fromhex("80e4ef")
"""`and $~(IFF_MULTICAST >> 8), %ah` in dummy_setup."""


EVENTS = "/sys/kernel/tracing/events/ext4/ext4_sync_file_enter/enable"


def traced(guest: Guest, folder: Path) -> int:
    """How many times the tracepoint has been passed while it was on, since the last question."""
    found = held(guest, folder, "cat /sys/kernel/tracing/trace; echo > /sys/kernel/tracing/trace").output
    return found.count("ext4_sync_file_enter:")


def test_a_tracepoint_of_a_module_works_in_code_that_was_replaced(guest: Guest, folder: Path) -> None:
    """The module's own jump label and static call: tested in memory and reached by the trampoline."""
    start = len(guest.records())
    for name in ("brd.ko rd_nr=1 rd_size=8192", *(f"{each}.ko" for each in EXT4)):
        held(guest, folder, f"insmod {name}")
    held(guest, folder, "mkdir -p /mnt /sys/kernel/tracing; mount -t tracefs none /sys/kernel/tracing")
    held(
        guest, folder, "mke2fs -F /dev/ram0 >/dev/null && mount -t ext4 /dev/ram0 /mnt && echo a > /mnt/file"
    )

    def sync(status: int) -> None:
        held(
            guest,
            folder,
            "dd if=/dev/zero of=/mnt/file bs=512 count=1 conv=fsync 2>/dev/null && sync -d /mnt/file",
            status,
        )

    sync(0)
    held(guest, folder, apply("ext4_datasync", "-v"))
    sync(1)
    assert traced(guest, folder) == 0
    held(guest, folder, f"echo 1 > {EVENTS}")
    sync(1)
    assert traced(guest, folder) == 2
    held(guest, folder, f"echo 0 > {EVENTS}")
    sync(1)
    assert traced(guest, folder) == 0
    held(guest, folder, f"echo 1 > {EVENTS}")
    held(guest, folder, program("undo", "ext4_datasync"))
    sync(0)
    assert traced(guest, folder) == 2
    held(guest, folder, f"echo 0 > {EVENTS}; umount /mnt; umount /sys/kernel/tracing")
    for name in reversed(("brd", *EXT4)):
        held(guest, folder, f"rmmod {name}")
    assert complaints(guest.records()[start:]) == ()

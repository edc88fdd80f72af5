# SPDX-License-Identifier: Apache-2.0
"""Kinds of code that kernels are made of, each in an update of a stock, running kernel, seen to work, undone.

The table in docs/support.md says which other tests show the kinds that are not here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from updates import PATCHES, make

from kdiff.distribution import KernelSetup
from kdiff.guest import Guest, Result
from kdiff.initramfs import modules
from kdiff.kernel_log import complaints
from kdiff.package import save
from kdiff.rehearse import program

pytestmark = [pytest.mark.kernel, pytest.mark.guest]

NAMES = (
    *("exported_mtu", "compat_sysinfo", "module_static_call", "new_file", "new_file_of_module"),
    *("renamed_file", "deleted_file", "makefile_flags", "new_export"),
)
MODULES = ("dummy", "bridge", "aesni_intel", "algif_skcipher")
IP = "busybox ip link"
COMPAT = """\
#include <stdio.h>
#include <sys/mman.h>
int main(void)
{
	void *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long status = 116;
	asm volatile("int $0x80" : "+a"(status) : "b"(low) : "memory", "r8", "r9", "r10", "r11");
	printf("%d\\n", (int)status);
	return 0;
}
"""
"""System call 116, sysinfo, through the gate of 32-bit programs (arch/x86/entry/syscalls/syscall_32.tbl)."""
COUNTER_MODE = """\
import socket
one = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
one.bind(("skcipher", "ctr-aes-aesni"))
one.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"))
work, _ = one.accept()
iv = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
work.sendmsg_afalg([bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")], op=socket.ALG_OP_ENCRYPT, iv=iv)
print(work.recv(16).hex())
"""
KNOWN = "874d6191b620e3261bef6864990db6ce"
"""The first block of NIST SP 800-38A, F.5.1, CTR-AES128.Encrypt."""


@pytest.fixture(scope="module")
def folder(kernel: KernelSetup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every update, and what the lines of this test need."""
    made = tmp_path_factory.mktemp("updates")
    for name in NAMES:
        save(make(kernel, PATCHES / f"{name}.patch"), made)
    wanted = modules(kernel.image / "modules", MODULES)
    for name, data in wanted:
        (made / f"{name}.ko").write_bytes(data)
    (made / "load").write_text("".join(f"insmod {name}.ko\n" for name, _ in wanted if name != "dummy"))
    (made / "compat.c").write_text(COMPAT)
    command = ("gcc", "-static", "-O1", "-o", str(made / "compat32"), str(made / "compat.c"))
    subprocess.run(command, check=True)
    (made / "counter.py").write_text(COUNTER_MODE)
    return made


@pytest.fixture(scope="module")
def guest(kernel: KernelSetup, folder: Path) -> Iterator[Guest]:
    with Guest.boot(kernel.image / "vmlinuz", kernel.image / "modules", timeout=300) as running:
        held(running, folder, "sh -e ./load; insmod dummy.ko numdummies=0")
        yield running


def held(guest: Guest, folder: Path, line: str) -> Result:
    result = guest.run(line, timeout=300, directory=folder)
    assert result.status == 0, f"{line}: status {result.status}\n{result.output}\n{guest.log()[-3000:]}"
    return result


def mtu(guest: Guest, folder: Path, kind: str) -> str:
    """The MTU of a new network device."""
    line = f"{IP} add new0 type {kind} && cat /sys/class/net/new0/mtu && {IP} del new0"
    return held(guest, folder, line).output.strip()


@pytest.fixture
def updated(guest: Guest, folder: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """The guest with the update that the test's mark names; the kernel has nothing to complain about."""
    name, start = request.param, len(guest.records())
    held(guest, folder, program("apply", f"ksplice-{name}.tar.gz"))
    yield guest
    held(guest, folder, program("undo", name))
    assert complaints(guest.records()[start:]) == ()


def applied(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("updated", [name], indirect=True)


@applied("exported_mtu")
def test_modules_that_call_an_exported_function_run_its_new_code(updated: Guest, folder: Path) -> None:
    assert mtu(updated, folder, "dummy") == "1234"


@applied("new_export")
def test_modules_run_what_the_patch_exports_to_them(updated: Guest, folder: Path) -> None:
    assert mtu(updated, folder, "dummy") == "1234"


@applied("exported_mtu")
def test_dynamic_debug_of_new_code_can_be_switched_on(updated: Guest, folder: Path) -> None:
    start = len(updated.records())
    control = "/sys/kernel/debug/dynamic_debug/control"
    held(updated, folder, "test -e /sys/kernel/debug/sched || mount -t debugfs none /sys/kernel/debug")
    mtu(updated, folder, "dummy")
    held(updated, folder, f"echo 'module ksplice_exported_mtu +p' > {control}")
    mtu(updated, folder, "dummy")
    said = [each for each in updated.records()[start:] if "kdiff test: set up on CPU" in each.text]
    assert len(said) == 1


@applied("compat_sysinfo")
def test_a_system_call_of_32_bit_programs_runs_its_new_code(updated: Guest, folder: Path) -> None:
    assert held(updated, folder, "./compat32").output == "-18\n"
    assert held(updated, folder, "cp compat32 /run/other && /run/other").output == "0\n"


@applied("module_static_call")
def test_a_static_call_of_a_module_goes_where_it_went(updated: Guest, folder: Path) -> None:
    start = len(updated.records())
    assert held(updated, folder, "python3 counter.py").output.strip() == KNOWN
    assert any("in counter mode" in each.text for each in updated.records()[start:])


@applied("new_file")
def test_code_of_a_new_file_travels_with_its_data(updated: Guest, folder: Path) -> None:
    held(updated, folder, "grep -q '^greeted 1 ' /proc/cmdline && grep -q '^greeted 2 ' /proc/cmdline")


@applied("new_file_of_module")
def test_a_module_gets_code_of_a_new_file(updated: Guest, folder: Path) -> None:
    assert mtu(updated, folder, "bridge") == "1234"


@applied("renamed_file")
def test_code_of_a_renamed_file_takes_the_place_of_the_old(updated: Guest, folder: Path) -> None:
    held(updated, folder, "grep -q '^renamed ' /proc/cmdline")


@applied("deleted_file")
def test_code_moved_out_of_a_deleted_file_goes_on(updated: Guest, folder: Path) -> None:
    held(updated, folder, "grep -q '^moved ' /proc/cmdline && test -e /proc/self/fdinfo/0")


@applied("makefile_flags")
def test_code_compiled_with_flags_that_a_makefile_adds_does_as_before(updated: Guest, folder: Path) -> None:
    held(updated, folder, "test -e /proc/self/fdinfo/0 && test ! -e /proc/self/fdinfo/00")


def test_the_kernel_does_as_it_did_when_all_are_undone(guest: Guest, folder: Path) -> None:
    assert [mtu(guest, folder, kind) for kind in ("dummy", "bridge")] == ["1500", "1500"]
    assert held(guest, folder, "./compat32").output == "0\n"
    assert held(guest, folder, "python3 counter.py").output.strip() == KNOWN
    held(guest, folder, "! grep -qE '^(greeted|renamed|moved) ' /proc/cmdline")

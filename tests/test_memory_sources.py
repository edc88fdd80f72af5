# SPDX-License-Identifier: Apache-2.0
"""One stock kernel, booted once with KASLR and seen through every memory scheme."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import qmp
import vmcore
from kdiff_memory_gdb.protocol import Connection
from kdiff_memory_gdb.stub import Stub
from updates import EXAMPLE, PATCHES, make

from kdiff import kbuild, registry
from kdiff.addressbook import AddressBook, BookEntry
from kdiff.cli.main import run_command
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError
from kdiff.guest import SHARE, Guest
from kdiff.kallsyms import parse_text
from kdiff.memory import MemorySource
from kdiff.module_files import module_files
from kdiff.patch import read_patch

pytestmark = pytest.mark.guest

LIVE = ("core-physical", "core-virtual", "core-zlib", "gdb")
CONSTANT = (("_stext", "_etext"), ("__start_rodata", "__end_rodata"))
INSIDE = f"""
import hashlib, json, sys
from kdiff import registry
memory = registry.load().open_memory("kcore:")
book, facts = memory.address_book(), memory.facts()
found = {{"release": facts.release, "build_id": facts.build_id, "pristine": memory.pristine, "bytes": {{}}}}
for first, last in {CONSTANT!r}:
    start = book.address(first)
    found["bytes"][first] = hashlib.sha256(memory.read(start, book.address(last) - start)).hexdigest()
found["module"] = memory.read(book.named("p9_client_create", "9pnet")[0].address, 64).hex()
found["extents"] = [[each.address, each.size] for each in memory.extents()]
found["unmapped"] = memory.read(0, 8) is None
json.dump(found, open("{SHARE}/kcore", "w"))
"""


@dataclass(frozen=True)
class Machine:
    """The running guest, and all there is to know of it."""

    guest: Guest
    control: Path
    port: int
    folder: Path
    listed: AddressBook
    kcore: dict[str, object]

    def open(self, source: str) -> MemorySource:
        kind, _, variant = source.partition("-")
        where = f"127.0.0.1:{self.port}" if kind == "gdb" else str(self.folder / variant)
        return registry.load().open_memory(f"{kind}:{where}")


@pytest.fixture(scope="module")
def machine(kernel: KernelSetup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    control, port = folder / "qmp", qmp.free_port()
    hardware = ("-device", "vmcoreinfo", *qmp.options(control), "-gdb", f"tcp:127.0.0.1:{port}")
    tree = kernel.image / "modules"
    files = module_files(tree)
    load = f"insmod {files['qemu_fw_cfg']} && insmod {files['dummy']}"
    with Guest.boot(
        kernel.image / "vmlinuz", tree, memory=320, hardware=hardware, arguments=("pti=on",), timeout=200
    ) as guest:
        assert guest.run(load).held
        (guest.share / "inside.py").write_text(INSIDE)
        result = guest.run(f"{sys.executable} {SHARE}/inside.py", timeout=300)
        assert result.held, result.output
        listed = parse_text(guest.run("cat /proc/kallsyms").output.encode())
        for name, options in (
            ("physical", {"paging": False}),
            ("virtual", {"paging": True}),
            ("zlib", {"paging": False, "format": "kdump-zlib"}),
        ):
            qmp.ask(control, "dump-guest-memory", protocol=f"file:{folder / name}", **options)
        kcore = json.loads((guest.share / "kcore").read_text())
        yield Machine(guest, control, port, folder, listed, kcore)


@pytest.fixture(scope="module")
def kdumped(machine: Machine) -> Path:
    """The machine as its kdump kernel would show it to makedumpfile."""
    file = machine.folder / "vmcore"
    vmcore.write(machine.folder / "physical", machine.open("core-physical"), file)
    return file


@pytest.fixture(scope="module")
def sources(machine: Machine) -> dict[str, MemorySource]:
    return {name: machine.open(name) for name in LIVE}


def identity(entry: BookEntry) -> tuple[str, int, str, int]:
    """An entry but for its kind: whether a module exports a symbol is not in its symbol table."""
    return entry.name, entry.address, entry.owner, entry.position


@pytest.mark.parametrize("name", LIVE)
def test_symbols_are_those_the_kernel_lists_itself_modules_and_positions_included(
    machine: Machine, sources: dict[str, MemorySource], name: str
) -> None:
    ours = sources[name].address_book()
    theirs = [each for each in machine.listed.entries if not each.owner.startswith(("bpf", "__builtin"))]
    assert [identity(each) for each in ours.entries] == [identity(each) for each in theirs]
    assert {each.owner for each in ours.entries} >= {"vmlinux", "9p", "9pnet_virtio", "qemu_fw_cfg", "dummy"}
    kinds = [(each.kind, own.kind) for each, own in zip(theirs, ours.entries, strict=True)]
    assert all(a.lower() == b.lower() for a, b in kinds)


@pytest.mark.parametrize("name", LIVE)
def test_code_and_constants_are_the_same_through_every_source(
    machine: Machine, sources: dict[str, MemorySource], name: str
) -> None:
    memory, book = sources[name], machine.listed
    for first, last in CONSTANT:
        start, stop = book.address(first), book.address(last)
        assert start is not None
        assert stop is not None
        assert stop - start > 1 << 22
        whole = memory.read(start, stop - start)
        assert whole is not None
        assert hashlib.sha256(whole).hexdigest() == machine.kcore["bytes"][first]  # type: ignore[index]
        assert memory.read(start + 4097, 77) == whole[4097 : 4097 + 77]
    module = book.named("p9_client_create", "9pnet")[0].address
    code = memory.read(module, 64)
    assert code is not None
    assert code.hex() == machine.kcore["module"]


@pytest.mark.parametrize("name", LIVE)
def test_every_source_knows_the_kernel_and_where_it_is(
    kernel: KernelSetup, machine: Machine, sources: dict[str, MemorySource], name: str
) -> None:
    memory, facts = sources[name], sources[name].facts()
    image = registry.load().open_memory(f"image:{kernel.image / 'vmlinuz'}")
    still = image.facts()
    assert (facts.release, facts.version, facts.machine) == (kernel.abi, still.version, "x86_64")
    assert facts.build_id == still.build_id == machine.kcore["build_id"]
    assert facts.structures == still.structures
    assert not memory.pristine
    moved = memory.address_book().address("_text")
    linked = image.address_book().address("_text")
    assert moved is not None
    assert linked is not None
    assert moved != linked, "this boot has no KASLR"
    assert any(each.address <= moved < each.address + each.size for each in memory.extents())
    banner = memory.address_book().address("linux_banner")
    assert banner is not None
    assert (memory.read(banner, 14), banner - moved) == (
        b"Linux version ",
        (image.address_book().address("linux_banner") or 0) - linked,
    )


@pytest.mark.parametrize("name", LIVE)
def test_what_is_not_mapped_does_not_exist_in_any_source(sources: dict[str, MemorySource], name: str) -> None:
    memory = sources[name]
    last = memory.extents()[-1]
    for address, size in ((0, 8), (last.address + last.size - 4, 8), (last.address - 4, 8), (1 << 63, 1)):
        assert memory.read(address, size) is None
    for each in memory.extents():
        assert memory.read(each.address + each.size - 8, 8) is not None


def test_kcore_agrees_about_what_is_not_there(machine: Machine, sources: dict[str, MemorySource]) -> None:
    assert machine.kcore["unmapped"] is True
    assert machine.kcore["pristine"] is False
    image = sources["core-physical"].extents()[0]
    extents = machine.kcore["extents"]
    assert any(a <= image.address and image.address + (2 << 20) <= a + b for a, b in extents)  # type: ignore[attr-defined]


def test_the_image_differs_where_the_kernel_moved_or_rewrote_itself_only(
    kernel: KernelSetup, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every function of a real unit matches in the image and in each source, at places one slide apart."""
    config = read_config(kernel.config)
    built = kbuild.build(config, kernel.source, read_patch(EXAMPLE), say=print)
    (unit,) = built.units
    found = {}
    (machine.folder / "pre.o").write_bytes(unit.pre)
    for name in (f"image:{kernel.image / 'vmlinuz'}", *LIVE):
        where = name if ":" in name else machine.open(name).name
        capsys.readouterr()
        status = run_command("match", [str(machine.folder / "pre.o"), "--memory", where, "--json"], "kdiff")
        result = json.loads(capsys.readouterr().out)
        assert status == 0, result
        assert {each["key"] for each in result["open"]} <= {"solve.freed"}
        assert not result["open"] or not name.startswith("image:")
        found[name] = {each["name"]: each["address"] for each in result["matched"]}
    image, *others = found.values()
    assert image
    assert all(len(other) > 50 and other.keys() <= image.keys() for other in others)
    slides = {other[each] - image[each] for other in others for each in other}
    assert len(slides) == 1
    assert slides != {0}


@pytest.mark.parametrize("name", LIVE)
def test_every_function_of_a_loaded_module_matches_in_its_memory(
    kernel: KernelSetup, machine: Machine, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = read_patch(PATCHES / "dummy_mtu.patch")
    (unit,) = kbuild.build(read_config(kernel.config), kernel.source, patch, say=print).units
    assert unit.target == "dummy"
    (machine.folder / "dummy.o").write_bytes(unit.pre)
    words = [str(machine.folder / "dummy.o"), "--memory", machine.open(name).name, "--json"]
    capsys.readouterr()
    assert run_command("match", [*words, "--module", "dummy"], "kdiff") == 0
    result = json.loads(capsys.readouterr().out)
    matched = {each["name"]: each["address"] for each in result["matched"] if each["kind"] == "function"}
    listed = {each.name: each.address for each in machine.listed.entries if each.owner == "dummy"}
    assert {"dummy_setup", "dummy_xmit", "dummy_get_stats64"} <= matched.keys()
    assert all(listed[function] == address for function, address in matched.items())
    assert {each["key"] for each in result["open"]} <= {"solve.freed"}
    assert run_command("match", [*words, "--module", "absent"], "kdiff") == 1
    assert "no symbols of a module absent" in capsys.readouterr().err


def test_an_update_is_created_against_a_dump_as_against_the_image(
    kernel: KernelSetup, machine: Machine
) -> None:
    image, dump = (
        make(kernel, EXAMPLE, memory=memory).manifest
        for memory in (f"image:{kernel.image / 'vmlinuz'}", f"core:{machine.folder / 'zlib'}")
    )
    for part in ("replaced", "borrowed"):
        names = [[each["name"] for each in found[part]] for found in (image, dump)]
        assert names[0] == names[1] != []


def test_every_function_of_a_modules_file_matches_in_it(
    kernel: KernelSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = read_patch(PATCHES / "bridge_mtu.patch")
    (unit,) = kbuild.build(read_config(kernel.config), kernel.source, patch, say=print).units
    (tmp_path / "pre.o").write_bytes(unit.pre)
    file = module_files(kernel.image / "modules")[unit.target]
    memory = f"image:{kernel.image / 'vmlinuz'}"
    words = [str(tmp_path / "pre.o"), "--memory", memory, "--json", "--module", file]
    assert run_command("match", words, "kdiff") == 1
    assert "--symvers" in capsys.readouterr().err
    assert (
        run_command("match", [*words, "--symvers", str(kernel.config / "build/Module.symvers")], "kdiff") == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert not result["open"]
    assert "br_change_mtu" in {each["name"] for each in result["matched"]}


@pytest.mark.parametrize("options", ["", "-c", "-l", "-E", "-F -c"])
def test_a_dump_by_makedumpfile_holds_the_kernel_without_the_pages_it_left_out(
    machine: Machine, sources: dict[str, MemorySource], kdumped: Path, options: str
) -> None:
    whole, file = sources["core-physical"], kdumped
    if options:
        file = machine.folder / "reduced"
        file.unlink(missing_ok=True)
        words = ["makedumpfile", *options.split(), "-d", "31", str(kdumped)]
        with (machine.folder / "stream").open("wb") as stream:
            made = [] if "-F" in options else [str(file)]
            subprocess.run([*words, *made], stdout=stream, check=True, timeout=120)
        if "-F" in options:
            (machine.folder / "stream").rename(file)
        assert file.stat().st_size < kdumped.stat().st_size // 2
    memory = registry.load().open_memory(f"core:{file}")
    assert memory.facts() == whole.facts()
    assert memory.address_book().entries == whole.address_book().entries
    start, stop = machine.listed.address("_stext"), machine.listed.address("_etext")
    assert start is not None
    assert stop is not None
    assert memory.read(start, stop - start) == whole.read(start, stop - start) is not None
    left_out = 0
    for each in whole.extents():
        for address in range(each.address, each.address + each.size, 4096):
            page = memory.read(address, 4096)
            left_out += page is None
            assert page is None or page == whole.read(address, 4096)
    assert (left_out > 0) == bool(options)


def test_a_machine_that_ran_runs_on_after_it_was_read(machine: Machine) -> None:
    machine.open("gdb")
    assert qmp.ask(machine.control, "query-status")["status"] == "running"
    assert machine.guest.run("echo alive").output == "alive\n"


def test_a_machine_that_was_stopped_stays_stopped_after_it_was_read(machine: Machine) -> None:
    qmp.ask(machine.control, "stop")
    try:
        memory = machine.open("gdb")
        assert qmp.ask(machine.control, "query-status")["status"] == "paused"
        assert memory.facts().machine == "x86_64"
    finally:
        qmp.ask(machine.control, "cont")
    assert machine.guest.run("echo alive").output == "alive\n"


def test_a_kernel_is_found_while_its_processors_run_user_code(machine: Machine) -> None:
    """With page table isolation their own tables do not map the kernel then."""
    loop = "sh -c 'while :; do :; done' >/dev/null 2>&1 &"
    busy = machine.guest.run(f"{loop} one=$!; {loop} echo $one $!").output
    try:
        assert any(user_code(machine) for _ in range(50))
        memory = machine.open("gdb")
    finally:
        machine.guest.run(f"kill {busy}")
    assert len(memory.address_book().entries) > 90_000
    assert memory.extents() == machine.open("core-physical").extents()


def user_code(machine: Machine) -> bool:
    """Whether the first processor, after it ran a moment, uses the tables that user code has."""
    time.sleep(0.1)
    with Stub("127.0.0.1", machine.port, "gdb") as stub:
        return bool(stub.register("cr3") & 0x1000)


def test_physical_addresses_are_for_the_session_only(machine: Machine) -> None:
    """The mode belongs to the stub, not to the connection: a debugger that comes later must not meet it."""
    machine.open("gdb")
    later = Connection("127.0.0.1", machine.port, "later")
    assert later.ask(b"qqemu.PhyMemMode") == b"0"
    assert later.ask(b"D") == b"OK"
    later.close()


def symbols(source: str) -> AddressBook:
    return registry.load().open_memory(source).address_book()


def test_a_dump_cut_off_anywhere_is_an_error(machine: Machine) -> None:
    for name in ("physical", "zlib"):
        data = (machine.folder / name).read_bytes()
        for part in (0, 3, 64, 1000, 4096, len(data) // 2, len(data) - 5000):
            (machine.folder / "short").write_bytes(data[:part])
            with pytest.raises(KdiffError) as caught:
                symbols(f"core:{machine.folder / 'short'}")
            assert caught.value.key.partition(".")[0] in ("core", "image", "memory")
            assert caught.value.remedy or caught.value.key == "image.truncated"

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from kdiff import setup
from kdiff.addressbook import AddressBook
from kdiff.distribution import KernelSetup, Say
from kdiff.errors import KdiffError
from kdiff.habits import NO_HABITS
from kdiff.kernel import KernelFacts
from kdiff.memory import MemoryScheme
from kdiff.registry import Registry

BOOK = AddressBook(
    [("second", 0xFFFFFFFF81000010, "t", "vmlinux"), ("first", 0xFFFFFFFF81000000, "T", "vmlinux")]
)


class Image:
    name = "image:"
    pristine = True

    def read(self, address: int, size: int) -> bytes | None:
        return None

    def address_book(self) -> AddressBook:
        return BOOK

    def facts(self) -> KernelFacts:
        return KernelFacts()


class Distro:
    def __init__(self, id: str, served: tuple[str, ...] = ("5.0-1", "5.0-2")) -> None:
        self.id = id
        self.served = served
        self.calls = 0

    def newest(self) -> str:
        return self.served[-1]

    def serves(self, abi: str) -> bool:
        return abi in self.served

    def setup(self, abi: str, dest: Path, say: Say) -> KernelSetup:
        self.calls += 1
        for name in ("config", "source", "image"):
            (dest / name).mkdir(exist_ok=True)
        (dest / "image/vmlinuz").touch()
        return KernelSetup(abi, "5.0", dest / "config", dest / "source", dest / "image")


def registry_with(*distros: Distro) -> Registry:
    empty: Mapping[object, object] = MappingProxyType({})
    return Registry(
        architectures=empty,
        memory_schemes={"image": MemoryScheme("image", "", lambda path, known: Image())},
        emitters={},
        distributions={each.id: each for each in distros},
        special_sections=lambda facts: {},
        habits=lambda facts: NO_HABITS,
    )


@pytest.fixture
def distro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distro:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Distro("debian")
    monkeypatch.setattr(setup, "distribution", lambda registry: made)
    return made


def quiet(text: str) -> None:
    pass


def test_system_map_is_made_from_the_images_own_symbols(distro: Distro, tmp_path: Path) -> None:
    made = setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    text = (made.config / "System.map").read_text()
    assert text == "ffffffff81000000 T first\nffffffff81000010 t second\n"


def test_a_complete_directory_is_returned_without_asking_anybody(distro: Distro, tmp_path: Path) -> None:
    first = setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    assert setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet) == first
    assert distro.calls == 1


def test_an_interrupted_setup_is_not_complete(
    distro: Distro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(book: AddressBook) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(setup, "format_system_map", broken)
        with pytest.raises(KeyboardInterrupt):
            setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    assert setup.recorded(tmp_path / "dir") is None
    made = setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    assert (made.config / "System.map").exists()


def test_a_directory_is_for_one_kernel_only(distro: Distro, tmp_path: Path) -> None:
    setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    with pytest.raises(KdiffError) as caught:
        setup.make(registry_with(distro), setup.Wanted("5.0-2", tmp_path / "dir"), quiet)
    assert caught.value.key == "setup.occupied"


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / setup.RECORD).write_text("{")
    with pytest.raises(KdiffError) as caught:
        setup.recorded(tmp_path)
    assert caught.value.key == "setup.record"


def test_a_directory_may_move_with_its_record(distro: Distro, tmp_path: Path) -> None:
    setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    (tmp_path / "dir").rename(tmp_path / "moved")
    held = setup.recorded(tmp_path / "moved")
    assert held is not None
    assert held.config == tmp_path / "moved/config"


def test_without_a_name_the_running_kernel_is_meant_if_it_is_served(
    distro: Distro, monkeypatch: pytest.MonkeyPatch
) -> None:
    distro.served = (os.uname().release, "9.9-9")
    assert setup.choose(registry_with(distro), None, None).abi == os.uname().release


def test_without_a_name_the_newest_is_meant_if_the_running_one_is_not_served(distro: Distro) -> None:
    wanted = setup.choose(registry_with(distro), None, None)
    assert wanted == setup.Wanted("5.0-2", setup.default_destination("5.0-2"))


def test_without_a_name_a_directorys_own_kernel_is_meant(distro: Distro, tmp_path: Path) -> None:
    setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    assert setup.choose(registry_with(distro), None, tmp_path / "dir").abi == "5.0-1"


def test_the_default_place_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert setup.default_destination("6.1") == tmp_path / "kdiff/setups/6.1"


def test_a_derived_distribution_uses_its_parents_plugin(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text('NAME="Y"\nID=ours\nID_LIKE="other debian"\n')
    debian = Distro("debian")
    assert setup.distribution(registry_with(debian), tmp_path / "os-release") is debian


def test_an_unknown_distribution_is_an_error_that_names_the_known(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text("ID=plan9\n")
    with pytest.raises(KdiffError) as caught:
        setup.distribution(registry_with(Distro("debian")), tmp_path / "os-release")
    assert caught.value.key == "setup.distribution"
    assert "plan9" in str(caught.value)
    assert "debian" in str(caught.value)


def test_the_next_command_names_the_made_directories(distro: Distro, tmp_path: Path) -> None:
    made = setup.make(registry_with(distro), setup.Wanted("5.0-1", tmp_path / "dir"), quiet)
    line = setup.create_line(made)
    assert line == f"ksplice-create --patch=FILE.patch --config={tmp_path}/dir/config {tmp_path}/dir/source"
    assert json.loads((tmp_path / "dir" / setup.RECORD).read_text())["abi"] == "5.0-1"


@pytest.mark.kernel
def test_a_real_setup_is_complete_enough_to_build_a_module(kernel: KernelSetup, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("obj-m := hello.o\n")
    (tmp_path / "hello.c").write_text('#include <linux/module.h>\nMODULE_LICENSE("GPL");\n')
    build = ["make", "-s", "-C", str(kernel.config / "build"), f"M={tmp_path}", "modules"]
    subprocess.run(build, check=True, capture_output=True)
    assert f"vermagic={kernel.abi} ".encode() in (tmp_path / "hello.ko").read_bytes()


@pytest.mark.kernel
def test_a_real_system_map_holds_the_kernels_functions(kernel: KernelSetup) -> None:
    lines = (kernel.config / "System.map").read_text().splitlines()
    assert len(lines) > 50_000
    assert lines == sorted(lines, key=lambda line: line.split()[0])
    assert {"tcp_v4_rcv", "_text", "_etext"} <= {line.split()[2] for line in lines}

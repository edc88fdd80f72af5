# SPDX-License-Identifier: Apache-2.0
"""A module's file laid out behind a stock kernel's image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdiff import registry
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.elf.read import Object, read_bytes
from kdiff.errors import KdiffError
from kdiff.exports import read_symvers
from kdiff.kernel import KernelFacts
from kdiff.loaded import LoadedModule, load
from kdiff.memory import MemorySource
from kdiff.module_files import contents, module_files
from kdiff.readonly import ReadOnly
from kdiff.running import find_memory

pytestmark = pytest.mark.kernel

ELSEWHERE = 0xFFFFFFFFC0001000


class Alive:
    """The image, as a kernel that has loaded modules: `lines` are theirs in kallsyms."""

    def __init__(self, memory: MemorySource, release: str = "", lines: tuple[str, ...] = ()) -> None:
        self.name, self.pristine, self.read = memory.name, memory.pristine, memory.read
        self.extents = memory.extents
        self._facts = replace(memory.facts(), release=release or memory.facts().release)
        self._book = memory.address_book().joined((name, ELSEWHERE, "t", "dummy") for name in lines)

    def address_book(self) -> AddressBook:
        return self._book

    def facts(self) -> KernelFacts:
        return self._facts


def loaded(kernel: KernelSetup, name: str, release: str = "", lines: tuple[str, ...] = ()) -> LoadedModule:
    plugins, config = registry.load(), read_config(kernel.config)
    files = module_files(kernel.image / "modules")

    def architecture(obj: Object) -> object:
        return plugins.architecture(obj.machine, obj.byte_order, obj.path)

    return load(
        Alive(plugins.open_memory(find_memory(config)), release, lines), name, contents(files[name]), name,
        architecture,  # type: ignore[arg-type]  # an Architecture
        read_symvers(config.headers / "Module.symvers"), lambda other: (contents(files[other]), other),
    )  # fmt: skip


def test_its_symbols_lie_behind_the_kernel_and_hold_the_files_bytes(kernel: KernelSetup) -> None:
    module = loaded(kernel, "dummy")
    book = module.address_book()
    (setup,) = book.named("dummy_setup", "dummy")
    end = book.address("_end")
    assert end is not None
    assert setup.address > end
    code = module.read(setup.address, 5)
    assert code is not None
    target = setup.address + 5 + int.from_bytes(code[1:], "little", signed=True)
    assert [each.name for each in book.at(target)] == ["__fentry__"]
    assert module.place(setup.address) is not None
    assert module.place(end - 1) is None
    assert "init_module" in module.boot_names


@pytest.mark.parametrize("name", ["nf_conntrack_bridge", "dummy"])
def test_each_symbol_is_placed_in_its_own_section(kernel: KernelSetup, name: str) -> None:
    """The first function of .text lies where .note.Linux would end."""
    module = loaded(kernel, name)
    obj = read_bytes(contents(module_files(kernel.image / "modules")[name]), name)
    homes: dict[str, list[str]] = {}
    for index, home in enumerate(obj.symbols["section"].tolist()):
        homes.setdefault(obj.symbol_name(index), []).append(obj.section_name(home) if home < 0xFF00 else "")
    listed = [each for each in module.address_book().entries if each.owner == name and each.kind in "tTdD"]
    assert len(listed) > 5
    for entry in listed:
        place = module.place(entry.address)
        assert place is not None
        assert place.section in homes[entry.name], entry.name


def test_constants_are_looked_for_where_neither_the_module_nor_the_kernel_writes(kernel: KernelSetup) -> None:
    module = loaded(kernel, "dummy")
    book = module.address_book()
    plugins = registry.load()
    constant = ReadOnly(plugins.habits(module.facts()), module, book, "little")
    places = ((each.address, module.place(each.address)) for each in module.extents())
    starts = {place.section: address for address, place in places if place is not None}
    assert {name for name, at in starts.items() if constant.holds(at, 1)} >= {
        ".text",
        ".rodata",
        ".rodata.str1.1",
    }
    assert not {".data", ".bss"} & {name for name, at in starts.items() if constant.holds(at, 1)}
    banner, init_task = book.address("linux_banner"), book.address("init_task")
    assert banner is not None
    assert init_task is not None
    assert constant.holds(banner, 8)
    assert not constant.holds(init_task, 8)


def test_imports_from_other_modules_are_listed_as_theirs(kernel: KernelSetup) -> None:
    book = loaded(kernel, "bridge").address_book()
    assert {each.owner for each in book.of_any("stp_proto_register")} == {"stp"}
    assert {each.owner for each in book.entries} == {KERNEL, "bridge", "stp", "llc"}


def test_a_kernel_that_has_loaded_it_does_not_list_it_twice(kernel: KernelSetup) -> None:
    book = loaded(kernel, "dummy", lines=("dummy_setup", "dummy_xmit")).address_book()
    (setup,) = book.named("dummy_setup", "dummy")
    assert setup.address != ELSEWHERE
    assert book.sympos(setup) == 0


def test_a_module_for_another_kernel_is_an_error(kernel: KernelSetup) -> None:
    with pytest.raises(KdiffError) as caught:
        loaded(kernel, "dummy", release="6.1.0-1-amd64")
    assert caught.value.key == "module.other_kernel"

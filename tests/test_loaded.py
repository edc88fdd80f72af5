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
from kdiff.loaded import Line, LoadedModule, load
from kdiff.matchable import graph_to_match
from kdiff.memory import MemorySource
from kdiff.module_files import contents, module_files
from kdiff.module_listing import listing
from kdiff.original import fixed
from kdiff.readonly import ReadOnly
from kdiff.running import find_memory
from kdiff.targets import Targets

pytestmark = pytest.mark.kernel

ELSEWHERE = 0xFFFFFFFFC0001000


class Alive:
    """The image, as a kernel that has loaded modules: `lines` are theirs in kallsyms."""

    def __init__(self, memory: MemorySource, release: str = "", lines: tuple[Line, ...] = ()) -> None:
        self.name, self.pristine, self.read = memory.name, memory.pristine, memory.read
        self.extents = memory.extents
        self._facts = replace(memory.facts(), release=release or memory.facts().release)
        self._book = memory.address_book().joined(lines)

    def address_book(self) -> AddressBook:
        return self._book

    def facts(self) -> KernelFacts:
        return self._facts


def loaded(
    kernel: KernelSetup, name: str, release: str = "", lines: tuple[Line, ...] = (), in_use: bool = False
) -> LoadedModule:
    plugins, config = registry.load(), read_config(kernel.config)
    files = module_files(kernel.image / "modules")

    def architecture(obj: Object) -> object:
        return plugins.architecture(obj.machine, obj.byte_order, obj.path)

    return load(
        Alive(plugins.open_memory(find_memory(config)), release, lines), name, contents(files[name]), name,
        architecture,  # type: ignore[arg-type]  # an Architecture
        read_symvers(config.headers / "Module.symvers"), lambda other: (contents(files[other]), other),
        in_use,
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
    lines = tuple((name, ELSEWHERE, "t", "dummy") for name in ("dummy_setup", "dummy_xmit"))
    book = loaded(kernel, "dummy", lines=lines).address_book()
    (setup,) = book.named("dummy_setup", "dummy")
    assert setup.address != ELSEWHERE
    assert book.sympos(setup) == 0


def in_kallsyms(kernel: KernelSetup, *names: str) -> tuple[Line, ...]:
    """What a kernel lists that has loaded these modules, each section at a place of its own."""
    files = module_files(kernel.image / "modules")
    return tuple(
        (row.name, ELSEWHERE + (number << 24) + (row.section << 16) + row.offset, row.letter.lower(), name)
        for number, name in enumerate(names)
        for row in listing(read_bytes(contents(files[name]), name))
    )


def test_a_module_in_use_lies_where_the_kernel_has_it(kernel: KernelSetup) -> None:
    stray = ("stray", ELSEWHERE + (1 << 28), "t", "ksplice_first")
    lines = (*in_kallsyms(kernel, "dummy"), stray)
    module, behind = loaded(kernel, "dummy", lines=lines, in_use=True), loaded(kernel, "dummy")
    book = module.address_book()
    listed = [(each.name, each.address) for each in book.entries if each.owner == "dummy"]
    assert listed == [(name, address) for name, address, _, owner in lines if owner == "dummy"]
    (setup,), (there,) = (each.address_book().named("dummy_setup", "dummy") for each in (module, behind))
    assert module.place(setup.address) == behind.place(there.address)
    code = module.read(setup.address, 5)
    assert code is not None
    target = setup.address + 5 + int.from_bytes(code[1:], "little", signed=True)
    assert [each.name for each in book.at(target)] == ["__fentry__"]
    assert [each.owner for each in book.at(stray[1])] == ["ksplice_first"]
    assert book.of_any("stray") == ()
    sections = {place.section for each in module.extents() if (place := module.place(each.address))}
    assert sections >= {".text", ".rodata", ".rodata.str1.1", ".data"}


@pytest.mark.parametrize("moved", [False, True])
def test_it_is_looked_for_where_the_kernel_has_it_once_a_live_patch_has_changed_it(
    kernel: KernelSetup, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    plugins, config = registry.load(), read_config(kernel.config)
    lines = in_kallsyms(kernel, "dummy", "brd")
    owner = "dummy" if moved else "brd"
    changed = {next(line[1] for line in lines if line[3] == owner and line[2] == "t"): ELSEWHERE + (1 << 28)}
    monkeypatch.setattr("kdiff.targets.redirected", lambda memory: changed)
    found = Targets(
        config, Alive(plugins.open_memory(find_memory(config)), lines=lines),
        read_symvers(config.headers / "Module.symvers"),
        lambda obj: plugins.architecture(obj.machine, obj.byte_order, obj.path),
    ).module("dummy")  # fmt: skip
    assert found is not None
    assert found.pristine is not moved
    (setup,) = found.address_book().named("dummy_setup", "dummy")
    assert (setup.address >= ELSEWHERE) is moved


def test_imports_of_a_module_in_use_are_where_the_kernel_has_them(kernel: KernelSetup) -> None:
    lines = in_kallsyms(kernel, "bridge", "stp", "llc")
    book = loaded(kernel, "bridge", lines=lines, in_use=True).address_book()
    (register,) = book.of_any("stp_proto_register")
    assert (register.name, register.address, register.owner) in [(n, a, o) for n, a, _, o in lines]
    assert register.kind == "T"
    twice = (*lines, ("stp_proto_register", register.address + 16, "t", "stp"))
    for other in (in_kallsyms(kernel, "bridge", "stp"), twice):
        with pytest.raises(KdiffError) as caught:
            loaded(kernel, "bridge", lines=other, in_use=True)
        assert caught.value.key == "module.import"


@pytest.mark.parametrize("name", ["dummy", "bridge"])
def test_a_modules_own_code_is_told_but_for_what_the_loader_and_the_kernel_write(
    kernel: KernelSetup, name: str
) -> None:
    plugins, module = registry.load(), loaded(kernel, name)
    arch = plugins.architecture(module.file.machine, module.file.byte_order, name)
    facts = module.facts()
    graph = graph_to_match(module.file, arch, plugins.special_sections(facts), plugins.habits(facts))
    functions = [e for e in module.address_book().entries if e.owner == name and e.kind in "tT"]
    told = 0
    for entry in functions:
        place = module.place(entry.address)
        assert place is not None
        code, known = fixed(graph, place.section, place.offset)
        there = module.read(entry.address, len(code))
        assert there is not None
        assert bytes(a & b for a, b in zip(there, known, strict=True)) == code
        traced = there[:1] == b"\xe8"
        assert not (traced and any(known[:5])), entry.name
        told += any(known)
    assert told > len(functions) * 9 // 10


def test_a_module_for_another_kernel_is_an_error(kernel: KernelSetup) -> None:
    with pytest.raises(KdiffError) as caught:
        loaded(kernel, "dummy", release="6.1.0-1-amd64")
    assert caught.value.key == "module.other_kernel"

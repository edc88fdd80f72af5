# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from typing import Literal

import pytest
from compiled import UNIT, compiled
from elfwriter import FUNC, GLOBAL, LIVEPATCH, Sec, Sym, relocatable
from elfwriter import elf as object_of
from fakeimage import elf
from liefreader import Seen

from kdiff.arch import ByteOrder
from kdiff.distribution import KernelSetup
from kdiff.elf.second import ModuleDescription, describe_module
from kdiff.elf.write import write
from kdiff.errors import KdiffError

PARTS = (
    Sec(".text", b"\xe8\0\0\0\0\xc3", "ax", relocs=((1, 4, "printk", -4),)),
    Sec(
        ".text.klp",
        b"\xe8\0\0\0\0\xc3",
        "ax",
        more=((".klp.rela.vmlinux..text.klp", 0x100002, ((1, 4, ".klp.sym.vmlinux.f,0", -4),)),),
    ),
    Sec(".modinfo", b"license=GPL\0livepatch=Y\0alias=a\0alias=b\0nonsense\0", "a"),
    Sec(".data", bytes(16), "aw", relocs=((0, 1, ".text", 1), (8, 1, "go", 0))),
    Sym("go", ".text", size=6, type=FUNC, binding=GLOBAL),
    Sym(".klp.sym.vmlinux.f,0", LIVEPATCH, binding=GLOBAL),
)
MODULE = object_of(*PARTS)
CLASS: tuple[Literal[32, 64], ...] = (32, 64)
ORDER: tuple[ByteOrder, ...] = ("little", "big")


def key_of(data: bytes) -> str:
    with pytest.raises(KdiffError) as caught:
        describe_module(data, "a.ko")
    assert caught.value.place == "a.ko"
    return caught.value.key


def with_header(name: str, field: str, value: int) -> bytes:
    """The module with one field of a section's header overwritten."""
    fields = ("name", "type", "flags", "addr", "offset", "size", "link", "info", "align", "entsize")
    offsets = dict(zip(fields, (0, 4, 8, 16, 24, 32, 40, 44, 48, 56), strict=True))
    index = [each.name for each in describe_module(MODULE).sections].index(name)
    place = struct.unpack_from("<Q", MODULE, 40)[0] + 64 * index + offsets[field]
    form = "<I" if field in ("name", "type", "link", "info") else "<Q"
    changed = bytearray(MODULE)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


def check(ours: ModuleDescription, theirs: Seen) -> None:
    assert (ours.machine, ours.sections) == (theirs.machine, theirs.sections)
    assert (ours.undefined, ours.livepatch) == (theirs.undefined, theirs.livepatch)
    assert sorted(map(repr, ours.relocations)) == sorted(map(repr, theirs.relocations))


def test_a_module_is_described_by_what_its_author_wrote() -> None:
    module = describe_module(MODULE)
    assert dict(module.modinfo) == {"license": ("GPL",), "livepatch": ("Y",), "alias": ("a", "b")}
    assert module.undefined == ("printk",)
    assert module.livepatch == (".klp.sym.vmlinux.f,0",)
    assert {(r.section, r.offset, r.type, r.symbol, r.addend) for r in module.relocations} == {
        (".text", 1, 4, "printk", -4),
        (".text.klp", 1, 4, ".klp.sym.vmlinux.f,0", -4),
        (".data", 0, 1, ".text", 1),
        (".data", 8, 1, "go", 0),
    }
    flags = {section.name: section.flags for section in module.sections}
    assert flags[".text"] == 6
    assert flags[".klp.rela.vmlinux..text.klp"] & 0x100002 == 0x100002


@pytest.mark.parametrize("order", ORDER)
@pytest.mark.parametrize("elf_class", CLASS)
def test_every_class_and_byte_order_says_the_same(elf_class: Literal[32, 64], order: ByteOrder) -> None:
    machine = {32: 40, 64: 62}[elf_class] if order == "little" else {32: 8, 64: 22}[elf_class]
    kinds = {"printk": 2, "go": 3}
    parts = (
        Sec(".text", bytes(16), "ax", relocs=tuple((8, kinds[name], name, -4) for name in kinds)),
        Sym("go", ".text", value=4, type=FUNC, binding=GLOBAL),
    )
    module = describe_module(object_of(*parts, machine=machine, elf_class=elf_class, byte_order=order))
    assert (module.machine, module.undefined) == (machine, ("printk",))
    found = {(each.offset, each.type, each.symbol) for each in module.relocations}
    assert found == {(8, 2, "printk"), (8, 3, "go")}


@pytest.mark.parametrize("options", [(), ("-g",), ("-m32", "-mcmodel=32"), ("-O0", "-ffunction-sections")])
def test_lief_sees_the_same_in_objects_of_the_compiler(options: tuple[str, ...]) -> None:
    data = compiled(UNIT, *options)
    check(describe_module(data), Seen(data))
    assert len(describe_module(data).relocations) > 3


def test_lief_sees_the_same_in_a_live_patch() -> None:
    check(describe_module(MODULE), Seen(MODULE))


def test_more_sections_than_the_elf_header_can_count_are_all_read() -> None:
    many = [Sec(f".text.{number}", b"\xc3", "ax") for number in range(65_300)]
    last = Sec(".data", bytes(8), "aw", relocs=((0, 1, many[-1].name, 0), (0, 1, "printk", 0)))
    module = describe_module(write(relocatable(*many, last)))
    assert [each.name for each in module.sections].count(".data") == 1
    assert [each.symbol for each in module.relocations] == [".text.65299", "printk"]
    assert module.undefined == ("printk",)


def test_a_module_cut_off_anywhere_is_an_error() -> None:
    for size in range(0, len(MODULE), 13):
        assert key_of(MODULE[:size]) in ("image.not_elf", "module.truncated")


def test_an_executable_is_no_module() -> None:
    assert key_of(elf([(0x1000, b"text", 0)])) == "module.type"


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (".rela.text", "info", 0),
        (".rela.text", "info", 99),
        (".rela.text", "link", 1),
        (".rela.text", "entsize", 16),
        (".rela.text", "size", 25),
        (".symtab", "link", 0),
        (".symtab", "entsize", 0),
        (".strtab", "size", 3),
        (".text", "name", 1 << 20),
        (".text", "size", 0),
    ],
)
def test_what_contradicts_itself_is_an_error(section: str, field: str, value: int) -> None:
    assert key_of(with_header(section, field, value)) == "module.unsound"


@pytest.mark.parametrize("symbol", [1 << 20, 99])
def test_a_relocation_of_no_symbol_is_an_error(symbol: int) -> None:
    header = next(each for each in describe_module(MODULE).sections if each.name == ".rela.text")
    changed = bytearray(MODULE)
    struct.pack_into("<Q", changed, header.offset + 8, symbol << 32 | 4)
    assert key_of(bytes(changed)) == "module.unsound"


@pytest.mark.kernel
def test_lief_sees_the_same_in_the_modules_of_a_real_kernel(kernel: KernelSetup) -> None:
    files = sorted((kernel.image / "modules").glob("**/*.ko"))[::100]
    assert files
    for file in files:
        data = file.read_bytes()
        module = describe_module(data, str(file))
        check(module, Seen(data))
        assert module.modinfo["vermagic"][0].startswith(kernel.abi)

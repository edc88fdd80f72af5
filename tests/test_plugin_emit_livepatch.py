# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from compiled import ASSEMBLY, graph, named
from elfwriter import FILE, FUNC, GLOBAL, LIVEPATCH, LOCAL, NOBITS, Sec, Sym, elf, relocatable
from kdiff_arch_x86_64 import X86_64
from kdiff_emit_livepatch import LivepatchEmitter, arrival, convert, second_reader, workbench
from kdiff_emit_livepatch.stamp import stamp

from kdiff.compiler import find_compiler
from kdiff.confdir import Config, read_config
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.distribution import KernelSetup
from kdiff.elf.model import model
from kdiff.elf.read import read_bytes
from kdiff.elf.write import Relocatable, Relocation, Section, Symbol, write
from kdiff.emit import Workshop
from kdiff.errors import KdiffError, Refusal
from kdiff.graph import SectionGraph, build
from kdiff.guest import Guest
from kdiff.kernel import Keep, KernelFacts, ModuleIdentity, SpecialSection
from kdiff.kernel_log import LogRecord, complaints
from kdiff.plan import Plan, plan
from kdiff.update import Borrowed, How, Replacement, Update

PC32, ABS64, PC8 = 2, 1, 15
CALL = b"\xe8\0\0\0\0"


def borrowed(name: str, position: int = 0, owner: str = "vmlinux") -> Borrowed:
    return Borrowed(f"{name},{owner},1", name, owner, position, 0, How.POSITION, "test")


def exported(name: str) -> Borrowed:
    return Borrowed(name, name, "vmlinux", 0, 0, How.EXPORT, "test")


CARRIED = (
    Sec(".text.f", CALL * 3 + b"\xc3", "ax", 16, relocs=(
        (1, PC32, "seq_puts", -4), (6, PC32, "hidden,vmlinux,1", -4), (11, PC32, ".rodata.str", 2),
    )),
    Sec(".rodata.str", b"a\0b\0"),
    Sec("__mcount_loc", bytes(8), relocs=((0, ABS64, ".text.f", 0),)),
    Sec(".bss.n", type=NOBITS, size=8, flags="wa", align=8),
    Sym("f.ksplice0_1", ".text.f", 0, 16, FUNC, GLOBAL),
)  # fmt: skip


def update(*parts: Sec | Sym, **changes: object) -> Update:
    whole = Update(
        "test0001",
        relocatable(*(parts or CARRIED)),
        (Replacement("f", 2, 0, 16, "f.ksplice0_1", 0, 0),),
        (exported("seq_puts"), borrowed("hidden", 3)),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # the tests' own names


def section(module: Relocatable, name: str) -> Section:
    return next(each for each in module.sections if each.name == name)


# The form livepatch wants -----------------------------------------------------------------------------


def test_only_relocations_of_symbols_that_livepatch_resolves_are_set_apart() -> None:
    module = convert.livepatch(update().carried, update().borrowed)
    text = section(module, ".text.f")
    assert [each.offset for each in text.relocations] == [1, 11]
    (table,) = text.more_relocations
    assert (table.name, table.flags) == (".klp.rela.vmlinux..text.f", 0x100002)
    (late,) = table.relocations
    symbol = module.symbols[late.symbol]
    assert (late.offset, late.addend) == (6, -4)
    assert (symbol.name, symbol.reserved) == (".klp.sym.vmlinux.hidden,3", LIVEPATCH)
    assert section(module, "__mcount_loc").more_relocations == ()


def test_what_is_not_loaded_is_left_out_with_its_symbols() -> None:
    linked = relocatable(
        Sec(".debug_info", b"/a/directory", "", relocs=((0, ABS64, ".text.f", 0),)),
        *CARRIED,
        Sec(".comment", b"gcc", "MS"),
        Sym("unit.c", 0xFFF1, type=FILE, binding=LOCAL),
        Sym("in_debug", ".debug_info", binding=LOCAL),
    )
    module = convert.strip(linked)
    assert [each.name for each in module.sections] == [".text.f", ".rodata.str", "__mcount_loc", ".bss.n"]
    assert {each.name for each in module.symbols} == {"f.ksplice0_1", "seq_puts", "hidden,vmlinux,1", ""}
    arrival.check(update(), convert.livepatch(linked, update().borrowed))


def test_loaded_code_that_needs_a_section_that_is_not_loaded_is_an_error() -> None:
    linked = relocatable(
        Sec(".text", CALL, "ax", relocs=((1, PC32, "in_debug", -4),)),
        Sec(".debug", b"x", ""),
        Sym("in_debug", ".debug"),
    )
    with pytest.raises(KdiffError, match="in_debug") as caught:
        convert.strip(linked)
    assert caught.value.key == "emit.module"


def test_the_generated_header_names_every_function_in_a_fixed_order() -> None:
    rows = (
        Replacement("g", 0, 0, 0, "g.isra.0.ksplice0_7", 0, 7),
        Replacement("f", 2, 0, 0, "f.ksplice0_1", 0, 1),
    )
    text = workbench.header(update(replacements=rows))
    assert text == workbench.header(update(replacements=rows[::-1]))
    assert 'ROW(0, "f", 2, "f.ksplice0_1")' in text
    assert 'ROW(1, "g", 0, "g.isra.0.ksplice0_7")' in text


WRONG_UPDATES = {
    "nothing is replaced": update(replacements=()),
    "which build of module ext4": update(replacements=(replace(update().replacements[0], target="ext4"),)),
    "which build of module jbd2": update(
        borrowed=(exported("seq_puts"), replace(borrowed("hidden"), owner="jbd2", needed_by="jbd2"))
    ),
    "cannot wait for a module": update(modules=(ModuleIdentity("a-b", "", "", ""),)),
    "undefined but not borrowed": update(borrowed=(exported("seq_puts"),)),
    "borrowed but never used": update(borrowed=(*update().borrowed, exported("printk"))),
    "cannot look up": update(borrowed=(exported("seq_puts"), replace(borrowed("hidden"), name="a,b"))),
    "at position -1": update(replacements=(replace(update().replacements[0], position=-1),)),
    "not one global symbol": update(*CARRIED[:-1], Sym("f.ksplice0_1", ".text.f", 0, 16, FUNC, LOCAL)),
}


@pytest.mark.parametrize("why", WRONG_UPDATES)
def test_an_update_that_livepatch_cannot_express_is_an_error(why: str) -> None:
    with pytest.raises(KdiffError, match=why) as caught:
        convert.check_update(WRONG_UPDATES[why])
    assert caught.value.key == "emit.update"


def test_an_update_that_livepatch_can_express_passes() -> None:
    convert.check_update(update())


# Everything arrives -----------------------------------------------------------------------------------


def arrived(tampered: Callable[[Relocatable], Relocatable] = lambda module: module) -> None:
    whole = update()
    arrival.check(whole, tampered(convert.livepatch(whole.carried, whole.borrowed)))


def with_section(module: Relocatable, where: str, **changes: object) -> Relocatable:
    return replace(
        module,
        sections=tuple(
            replace(each, **changes) if each.name == where else each  # type: ignore[arg-type]
            for each in module.sections
        ),
    )


def with_relocation(module: Relocatable, offset: int, **changes: int) -> Relocatable:
    text = section(module, ".text.f")
    return with_section(
        module,
        ".text.f",
        relocations=tuple(
            replace(each, **changes) if each.offset == offset else each for each in text.relocations
        ),
    )


def put_back(module: Relocatable) -> Relocatable:
    """Livepatch's relocation in the module loader's table."""
    text = section(module, ".text.f")
    every = (*text.relocations, *text.more_relocations[0].relocations)
    return with_section(module, ".text.f", relocations=every, more_relocations=())


TAMPERED: dict[str, Callable[[Relocatable], Relocatable]] = {
    "has other contents": lambda m: with_section(m, ".rodata.str", data=b"a\0c\0"),
    "is aligned to 1 bytes": lambda m: with_section(m, ".text.f", align=1),
    "another type or other flags": lambda m: with_section(m, ".rodata.str", flags=3),
    "section __mcount_loc is missing": lambda m: with_section(m, "__mcount_loc", name="elsewhere"),
    r"at \.text\.f\+0x1 is not": lambda m: with_relocation(m, 1, addend=-5),
    r"at \.text\.f\+0xb is not": lambda m: with_relocation(m, 11, symbol=0),
    r"at \.text\.f\+0xc is not": lambda m: with_section(
        m, ".text.f", relocations=(*section(m, ".text.f").relocations, Relocation(12, PC32, 0, 0))
    ),
    r"at \.text\.f\+0x6 is not": lambda m: with_section(m, ".text.f", more_relocations=()),
    "symbols that livepatch resolves": put_back,
    "is defined 0 times": lambda m: replace(
        m, symbols=tuple(replace(s, name="g") if s.name == "f.ksplice0_1" else s for s in m.symbols)
    ),
    "is defined 2 times": lambda m: replace(m, symbols=(*m.symbols, Symbol("f.ksplice0_1", 0))),
    "ELF machine 183": lambda m: replace(m, machine=183),
}


@pytest.mark.parametrize("why", TAMPERED)
def test_a_module_in_which_something_carried_differs_is_an_error(why: str) -> None:
    with pytest.raises(KdiffError, match=why) as caught:
        arrived(TAMPERED[why])
    assert caught.value.key == "emit.lost"


def test_a_module_in_which_nothing_differs_passes() -> None:
    arrived()


def test_sections_of_one_name_are_found_where_the_linker_puts_them(tmp_path: Path) -> None:
    parts = (
        Sec(".text.f", CALL, "ax", 16, relocs=((1, PC32, "seq_puts", -4),)),
        Sec(".rodata.s", b"one", align=1),
        Sym("f.ksplice0_1", ".text.f", 0, 5, FUNC, GLOBAL),
    )
    first = relocatable(*parts)
    again = replace(first.sections[0], data=b"\x90" + CALL, size=6, relocations=(Relocation(2, PC32, 1, -4),))
    carried = replace(first, sections=(*first.sections, again, first.sections[1]))
    (tmp_path / "carried.o").write_bytes(write(carried))
    (tmp_path / "runtime.o").write_bytes(elf(Sec(".text.f", b"\xc3", "ax"), Sec(".rodata.s", b"x")))
    subprocess.run(["ld", "-r", "-o", "m.o", "carried.o", "runtime.o"], cwd=tmp_path, check=True)
    linked = model(read_bytes((tmp_path / "m.o").read_bytes()))
    assert section(linked, ".text.f").size == 16 + 6 + 1
    whole = update(carried=carried, borrowed=(exported("seq_puts"),))
    arrival.check(whole, convert.livepatch(linked, whole.borrowed))


# A second reader --------------------------------------------------------------------------------------

SYMVERS = (
    "0x00000011\tseq_puts\tvmlinux\tEXPORT_SYMBOL\t\n"
    "0x00000022\tdma_buf_fd\tvmlinux\tEXPORT_SYMBOL_GPL\tDMA_BUF\n"
)
MODINFO = b"livepatch=Y\0license=GPL\0name=ksplice_test0001\0vermagic=6.1.0-56-amd64 SMP preempt \0"
FACTS = KernelFacts(release="6.1.0-56-amd64")


def version(name: str, crc: int) -> bytes:
    return crc.to_bytes(8, "little") + name.encode().ljust(56, b"\0")


def second_reading(
    tmp_path: Path,
    *more: Sec | Sym,
    modinfo: bytes = MODINFO,
    versions: bytes = version("seq_puts", 0x11),
    facts: KernelFacts = FACTS,
    tampered: Callable[[Relocatable], Relocatable] = lambda module: module,
) -> None:
    (tmp_path / "Module.symvers").write_text(SYMVERS)
    linked = relocatable(*CARRIED, Sec(".modinfo", modinfo), Sec("__versions", versions), *more)
    module = tampered(convert.livepatch(linked, update().borrowed))
    shop = Workshop(tmp_path, (), tmp_path)
    second_reader.check(write(module), write(linked), update(), facts, shop)


def test_a_module_as_the_loader_wants_it_passes(tmp_path: Path) -> None:
    second_reading(tmp_path)


def test_a_module_for_another_release_is_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(KdiffError, match=r"6\.1\.0-56-amd64, the kernel is 6\.1\.0-47-amd64") as caught:
        second_reading(tmp_path, facts=KernelFacts(release="6.1.0-47-amd64"))
    assert caught.value.key == "emit.vermagic"


def use(name: str, type: int = PC32) -> Sec:
    return Sec(".text.more", CALL, "ax", relocs=((1, type, name, -4),))


def filled(module: Relocatable) -> Relocatable:
    """What the assembler knew of a branch is left in its field."""
    code = section(module, ".text.f").data
    return with_section(module, ".text.f", data=code[:1] + b"\x10" + code[2:])


def dropped(module: Relocatable) -> Relocatable:
    return with_section(module, ".text.f", relocations=section(module, ".text.f").relocations[1:])


def twice(module: Relocatable) -> Relocatable:
    """A symbol that livepatch would look up though nobody borrowed it."""
    return replace(
        module, symbols=(*module.symbols, Symbol(".klp.sym.vmlinux.x,0", None, reserved=LIVEPATCH))
    )


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("livepatch=nothing", {"modinfo": MODINFO.replace(b"livepatch=Y\0", b"")}),
        ("license=Proprietary", {"modinfo": MODINFO.replace(b"GPL", b"Proprietary")}),
        ("name=other", {"modinfo": MODINFO.replace(b"ksplice_test0001", b"other")}),
        ("no version CRC", {"versions": b""}),
        ("another than 0x00000011", {"versions": version("seq_puts", 0x12)}),
        ("no_such is undefined and not exported", {"more": (use("no_such"),)}),
        ("dma_buf_fd is exported in namespace DMA_BUF", {"more": (use("dma_buf_fd"),)}),
        (r"\.text\.f had 3 relocations when it was linked and has 2", {"tampered": dropped}),
        ("not exactly the relocations of livepatch symbols", {"tampered": put_back}),
        ("livepatch symbols are", {"tampered": twice}),
        (r"\.text\.f\+0x1, which is relocated, is not empty", {"tampered": filled}),
        (r"\.text\.more\+0x1 has a relocation of type 15", {"more": (use("seq_puts", PC8),)}),
    ],
)
def test_a_module_that_the_loader_would_refuse_is_an_error(
    tmp_path: Path, why: str, changes: dict[str, object]
) -> None:
    more = changes.pop("more", ())
    with pytest.raises(KdiffError, match=why) as caught:
        second_reading(tmp_path, *more, **changes)  # type: ignore[misc,arg-type]
    assert caught.value.key == "emit.module"


# Build id ---------------------------------------------------------------------------------------------


def noted(digest: bytes, text: bytes = b"\xc3") -> Relocatable:
    note = bytes((4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0)) + b"GNU\0" + digest
    return relocatable(Sec(".note.gnu.build-id", note, type=7), Sec(".text", text, "ax"))


def test_the_build_id_depends_on_the_module_and_not_on_the_linkers_id() -> None:
    assert write(stamp(noted(b"a" * 20))) == write(stamp(noted(b"b" * 20)))
    assert stamp(noted(b"a" * 20)).sections[0] != stamp(noted(b"a" * 20, b"\x90")).sections[0]
    assert b"a" * 20 not in write(stamp(noted(b"a" * 20)))


def test_a_module_without_a_build_id_stays_as_it_is() -> None:
    assert stamp(relocatable(*CARRIED)) == relocatable(*CARRIED)


# Tools that fail --------------------------------------------------------------------------------------


def headers(tmp_path: Path, recipe: str) -> Path:
    where = tmp_path / "headers"
    for name in workbench.NEEDED:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text("")
    (where / "Makefile").write_text(f"modules:\n\t@{recipe}\n")
    return where


@pytest.mark.parametrize("missing", workbench.NEEDED)
def test_headers_that_cannot_build_modules_are_an_error_that_names_what_is_missing(
    tmp_path: Path, missing: str
) -> None:
    where = headers(tmp_path, "true")
    (where / missing).unlink()
    with pytest.raises(KdiffError, match=missing) as caught:
        workbench.build(update(), Workshop(where, (), tmp_path))
    assert caught.value.key == "emit.headers"


def test_a_failed_build_shows_what_the_tools_said(tmp_path: Path) -> None:
    where = headers(tmp_path, "echo 'runtime.c:1: error: out of cheese' >&2; false")
    with pytest.raises(KdiffError, match="out of cheese") as caught:
        workbench.build(update(), Workshop(where, (), tmp_path))
    assert caught.value.key == "emit.build"


def test_headers_for_another_processor_are_named_as_the_cause(tmp_path: Path) -> None:
    where = headers(tmp_path, "echo 'sh: scripts/mod/modpost: Exec format error' >&2; false")
    with pytest.raises(KdiffError, match="another processor") as caught:
        workbench.build(update(), Workshop(where, (), tmp_path))
    assert caught.value.key == "emit.headers"


def test_make_that_leaves_no_module_is_an_error(tmp_path: Path) -> None:
    where = headers(tmp_path, "true")
    with pytest.raises(KdiffError, match="No such file") as caught:
        workbench.build(update(), Workshop(where, (), tmp_path))
    assert caught.value.key == "emit.scratch"


# Review -----------------------------------------------------------------------------------------------

MCOUNT = {"__mcount_loc": SpecialSection("__mcount_loc", 8, Keep.OWNER, owner=0)}
LIVE = KernelFacts(config={"CONFIG_LIVEPATCH": "y"})


def planned(site: int | None, target: str = "vmlinux") -> Plan:
    """A plan that replaces f, whose ftrace site is `site` bytes behind its entry."""

    def graph(code: bytes) -> object:
        table = [] if site is None else [Sec("__mcount_loc", bytes(8), relocs=((0, ABS64, ".text.f", site),))]
        parts = (Sec(".text.f", code, "ax"), *table, Sym("f", ".text.f", 0, len(code), FUNC, LOCAL))
        return build(read_bytes(elf(*parts), "unit.o"), X86_64(), MCOUNT)

    pre, post = graph(b"\x90" * 40 + b"\xc3"), graph(b"\x90" * 41 + b"\xc3")
    pairing = correlate(pre, post)  # type: ignore[arg-type]
    return plan(pre, post, pairing, diff(pre, post, pairing), target)  # type: ignore[arg-type]


def keys(value: Plan, facts: KernelFacts = LIVE) -> list[str]:
    assert value.replaced
    return [refusal.key for refusal in LivepatchEmitter().review(value, facts)]


@pytest.mark.parametrize("site", [0, 4])
def test_a_function_with_an_ftrace_site_at_its_entry_can_be_redirected(site: int) -> None:
    assert keys(planned(site)) == []


@pytest.mark.parametrize("site", [None, 30])
def test_a_function_without_an_ftrace_site_at_its_entry_is_refused(site: int | None) -> None:
    (refusal,) = LivepatchEmitter().review(planned(site), LIVE)
    assert (refusal.key, refusal.place) == ("livepatch.no_fentry", "unit.o: .text.f")
    assert "f has no ftrace site" in refusal.reason


def test_a_short_branch_to_a_neighbour_of_the_same_section_is_refused() -> None:
    def unit(back: int) -> SectionGraph:
        text = f"""
            .section .sched.text, "ax"
            .type near, @function
            .type f, @function
            near: ret
            .size near, . - near
            .fill {back}, 1, 0xcc
            f: nop; jmp near
            .size f, . - f
        """
        return graph(text, ASSEMBLY)

    def short(back: int) -> list[Refusal]:
        post = unit(back)
        carrying = replace(planned(0), post=post, carried=(named(post, "f").id,))
        return [each for each in LivepatchEmitter().review(carrying, LIVE) if each.key == "emit.relocation"]

    (refusal,) = short(40)
    assert refusal.place == "unit.o: .sched.text+0x2b"
    assert "f refers to near by R_X86_64_PC8" in refusal.reason
    assert short(200) == []


def test_a_kernel_without_livepatch_is_refused_and_one_of_unknown_configuration_is_not() -> None:
    assert keys(planned(0), KernelFacts(config={"CONFIG_SMP": "y"})) == ["livepatch.not_supported"]
    assert keys(planned(0), KernelFacts()) == []


# With a real kernel -----------------------------------------------------------------------------------

REPLACEMENT = """
#include <linux/init.h>
#include <linux/seq_file.h>
int cmdline_proc_show(struct seq_file *m, void *v);
int cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_puts(m, "patched: ");
	seq_puts(m, saved_command_line);
	seq_putc(m, '\\n');
	return 0;
}
"""


@pytest.fixture(scope="session")
def config(kernel: KernelSetup) -> Config:
    return read_config(kernel.config)


@pytest.fixture(scope="session")
def compiler(config: Config) -> str:
    return f"CC={' '.join(find_compiler(config, allow_mismatch=True).command)}"


@pytest.fixture(scope="session")
def cmdline(config: Config, compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Update:
    """An update of cmdline_proc_show that borrows exports and saved_command_line, which is none."""
    where = tmp_path_factory.mktemp("unit")
    (where / "cmdline.c").write_text(REPLACEMENT)
    (where / "Kbuild").write_text(
        "obj-m := cmdline.o\nccflags-y := -g0 -ffunction-sections -fdata-sections\n"
    )
    subprocess.run(["make", "-s", "-C", config.headers, f"M={where}", compiler, "cmdline.o"], check=True)
    compiled = convert.strip(model(read_bytes((where / "cmdline.o").read_bytes())))
    names = {
        "saved_command_line": "saved_command_line,vmlinux,1",
        "cmdline_proc_show": "cmdline_proc_show.new",
    }
    carried = replace(
        compiled,
        sections=tuple(replace(each, flags=each.flags & 7) for each in compiled.sections),
        symbols=tuple(replace(each, name=names.get(each.name, each.name)) for each in compiled.symbols),
    )
    undefined = [s.name for s in carried.symbols if s.section is None and s.reserved is None and s.name]
    return Update(
        "test0001",
        carried,
        (Replacement("cmdline_proc_show", 0, 0, 0, "cmdline_proc_show.new", 0, 0),),
        tuple(borrowed("saved_command_line") if "," in name else exported(name) for name in undefined),
    )


def emitted(value: Update, config: Config, compiler: str, scratch: Path, release: str = "") -> bytes:
    scratch.mkdir(parents=True, exist_ok=True)
    facts = KernelFacts(release=release or config.release)
    shop = Workshop(config.headers, (compiler,), scratch)
    (module,) = LivepatchEmitter().emit(value, facts, shop)
    assert (module.targets, module.name, module.file) == (
        ("vmlinux",),
        "ksplice_test0001",
        "ksplice_test0001.ko",
    )
    return module.data


@pytest.mark.kernel
def test_equal_updates_give_equal_modules_wherever_they_are_built(
    cmdline: Update, config: Config, compiler: str, tmp_path: Path
) -> None:
    here = emitted(cmdline, config, compiler, tmp_path / "here")
    there = emitted(cmdline, config, compiler, tmp_path / "some" / "where" / "else")
    assert here == there
    assert str(tmp_path).encode() not in here


@pytest.mark.kernel
def test_the_module_has_exactly_the_borrowed_symbol_in_livepatchs_table(
    cmdline: Update, config: Config, compiler: str, tmp_path: Path
) -> None:
    module = model(read_bytes(emitted(cmdline, config, compiler, tmp_path)))
    tables = {t.name: t for each in module.sections for t in each.more_relocations}
    assert list(tables) == [".klp.rela.vmlinux..text.cmdline_proc_show"]
    late = [each.name for each in module.symbols if each.reserved == LIVEPATCH]
    assert late == [".klp.sym.vmlinux.saved_command_line,0"]
    assert not [each.name for each in module.sections if not each.flags & convert.SHF_ALLOC]


@pytest.mark.kernel
def test_headers_of_another_release_than_the_kernels_are_an_error(
    cmdline: Update, config: Config, compiler: str, tmp_path: Path
) -> None:
    with pytest.raises(KdiffError) as caught:
        emitted(cmdline, config, compiler, tmp_path, release="6.1.0-0-none")
    assert caught.value.key == "emit.vermagic"


@pytest.mark.kernel
def test_a_symbol_taken_for_an_export_that_is_none_is_an_error(
    cmdline: Update, config: Config, compiler: str, tmp_path: Path
) -> None:
    wrong = tuple(replace(each, how=How.EXPORT) for each in cmdline.borrowed)
    with pytest.raises(KdiffError, match="saved_command_line") as caught:
        emitted(replace(cmdline, borrowed=wrong), config, compiler, tmp_path)
    assert caught.value.key == "emit.module"


SETTLED = (
    "for i in $(seq 100); do [ $(cat /sys/kernel/livepatch/ksplice_test0001/transition) = 0 ] && exit 0;"
    " sleep 0.2; done; exit 1"
)
GONE = (
    "for i in $(seq 100); do [ -e /sys/kernel/livepatch/ksplice_test0001 ] || exit 0; sleep 0.2; done; exit 1"
)
WORDS = ("applied successfully", "reversed successfully", "aborted")
APPLIED, REVERSED, ABORTED = (f"ksplice: Update test0001 {each}" for each in WORDS)
MOST_RACES = 8
"""Tries to disable the patch before its transition ends, which on a busy machine it may do first."""
DISABLE = "echo 0 > /sys/kernel/livepatch/ksplice_test0001/enabled"


@pytest.mark.kernel
@pytest.mark.guest
def test_a_stock_kernel_takes_the_module_and_tells_in_its_log_what_became_of_it(
    cmdline: Update, config: Config, compiler: str, kernel: KernelSetup, tmp_path: Path
) -> None:
    (tmp_path / "m.ko").write_bytes(emitted(cmdline, config, compiler, tmp_path / "build"))
    load = f"insmod {tmp_path}/m.ko"
    with Guest.boot(kernel.image / "vmlinuz", kernel.image / "modules") as guest:
        before = guest.run("cat /proc/cmdline").output
        for line in (load, SETTLED):
            assert guest.run(line).held
        assert guest.run("cat /proc/cmdline").output == f"patched: {before}"
        for line in (DISABLE, GONE, "rmmod ksplice_test0001"):
            assert guest.run(line).held
        assert guest.run("cat /proc/cmdline").output == before
        for _ in range(MOST_RACES):
            assert guest.run(f"{load} && {DISABLE}").held
            for line in (GONE, "rmmod ksplice_test0001"):
                assert guest.run(line).held
            records = guest.records()
            if told(records)[-1] == ABORTED:
                break
    *races, last = told(records)
    assert races == [APPLIED, REVERSED] * max(len(races) // 2, 1)
    assert last == ABORTED
    assert not list(complaints(records))


def told(records: Sequence[LogRecord]) -> list[str]:
    return [each.text for each in records if each.text.startswith("ksplice:")]

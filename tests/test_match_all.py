# SPDX-License-Identifier: Apache-2.0
"""`kdiff match --all`: a build tree as Kbuild lays it out, against memory that was really linked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from compiled import compiled

from kdiff.addressbook import AddressBook
from kdiff.buildtree import ELSEWHERE, built_units, members
from kdiff.cli.main import run_command
from kdiff.errors import EXIT_DONE, EXIT_ERROR, EXIT_REFUSED, KdiffError
from kdiff.truth import read_truth

WHOLE = ("-ffunction-sections", "-fdata-sections")
FIRST = """
__asm__(".file \\"first.c\\"");
static int count; int shared(int); int extra;
__attribute__((noinline)) static int own(int x) { return x * 3 + count; }
int first(int x) { count++; return own(x) + shared(x); }
__attribute__((weak)) int replaced(int x) { return x + extra; }
"""
SECOND = """
__asm__(".file \\"second.c\\"");
static int count[4];
__attribute__((noinline)) static int own(int x) { return x - count[2]; }
int shared(int x) { count[2] = x; return own(x) * 7; }
int replaced(int x) { return x * count[1]; }
"""
KERNEL_COMMAND = "cmd_{name}.o := gcc -D__KERNEL__ -c -o {name}.o {name}.c\nsource_{name}.o := {name}.c\n"
MODULE_COMMAND = KERNEL_COMMAND.replace(" -c ", " -DMODULE -DKBUILD_MODNAME='\"toy\"' -c ")
SCRIPT = """
SECTIONS {
  . = 0xffffffff81000000;
  .text : { _text = .; *(.text .text.*) }
  . = ALIGN(4096);
  .data : { banner.o(*) *(.data .data.* .rodata .rodata.*) }
  .bss : { *(.bss .bss.*) }
  /DISCARD/ : { *(.comment) *(.note.*) }
}
"""
BANNER = 'const char linux_banner[] = "Linux version 6.1.0-toy (a@b) (gcc) #1 SMP\\n";'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A build directory with units of the kernel, of a module and of neither; the kernel is `vmlinux`."""
    build = tmp_path / "build"
    for name, text in {"dir/first": FIRST, "dir/second": SECOND, "banner": BANNER}.items():
        add(build, name, compiled(text, *WHOLE), KERNEL_COMMAND)
    add(build, "toy", compiled("int toy(int x) { return x + 5; }", *WHOLE), MODULE_COMMAND)
    add(build, "boot/head", compiled("int head(int x) { return x + 9; }", *WHOLE), KERNEL_COMMAND)
    (build / "vmlinux.o").write_bytes(b"made by ld -r, of which no command names a source")
    run("ar", "cDPrST", "dir/built-in.a", "dir/first.o", "dir/second.o", cwd=build)
    run("ar", "cDPrST", "built-in.a", "dir/built-in.a", "banner.o", cwd=build)
    (build / "script").write_text(SCRIPT)
    run("ld", "-T", "script", "-o", "vmlinux", "banner.o", "dir/first.o", "dir/second.o", cwd=build)
    return build


def add(build: Path, name: str, data: bytes, command: str) -> None:
    path = build / f"{name}.o"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.with_name(f".{path.name}.cmd").write_text(command.format(name=name))


def run(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def keys(unit: dict[str, Any], what: str) -> list[str]:
    return [each["key"] for each in unit[what]]


def match_all(
    build: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, Mapping[str, dict[str, Any]], dict[str, int]]:
    """Exit status, units by name, totals."""
    words = ["--all", str(build), "--memory", f"image:{build / 'vmlinux'}", "--json", "-j1", *more]
    status = run_command("match", words, "kdiff match")
    *units, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    return status, {each["unit"]: each for each in units}, last["totals"]


def test_every_unit_is_told_by_what_it_was_linked_into(tree: Path) -> None:
    assert {unit.name: unit.part_of for unit in built_units(tree)} == {
        "banner.o": "vmlinux",
        "boot/head.o": ELSEWHERE,
        "dir/first.o": "vmlinux",
        "dir/second.o": "vmlinux",
        "toy.o": "toy",
    }


def test_of_libraries_those_count_that_the_kernel_was_linked_with(tree: Path) -> None:
    for folder in ("lib", "drivers/firmware/efi/libstub"):
        add(tree, f"{folder}/mem", compiled("int mem(int x) { return x + 2; }", *WHOLE), KERNEL_COMMAND)
        run("ar", "cDPrST", f"{folder}/lib.a", f"{folder}/mem.o", cwd=tree)

    def linked() -> list[str]:
        return [each.name for each in built_units(tree) if each.part_of and each.name.endswith("mem.o")]

    assert linked() == ["lib/mem.o"]
    (tree / ".vmlinux.o.cmd").write_text(
        "cmd_vmlinux.o := ld -r vmlinux.a drivers/firmware/efi/libstub/lib.a\n"
    )
    assert linked() == ["drivers/firmware/efi/libstub/mem.o"]


@pytest.mark.parametrize("thin", [True, False])
def test_the_members_of_an_archive_are_those_ar_lists(tmp_path: Path, thin: bool) -> None:
    long = "a_name_of_more_than_sixteen_letters"
    for name in ("short", long):
        add(tmp_path, name, compiled("int f(void) { return 1; }"), KERNEL_COMMAND)
    flags = ["rcsD", "--thin"] if thin else ["rcsD"]
    run("ar", *flags, "lib.a", "short.o", f"{long}.o", cwd=tmp_path)
    listed = run("ar", "t", "lib.a", cwd=tmp_path).split()
    assert list(members(tmp_path, tmp_path / "lib.a")) == listed == ["short.o", f"{long}.o"]


def test_without_archives_the_units_that_are_no_module_s_count_as_the_kernel_s(tree: Path) -> None:
    for archive in tree.rglob("*.a"):
        archive.unlink()
    found = {unit.name: unit.part_of for unit in built_units(tree)}
    assert found["dir/first.o"] == "vmlinux"
    assert found["toy.o"] == "toy"


def test_an_archive_that_is_damaged_is_an_error(tree: Path) -> None:
    (tree / "dir/built-in.a").write_bytes(b"!<thin>\n" + b"x" * 60)
    with pytest.raises(KdiffError) as caught:
        built_units(tree)
    assert caught.value.key == "buildtree.archive"


def test_a_directory_without_units_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        built_units(tmp_path)
    assert caught.value.key == "buildtree.empty"


def test_a_whole_tree_matches_where_the_symbol_table_says(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, units, totals = match_all(tree, capsys, "--truth", str(tree / "vmlinux"))
    assert status == EXIT_DONE
    assert {name: each["outcome"] for name, each in units.items()} == {
        "banner.o": "ok",
        "boot/head.o": "elsewhere",
        "dir/first.o": "left",
        "dir/second.o": "ok",
        "toy.o": "module",
    }
    assert keys(units["dir/first.o"], "absent") == ["solve.overridden"]
    assert (totals["functions"], totals["matched"], totals["wrong"]) == (6, 5, 0)


def test_processes_find_what_one_process_finds(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = match_all(tree, capsys)
    together = match_all(tree, capsys, "-j2")
    for _, units, _ in (alone, together):
        for each in units.values():
            each.pop("seconds")
    assert alone == together


def test_a_unit_that_cannot_be_read_does_not_stop_the_rest(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "dir/first.o").write_bytes(b"\x7fELF")
    status, units, totals = match_all(tree, capsys)
    assert status == EXIT_ERROR
    assert (units["dir/first.o"]["outcome"], units["dir/second.o"]["outcome"]) == ("error", "ok")
    assert totals["error"] == 1


def test_code_that_is_not_what_runs_is_refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tree, "dir/second", compiled(SECOND.replace("* 7", "* 11"), *WHOLE), KERNEL_COMMAND)
    status, units, totals = match_all(tree, capsys)
    assert status == EXIT_REFUSED
    assert units["dir/second.o"]["outcome"] == "refused"
    assert totals["runpre.content"] == 1


def test_a_sample_is_drawn_from_the_kernel_s_own_units_only(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = [set(match_all(tree, capsys, "--sample", "2", "--seed", str(seed))[1]) for seed in range(6)]
    assert all(len(each) == 2 and each <= {"banner.o", "dir/first.o", "dir/second.o"} for each in seen)
    assert len({frozenset(each) for each in seen}) > 1


# The truth -------------------------------------------------------------------------------------------


def test_a_symbol_table_tells_statics_of_one_name_apart_by_their_file(tree: Path) -> None:
    assert len({line for line in run("nm", "vmlinux", cwd=tree).splitlines() if line.endswith(" own")}) == 2
    truth = read_truth(tree / "vmlinux", AddressBook([("_text", 0xFFFFFFFF81000000, "T", "vmlinux")]))
    one, other = (truth.addresses(["own"], f"dir/{name}.c") for name in ("first", "second"))
    assert (len(one), len(other), len(one | other)) == (1, 1, 2)
    assert truth.addresses(["own"], "elsewhere.c") == one | other


def test_the_memory_may_lie_elsewhere_than_the_symbol_table_says(tree: Path, tmp_path: Path) -> None:
    listing = tmp_path / "System.map"
    listing.write_text(run("nm", "-n", "vmlinux", cwd=tree))
    moved = AddressBook([("_text", 0xFFFFFFFF81000000 + 0x2000, "T", "vmlinux")])
    there = read_truth(listing, AddressBook([("_text", 0xFFFFFFFF81000000, "T", "vmlinux")]))
    here = read_truth(listing, moved)
    (address,) = there.addresses(["first"], "dir/first.c")
    assert here.addresses(["first"], "dir/first.c") == {address + 0x2000}


def test_a_function_found_at_another_address_than_the_symbol_table_s_is_refused(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run("nm", "-n", "vmlinux", cwd=tree).splitlines()
    wrong = [line.replace(line.split()[0], f"{int(line.split()[0], 16) + 16:016x}")
             if line.endswith(" first") else line for line in lines]  # fmt: skip
    listing = tmp_path / "System.map"
    listing.write_text("\n".join(wrong) + "\n")
    status, units, totals = match_all(tree, capsys, "--truth", str(listing))
    assert status == EXIT_REFUSED
    assert totals["wrong"] == 1
    assert keys(units["dir/first.o"], "wrong") == ["coverage.address"]


def test_a_symbol_table_of_nothing_we_know_is_an_error(tree: Path, tmp_path: Path) -> None:
    run("strip", "-o", "stripped", "vmlinux", cwd=tree)
    book = AddressBook([("_text", 0xFFFFFFFF81000000, "T", "vmlinux")])
    for path, key in (
        (tree / "stripped", "truth.stripped"),
        (tmp_path / "none", "truth.unreadable"),
    ):
        with pytest.raises(KdiffError) as caught:
            read_truth(path, book)
        assert caught.value.key == key
    with pytest.raises(KdiffError) as caught:
        read_truth(tree / "vmlinux", AddressBook([]))
    assert caught.value.key == "truth.anchor"

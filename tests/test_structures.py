# SPDX-License-Identifier: Apache-2.0
"""Sizes of structures found by their names are those of reading all types."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kdiff_arch_aarch64 import ARCHITECTURE as AARCH64
from kdiff_arch_arm import ARCHITECTURE as ARM
from kdiff_arch_s390x import ARCHITECTURE as S390X
from kdiff_arch_x86_64 import ARCHITECTURE as X86_64

from kdiff.arch import Architecture
from kdiff.elf.read import Object, read_bytes
from kdiff.structures import _Names, declared_sizes, size_of

UNIT = """
struct alt_instr { int a, b; short c; char d, e; };
struct bug_entry { long a[7]; };
struct large { char a[70000]; };
struct pair { int a; } one;
struct declared *only;
typedef struct { int a, b, c; } typedefed;
typedef struct jump_entry { int a; long b; } other;
struct exception_table_entry { int insn, fixup, type; };
struct outer { struct inner { char a[3]; } in; int alt_instr; };
struct empty { };
struct ex { int a; };
extern struct alt_instr first; extern struct bug_entry second; extern struct large third;
struct outer fifth; typedefed sixth; other seventh; struct exception_table_entry eighth; struct empty ninth;
struct ex tenth;
long use(struct alt_instr *a, struct bug_entry *b, struct large *c) { return a->a + b->a[1] + c->a[2]; }
"""
NAMES = (
    *("alt_instr", "bug_entry", "large", "pair", "declared", "typedefed", "jump_entry", "other", "outer"),
    *("exception_table_entry", "inner", "empty", "ex", "in", "nowhere", "first"),
)
COMPILERS = {
    "gcc": (X86_64, ("gcc",)),
    "gcc, many entries": (X86_64, ("gcc", "-include", "stdio.h", "-include", "unistd.h")),
    "gcc, DWARF 4": (X86_64, ("gcc", "-gdwarf-4")),
    "gcc, compressed": (X86_64, ("gcc", "-gz")),
    "clang": (X86_64, ("clang-19",)),
    "aarch64": (AARCH64, ("aarch64-linux-gnu-gcc",)),
    "big endian": (S390X, ("s390x-linux-gnu-gcc",)),
    "addends in fields": (ARM, ("arm-linux-gnueabihf-gcc", "-marm")),
    "without debugging information": (X86_64, ("gcc", "-g0")),
}


def made(folder: Path, command: tuple[str, ...], name: str = "unit", text: str = UNIT) -> bytes:
    (folder / f"{name}.c").write_text(text)
    options = ("-O2", "-c", f"{name}.c", "-o", f"{name}.o")
    subprocess.run((command[0], "-g", *command[1:], *options), cwd=folder, check=True, capture_output=True)
    return (folder / f"{name}.o").read_bytes()


def agree(obj: Object, arch: Architecture) -> None:
    every, size = size_of(obj, arch), declared_sizes(obj, arch)
    assert {name: size(name) for name in NAMES} == {name: every.get(name, 0) for name in NAMES}


@pytest.mark.parametrize("name", sorted(COMPILERS))
def test_sizes_are_those_of_reading_everything(tmp_path: Path, name: str) -> None:
    arch, command = COMPILERS[name]
    agree(read_bytes(made(tmp_path, command)), arch)


def test_one_unit_of_gcc_is_read_by_names_alone(tmp_path: Path) -> None:
    obj = read_bytes(made(tmp_path, ("gcc",)))
    names = _Names.of(obj)
    assert names is not None
    assert [names.size(each) for each in ("bug_entry", "large", "nowhere")] == [56, 70000, 0]


def test_several_units_in_one_object_are_read_whole(tmp_path: Path) -> None:
    made(tmp_path, ("gcc",))
    made(tmp_path, ("gcc",), "second", "struct alt_instr { char a[99]; } zero; struct late { int a; } late;")
    subprocess.run(("ld", "-r", "-o", "both.o", "unit.o", "second.o"), cwd=tmp_path, check=True)
    obj = read_bytes((tmp_path / "both.o").read_bytes())
    assert _Names.of(obj) is None
    agree(obj, X86_64)
    assert declared_sizes(obj, X86_64)("alt_instr") == 0

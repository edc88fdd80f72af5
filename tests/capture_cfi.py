# SPDX-License-Identifier: Apache-2.0
"""Capture what the kernel with kCFI and FineIBT writes over its code, for tests/test_rewrites.py.

    python tests/capture_cfi.py

Debian builds no kernel with clang. So the code that writes, arch/x86/kernel/alternative.c of the later
kernel's source, is compiled here by clang with `CONFIG`, linked with a unit of the same kernel into a process
(cfi/harness.c), and run there; what the unit's memory holds then is kept as capture_run_memory.py does.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import lateobjects
from capture_run_memory import LATER, Recorder, cut, structures, symbols
from excerpts import FIXTURES, OBJECTS, pre

from kdiff import registry, setup
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.elf.read import read_bytes
from kdiff.elf.write import write
from kdiff.kernel import Keep, KernelFacts
from kdiff.matchable import graph_to_match
from kdiff.memory import Extent
from kdiff.registry import Registry
from kdiff.sites import sites
from kdiff.solve import solve

UNIT = "fs/read_write.c"
FUNCTIONS = (
    *("vfs_llseek", "__cfi_vfs_llseek", "vfs_iocb_iter_read", "__cfi_vfs_iocb_iter_read"),
    *("__x64_sys_read", "__cfi___x64_sys_read"),
)
TITLE = "clang-fs-read_write"
WRITER = "arch/x86/kernel/alternative.o"
DECODER = ("arch/x86/lib/insn.o", "arch/x86/lib/inat.o")
LOCAL = ("__apply_fineibt", "cfi_parse_cmdline")
"""Functions of the writer that the harness calls though they are local."""
MODES = ("kcfi", "fineibt", "off", "kcfi,norand")
COMPILER = "clang-19"
CONFIG = """
CONFIG_64BIT=y
CONFIG_PRINTK=y
CONFIG_BINFMT_ELF=y
CONFIG_PROC_FS=y
CONFIG_X86_KERNEL_IBT=y
CONFIG_CFI_CLANG=y
CONFIG_CPU_MITIGATIONS=y
CONFIG_MITIGATION_RETPOLINE=y
CONFIG_MITIGATION_RETHUNK=y
CONFIG_MITIGATION_SLS=y
CONFIG_FINEIBT=y
CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y
CONFIG_DEBUG_INFO_NONE=y
"""
"""On top of `make tinyconfig`."""
OPTIONS = (
    *("--hacks=jump_label", "--hacks=noinstr", "--ibt", "--cfi", "--orc", "--retpoline", "--rethunk"),
    *("--sls", "--static-call", "--uaccess", "--link"),
)
HARNESS = Path(__file__).parent / "cfi"


@dataclass(frozen=True)
class Process:
    """The part of a process that was written to; satisfies `MemorySource`."""

    start: int
    data: bytes
    book: AddressBook
    release: str
    name: str = "process"
    pristine: bool = False

    def read(self, address: int, size: int) -> bytes | None:
        at = address - self.start
        return self.data[at : at + size] if 0 <= at <= len(self.data) - size else None

    def address_book(self) -> AddressBook:
        return self.book

    def extents(self) -> tuple[Extent, ...]:
        return (Extent(self.start, len(self.data)),)

    def facts(self) -> KernelFacts:
        return KernelFacts(release=self.release, machine="x86_64")


def build(source: Path, release: str) -> Path:
    """Compile what is needed; return the build directory."""
    folder = setup.cache() / "late" / "clang"
    make = (
        *("make", "-s", "-j2", "-C", source, f"O={folder}", f"CC={COMPILER}", "HOSTCC=gcc-12"),
        *("LD=ld.lld-19", f"KERNELRELEASE={release}"),
    )
    goals: tuple[tuple[str, ...], ...] = (("arch/x86/lib/",), (WRITER, UNIT.replace(".c", ".o")))
    if not (folder / "tools/objtool/objtool").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run((*make, "tinyconfig"), check=True)
        with (folder / ".config").open("a") as config:
            config.write(CONFIG)
        goals = (("olddefconfig",), ("prepare",), *goals)
    for goal in goals:
        subprocess.run((*make, *goal), check=True)
    return folder


def link(folder: Path, unit: bytes) -> Path:
    """Link the harness."""
    scratch = folder / "harness"
    scratch.mkdir(exist_ok=True)
    (scratch / "read_write.o").write_bytes(unit)
    visible = [f"--globalize-symbol={name}" for name in LOCAL]
    run(scratch, "objcopy", *visible, folder / WRITER, "alternative.o")
    run(scratch, "gcc", "-O1", "-fcf-protection=none", "-fno-pie", "-c", HARNESS / "harness.c")
    run(scratch, "gcc", "-c", HARNESS / "thunks.S")
    run(
        *(scratch, "gcc", "-no-pie", "-static", f"-Wl,-T,{HARNESS / 'image.ld'}", "-o", "harness"),
        *("-Wl,--unresolved-symbols=ignore-all", "-Wl,--no-warn-rwx-segments"),
        *("harness.o", "thunks.o", "alternative.o", "read_write.o", *(folder / each for each in DECODER)),
    )
    return scratch / "harness"


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE, stderr=None, text=True)
    return done.stdout


def memory_of(harness: Path, mode: str, release: str) -> tuple[Process, list[str]]:
    """Let the kernel's code write in one mode; return the memory and what it said."""
    said = subprocess.run(
        (harness, mode, "memory"), check=True, cwd=harness.parent, stderr=subprocess.PIPE, text=True
    ).stderr
    listed = (line.split() for line in run(harness.parent, "nm", "-n", "harness").splitlines())
    lines = [(words[2], int(words[0], 16), words[1]) for words in listed if len(words) == 3]
    where = {name: address for name, address, _ in lines}
    start, end = where["image_start"], where["image_end"]
    inside = [(name, at, kind, KERNEL) for name, at, kind in lines if start <= at < end]
    book = AddressBook([("_text", start, "T", KERNEL), *inside, ("_end", end, "T", KERNEL)])
    return Process(start, (harness.parent / "memory").read_bytes(), book, release), said.splitlines()


def keep_object(plugins: Registry, unit: bytes, release: str) -> None:
    facts = KernelFacts(release=release, machine="x86_64")
    obj = read_bytes(unit, UNIT)
    arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
    rows = plugins.special_sections(facts).items()
    special = {name: replace(row, keep=Keep.OWNER) if row.sites else row for name, row in rows}
    graph = graph_to_match(obj, arch, special, plugins.habits(facts))
    (OBJECTS / f"{TITLE}.o").write_bytes(write(cut(graph, FUNCTIONS)))


def capture(harness: Path, mode: str, release: str) -> None:
    process, said = memory_of(harness, mode, release)
    memory = Recorder(process, AddressBook(()))
    graph = pre(TITLE, memory.facts())
    found = solve(graph, sites(graph), memory, memory.address_book())
    listed: list[dict[str, str]] = []
    for name in FUNCTIONS:
        node = next(each for each in graph.nodes if name in each.names)
        address, refusal = memory.address_book().address(name), found.open.get(node.id)
        refused = "" if node.id in found.matches else str(refusal and refusal.reason)
        listed.append({"unit": TITLE, "name": name, "address": f"{address:#x}", "refused": refused})
    compiler = run(harness.parent, COMPILER, "--version").splitlines()[0]
    record = {
        "release": release,
        "version": "",
        "machine": "x86_64",
        "done": [f"cfi={mode}", "run in a process by tests/cfi/harness.c", compiler, *said],
        "functions": listed,
        "config": {},
        "structures": structures(memory.facts()),
        "symbols": symbols(memory, listed),
        "memory": {f"{a:#x}": data.hex() for a, data in sorted(memory.pieces().items())},
    }
    name = f"clang-{mode.replace(',', '-')}"
    (FIXTURES / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}: {[each for each in listed if each['refused']] or 'all match'}", flush=True)


def main() -> None:
    plugins = registry.load()
    kernel = setup.make(plugins, setup.choose(plugins, LATER, None), print)
    release = kernel.abi.partition("+")[0]
    folder = build(kernel.source, release)
    unit = lateobjects.finished(folder, UNIT.replace(".c", ".o"), OPTIONS)
    keep_object(plugins, unit, release)
    harness = link(folder, unit)
    for mode in MODES:
        capture(harness, mode, release)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Capture what a kernel with kCFI and FineIBT writes over its code, for tests/test_rewrites.py.

    python tests/capture_cfi.py [STATE ...]     # all: less than a minute, and six to build the kernel
    python tests/capture_cfi.py whole [STATE ...]     # match all units of that kernel instead, keep nothing

Debian builds no kernel with clang. So the source of the later kernel is built here by clang with `CONFIG`,
little more than the smallest kernel, and booted in each of `STATES`. Units are the very objects that were
linked into it; since Kbuild runs objtool over vmlinux.o only, it is run over a copy of each here, with the
options that Kbuild used. What memory holds is read through QEMU's gdbstub and kept as capture_run_memory.py
does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import lateobjects
import qmp
from capture_run_memory import CONFIG as FACTS
from capture_run_memory import LATER, Recorder, cut, structures, symbols
from excerpts import FIXTURES, OBJECTS, pre

from kdiff import registry, setup
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.buildtree import built_units
from kdiff.cli.match_all import lines, outcome, summary, tally
from kdiff.confdir import read_config
from kdiff.coverage import Against, cover
from kdiff.elf.read import read_bytes
from kdiff.elf.write import write
from kdiff.guest import MACHINE, QEMU
from kdiff.initramfs import EXECUTABLE, Entry, archive
from kdiff.kernel import Keep, KernelFacts
from kdiff.matchable import graph_to_match
from kdiff.registry import Registry
from kdiff.running import find_memory
from kdiff.sites import sites
from kdiff.solve import solve
from kdiff.truth import read_truth

UNITS = {
    "fs/read_write.c": (
        *("vfs_llseek", "__cfi_vfs_llseek", "vfs_iocb_iter_read", "__cfi_vfs_iocb_iter_read"),
        *("__x64_sys_read", "__cfi___x64_sys_read", "ksys_read", "__cfi_ksys_read"),
    ),
    "arch/x86/entry/entry.S": ("entry_ibpb",),
    "fs/dcache.c": ("__d_lookup", "__cfi___d_lookup"),
    "kernel/resource.c": ("__release_child_resources",),
    "lib/usercopy.c": ("_copy_to_user", "__cfi__copy_to_user"),
}
"""Units, and the functions of each that are kept."""
COUNTED = ("retbleed=stuff", "spectre_v2=retpoline")
STATES = {
    "clang-kcfi": ("cfi=kcfi",),
    "clang-kcfi-norand": ("cfi=kcfi,norand",),
    "clang-fineibt": ("cfi=fineibt",),
    "clang-fineibt-norand": ("cfi=fineibt,norand", "mitigations=off"),
    "clang-off": ("cfi=off",),
    "clang-kcfi-stuffing": ("cfi=kcfi", *COUNTED),
    "clang-fineibt-stuffing": ("cfi=fineibt", *COUNTED),
    "clang-off-stuffing": ("cfi=off", *COUNTED),
}
"""What is added to the kernel's command line. QEMU's processors have no IBT, so the kernel must be told."""
COMPILER = "clang-19"
TOOLS = (f"CC={COMPILER}", "LD=ld.lld-19", "HOSTCC=gcc-12")
NAMED = (
    "KBUILD_BUILD_USER=kdiff",
    "KBUILD_BUILD_HOST=kdiff",
    "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 2026",
)
CONFIG = """
CONFIG_64BIT=y
CONFIG_SMP=y
CONFIG_PRINTK=y
CONFIG_EARLY_PRINTK=y
CONFIG_BINFMT_ELF=y
CONFIG_BLK_DEV_INITRD=y
CONFIG_PROC_FS=y
CONFIG_KALLSYMS=y
CONFIG_KALLSYMS_ALL=y
CONFIG_IKCONFIG=y
CONFIG_JUMP_LABEL=y
CONFIG_X86_KERNEL_IBT=y
CONFIG_CFI_CLANG=y
CONFIG_CPU_MITIGATIONS=y
CONFIG_MITIGATION_RETPOLINE=y
CONFIG_MITIGATION_RETHUNK=y
CONFIG_MITIGATION_SLS=y
CONFIG_FINEIBT=y
CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y
CONFIG_DEBUG_INFO_NONE=y
CONFIG_SECTION_MISMATCH_WARN_ONLY=y
"""
"""On top of `make tinyconfig`. The last: without modules, __apply_fineibt() calls code for boot only."""
BUILT = "built by tests/capture_cfi.py; structures are those of Debian's kernel of the same source"
READY = "captured: ready"
"""What cfi_init.c says."""
CONSOLE = ("earlyprintk=serial,ttyS0,115200,keep", "panic=-1")
PATIENCE, TRIES = 120.0, 8
HALF_WRITTEN = "CFI failure at"


# The kernel --------------------------------------------------------------------------------------------


def build(source: Path, release: str) -> Path:
    """Build the kernel, unless it is there; return the build directory."""
    folder = setup.cache() / "late" / "clang"
    make = ("make", "-s", "-j2", "-C", source, f"O={folder}", *TOOLS, *NAMED, f"KERNELRELEASE={release}")
    wanted = folder / "wanted"
    if not wanted.exists() or wanted.read_text() != CONFIG:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run((*make, "tinyconfig"), check=True)
        with (folder / ".config").open("a") as config:
            config.write(CONFIG)
        subprocess.run((*make, "olddefconfig"), check=True)
        subprocess.run((*make, "bzImage"), check=True)
        wanted.write_text(CONFIG)
    return folder


def objtool_options(folder: Path) -> tuple[str, ...]:
    """Those that Kbuild gave objtool for vmlinux.o."""
    command = (folder / ".vmlinux.o.cmd").read_text().splitlines()[0]
    return tuple(word for word in command.rpartition("objtool/objtool")[2].split() if word.startswith("--"))


def finished(folder: Path, target: str) -> bytes:
    return lateobjects.finished(folder, target, objtool_options(folder))


# The guest ---------------------------------------------------------------------------------------------


@contextmanager
def booted(folder: Path, state: str) -> Iterator[tuple[str, list[str]]]:
    """Boot into a state; say where its gdbstub is, and what the kernel logged.

    An interrupt between two writes of __apply_fineibt() now and then kills a kernel: it calls what is
    rewritten by halves. Then it is booted again.
    """
    with TemporaryDirectory() as name:
        scratch, port = Path(name), qmp.free_port()
        init = Path(__file__).with_name("cfi_init.c")
        command = (COMPILER, "-O1", "-static", "-nostdlib", "-fuse-ld=lld-19", "-o", scratch / "init", init)
        subprocess.run(command, check=True)
        entries = (Entry("init", EXECUTABLE, (scratch / "init").read_bytes()),)
        (scratch / "initramfs").write_bytes(archive(entries))
        qemu = shutil.which(QEMU)
        assert qemu is not None
        line = (
            *(qemu, *machine(state), "-m", "256", "-gdb", f"tcp:127.0.0.1:{port}"),
            *("-kernel", folder / "arch/x86/boot/bzImage", "-initrd", scratch / "initramfs"),
            *("-append", command_line(state), "-serial", f"file:{scratch / 'console'}"),
        )
        for _ in range(TRIES):
            process = subprocess.Popen(line)
            try:
                said = waited(process, scratch / "console")
                if READY in said:
                    yield f"gdb:127.0.0.1:{port}", said.splitlines()
                    return
            finally:
                process.kill()
                process.wait()
            assert HALF_WRITTEN in said, said
        raise AssertionError(said)


def machine(state: str) -> tuple[str, ...]:
    """Processors of Skylake's family only count calls."""
    return (*MACHINE, "-cpu", "Skylake-Server") if COUNTED[0] in STATES[state] else MACHINE


def command_line(state: str) -> str:
    return " ".join((*CONSOLE, *STATES[state]))


def waited(process: subprocess.Popen[bytes], console: Path) -> str:
    """The kernel's log, once its only process runs or it is dead."""
    deadline = time.monotonic() + PATIENCE
    while True:
        dead = process.poll() is not None
        said = console.read_text(errors="replace") if console.exists() else ""
        if dead or READY in said:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


# What is kept ------------------------------------------------------------------------------------------


def object_of(unit: str) -> str:
    return str(Path(unit).with_suffix(".o"))


def title(unit: str) -> str:
    return f"clang-{object_of(unit).removesuffix('.o').replace('/', '-')}"


def keep_objects(plugins: Registry, folder: Path, facts: KernelFacts) -> None:
    """Write what is kept of each unit."""
    rows = plugins.special_sections(facts).items()
    special = {name: replace(row, keep=Keep.OWNER) if row.sites else row for name, row in rows}
    for unit, functions in UNITS.items():
        obj = read_bytes(finished(folder, object_of(unit)), unit)
        arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
        graph = graph_to_match(obj, arch, special, plugins.habits(facts))
        (OBJECTS / f"{title(unit)}.o").write_bytes(write(cut(graph, functions)))


def capture(plugins: Registry, folder: Path, state: str, known: KernelFacts) -> None:
    """Boot, read, write the file. `known`: as for `whole`."""
    with booted(folder, state) as (where, said):
        memory = Recorder(plugins.open_memory(where), AddressBook(()))
        facts = replace(memory.facts(), structures=known.structures)
        memory.facts = lambda: facts
        keep_objects(plugins, folder, facts)
        listed = list(kept(memory))
        record = {
            "release": facts.release,
            "version": facts.version,
            "machine": facts.machine,
            "qemu": " ".join(machine(state)),
            "done": [BUILT, *(each for each in said if "CFI" in each)],
            "command_line": command_line(state),
            "functions": listed,
            "config": {name: facts.config[name] for name in FACTS if name in facts.config},
            "structures": structures(facts),
            "symbols": symbols(memory, listed),
            "memory": {f"{a:#x}": data.hex() for a, data in sorted(memory.pieces().items())},
        }
    (FIXTURES / f"{state}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{state}: {[each for each in listed if each['refused']] or 'all match'}", flush=True)


def kept(memory: Recorder) -> Iterator[dict[str, str]]:
    """Solve the objects against memory, which reads what is kept; tell what became of each function."""
    for unit, functions in UNITS.items():
        graph = pre(title(unit), memory.facts())
        run = solve(graph, sites(graph), memory, memory.address_book())
        for name in functions:
            node = next(each for each in graph.nodes if name in each.names)
            address, refusal = memory.address_book().address(name), run.open.get(node.id)
            assert address is not None, name
            refused = "" if node.id in run.matches else str(refusal and refusal.reason)
            yield {"unit": title(unit), "name": name, "address": f"{address:#x}", "refused": refused}


# All of it ---------------------------------------------------------------------------------------------


def whole(plugins: Registry, folder: Path, state: str, known: KernelFacts) -> None:
    """Match every unit of the kernel and print what `kdiff match --all` would.

    `known`: of a kernel of the same source that describes its structures, which this one does not.
    """
    with booted(folder, state) as (where, _), TemporaryDirectory() as scratch:
        memory = plugins.open_memory(where)
        facts = replace(memory.facts(), structures=known.structures)
        kernel = Against(
            plugins, memory, memory.address_book(), plugins.special_sections(facts), plugins.habits(facts)
        )
        truth = read_truth(folder / "vmlinux", kernel.book)
        totals: Counter[str] = Counter()
        for unit in built_units(folder):
            if unit.part_of == KERNEL:
                path = Path(scratch, "unit.o")
                path.write_bytes(finished(folder, unit.name))
                found = cover(replace(unit, path=path), kernel, truth)
                totals.update(tally(found))
                if outcome(found) != "ok":
                    print("\n".join(lines(found)), flush=True)
    print(f"{state}:", *summary(totals, told=True), sep="\n", flush=True)


def main(words: Sequence[str]) -> None:
    plugins = registry.load()
    kernel = setup.make(plugins, setup.choose(plugins, LATER, None), print)
    folder = build(kernel.source, kernel.abi.partition("-")[0])
    known = plugins.open_memory(find_memory(read_config(kernel.config))).facts()
    work = whole if "whole" in words else capture
    chosen = [each for each in STATES if each in words]
    for state in chosen or STATES:
        work(plugins, folder, state, known)


if __name__ == "__main__":
    main(sys.argv[1:])

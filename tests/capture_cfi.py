# SPDX-License-Identifier: Apache-2.0
"""Capture what a kernel with kCFI and FineIBT writes over its code, for tests/test_rewrites.py.

    python tests/capture_cfi.py

Debian builds no kernel with clang, so a small one is built here, of the later kernel's source and with
`CONFIG`. It has nothing to start and stops; its memory is read then, as capture_run_memory.py does. QEMU has
no IBT: `cfi=` on the command line says which mode the kernel takes, and endbr64 is a no-op there.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import lateobjects
import qmp
from capture_run_memory import CONFIG as KEPT_CONFIG
from capture_run_memory import LATER, Recorder, cut, structures, symbols
from excerpts import FIXTURES, OBJECTS, pre

from kdiff import guest, registry, setup
from kdiff.addressbook import AddressBook
from kdiff.elf.read import read_bytes
from kdiff.elf.write import write
from kdiff.matchable import graph_to_match
from kdiff.registry import Registry
from kdiff.sites import sites
from kdiff.solve import solve

UNITS: Mapping[str, tuple[str, ...]] = {
    "fs/read_write.c": ("vfs_llseek", "__cfi_vfs_llseek"),
}
MODES = ("kcfi", "fineibt", "off", "kcfi,norand")
CONFIG = """
CONFIG_64BIT=y
CONFIG_PRINTK=y
CONFIG_TTY=y
CONFIG_SERIAL_8250=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_BINFMT_ELF=y
CONFIG_PROC_FS=y
CONFIG_KALLSYMS=y
CONFIG_KALLSYMS_ALL=y
CONFIG_X86_KERNEL_IBT=y
CONFIG_CFI_CLANG=y
CONFIG_CPU_MITIGATIONS=y
CONFIG_MITIGATION_RETPOLINE=y
CONFIG_MITIGATION_RETHUNK=y
CONFIG_MITIGATION_SLS=y
CONFIG_FINEIBT=y
CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y
CONFIG_DEBUG_INFO_NONE=y
CONFIG_IKCONFIG=y
"""
"""On top of `make tinyconfig`."""
OPTIONS = (
    *("--hacks=jump_label", "--hacks=noinstr", "--ibt", "--cfi", "--orc", "--retpoline", "--rethunk"),
    *("--sls", "--static-call", "--uaccess", "--link"),
)
IMAGE = "arch/x86/boot/bzImage"
RELEASE = "6.12.117"
PATIENCE = 120
STOPPED = b"Kernel panic"


def build(source: Path) -> Path:
    """Return the build directory, with image and objects."""
    folder = setup.cache() / "late" / "clang"
    make = (
        *("make", "-s", "-j2", "-C", source, f"O={folder}", "CC=clang-19", "HOSTCC=gcc-12", "LD=ld.lld-19"),
        f"KERNELRELEASE={RELEASE}",
    )
    if not (folder / IMAGE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run((*make, "tinyconfig"), check=True)
        with (folder / ".config").open("a") as config:
            config.write(CONFIG)
        for goal in ("olddefconfig", "bzImage"):
            subprocess.run((*make, goal), check=True)
    return folder


def keep_objects(folder: Path, plugins: Registry, memory: Recorder) -> None:
    facts = memory.facts()
    for unit, functions in UNITS.items():
        data = lateobjects.finished(folder, unit.replace(".c", ".o"), OPTIONS)
        obj = read_bytes(data, unit)
        arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
        graph = graph_to_match(obj, arch, plugins.special_sections(facts), plugins.habits(facts))
        (OBJECTS / f"{title(unit)}.o").write_bytes(write(cut(graph, functions)))


def title(unit: str) -> str:
    return "clang-" + unit.removesuffix(".c").replace("/", "-")


def capture(folder: Path, plugins: Registry, mode: str) -> None:
    port = qmp.free_port()
    with tempfile.TemporaryDirectory() as scratch:
        console = Path(scratch) / "console"
        arguments = f"console=ttyS0 cfi={mode}"
        command = (
            *(guest.QEMU, *guest.MACHINE, "-m", "256", "-gdb", f"tcp:127.0.0.1:{port}"),
            *(
                "-kernel",
                folder / "arch/x86/boot/bzImage",
                "-append",
                arguments,
                "-serial",
                f"file:{console}",
            ),
        )
        with subprocess.Popen(command) as machine:
            try:
                deadline = time.monotonic() + PATIENCE
                while not console.exists() or STOPPED not in console.read_bytes():
                    assert machine.poll() is None
                    assert time.monotonic() < deadline, console.read_text()
                    time.sleep(0.5)
                said = [line for line in console.read_text().splitlines() if "CFI" in line]
                memory = Recorder(plugins.open_memory(f"gdb:127.0.0.1:{port}"), AddressBook(()))
                if mode == MODES[0]:
                    keep_objects(folder, plugins, memory)
                listed = list(kept(memory))
                facts = memory.facts()
                record = {
                    "release": facts.release,
                    "version": facts.version,
                    "machine": facts.machine,
                    "qemu": "-accel tcg,thread=single -cpu max",
                    "done": [*said, "built by capture_cfi.py with clang-19 19.1.7 of Debian 12"],
                    "command_line": arguments,
                    "functions": listed,
                    "config": {name: facts.config[name] for name in KEPT_CONFIG if name in facts.config},
                    "structures": structures(facts),
                    "symbols": symbols(memory, listed),
                    "memory": {f"{a:#x}": data.hex() for a, data in sorted(memory.pieces().items())},
                }
            finally:
                machine.kill()
    name = f"clang-{mode.replace(',', '-')}"
    (FIXTURES / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}: {[each for each in listed if each['refused']] or 'all match'}", flush=True)


def kept(memory: Recorder) -> list[dict[str, str]]:
    """Solve the objects against memory, which reads what is kept; tell what became of each function."""
    found = []
    for unit, functions in UNITS.items():
        graph = pre(title(unit), memory.facts())
        run = solve(graph, sites(graph), memory, memory.address_book())
        for name in functions:
            node = next(each for each in graph.nodes if name in each.names)
            address = memory.address_book().address(name)
            assert address is not None, name
            refusal = run.open.get(node.id)
            refused = "" if node.id in run.matches else str(refusal and refusal.reason)
            found.append({"unit": title(unit), "name": name, "address": f"{address:#x}", "refused": refused})
    return found


def main() -> None:
    plugins = registry.load()
    kernel = setup.make(plugins, setup.choose(plugins, LATER, None), print)
    folder = build(kernel.source)
    for mode in MODES:
        capture(folder, plugins, mode)


if __name__ == "__main__":
    main()

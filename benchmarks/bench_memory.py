# SPDX-License-Identifier: Apache-2.0
"""Are a kernel's symbols and memory the same wherever they are read from?

Boots each kernel in QEMU, with KASLR, and compares what it lists itself in /proc/kallsyms with its image on
disk, a dump of its memory and QEMU's gdbstub: every symbol with its address and its position among equal
names, those of modules included, and all of its code and constants. Where the kernel has an index of names
(kallsyms_seqs_of_names, in which livepatch counts), positions are compared with that, too.

    python benchmarks/bench_memory.py IMAGE MODULES [IMAGE MODULES ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import qmp

from kdiff import registry
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.guest import Guest
from kdiff.kallsyms import parse_text
from kdiff.memory import MemorySource

SPANS = (("_stext", "_etext"), ("__start_rodata", "__end_rodata"))
FOREIGN = ("bpf", "__builtin__ftrace", "__builtin__kprobes")
"""Owners of code that the kernel makes as it runs; it lists that, but in no module's table."""


def symbols(book: AddressBook) -> Counter[tuple[str, int, str, int]]:
    return Counter((e.name, e.address, e.owner, e.position) for e in book.entries if e.owner not in FOREIGN)


def moved(book: AddressBook, slide: int, start: int) -> Counter[tuple[str, int, str, int]]:
    """An image's symbols at the addresses of a boot: what lies below the kernel's text stays where it is."""
    return Counter(
        (e.name, e.address + (slide if e.address >= start else 0), e.owner, e.position) for e in book.entries
    )


def counted(memory: MemorySource, book: AddressBook) -> str:
    """Whether livepatch finds equal names in the order of our positions."""
    table, entries = book.named("kallsyms_seqs_of_names"), [e for e in book.entries if e.owner == KERNEL]
    data = memory.read(table[0].address, 3 * len(entries)) if table else None
    if data is None:
        return "no index of names"
    order = [entries[int.from_bytes(data[at : at + 3], "big")] for at in range(0, len(data), 3)]
    seen: Counter[str] = Counter()
    wrong = 0
    for entry in order:
        seen[entry.name] += 1
        wrong += entry.position != seen[entry.name]
    return f"{wrong} of {len(order)} positions wrong"


def measure(image: Path, modules: Path) -> bool:
    plugins = registry.load()
    started = time.process_time()
    disk = plugins.open_memory(f"image:{image}")
    linked = disk.address_book()
    seconds = time.process_time() - started
    duplicates = Counter(e.name for e in linked.entries)
    print(
        f"{disk.facts().release}: {len(linked.entries)} symbols in the image ({seconds:.1f} s CPU), "
        f"{sum(n > 1 for n in duplicates.values())} names more than once; {counted(disk, linked)}"
    )
    with TemporaryDirectory() as scratch:
        control, port = Path(scratch) / "qmp", qmp.free_port()
        hardware = (*qmp.options(control), "-gdb", f"tcp:127.0.0.1:{port}")
        with Guest.boot(image, modules, memory=400, hardware=hardware, timeout=240) as guest:
            listed = parse_text(guest.run("cat /proc/kallsyms", timeout=240).output.encode())
            started = time.monotonic()
            machine = plugins.open_memory(f"gdb:127.0.0.1:{port}")
            stopped = time.monotonic() - started
            qmp.ask(control, "dump-guest-memory", paging=False, protocol=f"file:{scratch}/dump")
            core = plugins.open_memory(f"core:{scratch}/dump")
            return compared(disk, listed, core, machine, stopped)


def compared(
    disk: MemorySource, listed: AddressBook, core: MemorySource, machine: MemorySource, stopped: float
) -> bool:
    linked, truth = disk.address_book(), symbols(listed)
    text, start = listed.address("_text"), linked.address("_text")
    assert text is not None
    assert start is not None
    own = Counter({each: count for each, count in truth.items() if each[2] == KERNEL})
    differences = {
        "image": (moved(linked, text - start, start) - own) + (own - moved(linked, text - start, start)),
        "core": (symbols(core.address_book()) - truth) + (truth - symbols(core.address_book())),
        "gdb": (symbols(machine.address_book()) - truth) + (truth - symbols(machine.address_book())),
    }
    same = True
    for name, found in differences.items():
        print(f"  {name:5} {found.total()} of {len(own if name == 'image' else truth)} symbols differ")
        for each in list(found)[:3]:
            print(f"        {each}")
        same = same and not found
    for first, last in SPANS:
        low, high = listed.address(first), listed.address(last)
        assert low is not None
        assert high is not None
        equal = core.read(low, high - low) == machine.read(low, high - low) is not None
        print(f"  {(high - low) >> 10} KiB from {first} on: core and gdb {'agree' if equal else 'DIFFER'}")
        same = same and equal
    print(f"  moved by {text - start:#x}; the machine stood still for {stopped:.1f} s at most")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kernels", nargs="+", type=Path, metavar="IMAGE MODULES")
    kernels = parser.parse_args().kernels
    if len(kernels) % 2:
        parser.error("each IMAGE needs its MODULES")
    results = [measure(*kernels[at : at + 2]) for at in range(0, len(kernels), 2)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Capture what tests/test_rewrites.py needs: boot a stock kernel in many states, keep a little of its memory.

    python tests/capture_run_memory.py [STATE ... | objects]    # all: about ten minutes

The kernel is the one tests use (conftest.py), and for some states a later one. Functions of some of its units
are compiled as it was, cut out and kept as objects; for each state the guest is booted, brought into the
state, and read through QEMU's gdbstub while kdiff solves those objects: what is read then is kept, with the
symbols that objects and rewrites name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lateobjects
import qmp
from earlyboot import EarlyBits
from excerpts import FIXTURES, OBJECTS, excerpt, pre
from updates import PATCHES, make

from kdiff import registry, setup
from kdiff.addressbook import KERNEL, AddressBook
from kdiff.confdir import read_config
from kdiff.correlate import correlate
from kdiff.diff import Change, diff
from kdiff.distribution import KernelSetup
from kdiff.elf.read import read_bytes
from kdiff.elf.write import Relocatable, write
from kdiff.extract import extract
from kdiff.graph import SectionGraph
from kdiff.guest import SHARE, Guest
from kdiff.kallsyms import parse_text
from kdiff.kbuild import pristine_units
from kdiff.kernel import Contains, Field, Form, Holds, Keep, KernelFacts, Mixed, OneOf, Through
from kdiff.matchable import graph_to_match
from kdiff.memory import MemorySource, merged
from kdiff.package import save
from kdiff.plan import plan
from kdiff.registry import Registry
from kdiff.rehearse import program
from kdiff.running import find_memory
from kdiff.sites import sites
from kdiff.solve import solve

UNITS: Mapping[str, tuple[str, ...]] = {
    "arch/x86/events/core.c": ("hw_perf_event_destroy",),
    "arch/x86/kernel/process.c": ("arch_release_task_struct", "arch_cpu_idle"),
    "arch/x86/kernel/tsc.c": ("sched_clock", "read_tsc", "set_cyc2ns_scale"),
    "arch/x86/mm/init_64.c": ("set_pud", "__p4d"),
    "block/blk-core.c": ("__SCT__tp_func_block_getrq",),
    "fs/fs-writeback.c": ("wb_start_background_writeback",),
    "fs/proc/cmdline.c": ("cmdline_proc_show",),
    "fs/read_write.c": ("vfs_llseek",),
    "kernel/bpf/trampoline.c": ("__bpf_prog_enter",),
    "kernel/freezer.c": ("set_freezable",),
    "kernel/futex/core.c": ("futex_cmpxchg_value_locked",),
    "kernel/cgroup/cgroup.c": ("cgroup_seqfile_start",),
}
"""Units, and the functions of each that are kept."""
LATER = "6.12.117+deb12-amd64"
UNITS_OF_LATER: Mapping[str, tuple[str, ...]] = {
    "arch/x86/kernel/process.c": ("default_idle", "arch_cpu_idle_dead", "__switch_to_xtra"),
    "fs/proc/cmdline.c": ("cmdline_proc_show",),
    "fs/read_write.c": ("vfs_llseek", "__pfx_vfs_llseek", "vfs_read"),
    "kernel/freezer.c": ("set_freezable", "__pfx_set_freezable"),
}
"""The same of the later kernel."""
TRACED = "cmdline_proc_show"
TRACING = "mount -t tracefs none /sys/kernel/tracing; cd /sys/kernel/tracing"
TRAMPOLINES = ".static_call.text"
"""A section that is known by its name alone; what travels in an update has a section each."""
CONFIG = ("CONFIG_64BIT", "CONFIG_HAVE_ARCH_PREL32_RELOCATIONS")
ALWAYS = ("_text", "_end", "__start_rodata", "__end_rodata", "klp_ops")
CHOOSES = "cpu_select_mitigations"
MADE = ("__builtin__", "bpf")
"""How the owners of code begin, in kallsyms, that the kernel made while it ran."""


@dataclass(frozen=True)
class State:
    """How a guest is brought into a state. `kept`: the functions that matter; all if empty."""

    name: str
    arguments: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    early: tuple[int, ...] = ()
    """Numbers of capabilities (asm/cpufeatures.h) that the processor gets before mitigations are chosen."""
    kernel: str = ""
    """Which release, if it is not the one tests use."""
    update: str = ""
    """A patch of tests/patches whose update is applied first."""


KPROBE = (
    f"{TRACING}; mount -t debugfs none /sys/kernel/debug;"
    " echo {optimize} > /proc/sys/debug/kprobes-optimization;"
    f" echo 'p:kdiff {TRACED}+{{offset}}' > kprobe_events; echo 1 > events/kprobes/kdiff/enable; sleep 2;"
    " cat /sys/kernel/debug/kprobes/list; grep -q {shown} /sys/kernel/debug/kprobes/list"
)
FENTRY = (
    f"nohup {sys.executable} {Path(__file__).with_name('bpf_fentry.py')} {TRACED} > /run/fentry 2>&1 & "
    "for i in $(seq 90); do grep -q attached /run/fentry && exit; sleep 1; done; cat /run/fentry; exit 1"
)
STATES = (
    State("plain"),
    State("one-processor", hardware=("-smp", "1")),
    State("maxcpus-1", arguments=("maxcpus=1",)),
    State("mitigations-off", arguments=("mitigations=off",)),
    State("zen1-srso", hardware=("-cpu", "EPYC"), arguments=("retbleed=off",)),
    State(
        "zen2-unret", hardware=("-cpu", "EPYC-Rome"), arguments=("retbleed=unret", "spec_rstack_overflow=off")
    ),
    State("zen3-srso", hardware=("-cpu", "EPYC-Milan")),
    State("zen2-lfence", hardware=("-cpu", "EPYC-Rome"), arguments=("spectre_v2=retpoline,lfence",)),
    State("skylake-retpoline", hardware=("-cpu", "Skylake-Server"), arguments=("spectre_v2=retpoline",)),
    State("icelake-its", hardware=("-cpu", "Icelake-Server,+arch-capabilities")),
    State(
        "eibrs-its",
        hardware=("-cpu", "Icelake-Server"),
        arguments=("nokaslr", "indirect_target_selection=force"),
        early=(7 * 32 + 30,),  # X86_FEATURE_IBRS_ENHANCED, which TCG does not have
    ),
    State("later-plain", kernel=LATER),
    State(
        "later-stuffing",
        hardware=("-cpu", "Skylake-Server"),
        arguments=("retbleed=stuff",),
        kernel=LATER,
    ),
    State("preempt-full", arguments=("preempt=full",)),
    State("preempt-none", arguments=("preempt=none",)),
    State("bpf-stats", lines=("echo 1 > /proc/sys/kernel/bpf_stats_enabled",), kept=("__bpf_prog_enter",)),
    State(
        "tracepoints",
        lines=(
            f"{TRACING}; echo 1 > events/writeback/writeback_wake_background/enable;"
            " echo 1 > events/block/block_getrq/enable",
        ),
        kept=("wb_start_background_writeback", "__SCT__tp_func_block_getrq"),
    ),
    State(
        "function-tracer",
        lines=(f"{TRACING}; echo {TRACED} > set_ftrace_filter; echo function > current_tracer",),
        kept=(TRACED,),
    ),
    State(
        "two-tracers",
        lines=(
            f"{TRACING}; echo {TRACED} > set_ftrace_filter; echo function > current_tracer;"
            f" echo 'p:kdiff {TRACED}' > kprobe_events; echo 1 > events/kprobes/kdiff/enable",
        ),
        kept=(TRACED,),
    ),
    State("kprobe-entry", lines=(KPROBE.format(optimize=1, offset=0, shown="FTRACE"),), kept=(TRACED,)),
    State("kprobe-breakpoint", lines=(KPROBE.format(optimize=0, offset=5, shown="+0x5"),), kept=(TRACED,)),
    State("kprobe-jump", lines=(KPROBE.format(optimize=1, offset=5, shown="OPTIMIZED"),), kept=(TRACED,)),
    State("bpf-fentry", lines=(FENTRY,), kept=(TRACED,)),
    State("live-patch", update="fs_cmdline", kept=(TRACED,)),
    State(
        "live-patch-traced",
        update="fs_cmdline",
        lines=(f"{TRACING}; echo {TRACED} > set_ftrace_filter; echo function > current_tracer",),
        kept=(TRACED,),
    ),
)


class Recorder:
    """A memory that remembers what was read; satisfies `MemorySource`."""

    pristine = False

    def __init__(self, memory: MemorySource, made: AddressBook) -> None:
        """`made`: what the guest lists of code that it made while it ran, which a gdbstub does not show."""
        self.name, self._memory = memory.name, memory
        self.extents, self.facts = memory.extents, memory.facts
        self.book = memory.address_book().joined(
            (each.name, each.address, each.kind, each.owner) for each in made.entries
        )
        self.seen: dict[tuple[int, int], bytes] = {}

    def address_book(self) -> AddressBook:
        return self.book

    def read(self, address: int, size: int) -> bytes | None:
        found = self._memory.read(address, size)
        if found is not None:
            self.seen[address, size] = found
        return found

    def pieces(self) -> dict[int, bytes]:
        """What was read, neighbours and overlaps as one."""
        memory = {a + i: byte for (a, _), data in self.seen.items() for i, byte in enumerate(data)}
        ranges = merged((address, 1) for address in sorted(memory))
        return {each.address: bytes(memory[each.address + i] for i in range(each.size)) for each in ranges}


# Objects ---------------------------------------------------------------------------------------------


def units(kernel: str) -> Mapping[str, tuple[str, ...]]:
    return UNITS_OF_LATER if kernel == LATER else UNITS


def title(unit: str, kernel: str) -> str:
    name = unit.removesuffix(".c").replace("/", "-")
    return f"later-{name}" if kernel == LATER else name


def keep_objects(kernel: KernelSetup, plugins: Registry) -> None:
    """Compile the units and write what is kept of each."""
    config = read_config(kernel.config)
    facts = plugins.open_memory(find_memory(config)).facts()
    special, habits = plugins.special_sections(facts), plugins.habits(facts)
    special = {name: replace(row, keep=Keep.OWNER) if row.sites else row for name, row in special.items()}
    OBJECTS.mkdir(parents=True, exist_ok=True)
    for source, data in compiled(kernel):
        obj = read_bytes(data, source)
        arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
        graph = graph_to_match(obj, arch, special, habits)
        kept = write(cut(graph, units(kernel.abi)[source]))
        (OBJECTS / f"{title(source, kernel.abi)}.o").write_bytes(kept)


def compiled(kernel: KernelSetup) -> Iterator[tuple[str, bytes]]:
    """The units of a kernel, and the object of each."""
    if kernel.abi == LATER:
        yield from lateobjects.compiled(kernel, UNITS_OF_LATER)
        return
    for unit in pristine_units(read_config(kernel.config), kernel.source, UNITS, say=print):
        yield unit.source, unit.pre


def cut(graph: SectionGraph, functions: tuple[str, ...]) -> Relocatable:
    """The functions with their strings and table entries; all else undefined, under its own name."""
    pairing = correlate(graph, graph)
    wanted = [node.id for name in functions for node in graph.nodes if name in node.names]
    assert len(wanted) == len(functions), functions
    delta = replace(
        diff(graph, graph, pairing), changed=tuple(Change(each, each, ()) for each in wanted), same=()
    )
    obj = extract(plan(graph, graph, pairing, delta, KERNEL)).obj
    symbols = tuple(replace(each, name=each.name.partition(",")[0]) for each in obj.symbols)
    sections = tuple(
        replace(each, name=TRAMPOLINES) if each.name.startswith(TRAMPOLINES) else each
        for each in obj.sections
    )
    return replace(obj, sections=sections, symbols=symbols)


# States ----------------------------------------------------------------------------------------------


def capture(kernel: KernelSetup, plugins: Registry, state: State) -> None:
    """Boot, bring into the state, read, write the file."""
    port = qmp.free_port()
    hardware = ("-gdb", f"tcp:127.0.0.1:{port}", *state.hardware, *(("-S",) if state.early else ()))
    helper = given_early(kernel, plugins, state, port)
    with Guest.boot(
        kernel.image / "vmlinuz", kernel.image / "modules",
        memory=512, timeout=300, hardware=hardware, arguments=state.arguments,
    ) as guest:  # fmt: skip
        assert helper is None or helper.done
        if state.update:
            save(make(kernel, PATCHES / f"{state.update}.patch"), guest.share)
        applied = (program("apply", f"{SHARE}/ksplice-{state.update}.tar.gz"),) if state.update else ()
        for line in (*applied, *state.lines):
            result = guest.run(line)
            assert result.held, result.output
        told: dict[str, Any] = {
            name: guest.run(line).output.strip()
            for name, line in (
                ("command_line", "cat /proc/cmdline"),
                ("processor", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2"),
                ("vulnerabilities", "cd /sys/devices/system/cpu/vulnerabilities; grep . *"),
                ("traced", "cat /sys/kernel/tracing/enabled_functions 2>/dev/null"),
            )
        }
        made = guest.run(r"grep -E '( _text$|\[(__builtin__|bpf))' /proc/kallsyms").output
        memory = Recorder(plugins.open_memory(f"gdb:127.0.0.1:{port}"), made_at_run_time(made))
        listed = list(kept(memory, state))
        facts = memory.facts()
        told["vulnerabilities"] = told["vulnerabilities"].splitlines()
        record = {
            "release": facts.release,
            "version": facts.version,
            "machine": facts.machine,
            "qemu": " ".join(("-accel tcg,thread=single -cpu max -smp 2", *state.hardware)),
            "done": [
                *(f"capability {number} set before {CHOOSES}()" for number in state.early),
                *(("ksplice-apply " + state.update,) if state.update else ()),
                *map(told_briefly, state.lines),
            ],
            **told,
            "functions": listed,
            "config": {name: facts.config[name] for name in CONFIG if name in facts.config},
            "structures": structures(facts),
            "symbols": symbols(memory, listed),
            "memory": {f"{a:#x}": data.hex() for a, data in sorted(memory.pieces().items())},
        }
    (FIXTURES / f"{state.name}.json").write_text(json.dumps(record, indent=1) + "\n")


def given_early(kernel: KernelSetup, plugins: Registry, state: State, port: int) -> EarlyBits | None:
    """Who waits for the kernel to choose its mitigations and gives the processor what the state says."""
    if not state.early:
        return None
    image = plugins.open_memory(find_memory(read_config(kernel.config)))
    stop, processor = (image.address_book().address(each) for each in (CHOOSES, "boot_cpu_data"))
    assert stop is not None
    assert processor is not None
    start = processor + image.facts().structures["cpuinfo_x86"].members["x86_capability"]
    bits = {start + number // 8: 1 << number % 8 for number in state.early}
    helper = EarlyBits(port, stop, bits)
    helper.start()
    return helper


def kept(memory: Recorder, state: State) -> Iterator[dict[str, Any]]:
    """Solve the objects against memory, which reads what is kept; tell what became of each function."""
    for unit, functions in units(state.kernel).items():
        wanted = [name for name in functions if name in state.kept or not state.kept]
        if not wanted:
            continue
        graph = pre(title(unit, state.kernel), memory.facts())
        run = solve(graph, sites(graph), memory, memory.address_book())
        for name in wanted:
            node = next(each for each in graph.nodes if name in each.names)
            address = memory.address_book().address(name)
            assert address is not None, name
            refusal = run.open.get(node.id)
            yield {
                "unit": title(unit, state.kernel), "name": name, "address": f"{address:#x}",
                "refused": "" if node.id in run.matches else str(refusal and refusal.reason),
            }  # fmt: skip


def symbols(memory: Recorder, listed: list[dict[str, Any]]) -> list[list[str]]:
    names = set(ALWAYS)
    for unit in {each["unit"] for each in listed}:
        graph = pre(unit, memory.facts())
        names |= {name for node in graph.nodes for name in node.names}
        names |= {
            n for found in sites(graph).values() for s in found for form in s.forms for n in named(form)
        }
    return [
        [each.name, f"{each.address:#x}", each.kind, each.owner]
        for each in memory.address_book().entries
        if (each.name in names and each.owner == KERNEL) or each.owner.startswith(MADE)
    ]


def told_briefly(line: str) -> str:
    """A line without where this machine has its programs."""
    return line.replace(sys.executable, "python").replace(f"{Path(__file__).parent.parent}/", "")


def made_at_run_time(text: str) -> AddressBook:
    """The lines of /proc/kallsyms that are neither the kernel's own nor a module's."""
    return AddressBook(line for line in parse_text(text.encode()).lines() if line[3].startswith(MADE))


def named(form: Form) -> Iterator[str]:
    for part in form:
        if isinstance(part, (OneOf, Holds)):
            yield from part.names
        if isinstance(part, (Contains, Field, Holds, Mixed, Through)):
            yield part.place.name


def structures(facts: KernelFacts) -> dict[str, Any]:
    wanted = (
        *("alt_instr", "paravirt_patch_site", "jump_entry", "static_call_site", "static_call_key"),
        *("bug_entry", "exception_table_entry", "orc_entry", "klp_ops", "klp_func", "pcpu_hot"),
    )
    return {
        name: [found.size, dict(sorted(found.members.items()))]
        for name in wanted
        if (found := facts.structures.get(name)) is not None
    }


def main(names: list[str]) -> None:
    plugins = registry.load()
    newest = setup.distribution(plugins).newest()
    kernels = {
        release: setup.make(plugins, setup.choose(plugins, release or newest, None), print)
        for release in sorted({state.kernel for state in STATES})
    }
    if not names or names == ["objects"]:
        for kernel in kernels.values():
            keep_objects(kernel, plugins)
    for state in STATES:
        if not names or state.name in names:
            print(f"{state.name} ...", flush=True)
            capture(kernels[state.kernel], plugins, state)
            refused = [each for each in excerpt(state.name).told["functions"] if each["refused"]]
            print(f"{state.name}: {refused or 'all match'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

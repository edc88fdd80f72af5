# SPDX-License-Identifier: Apache-2.0
"""Branches that the assembler resolved, because caller and callee share a section, on all architectures."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from compiled import ASSEMBLY, HABITS, compiled, labels, named, planned
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff import registry
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.elf.read import STB_LOCAL, read_bytes
from kdiff.extract import extract
from kdiff.graph import SectionGraph, build
from kdiff.kernel import KernelFacts
from kdiff.lead import lead

COMPILERS = {
    "x86_64": ("x86_64-linux-gnu-gcc", "-mcmodel=kernel", "-fno-pic"),
    "i386": ("i686-linux-gnu-gcc", "-fno-pic"),
    "aarch64": ("aarch64-linux-gnu-gcc",),
    "arm": ("arm-linux-gnueabihf-gcc", "-marm"),
    "ppc64le": ("powerpc64le-linux-gnu-gcc",),
    "s390x": ("s390x-linux-gnu-gcc",),
    "riscv64": ("riscv64-linux-gnu-gcc", "-mno-relax"),
}
MISSING = [command[0] for command in COMPILERS.values() if shutil.which(command[0]) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

TEXT = """
#define TOGETHER __attribute__((section(".noinstr.text"), noinline))
static TOGETHER int helper(int x) { asm volatile(""); return x * 3; }
TOGETHER int grows(int x) { asm volatile(""); EDIT return x + 4; }
TOGETHER int f(int x) { return helper(x) + NUMBER; }
TOGETHER int g(int x) { return helper(x) + 7; }
TOGETHER int h(int x) { return x > 5 ? helper(x) : x; }
"""


@cache
def graph(machine: str, number: int = 1, edit: str = "") -> SectionGraph:
    text = TEXT.replace("NUMBER", str(number)).replace("EDIT", edit)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "unit.o"
        command = [*COMPILERS[machine], "-O2", "-ffunction-sections", "-fcf-protection=none"]
        if machine not in ("x86_64", "i386"):
            command.pop()
        command += ["-fno-asynchronous-unwind-tables", "-x", "c", "-c", "-o", str(path), "-"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        assert not done.returncode, done.stderr.decode()
        obj = read_bytes(path.read_bytes(), "unit.o")
    plugins = registry.load()
    arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
    facts = KernelFacts(machine=arch.name)
    return build(obj, arch, plugins.special_sections(facts), plugins.habits(facts))


@pytest.mark.parametrize("machine", COMPILERS)
def test_a_branch_to_another_function_of_the_section_is_a_reference(machine: str) -> None:
    found = graph(machine)
    helper = named(found, "helper")
    for name in "fgh":
        (reference,) = (each for each in found.references[named(found, name).id] if each.target == helper.id)
        assert reference.branch
        assert (reference.addend, reference.minus) == (0, None)


@pytest.mark.parametrize("machine", COMPILERS)
def test_such_references_compute_what_the_assembler_stored(machine: str) -> None:
    found = graph(machine)
    starts = {node.id: node.start for node in found.nodes if node.section_name == ".noinstr.text"}
    for node in found.nodes:
        for reference in found.references[node.id] if node.id in starts else ():
            if reference.target not in starts:
                continue
            howto = reference.howto
            at = slice(reference.offset, reference.offset + howto.size)
            destination = (
                starts[reference.target] + reference.addend + reference.insn_addend + reference.entry
            )
            value = howto.value(destination, node.start + reference.offset, found.arch.elf_class)
            stored = howto.extract(found.contents(node)[at], found.arch.byte_order)
            assert (stored - value) % (1 << howto.span) == 0 or not stored, "a relocation leaves zeros"


@pytest.mark.parametrize("machine", COMPILERS)
def test_code_whose_neighbour_grew_is_the_same(machine: str) -> None:
    before, after = graph(machine), graph(machine, edit="if (x > 9) return x * 77 - 3;")
    changed = [after.nodes[each.post] for each in diff(before, after, correlate(before, after)).changed]
    assert [node.label for node in changed if node.table is None] == ["grows"]


@pytest.mark.parametrize("machine", COMPILERS)
def test_code_that_travels_alone_calls_the_kernels_own(machine: str) -> None:
    made = planned(graph(machine), graph(machine, number=2))
    assert labels(made.post, (post for _, post in made.replaced)) == ["f"]
    taken = extract(made)
    (borrowed,) = (each for each in taken.borrowed if each.name == "helper")
    assert borrowed.static == (named(made.pre, "helper").local)
    (section,) = (each for each in taken.obj.sections if each.name.startswith(".noinstr.text"))
    assert [taken.obj.symbols[each.symbol].name for each in section.relocations if each.symbol >= 0].count(
        borrowed.symbol
    ) == 1


def test_a_branch_inside_of_its_function_is_none() -> None:
    found = graph("x86_64")
    (node,) = (node for node in found.nodes if node.name == "h")
    assert len(found.references[node.id]) == 1
    assert int(found.obj.symbols["binding"][1]) == STB_LOCAL


@pytest.mark.parametrize(
    ("ahead", "name", "told"),
    [
        ("nop; nop", "__pfx_f", False),
        ("nop; call g", "__pfx_f", True),
        ("nop; nop", "__pfx_other", True),
        ("nop; nop\n.size __pfx_f,2\n.type z,@function\nz: nop\n.size z,1", "__pfx_f", True),
    ],
)
def test_a_branch_into_what_travels_in_front_of_a_function_needs_no_reference(
    ahead: str, name: str, told: bool
) -> None:
    """Whatever refers to something, or is called after something else, stays behind."""
    text = (
        f'.section .text.f,"ax"\n.type {name},@function\n{name}: {ahead}\n'
        f"{'' if '.size' in ahead else f'.size {name},.-{name}'}\n"
        f".type f,@function\nf: jmp {name}\n.size f,.-f\n"
    )
    found = build(read_bytes(compiled(text, ASSEMBLY), "unit.o"), ARCHITECTURE, {}, HABITS)
    references = found.references[named(found, "f").id]
    assert [found.nodes[each.target].name for each in references] == [name] * told
    assert (lead(found, named(found, "f")) > 0) is not told

# SPDX-License-Identifier: Apache-2.0
"""What lies in front of functions travels with them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from compiled import planned

from kdiff import registry
from kdiff.elf.read import read_bytes
from kdiff.elf.write import write
from kdiff.extract import extract
from kdiff.graph import SectionGraph, build
from kdiff.kernel import KernelFacts
from kdiff.lead import lead

SOURCE = """
int g(int);
static int called(int x) { return g(x) + 1; }
static int other(int x) { return g(x) + 5; }
int (*table[])(int) = { called, other, g };
int f(int (*p)(int), int x) { return p(x) + g(x); }
"""


def graph(data: bytes) -> SectionGraph:
    plugins = registry.load()
    obj = read_bytes(data, "unit.o")
    arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
    facts = KernelFacts(machine=arch.name)
    return build(obj, arch, plugins.special_sections(facts), plugins.habits(facts))


def compiled(text: str, folder: Path, target: str, *options: str) -> SectionGraph:
    (folder / "unit.c").write_text(text)
    command = ["clang-19", f"--target={target}-linux-gnu", "-O2", "-fsanitize=kcfi", *options, "-c", "unit.c"]
    subprocess.run(command, cwd=folder, check=True)
    return graph((folder / "unit.o").read_bytes())


TARGETS = {
    "x86_64": ("x86_64", "-mcmodel=kernel", "-fno-pic", "-fpatchable-function-entry=11,11"),
    "x86_64 without no-ops": ("x86_64", "-mcmodel=kernel", "-fno-pic"),
    "aarch64": ("aarch64",),
    "aarch64 with no-ops": ("aarch64", "-fpatchable-function-entry=4,2"),
}


@pytest.mark.parametrize("sections", [(), ("-ffunction-sections",)])
@pytest.mark.parametrize("target", TARGETS)
def test_the_hash_of_a_functions_type_travels_with_it(
    target: str, sections: tuple[str, ...], tmp_path: Path
) -> None:
    before = compiled(SOURCE, tmp_path, *TARGETS[target], *sections)
    after = compiled(SOURCE.replace("+ 1", "+ 2"), tmp_path, *TARGETS[target], *sections)
    made = planned(before, after)
    ((_, changed),) = made.replaced
    old = after.nodes[changed]
    size = lead(after, old)
    assert size >= 4
    found = graph(write(extract(made).obj))
    (new,) = (node for node in found.nodes if node.name == "called")
    old_bytes, new_bytes = (
        bytes(each.obj.contents(node.section))[node.start - size : node.start]
        for each, node in ((after, old), (found, new))
    )
    assert any(old_bytes)
    assert new_bytes == old_bytes


def test_nothing_travels_in_front_of_an_ordinary_function(tmp_path: Path) -> None:
    found = compiled(SOURCE, tmp_path, "x86_64", "-fno-sanitize=kcfi", "-fno-pic")
    assert {lead(found, node) for node in found.nodes} == {0}

# SPDX-License-Identifier: Apache-2.0
"""Tables of kernels of all ages and architectures, as their macros write them, without facts of a kernel."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import compiled
import pytest
from compiled import labels, planned
from kdiff_emit_livepatch import review as livepatch

from kdiff import registry
from kdiff.cli.main import main
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.dwarflines import NONE
from kdiff.elf.read import read_bytes
from kdiff.elf.write import write
from kdiff.extract import extract
from kdiff.graph import Node, SectionGraph, build
from kdiff.kernel import KernelFacts
from kdiff.review import review
from kdiff.review_sections import unknown_sections
from kdiff.why import why

PREFIX = {
    "x86_64": "x86_64-linux-gnu-",
    "i386": "i686-linux-gnu-",
    "arm64": "aarch64-linux-gnu-",
    "ppc64le": "powerpc64le-linux-gnu-",
    "s390x": "s390x-linux-gnu-",
    "riscv64": "riscv64-linux-gnu-",
    "arm": "arm-linux-gnueabihf-",
}
NOP = {"s390x": "nopr", "ppc64le": "nop", "riscv64": ".option norvc; nop"}


ASSEMBLERS = {machine: (f"{prefix}as",) for machine, prefix in PREFIX.items()} | {
    f"loongarch64{relaxed}": ("clang-19", "--target=loongarch64-linux-gnu", *options, "-c", "-xassembler")
    for relaxed, options in (("", ("-mno-relax",)), (", relaxed", ("-mrelax",)))
}
MISSING = [command[0] for command in ASSEMBLERS.values() if shutil.which(command[0]) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


@cache
def _assembled(machine: str, text: str) -> bytes:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "unit.o"
        command = [*ASSEMBLERS[machine], "-o", str(path), "-"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        assert not done.returncode, done.stderr.decode()
        return path.read_bytes()


def graph(machine: str, text: str, facts: KernelFacts | None = None) -> SectionGraph:
    plugins = registry.load()
    obj = read_bytes(_assembled(machine, text), "unit.o")
    arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
    facts = facts or KernelFacts(machine=arch.name)
    return build(obj, arch, plugins.special_sections(facts), plugins.habits(facts))


def code(machine: str, *names: str, lines: int = 4) -> str:
    """Functions `f`, `g` ... in sections of their own, each with labels `f0` `f1` ... at its instructions."""
    nop = NOP.get(machine, "nop")
    return "".join(
        f'.section .text.{name},"ax"\n.type {name},%function\n.globl {name}\n{name}:\n'
        + "".join(f".L{name}{i}: {nop}\n" for i in range(lines))
        + f".size {name},.-{name}\n"
        for name in names
    )


def table(name: str, *entries: str, flags: str = "a") -> str:
    return f'.section {name},"{flags}",%progbits\n' + "".join(f"{each}\n" for each in entries)


def entries(graph: SectionGraph, section: str) -> list[Node]:
    return [node for node in graph.nodes if node.table is not None and node.section_name == section]


def owners(graph: SectionGraph, section: str) -> list[str]:
    """The owner of each entry, `-` for none."""
    found = [graph.owners.get(node.id) for node in entries(graph, section)]
    return ["-" if each is None else graph.nodes[each].name for each in found]


BUG_RELATIVE = "2: .long .L{0}1-2b, file-2b; .word {1}, 0; .org 2b+12"
BUG_ITSELF = "2: .long .L{0}1-., file-.; .word {1}, 0; .org 2b+12"
BUG_POINTER = "2: .quad .L{0}1, file; .word {1}, 0; .org 2b+24"
BUG_TERSE = "2: .long .L{0}1-2b; .word 0; .org 2b+8"
BUG_FORMAT = "2: .long .L{0}1-., format-., file-.; .word {1}, 0; .org 2b+16"
JUMP_POINTER = ".balign 8; .quad .L{0}0, .L{0}2, key"
JUMP_RELATIVE = ".balign 8; .long .L{0}0-., .L{0}2-.; .quad key-."
FILE = '.section .rodata.str1.1,"aMS",%progbits,1\nfile: .string "kernel/fork.c"\nformat: .string "%s"\n'

LAYOUTS = {
    "bug 12, from the entry": ("x86_64", "__bug_table", BUG_RELATIVE, 12),
    "bug 12, from each field": ("x86_64", "__bug_table", BUG_ITSELF, 12),
    "bug 8": ("x86_64", "__bug_table", BUG_TERSE, 8),
    "bug 16 with a format": ("x86_64", "__bug_table", BUG_FORMAT, 16),
    "bug 24": ("ppc64le", "__bug_table", BUG_POINTER, 24),
    "bug 12, i386": ("i386", "__bug_table", "2: .long .L{0}1, file; .word {1}, 0; .org 2b+12", 12),
    "bug 12, riscv": ("riscv64", "__bug_table", "2: .long .L{0}1-., file-.; .half {1}, 0; .org 2b+12", 12),
    "exception 8": ("x86_64", "__ex_table", ".balign 4; .long .L{0}1-., .L{0}3-.", 8),
    "exception 12 with a handler": (
        "x86_64",
        "__ex_table",
        ".balign 4; .long .L{0}1-., .L{0}3-., ex_handler_default-.",
        12,
    ),
    "exception 12 with a type": ("x86_64", "__ex_table", ".balign 4; .long .L{0}1-., .L{0}3-., 3", 12),
    "exception 16": ("ppc64le", "__ex_table", ".balign 8; .quad .L{0}1, .L{0}3", 16),
    "exception 16, s390": ("s390x", "__ex_table", ".align 4; .long .L{0}1-., .L{0}3-.; .quad 0", 16),
    "exception 12, riscv": ("riscv64", "__ex_table", ".balign 4; .long .L{0}1-., .L{0}3-.; .short 1, 0", 12),
    "exception 16, riscv": ("riscv64", "__ex_table", ".balign 8; .dword .L{0}1, .L{0}3", 16),
    "jump 24": ("x86_64", "__jump_table", JUMP_POINTER, 24),
    "jump 16": ("x86_64", "__jump_table", JUMP_RELATIVE, 16),
    "jump 16, arm64": ("arm64", "__jump_table", JUMP_RELATIVE, 16),
    "jump 16, riscv": ("riscv64", "__jump_table", JUMP_RELATIVE.replace(".quad", ".dword"), 16),
    "jump 24, s390": ("s390x", "__jump_table", JUMP_POINTER, 24),
    "jump 12, i386": ("i386", "__jump_table", ".balign 4; .long .L{0}0, .L{0}2, key", 12),
    "alternative 12": ("x86_64", ".altinstructions", ".long .L{0}0-., r-.; .word 7; .byte 2, 1", 12),
    "alternative 13": ("x86_64", ".altinstructions", ".long .L{0}0-., r-.; .word 7; .byte 2, 1, 0", 13),
    "alternative 14": ("x86_64", ".altinstructions", ".long .L{0}0-., r-., 7; .byte 2, 1", 14),
    "alternative 11, s390": ("s390x", ".altinstructions", ".long .L{0}0-., r-.; .word 7; .byte 2", 11),
    "alternative 16, riscv": (
        "riscv64",
        ".alternative",
        ".long .L{0}0-., .L{0}2-.; .half 1; .half .L{0}2-.L{0}0; .long 0",
        16,
    ),
    "alternative 36, riscv": (
        "riscv64",
        ".alternative",
        ".dword .L{0}0, .L{0}2, 1, .L{0}2-.L{0}0; .long 0",
        36,
    ),
    "paravirt 16": (
        "x86_64",
        ".parainstructions",
        ".balign 8; .quad .L{0}1; .byte 4, 2; .balign 8",
        16,
    ),
    "paravirt 16, last of 12": (
        "x86_64",
        ".parainstructions",
        ".balign 8; .quad .L{0}1; .byte 4, 2; .short 1",
        16,
    ),
    "paravirt 16, last of 10": ("x86_64", ".parainstructions", ".balign 8; .quad .L{0}1; .byte 4, 2", 16),
    "bug 12, arm": ("arm", "__bug_table", ".align 2; .long .L{0}1, file; .hword {1}, 0", 12),
    "exception 8, arm": ("arm", "__ex_table", ".align 3; .long .L{0}1, .L{0}3", 8),
    "jump 12, arm": ("arm", "__jump_table", ".align 2; .long .L{0}0, .L{0}2, key", 12),
    "entry, arm": ("arm", "__mcount_loc", ".long {0}", 4),
    "one processor, arm": ("arm", ".alt.smp.init", ".long .L{0}1-.; nop", 8),
    "one processor, old arm": ("arm", ".alt.smp.init", ".long .L{0}1; nop", 8),
    "physical address, arm": ("arm", ".pv_table", ".long .L{0}1-.", 4),
    "exception 8, i386": ("i386", "__ex_table", ".balign 4; .long .L{0}1-., .L{0}3-.", 8),
    "alternative 12, i386": ("i386", ".altinstructions", ".long .L{0}0-., r-.; .word 7; .byte 2, 1", 12),
    "paravirt 8, i386": ("i386", ".parainstructions", ".balign 4; .long .L{0}1; .byte 4, 2; .short 1", 8),
    "paravirt 8, i386, last of 6": ("i386", ".parainstructions", ".balign 4; .long .L{0}1; .byte 4, 2", 8),
    **{
        f"{name}, loongarch{relaxed}": (f"loongarch64{relaxed}", section, entry, size)
        for relaxed in ("", ", relaxed")
        for name, section, entry, size in (
            (
                "alternative 12",
                ".altinstructions",
                ".long .L{0}0-., r-.; .short 7; .byte .L{0}1-.L{0}0, 4",
                12,
            ),
            ("bug 12", "__bug_table", "2: .long .L{0}1-., file-.; .short {1}, 0; .org 2b+12", 12),
            ("exception 12", "__ex_table", ".balign 4; .long .L{0}1-., .L{0}3-.; .short 1, 0", 12),
            ("jump 16", "__jump_table", ".balign 8; .long .L{0}0-., .L{0}2-.; .quad key-.", 16),
            ("unwinding", ".orc_unwind_ip", ".long .L{0}1-.", 4),
        )
    },
    "static call": ("x86_64", ".static_call_sites", ".long .L{0}1-., key-.", 8),
    "error injection": ("x86_64", "_error_injection_whitelist", ".quad {0}; .long 1, 0", 16),
    "lock": ("x86_64", ".smp_locks", ".long .L{0}1-.", 4),
    "call": ("x86_64", ".call_sites", ".long .L{0}1-.", 4),
    "return": ("x86_64", ".return_sites", ".long .L{0}1-.", 4),
    "hash of a call": ("x86_64", ".cfi_sites", ".long .L{0}0-.", 4),
    "trap of a call": ("x86_64", ".kcfi_traps", ".long .L{0}1-.", 4),
    "return, s390": ("s390x", ".s390_return_mem", ".long .L{0}1-.", 4),
    "entry": ("x86_64", "__mcount_loc", ".quad {0}", 8),
    "entry, arm64": ("arm64", "__patchable_function_entries", ".quad {0}", 8),
    "entry, i386": ("i386", "__mcount_loc", ".long {0}", 4),
    "barrier": ("ppc64le", "__barrier_nospec_fixup", "3: .8byte .L{0}1-3b", 8),
}


def _unit(layout: str, about: str, line: int = 100) -> str:
    machine, section, entry, _ = LAYOUTS[layout]
    rows = (entry.format(name, line + number) for number, name in enumerate(about))
    functions = code(machine, *sorted(set("fgh")))
    return functions + FILE + table(section, *rows) + table(".altinstr_replacement", "r: .byte 0", flags="ax")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("about", ["f", "fg", "ffgh", "hgfhgfhgfhgfh"])
def test_each_entry_belongs_to_the_code_it_is_about(layout: str, about: str) -> None:
    machine, section, _, size = LAYOUTS[layout]
    found = graph(machine, _unit(layout, about))
    nodes = entries(found, section)
    tables = [node.table for node in nodes if node.table is not None]
    assert {row.entry_size for row in tables} == {size}
    in_runs = any(row.runs for row in tables)
    assert owners(found, section) == ([name for name, _ in groupby(about)] if in_runs else list(about))
    assert all(node.size == size or in_runs for node in nodes[:-1])
    assert len(about) * size - size < sum(node.size for node in nodes) <= len(about) * size


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_object_is_the_same_as_itself(layout: str) -> None:
    machine, _, _, _ = LAYOUTS[layout]
    found = graph(machine, _unit(layout, "fgh"))
    delta = diff(found, found, correlate(found, found))
    assert (delta.changed, delta.added, delta.removed) == ((), (), ())


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("bug")])
def test_lines_in_a_table_are_no_difference_in_any_layout(layout: str) -> None:
    machine, _, _, _ = LAYOUTS[layout]
    before, after = (graph(machine, _unit(layout, "fgh", line)) for line in (100, 0x1234))
    assert not diff(before, after, correlate(before, after)).changed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entries_travel_with_the_code_they_are_about_and_no_others(layout: str) -> None:
    machine, section, _, size = LAYOUTS[layout]
    text = _unit(layout, "fgfhg")
    nop = NOP.get(machine, "nop")
    before, after = graph(machine, text), graph(machine, text.replace(".size g,", f"{nop}\n.size g,"))
    made = planned(before, after)
    assert labels(after, (post for _, post in made.replaced)) == ["g"]
    assert not review(made)
    obj = extract(made).obj
    (found,) = (each for each in obj.sections if each.name == section)
    last = entries(after, section)[-1].size
    assert len(found.data) in (2 * size, size + last)


def test_a_feature_fixup_counts_from_its_start() -> None:
    """MAKE_FTR_SECTION_ENTRY: label 5 is the entry, 1 to 2 the section, 3 to 4 its alternative."""

    def fixup(name: str, number: int) -> str:
        alternative = f'.pushsection __ftr_alt_97,"a"\n.La{number}: trap\n.Le{number}:\n.popsection\n'
        return (
            alternative
            + f".balign 8\n5: .8byte 1, 0, .L{name}0-5b, .L{name}1-5b, .La{number}-5b, .Le{number}-5b"
        )

    rows = [fixup(name, number) for number, name in enumerate("fgf")]
    found = graph("ppc64le", code("ppc64le", "f", "g") + table("__ftr_fixup", *rows))
    assert owners(found, "__ftr_fixup") == ["f", "g", "f"]
    first = found.references[entries(found, "__ftr_fixup")[2].id]
    assert [(each.offset, each.addend) for each in first] == [(16, 0), (24, 4), (32, 0), (40, 4)]
    assert all(found.is_piece(found.nodes[each.target]) for each in first[2:])
    assert found.nodes[first[2].target].start == 8


# In doubt --------------------------------------------------------------------------------------------

_STRANGE = (".long .L{0}1-., 0, 0, file-., 0", ".long .L{0}1-., file-., 0, 0, 0")


def _strange(*about: str) -> str:
    """A table of entries as no kernel has had them, of which some have another shape than others."""
    rows = [_STRANGE[number % 2].format(name) for number, name in enumerate(about)]
    return code("x86_64", "f", "g") + FILE + table("__bug_table", *rows)


def test_a_table_in_doubt_is_compared_as_a_whole() -> None:
    found = graph("x86_64", _strange("f", "f"))
    (row,) = entries(found, "__bug_table")
    assert row.table is not None
    assert "no known layout" in row.table.opaque
    assert row.id not in found.owners
    delta = diff(found, found, correlate(found, found))
    assert (delta.changed, delta.added, delta.removed) == ((), (), ())


def test_a_table_in_doubt_is_refused_only_if_it_may_be_about_what_changes() -> None:
    def refused(text: str) -> list[str]:
        made = planned(graph("x86_64", text), graph("x86_64", text.replace(".size g,", "nop\n.size g,")))
        assert len(made.replaced) == 1
        return [each.key for each in review(made)]

    assert refused(_strange("f", "f")) == []
    assert set(refused(_strange("f", "g"))) == {"review.unknown_entries"}


def test_a_table_in_doubt_that_changes_is_refused() -> None:
    before, after = graph("x86_64", _strange("f", "f")), graph("x86_64", _strange("f", "f", "f"))
    assert [each.key for each in review(planned(before, after))] == ["review.unknown_entries"]


# Other tables ----------------------------------------------------------------------------------------


def _refused(before: str, after: str) -> list[str]:
    return [each.key for each in review(planned(graph("x86_64", before), graph("x86_64", after)))]


@pytest.mark.parametrize("name", ["callbacks.pre_patch", "ignore.functions"])
def test_what_asks_another_tool_for_something_is_refused_and_not_forgotten(name: str) -> None:
    plain, asking = code("x86_64", "f", "g"), table(f".kpatch.{name}", ".quad g", flags="aw")
    assert _refused(plain, plain + asking) == ["review.other_tool"]
    assert _refused(plain + asking, plain + asking) == []
    assert _refused(plain + asking, plain) == (["review.other_tool"] if "ignore" in name else [])


def test_new_callbacks_of_another_tool_are_in_the_extract_but_not_in_a_livepatch() -> None:
    plain = code("x86_64", "f", "g")
    changed = plain.replace(".size f,", "nop\n.size f,") + code("x86_64", "before")
    after = graph("x86_64", changed + table(".kpatch.callbacks.pre_patch", ".quad before", flags="aw"))
    made = planned(graph("x86_64", plain), after)
    assert not review(made)
    assert {"f", "before"} <= set(labels(after, made.carried))
    (found,) = (each for each in extract(made).obj.sections if each.name == ".kpatch.callbacks.pre_patch")
    assert (len(found.data), len(found.relocations)) == (8, 1)
    assert "emit.other_tool" in [each.key for each in livepatch.review(made, KernelFacts())]


@pytest.mark.parametrize("name", ["force", "strings", "funcs", "ignore.sections"])
def test_what_another_tool_may_do_says_nothing_here(name: str) -> None:
    plain = code("x86_64", "f", "g")
    assert (
        _refused(plain, plain.replace(".size f,", "nop\n.size f,") + table(f".kpatch.{name}", ".quad f"))
        == []
    )


@pytest.mark.parametrize("name", ["alloc_tags", ".codetag.alloc_tags"])
def test_lines_of_allocations_are_no_difference(name: str) -> None:
    def unit(line: int) -> str:
        tag = f".type _alloc_tag.0,@object\n_alloc_tag.0: .long 0, {line}\n.quad 0, file, file, 0\n"
        user = code("x86_64", "f").replace(".size f,", "lea _alloc_tag.0(%rip), %rax\n.size f,")
        return user + FILE + table(name, tag + ".size _alloc_tag.0,.-_alloc_tag.0", flags="aw")

    before, after = graph("x86_64", unit(100)), graph("x86_64", unit(4711))
    assert not diff(before, after, correlate(before, after)).changed
    assert unknown_sections(after) == ()


BOOT = {
    "x86_64": ("__clk_of_table_end", ".pci_fixup_final", ".x86_cpu_dev.init", "___kflagstab+f"),
    "ppc64le": ("__soft_mask_table", "__restart_table", ".machine.desc"),
    "s390x": (".amode31.ex_table", ".amode31.text", ".boot.preserved.data"),
    "arm64": ("__irqchip_of_table", ".mmuoff.data.read"),
    "riscv64": ("__soc_early_init_table",),
}


@pytest.mark.parametrize("machine", BOOT)
def test_what_is_read_at_boot_only_is_known(machine: str) -> None:
    tables = "".join(
        table(name, f"{'.dword' if machine == 'riscv64' else '.8byte'} f") for name in BOOT[machine]
    )
    assert unknown_sections(graph(machine, code(machine, "f") + tables)) == ()


# The command -----------------------------------------------------------------------------------------


def _diff(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, *more: str
) -> tuple[int, str]:
    for name, text in (("pre.o", before), ("post.o", after)):
        (tmp_path / name).write_bytes(_assembled("x86_64", text))
    status = main(["diff", str(tmp_path / "pre.o"), str(tmp_path / "post.o"), *more])
    return status, capsys.readouterr().out


def test_facts_settle_what_an_object_does_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = _strange("f", "g"), _strange("f", "g").replace(".size g,", "nop\n.size g,")
    status, said = _diff(tmp_path, capsys, before, after)
    assert status == 3
    assert "opaque   __bug_table: entries of __bug_table, 40 bytes, have no known layout" in said
    assert "refused  review.unknown_entries" in said
    facts = tmp_path / "facts.toml"
    facts.write_text("structures.bug_entry = { size = 20, members = { bug_addr_disp = 0 } }")
    status, said = _diff(tmp_path, capsys, before, after, "--facts", str(facts))
    assert (status, "opaque" in said, "refused" in said) == (0, False, False)


def test_facts_that_an_object_contradicts_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _unit("jump 16", "fgh")
    facts = tmp_path / "facts.json"
    facts.write_text('{"structures": {"jump_entry": {"size": 24}}}')
    status, said = _diff(tmp_path, capsys, text, text, "--facts", str(facts))
    assert status == 66
    assert "entries of __jump_table have 24 bytes by its type, 16 by its relocations" in said


def test_facts_of_another_machine_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = tmp_path / "facts.toml"
    facts.write_text('machine = "aarch64"')
    text = code("x86_64", "f")
    assert _diff(tmp_path, capsys, text, text, "--facts", str(facts), "--json")[0] == 1


RUNTIME_CONSTANTS = ("runtime_ptr_USER_PTR_MAX", "runtime_shift_d_hash_shift")


@pytest.mark.parametrize("section", RUNTIME_CONSTANTS)
def test_code_with_constants_of_the_run_is_refused_only_if_it_would_be_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str
) -> None:
    before = code("x86_64", "f", "g") + table(section, ".long .Lf1-.")
    status, said = _diff(tmp_path, capsys, before, before.replace(".size g,", "nop\n.size g,"))
    assert (status, section in said) == (0, False)
    status, said = _diff(tmp_path, capsys, before, before.replace(".size f,", "nop\n.size f,"))
    assert (status, "refused  review.unfinished_code" in said) == (3, True)
    status, said = _diff(tmp_path, capsys, code("x86_64", "f", "g"), before)
    assert (status, "refused  review.unfinished_code" in said) == (3, True)


@pytest.mark.parametrize("section", RUNTIME_CONSTANTS)
def test_code_that_asks_for_another_constant_of_the_run_is_changed_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str
) -> None:
    before = code("x86_64", "f", "g") + table(section, ".long .Lf1-.")
    status, said = _diff(tmp_path, capsys, before, before.replace(section, section + "_other"))
    assert (status, "refused  review.unfinished_code" in said) == (3, True)


@pytest.mark.parametrize(("section", "entry"), [("__new_feature", ".quad .Lf1")])
def test_unknown_sections_are_listed_and_refused_only_if_something_depends_on_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str, entry: str
) -> None:
    before = code("x86_64", "f", "g") + table(section, entry)
    status, said = _diff(tmp_path, capsys, before, before.replace(".size g,", "nop\n.size g,"))
    assert (status, f"unknown  {section}" in said) == (0, True)
    status, said = _diff(tmp_path, capsys, before, before.replace(".size f,", "nop\n.size f,"))
    assert (status, "refused  review.unknown_section" in said) == (3, True)


@pytest.mark.parametrize(
    "entry",
    [
        ".long .L{0}0-., {1}-.; .word 7; .byte 2, {2}",
        ".long .L{0}0-., {1}-.; .word 7; .byte 2, {2}, 0",
        ".long .L{0}0-., {1}-., 7; .byte 2, {2}",
    ],
)
@pytest.mark.parametrize("at", ["there", "end"])
def test_an_empty_alternative_needs_nothing_of_what_lies_where_it_would(entry: str, at: str) -> None:
    """ALTERNATIVE_2 with nothing in place of code: its address is that of the next replacement."""
    rows = table(".altinstructions", entry.format("f", at, 0), entry.format("g", "there", 5))
    replacement = table(".altinstr_replacement", "there: jmp .Lg3; end:", flags="ax")
    text = code("x86_64", "f", "g") + rows + replacement
    before, after = graph("x86_64", text), graph("x86_64", text.replace(".size g,", "nop\n.size g,"))
    made = planned(before, after)
    assert labels(after, (post for _, post in made.replaced)) == ["g"]
    before, after = graph("x86_64", text), graph("x86_64", text.replace(".size f,", "nop\n.size f,"))
    made = planned(before, after)
    assert labels(after, (post for _, post in made.replaced)) == ["f"]
    assert ".altinstr_replacement" not in {each.name for each in extract(made).obj.sections}


# Code behind functions -------------------------------------------------------------------------------


def _alternative(name: str, number: int, section: str = "") -> str:
    """A function as arm64 has them: its alternative and a rare path stand in a subsection behind it."""
    return f"""
.section {section or f".text.{name}"},"ax"
.type {name},%function
.globl {name}
{name}:
.Lold{name}: nop
b .Lrare{name}
.Lback{name}: mov x0, #{number}
ret
.size {name},.-{name}
.subsection 1
.Lnew{name}: isb
.Lrare{name}: dmb ish
b .Lback{name}
.previous
.section .altinstructions,"a"
.word .Lold{name}-., .Lnew{name}-.
.hword 5
.byte 4, 4
"""


@pytest.mark.parametrize("section", ["", ".noinstr.text"])
def test_code_behind_functions_travels_with_those_who_enter_it(section: str) -> None:
    before, after = (
        graph("arm64", _alternative("f", number, section) + _alternative("g", 1, section))
        for number in (1, 2)
    )
    assert owners(after, ".altinstructions") == ["f", "g"]
    made = planned(before, after)
    assert labels(after, (post for _, post in made.replaced)) == ["f"]
    taken = extract(made)
    assert not taken.borrowed
    carried = [after.nodes[index] for index in made.carried]
    assert [(node.name, node.size, after.is_piece(node)) for node in carried if node.table is None] == [
        ("f", 16, False),
        ("", 12, True),
    ]
    assert sum(len(each.data) for each in taken.obj.sections if each.name == ".altinstructions") == 12


def test_a_change_behind_a_function_is_its_change() -> None:
    text = _alternative("f", 1, ".noinstr.text") + _alternative("g", 1, ".noinstr.text")
    before, after = graph("arm64", text), graph("arm64", text.replace("dmb ish", "dmb sy", 1))
    made = planned(before, after)
    assert labels(after, (post for _, post in made.replaced)) == ["f"]


def test_no_code_behind_functions_is_the_same_as_itself() -> None:
    found = graph("arm64", _alternative("f", 1, ".noinstr.text") + _alternative("g", 1, ".noinstr.text"))
    delta = diff(found, found, correlate(found, found))
    assert (delta.changed, delta.added, delta.removed) == ((), (), ())


@pytest.mark.parametrize(
    "layout", ["bug 12, from each field", "exception 12 with a type", "jump 16", "alternative 14"]
)
def test_sections_that_declare_the_size_of_their_entries_are_no_pools(layout: str) -> None:
    """Tables that may be merged, with sh_entsize (x86 since 6.19)."""
    _, section, _, size = LAYOUTS[layout]
    text = _unit(layout, "ffgh").replace(f'{section},"a",%progbits', f'{section},"aM",%progbits,{size}')
    found = graph("x86_64", text)
    assert owners(found, section) == list("ffgh")
    wrong = graph("x86_64", text.replace(f"%progbits,{size}", f"%progbits,{size * 2}"))
    (row,) = entries(wrong, section)
    assert row.table is not None
    assert f"{size} bytes by its relocations, {size * 2} by sh_entsize" in row.table.opaque


def _warning(more: str, result: str, *options: str) -> SectionGraph:
    """A function with a WARN, and the type of its entry, which has `more` members than its macro writes."""
    text = f"""
    struct bug_entry {{ int address, file; unsigned short line, flags; {more} }} kept;
    int f(int x)
    {{
        asm volatile("1: ud2\\n.pushsection __bug_table,\\"aw\\"\\n2: .long 1b-., %c0-.\\n"
                     ".word 7, 1\\n.org 2b+12\\n.popsection" : : "i"("f.c"));
        return {result};
    }}"""
    special = registry.load().special_sections(KernelFacts(machine="x86_64")).values()
    return compiled.graph(text, *options, special=special)


def test_debugging_information_may_not_contradict_the_relocations_of_entries_that_travel() -> None:
    def refused(more: str, *options: str) -> list[tuple[str, str]]:
        made = planned(_warning(more, "x", *options), _warning(more, "x + 1", *options))
        return [(each.key, each.reason) for each in review(made)]

    assert refused("", "-g") == []
    assert refused("int more;") == []
    assert refused("int more;", "-g") == [
        (
            "review.unknown_entries",
            "entries of __bug_table have 12 bytes by its relocations, 16 by its debugging information",
        )
    ]


def _padded(machine: str, size: int, *more: str, apart: bool) -> str:
    """Functions with no-ops in front of each, as -fpatchable-function-entry has them; `more` code in g."""
    nop, pointer = NOP.get(machine, "nop"), ".dword" if machine == "riscv64" else ".quad"
    text = "" if apart else '.section .text,"ax",%progbits\n'
    for name in "fgh":
        text += f'.section .text.{name},"ax",%progbits\n' if apart else ""
        text += f".balign 16\n.Lp{name}: {'; '.join([nop] * (size // NOP_SIZE.get(machine, 4)))}\n"
        text += f".type {name},%function\n.globl {name}\n{name}: {'; '.join([nop] * 3)}\n"
        text += "".join(f"{each}\n" for each in (more if name == "g" else ()))
        text += f".size {name},.-{name}\n"
    return text + table("__patchable_function_entries", *(f"{pointer} .Lp{name}" for name in "fgh"))


NOP_SIZE = {"x86_64": 1}


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(("machine", "size"), [("arm64", 8), ("riscv64", 8), ("x86_64", 16)])
def test_no_ops_in_front_of_a_function_belong_to_it_and_travel(machine: str, size: int, apart: bool) -> None:
    before = graph(machine, _padded(machine, size, apart=apart))
    after = graph(machine, _padded(machine, size, "ret", apart=apart))
    assert owners(before, "__patchable_function_entries") == list("fgh")
    made = planned(before, after)
    assert labels(after, (post for _, post in made.replaced)) == ["g"]
    obj = read_bytes(write(extract(made).obj), "out.o")
    plugins = registry.load()
    rows = plugins.special_sections(KernelFacts(machine=before.arch.name))
    found = build(obj, before.arch, rows, before.habits)
    assert owners(found, "__patchable_function_entries") == ["g"]
    (g,) = (node for node in found.nodes if node.name == "g")
    (entry,) = entries(found, "__patchable_function_entries")
    assert (g.start, [each.addend for each in found.references[entry.id]]) == (size, [-size])
    ahead, nop = bytes(obj.contents(g.section))[:size], NOP_SIZE.get(machine, 4)
    assert ahead == found.contents(g)[:nop] * (size // nop)


def test_why_a_callback_of_another_tool_travels_is_told() -> None:
    plain = code("x86_64", "f")
    changed = plain.replace(".size f,", "nop\n.size f,") + code("x86_64", "before")
    hook = ".type hook,@object\nhook: .quad before\n.size hook,8"
    after = graph("x86_64", changed + table(".kpatch.callbacks.pre_patch", hook, flags="aw"))
    (answer,) = why(planned(graph("x86_64", plain), after), "hook", NONE, NONE)
    assert answer.fate == "carried"
    assert "for whoever takes the extract" in answer.steps[-1].text

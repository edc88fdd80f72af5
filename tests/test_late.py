# SPDX-License-Identifier: Apache-2.0
"""Table entries of a module's code that the kernel would read too early, and code that needs none.

Jump labels are compiled by gcc from the kernel's own macro; the code made of them is run.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from compiled import ASSEMBLY, compiled, graph_of
from kdiff_kernel_linux.x86.keytests import without_entries

from kdiff.addressbook import KERNEL, AddressBook
from kdiff.assembly import from_edited
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.errors import KdiffError
from kdiff.kernel import Keep, SpecialSection
from kdiff.late import check_same_code, edited, late
from kdiff.plan import Plan, leave_out, plan

LABELS = r"""
struct static_key { long entries; int enabled; };
struct static_key one, two;
#define BRANCH(key, flags) ({ __label__ yes; int found = 0; \
    asm goto("1:jmp %l[yes] # objtool NOPs this \n\t" \
             ".pushsection __jump_table,  \"aw\" \n\t .balign 8 \n\t.long 1b - . \n\t" \
             ".long %l[yes] - . \n\t .quad %c0 + %c1 - .\n\t.popsection \n\t" \
             : : "i" (key), "i" (2 | (flags)) : : yes); \
    if (0) { yes: found = 1; } found; })
int plain(void) { return BRANCH(&one, 0) ? 10 : 20; }
int turned(void) { return BRANCH(&one, 1) ? 10 : 20; }
int other(void) { return BRANCH(&two, 0) ? 10 : 20; }
int both(int a) { return (BRANCH(&one, 0) ? 1 : 2) * a + (BRANCH(&two, 1) ? 100 : 200); }
"""
ENABLED = (8,)


def assembly(tmp_path: Path, source: str = LABELS) -> str:
    (tmp_path / "unit.c").write_text(source)
    subprocess.run(["gcc", "-O2", "-fPIC", "-fvisibility=hidden", "-S", "unit.c"], cwd=tmp_path, check=True)
    return (tmp_path / "unit.s").read_text()


def running(tmp_path: Path, text: str) -> ctypes.CDLL:
    text = re.sub(r"^\t\.hidden\t(?!one|two).*\n", "", text, flags=re.MULTILINE)
    text += "".join(f"\n.globl {key}_\n.set {key}_, {key}\n" for key in ("one", "two"))
    (tmp_path / "edited.s").write_text(text)
    subprocess.run(["gcc", "-shared", "-o", "edited.so", "edited.s"], cwd=tmp_path, check=True)
    return ctypes.CDLL(str(tmp_path / "edited.so"))


def test_a_test_of_the_key_goes_where_the_jump_label_would(tmp_path: Path) -> None:
    wanted = {name: {"one", "two"} for name in ("plain", "turned", "other", "both")}
    text = without_entries(ENABLED, assembly(tmp_path), wanted)
    assert "__jump_table" not in text
    code = running(tmp_path, text)
    for one in (0, 1, 7, -1):
        for two in (0, 3):
            for key, value in (("one_", one), ("two_", two)):
                ctypes.c_int.in_dll(code, key)  # exists
                base = ctypes.addressof(ctypes.c_char.in_dll(code, key))
                ctypes.c_int.from_address(base + 8).value = value
            assert code.plain() == (10 if one else 20)
            assert code.turned() == (20 if one else 10)
            assert code.other() == (10 if two else 20)
            assert code.both(5) == (1 if one else 2) * 5 + (200 if two else 100)


def test_other_keys_and_other_functions_keep_their_labels(tmp_path: Path) -> None:
    before = assembly(tmp_path)
    assert before.count("__jump_table") == 5
    after = without_entries(ENABLED, before, {"both": {"one"}})
    assert after.count("__jump_table") == 4
    assert without_entries(ENABLED, before, {"both": {"three"}, "none": {"one"}}) == before


# Plans -----------------------------------------------------------------------------------------------

UNIT = """
.section .text.f,"ax"
.globl f
.type f,@function
f: mov ${0},%eax
   ret
.size f,.-f
.section __jump_table,"aw"
.long f - ., f - .
.quad own_key - .
.long f - ., f - .
.quad kernel_key - .
.section .static_call_sites,"aw"
.long f - ., module_call - .
.data
.globl own_key
.type own_key,@object
own_key: .quad 0
.size own_key,8
"""
BOOK = AddressBook([("kernel_key", 0x1000, "D", KERNEL), ("module_call", 0x2000, "d", KERNEL)])


def rewritten(text: str, wanted: Mapping[str, object]) -> str:
    return text + repr({name: sorted(keys) for name, keys in wanted.items()})  # type: ignore[call-overload]


ROWS = (
    SpecialSection("__jump_table", 16, Keep.OWNER, owner=0, without=rewritten),
    SpecialSection(".static_call_sites", 8, Keep.OWNER, owner=0, spare=True),
)


def planned(number: int, target: str = "mod", before: int = 1) -> Plan:
    pre, post = (graph_of(compiled(UNIT.format(each), ASSEMBLY), ROWS) for each in (before, number))
    pairing = correlate(pre, post)
    return plan(pre, post, pairing, diff(pre, post, pairing), target)


def test_entries_that_name_something_of_the_module_are_late() -> None:
    found = late(planned(2), BOOK, ())
    assert {(each.table.name, each.owner, each.names) for each in found} == {
        ("__jump_table", ("f",), ("own_key",)),
        (".static_call_sites", ("f",), ("module_call",)),
    }
    assert edited("text", found) == "text{'f': ['own_key']}"


def test_nothing_is_late_in_code_of_the_kernel() -> None:
    assert late(planned(2, KERNEL), BOOK, ()) == ()


def test_a_spare_entry_is_left_out_and_no_longer_borrowed_for() -> None:
    whole = planned(2)
    found = late(whole, BOOK, ())
    less = leave_out(whole, [each.entry for each in found if each.table.spare])
    names = [{whole.post.nodes[index].name for index in each.borrowed} for each in (whole, less)]
    assert names[0] - names[1] == {"module_call"}
    assert set(whole.carried) - set(less.carried) == {each.entry for each in found if each.table.spare}


def test_edited_assembly_must_replace_and_carry_the_same() -> None:
    check_same_code(planned(2), planned(3))
    with pytest.raises(KdiffError) as caught:
        check_same_code(planned(2), planned(1))
    assert caught.value.key == "assembly.other_code"


# Assembling ------------------------------------------------------------------------------------------


def compiling(folder: Path, *options: str) -> Callable[[Mapping[str, str]], Mapping[str, bytes]]:
    """A build of one unit, as Kbuild would call the compiler."""
    (folder / "dir").mkdir()
    (folder / "dir/unit.c").write_text("int f(void) { return 1; }\n")

    def run(environment: Mapping[str, str]) -> Mapping[str, bytes]:
        command = ["gcc", "-O2", *options, "-c", "-o", "dir/unit.o", "dir/unit.c"]
        subprocess.run(command, cwd=folder, check=True, env={"PATH": "/usr/bin:/bin", **environment})
        return {"dir/unit.c": (folder / "dir/unit.o").read_bytes()}

    return run


def test_objects_are_made_of_edited_assembly(tmp_path: Path) -> None:
    assembler = shutil.which("as")
    assert assembler is not None
    build = compiling(tmp_path)
    plain = build({})["dir/unit.c"]
    assert from_edited(build, {"dir/unit.c": str}, assembler)["dir/unit.c"] == plain
    edit = partial(re.sub, r"movl\t\$1, %eax", "movl\t$7, %eax")
    other = from_edited(build, {"dir/unit.c": edit}, assembler)["dir/unit.c"]
    assert other == plain.replace(b"\xb8\x01\0\0\0", b"\xb8\x07\0\0\0") != plain
    assert build({})["dir/unit.c"] == plain


def test_a_compiler_that_hides_its_assembly_is_an_error(tmp_path: Path) -> None:
    assembler = shutil.which("as")
    assert assembler is not None
    with pytest.raises(KdiffError) as caught:
        from_edited(compiling(tmp_path, "-pipe"), {"dir/unit.c": str}, assembler)
    assert caught.value.key == "assembly.unseen"

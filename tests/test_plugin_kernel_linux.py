# SPDX-License-Identifier: Apache-2.0
"""Tests of the plugin kdiff_kernel_linux: which tables there are, what run memory may hold at their sites.

A form is tried the way an engine tries it, on bytes that the kernel's functions would write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import kdiff_kernel_linux
import pytest
from kdiff_arch_x86_64 import ARCHITECTURE

from kdiff.api import (
    Architecture,
    CodeAhead,
    Contains,
    Field,
    Form,
    Holds,
    Keep,
    KernelFacts,
    Listed,
    Literal,
    Mixed,
    OneOf,
    Pad,
    Part,
    Place,
    Site,
    SpecialSection,
    Structure,
    Through,
    ToCode,
)
from kdiff.fields import mixed
from kdiff.insn import instructions

NONE, ABS64, PC32, PLT32, ABS32S = 0, 1, 2, 4, 11
SITE, OTHER = 0x10000, 0x90000
"""Run addresses of the node with the site and of the node with replacements."""
ENTRY = {"instr_offset": 0, "repl_offset": 4, "cpuid": 8, "instrlen": 10, "replacementlen": 11}
STRUCTURES = {
    "alt_instr": Structure(12, ENTRY),
    "paravirt_patch_site": Structure(16, {"instr": 0, "type": 8, "len": 9}),
    "jump_entry": Structure(16, {"code": 0, "target": 4, "key": 8}),
    "static_call_site": Structure(8, {"addr": 0, "key": 4}),
    "static_call_key": Structure(16, {"func": 0, "type": 8}),
    "bug_entry": Structure(12, {"bug_addr_disp": 0, "file_disp": 4, "line": 8, "flags": 10}),
    "exception_table_entry": Structure(12, {"insn": 0, "fixup": 4, "data": 8}),
    "orc_entry": Structure(6, {"sp_offset": 0, "bp_offset": 2}),
    "bpf_raw_event_map": Structure(32, {"tp": 0}),
    "_ddebug": Structure(56, {"modname": 0, "lineno": 32}),
}
FACTS = KernelFacts(
    machine="x86_64",
    config=MappingProxyType({"CONFIG_64BIT": "y", "CONFIG_HAVE_ARCH_PREL32_RELOCATIONS": "y"}),
    structures=MappingProxyType(STRUCTURES),
)
ADDRESSES = {
    "pv_ops": 0x2000000,
    "new": 0x40000,
    "near_label": SITE + 0x60,
    "key": 0x3000000,
    "__x86_return_thunk": 0x50000,
    "srso_return_thunk": 0x50100,
    "retbleed_return_thunk": 0x50200,
    "__static_call_return": 0x50300,
    "__static_call_return0": 0x50400,
    "_paravirt_nop": 0x50500,
    "x86_return_thunk": 0x2100000,
    "__SCK__foo": 0x3100000,
    "ftrace_caller": 0x51000,
    "ftrace_regs_caller": 0x51100,
    "paravirt_BUG": 0x52000,
    "BUG_func": 0x52100,
    "call_depth_return_thunk": 0x52200,
    "__x86_indirect_call_thunk_rax": 0x52300,
    "__x86_indirect_jump_thunk_rax": 0x52400,
    "__fentry__": 0x52500,
    "cfi_mode": 0x2200000,
    "cfi_seed": 0x2200010,
    "pcpu_hot": 0x1F000,
    "native": 0x53000,
    "__x86_indirect_thunk_rax": 0x54000,
    "__x86_indirect_thunk_r11": 0x54160,
    "__x86_indirect_its_thunk_r11": 0x55160,
}
MADE = {
    ("__builtin__ftrace", "ftrace_trampoline"): 0x56000,
    ("__builtin__kprobes", "kprobe_optinsn_page"): 0x57000,
    ("bpf", "bpf_trampoline_6442490113"): 0x58000,
}
"""What kallsyms lists of code made at run time."""
NAMELESS = {0x59020: bytes.fromhex("41ffe3cc"), 0x59024: bytes.fromhex("ffe0cc")}
"""And what it does not."""
ADDRESSES |= {name: address for (_, name), address in MADE.items()}
ADDRESSES |= {code.hex(): address for address, code in NAMELESS.items()}
POINTERS = {
    ADDRESSES["pv_ops"] + 0x18: ADDRESSES["native"],
    ADDRESSES["key"]: ADDRESSES["new"],
    ADDRESSES["__SCK__foo"]: ADDRESSES["new"],
    ADDRESSES["x86_return_thunk"]: ADDRESSES["srso_return_thunk"],
}


def holding(name: str, leads_to: str, offset: int = 0) -> Mapping[int, int]:
    """The pointers with another one at a symbol; "" is null."""
    return POINTERS | {ADDRESSES[name] + offset: ADDRESSES[leads_to] if leads_to else 0}


def rows(facts: KernelFacts = FACTS) -> dict[str, SpecialSection]:
    return {row.name: row for row in kdiff_kernel_linux.kdiff_special_sections(facts)}


@dataclass(frozen=True)
class Code:
    """Pre bytes of a node and its relocated fields: offset -> (relocation type, name, addend, insn share)."""

    data: bytes
    fields: Mapping[int, tuple[int, str, int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """An entry as `kdiff.kernel.EntryView`. Node 0 holds the site, node 1 the replacement."""

    data: bytes
    places: Mapping[int, Place]
    nodes: tuple[Code, ...]
    name: str = ""
    section: str = ""
    architecture: Architecture = ARCHITECTURE

    def place(self, offset: int) -> Place | None:
        return self.places.get(offset)

    def code(self, place: Place, size: int) -> bytes:
        assert place.node is not None
        found = self.nodes[place.node].data[place.offset : place.offset + size]
        assert len(found) == size
        return found

    def parts(self, place: Place, size: int) -> Form:
        assert place.node is not None
        node = self.nodes[place.node]
        result: list[Part] = []
        at, stop = place.offset, place.offset + size
        while at < stop:
            if at in node.fields:
                kind, name, addend, share = node.fields[at]
                howto = ARCHITECTURE.howtos[kind]
                result.append(Field(howto, Place(None, name, addend), share, bytes(howto.size)))
                at += howto.size
            else:
                end = min((each for each in node.fields if each > at), default=stop)
                result.append(Literal(node.data[at : min(end, stop)]))
                at = min(end, stop)
        return tuple(result)

    def next_instruction(self, place: Place) -> int:
        assert place.node is not None
        found = instructions(ARCHITECTURE, self.nodes[place.node].data)
        return next(each.size for each in found if each.offset == place.offset)


def here(offset: int = 0) -> Place:
    return Place(0, "function", offset)


def ask(table: str, entry: Entry) -> tuple[Site, ...]:
    row = rows()[table]
    assert row.sites is not None
    found = tuple(row.sites(entry))
    for site in found:
        assert {sum(part.size for part in form) for form in site.forms} == {site.size}
    return found


def one(table: str, entry: Entry) -> Site:
    (site,) = ask(table, entry)
    return site


def allows(site: Site, run: bytes, pointers: Mapping[int, int] = MappingProxyType(POINTERS)) -> bool:
    assert len(run) == site.size
    return any(fits(form, run, SITE + site.offset, pointers) for form in site.forms)


def fits(form: Form, run: bytes, address: int, pointers: Mapping[int, int]) -> bool:
    at = 0
    for part in form:
        piece = run[at : at + part.size]
        if isinstance(part, Literal):
            good = piece == part.data
        elif isinstance(part, Pad):
            good = is_pad(piece)
        elif isinstance(part, Contains):
            good = pointers.get(location(part.place)) == int.from_bytes(part.data, "little")
        elif isinstance(part, Mixed):
            good = piece == mixed(
                part.data, pointers[location(part.place)].to_bytes(4, "little"), part.negated, "little"
            )
        elif isinstance(part, Holds):
            wanted = {ADDRESSES[name] if name else 0 for name in part.names if not name or name in ADDRESSES}
            good = pointers.get(location(part.place)) in wanted
        else:
            value = part.howto.extract(piece, "little")
            reached = value - part.insn_addend + (address + at if part.howto.pc_relative else 0)
            good = reached in destinations(part, pointers)
        if not good:
            return False
        at += part.size
    return True


def destinations(
    part: Field | Through | OneOf | Listed | ToCode, pointers: Mapping[int, int]
) -> set[int | None]:
    if isinstance(part, ToCode):
        return {address for address, code in NAMELESS.items() if code == part.code}
    if isinstance(part, Listed):
        return {MADE[each] for each in MADE if each[0] == part.owner and each[1].startswith(part.name)}
    if isinstance(part, OneOf):
        return {ADDRESSES[name] for name in part.names if name in ADDRESSES}
    address = location(part.place)
    return {address} if isinstance(part, Field) else {pointers.get(address)}


def location(place: Place) -> int:
    base = {0: SITE, 1: OTHER}[place.node] if place.node is not None else ADDRESSES[place.name]
    return base + place.offset


def is_pad(data: bytes) -> bool:
    if not data:
        return True
    return any(data.startswith(nop) and is_pad(data[len(nop) :]) for nop in ARCHITECTURE.nops)


def near(opcode: bytes, name: str, offset: int = 0) -> bytes:
    """A near branch at `SITE + offset` to a symbol."""
    end = SITE + offset + len(opcode) + 4
    return opcode + (ADDRESSES[name] - end).to_bytes(4, "little", signed=True)


# Tables ----------------------------------------------------------------------------------------------


def test_no_table_is_listed_twice() -> None:
    listed = [row.name for row in kdiff_kernel_linux.kdiff_special_sections(FACTS)]
    assert len(listed) == len(set(listed))


def test_entry_sizes_and_owners_are_those_of_the_facts() -> None:
    moved = Structure(20, {**ENTRY, "instr_offset": 4, "repl_offset": 0})
    changed = replace(FACTS, structures={**STRUCTURES, "alt_instr": moved})
    before, after = rows()[".altinstructions"], rows(changed)[".altinstructions"]
    assert (before.entry_size, before.owner) == (12, 0)
    assert (after.entry_size, after.owner) == (20, 4)


def test_without_type_information_no_size_is_made_up_and_no_rewrite_allowed() -> None:
    known = rows(KernelFacts(machine="x86_64"))
    for name in (
        ".altinstructions",
        ".parainstructions",
        "__jump_table",
        ".static_call_sites",
        "__bug_table",
    ):
        assert known[name].entry_size == 0
        assert known[name].sites is None


def test_another_machine_has_the_shared_tables_without_the_rewrites_of_x86() -> None:
    known = rows(replace(FACTS, machine="riscv64"))
    assert known["__jump_table"].entry_size == 16
    assert all(row.sites is None for row in known.values())
    assert ".altinstructions" not in known


def test_words_have_the_size_of_the_kernel_configuration() -> None:
    assert rows()["__mcount_loc"].entry_size == 8
    narrow = replace(FACTS, config={"CONFIG_X86_32": "y"})
    assert rows(narrow)["__mcount_loc"].entry_size == 4
    assert rows()["__tracepoints_ptrs"].entry_size == 4
    absolute = replace(FACTS, config={"CONFIG_64BIT": "y"})
    assert rows(absolute)["__tracepoints_ptrs"].entry_size == 8


def test_a_line_number_is_no_difference_but_flags_are() -> None:
    (line,) = rows()["__bug_table"].ignored
    assert line == (8, 2)
    assert rows()["__bug_table"].compared


def test_unwind_entries_belong_to_the_owner_of_their_address() -> None:
    assert rows()[".orc_unwind"].parallel == ".orc_unwind_ip"
    assert (rows()[".orc_unwind"].entry_size, rows()[".orc_unwind_ip"].entry_size) == (6, 4)
    assert rows()[".orc_unwind_ip"].owner == 0


@pytest.mark.parametrize("family", [".discard", ".note"])
def test_families_that_nobody_reads_never_travel_and_are_not_compared(family: str) -> None:
    row = rows()[family]
    assert row.prefix
    assert row.keep is Keep.NEVER
    assert not row.compared


@pytest.mark.parametrize("family", ["___ksymtab", "___kcrctab", ".initcall", "__ksymtab"])
def test_exports_and_initcalls_never_travel_and_a_change_in_them_counts(family: str) -> None:
    row = rows()[family]
    assert row.prefix or family == "__ksymtab"  # `__ksymtab_strings` is no table
    assert row.keep is Keep.NEVER
    assert row.compared


def test_code_tables_travel_with_the_code_they_are_about() -> None:
    tables = ("__bug_table", "__ex_table", "__jump_table", ".altinstructions", ".smp_locks", "__mcount_loc")
    for name in tables:
        assert (rows()[name].keep, rows()[name].owner) == (Keep.OWNER, 0)


# Alternatives ----------------------------------------------------------------------------------------


def alternative(original: Code, replacement: Code, offset: int = 0) -> Entry:
    size = len(original.data) - offset
    data = bytes(10) + bytes((size, len(replacement.data)))
    places = {0: here(offset), 4: Place(1, "replacement", 0)}
    return Entry(data, places, (original, replacement))


def test_an_alternative_keeps_its_original_with_no_ops_of_any_shape() -> None:
    site = one(".altinstructions", alternative(Code(bytes.fromhex("0f01ca909090")), Code(b"\xc3")))
    assert allows(site, bytes.fromhex("0f01ca909090"))
    assert allows(site, bytes.fromhex("0f01ca0f1f00"))
    assert not allows(site, bytes.fromhex("0f01cb0f1f00"))
    assert not allows(site, bytes.fromhex("0f01ca0f1f01"))


def test_an_alternative_gets_its_replacement_filled_up_with_no_ops() -> None:
    entry = alternative(Code(bytes.fromhex("909090909090")), Code(bytes.fromhex("0f01cb")))
    site = one(".altinstructions", entry)
    assert allows(site, bytes.fromhex("0f01cb0f1f00"))
    assert not allows(site, bytes.fromhex("0f1f000f01cb"))
    assert not allows(site, bytes.fromhex("0f01cbcccccc"))


@pytest.mark.parametrize(("size", "jump"), [(12, "eb0a"), (127, "eb7d"), (128, "e97b000000")])
def test_no_ops_that_are_too_many_for_one_instruction_are_jumped_over(size: int, jump: str) -> None:
    code = bytes.fromhex(jump).ljust(size, b"\xcc")
    for original, replacement in (
        (b"\xf4" + b"\x90" * size, b"\xc3"),
        (b"\x90" * (size + 1), b"\xf4"),
    ):
        site = one(".altinstructions", alternative(Code(original), Code(replacement)))
        assert allows(site, b"\xf4" + code)
        assert allows(site, b"\xf4" + b"\x90" * size)
        for at in range(size):
            assert not allows(site, b"\xf4" + code[:at] + bytes((code[at] ^ 1,)) + code[at + 1 :])


def test_no_ops_that_one_instruction_can_be_are_not_jumped_over() -> None:
    site = one(".altinstructions", alternative(Code(b"\x90" * 11), Code(b"\xc3")))
    assert not allows(site, bytes.fromhex("eb09").ljust(11, b"\xcc"))


def test_an_empty_replacement_leaves_only_no_ops() -> None:
    site = one(".altinstructions", alternative(Code(bytes.fromhex("eb13")), Code(b"")))
    assert allows(site, bytes.fromhex("6690"))
    assert allows(site, bytes.fromhex("9090"))
    assert not allows(site, bytes.fromhex("eb14"))


def test_multi_byte_no_ops_of_the_original_are_not_reshaped() -> None:
    site = one(".altinstructions", alternative(Code(bytes.fromhex("0f1f00c3")), Code(b"\xcc")))
    assert allows(site, bytes.fromhex("0f1f00c3"))
    assert not allows(site, bytes.fromhex("909090c3"))


def test_a_replacement_call_reaches_its_target_from_the_site() -> None:
    call = Code(bytes.fromhex("e800000000"), {1: (PLT32, "new", 0, -4)})
    site = one(".altinstructions", alternative(Code(b"\x90" * 8), call, offset=2))
    run = near(b"\xe8", "new", 2)
    assert allows(site, run + b"\x90")
    assert not allows(site, run[:4] + bytes((run[4] ^ 1, 0x90)))


def test_a_replacement_jump_may_be_short_or_near() -> None:
    jump = Code(bytes.fromhex("e900000000"), {1: (PC32, "near_label", 0, -4)})
    site = one(".altinstructions", alternative(Code(bytes.fromhex("e900000000")), jump))
    assert allows(site, bytes.fromhex("eb5e0f1f00"))
    assert allows(site, near(b"\xe9", "near_label"))
    assert not allows(site, bytes.fromhex("eb5f0f1f00"))
    assert allows(site, bytes.fromhex("eb5ecccccc"))
    assert not allows(site, bytes.fromhex("eb5fcccccc"))
    assert not allows(site, bytes.fromhex("eb5ecccc90"))


def test_a_jump_that_is_only_part_of_a_replacement_stays_near() -> None:
    code = Code(bytes.fromhex("90e900000000"), {2: (PC32, "near_label", 0, -4)})
    site = one(".altinstructions", alternative(Code(b"\x90" * 6), code))
    assert allows(site, b"\x90" + near(b"\xe9", "near_label", 1))
    assert not allows(site, bytes.fromhex("90eb5d0f1f00"))


def test_a_paravirt_call_inside_an_alternative_joins_its_no_ops() -> None:
    pv = Code(bytes.fromhex("ff1500000000") + b"\x90" * 2, {2: (PC32, "pv_ops", 0x18, -4)})
    site = one(".altinstructions", alternative(pv, Code(bytes.fromhex("9c58"))))
    assert allows(site, near(b"\xe8", "native") + bytes.fromhex("0f1f00"))
    bug, nothing = holding("pv_ops", "", 0x18), holding("pv_ops", "_paravirt_nop", 0x18)
    assert allows(site, near(b"\xe8", "paravirt_BUG") + bytes.fromhex("906690"), bug)
    assert allows(site, bytes.fromhex("0f1f840000000000"), nothing)
    assert not allows(site, bytes.fromhex("0f1f840000000000"))
    assert allows(site, bytes.fromhex("9c58660f1f440000"))
    assert not allows(site, near(b"\xe8", "new") + bytes.fromhex("0f1f00"))


def test_an_indirect_call_that_is_not_paravirtual_is_left_alone() -> None:
    code = Code(bytes.fromhex("ff1500000000"), {2: (PC32, "key", 0, -4)})
    site = one(".altinstructions", alternative(code, Code(b"\xc3")))
    assert not allows(site, near(b"\xe8", "new") + b"\x90")


def test_a_replacement_that_stands_for_a_direct_call_is_none_by_itself() -> None:
    pv = Code(bytes.fromhex("ff1500000000"), {2: (PC32, "pv_ops", 0x18, -4)})
    bug = Code(bytes.fromhex("e800000000"), {1: (PLT32, "BUG_func", 0, -4)})
    site = one(".altinstructions", alternative(pv, bug))
    assert allows(site, near(b"\xe8", "native") + b"\x90")
    assert not allows(site, near(b"\xe8", "BUG_func") + b"\x90")
    assert allows(site, near(b"\xe8", "BUG_func") + b"\x90", holding("pv_ops", "", 0x18))


def test_a_return_inside_an_alternative_may_have_been_rewritten_before() -> None:
    code = Code(bytes.fromhex("31c0e900000000"), {3: (PLT32, "__x86_return_thunk", 0, -4)})
    site = one(".altinstructions", alternative(code, Code(b"\xcc")))
    assert allows(site, bytes.fromhex("31c0c3cccccccc"))
    assert allows(site, bytes.fromhex("31c0") + near(b"\xe9", "srso_return_thunk", 2))
    assert not allows(site, bytes.fromhex("31c0") + near(b"\xe9", "retbleed_return_thunk", 2))


@pytest.mark.parametrize(("family", "size"), [("runtime_ptr_", 8), ("runtime_shift_", 1)])
def test_a_constant_of_the_run_is_what_its_variable_holds(family: str, size: int) -> None:
    code = Code(bytes.fromhex("48b8efcdab8967452301"))
    (site,) = ask(family, Entry(bytes(4), {0: here(2)}, (code,), section=f"{family}variable"))
    assert (site.offset, site.size, site.rewrite) == (2, size, "runtime_const")
    assert site.forms == ((Mixed(bytes(size), Place(None, "variable")),),)


# Types of functions ----------------------------------------------------------------------------------

HASH, SEED, MIXED = 0xE61887DE, 0x00FF0102, 0xE6E786DC
OFF, KCFI, FINEIBT = 1, 2, 3


def mode(number: int, seed: int = SEED) -> Mapping[int, int]:
    return {ADDRESSES["cfi_mode"]: number, ADDRESSES["cfi_seed"]: seed}


def number(value: int) -> str:
    return (value % (1 << 32)).to_bytes(4, "little").hex()


PREAMBLES = {
    f"b8{number(MIXED)}" + "90" * 11: KCFI,
    f"b8{number(0)}" + "90" * 11: KCFI,
    f"f30f1efa4181ea{number(MIXED)}74030f0b90": FINEIBT,
    f"660f1f004181ea{number(0)}74030f0b90": FINEIBT,
}
CALLERS = {
    f"41ba{number(-MIXED)}450353f174020f0b": KCFI,
    f"eb0c{number(-HASH)}450353f174020f0b": OFF,
    f"41ba{number(MIXED)}4983eb100f1f4000": FINEIBT,
}


def cfi_rows(facts: KernelFacts = FACTS) -> CodeAhead:
    rows = kdiff_kernel_linux.kdiff_habits(facts)
    return next(row for row in rows if isinstance(row, CodeAhead) and row.name == "__cfi_")


def preamble(code: str, facts: KernelFacts = FACTS) -> tuple[Site, ...]:
    sites = cfi_rows(facts).sites
    assert sites is not None
    return tuple(sites(Entry(bytes.fromhex(code), {}, ())))


def caller(code: str, register: str = "r11") -> tuple[Site, ...]:
    data = bytes.fromhex(code) + bytes.fromhex("2ee800000000")
    fields = {len(data) - 4: (PLT32, f"__x86_indirect_thunk_{register}", 0, -4)}
    entry = Entry(bytes(4), {0: here(len(data) - 6)}, (Code(data, fields),))
    return tuple(site for site in ask(".retpoline_sites", entry) if site.rewrite == "cfi")


def check_modes(site: Site, forms: Mapping[str, int]) -> None:
    for form, wanted in forms.items():
        data = bytes.fromhex(form)
        assert [each for each in (0, OFF, KCFI, FINEIBT) if allows(site, data, mode(each))] == [wanted]
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            assert not allows(site, bytes(changed), mode(wanted))


def test_the_hash_in_front_of_a_function_is_what_the_mode_makes_of_it() -> None:
    (site,) = preamble(f"b8{number(HASH)}" + "90" * 11)
    assert (site.offset, site.size) == (0, 16)
    check_modes(site, PREAMBLES)
    assert allows(site, bytes.fromhex(f"b8{number(HASH)}" + "90" * 11), mode(KCFI, 0))


def test_the_comparison_in_front_of_a_call_is_what_the_mode_makes_of_it() -> None:
    (site,) = caller(f"9041ba{number(-HASH)}450353f174020f0b")
    assert (site.offset, site.size) == (1, 14)
    check_modes(site, CALLERS)


def test_a_function_with_a_hash_is_entered_by_it_only_with_fineibt() -> None:
    behind = cfi_rows().behind
    assert behind is not None
    (site,) = behind(Entry(bytes.fromhex("f30f1efa90"), {}, ()))
    assert [each for each in range(4) if allows(site, bytes.fromhex("660f1f00"), mode(each))] == [FINEIBT]
    assert tuple(behind(Entry(bytes.fromhex("f30f1efb90"), {}, ()))) == ()


@pytest.mark.parametrize("code", [
    "90" * 16, "b8" + number(HASH) + "90" * 10, "b8" + number(HASH) + "90" * 10 + "cc",
    "b9" + number(HASH) + "90" * 11,
])  # fmt: skip
def test_what_is_no_preamble_is_left_alone(code: str) -> None:
    assert preamble(code) == ()


@pytest.mark.parametrize("code", [
    f"ba{number(-HASH)}450353f174020f0b", f"41ba{number(-HASH)}450353f274020f0b",
    f"41bb{number(-HASH)}450353f174020f0b", f"41ba{number(-HASH)}450353f175020f0b", "",
])  # fmt: skip
def test_what_is_no_comparison_is_left_alone(code: str) -> None:
    assert caller(code) == ()


# Calls -----------------------------------------------------------------------------------------------

COUNTING = holding("x86_return_thunk", "call_depth_return_thunk")


def earlier(branch: bytes, distance: int = 9) -> bytes:
    target = int.from_bytes(branch[-4:], "little", signed=True) - distance
    return branch[:-4] + target.to_bytes(4, "little", signed=True)


def test_a_call_is_counted_in_front_of_its_target_while_returns_are() -> None:
    code = Code(bytes.fromhex("e800000000"), {1: (PLT32, "new", 0, -4)})
    site = one(".call_sites", Entry(bytes(4), {0: here()}, (code,)))
    call = near(b"\xe8", "new")
    assert allows(site, earlier(call), COUNTING)
    assert not allows(site, earlier(call))
    assert not any(allows(site, earlier(call, each), COUNTING) for each in (1, 8, 10, 16, -9))


def test_a_function_that_calls_itself_is_counted_too() -> None:
    code = Code(bytes.fromhex("90e8faffffff"))
    site = one(".call_sites", Entry(bytes(4), {0: here(1)}, (code,)))
    assert allows(site, bytes.fromhex("e8f1ffffff"), COUNTING)
    assert not allows(site, bytes.fromhex("e8f1ffffff"))
    assert not allows(site, bytes.fromhex("e8f2ffffff"), COUNTING)
    assert ask(".call_sites", Entry(bytes(4), {0: here(1)}, (Code(bytes.fromhex("90e8fbffffff")),))) == ()


@pytest.mark.parametrize(("value", "wanted"), [(MIXED, KCFI), (0, KCFI), (HASH, OFF)])
def test_a_hash_has_the_instruction_that_counts_behind_it_while_returns_are_counted(
    value: int, wanted: int
) -> None:
    structures = FACTS.structures | {"pcpu_hot": Structure(64, {"call_depth": 16})}
    (site,) = preamble(f"b8{number(HASH)}" + "90" * 11, replace(FACTS, structures=structures))
    distance = ADDRESSES["pcpu_hot"] + 16 - (SITE + 16)
    data = bytes.fromhex(f"b8{number(value)}90906548c13d{number(distance)}05")
    modes = (0, OFF, KCFI, FINEIBT)
    assert [each for each in modes if allows(site, data, COUNTING | mode(each))] == [wanted]
    assert not any(allows(site, data, POINTERS | mode(each)) for each in modes)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert not allows(site, bytes(changed), COUNTING | mode(wanted))


@pytest.mark.parametrize(("code", "name"), [("e800000000", "__fentry__"), ("e900000000", "new")])
def test_calls_of_ftrace_and_jumps_are_not_counted(code: str, name: str) -> None:
    data = Code(bytes.fromhex(code), {1: (PLT32, name, 0, -4)})
    assert ask(".call_sites", Entry(bytes(4), {0: here()}, (data,))) == ()


def test_calls_that_other_rewrites_leave_are_counted_and_jumps_are_not() -> None:
    pv = Code(bytes.fromhex("ff1500000000"), {2: (PC32, "pv_ops", 0x18, -4)})
    site = one(".altinstructions", alternative(pv, Code(b"\xfa")))
    assert allows(site, earlier(near(b"\xe8", "native")) + b"\x90", COUNTING)
    assert not allows(site, earlier(near(b"\xe8", "native")) + b"\x90")
    for opcode, counted in ((b"\xe8", True), (b"\xe9", False)):
        code = Code(opcode + bytes(4), {1: (PLT32, "__SCT__key", 0, -4)})
        site = one(".static_call_sites", static_call(code, int(opcode == b"\xe9")))
        assert allows(site, earlier(near(opcode, "new")), COUNTING) is counted


def test_retpolines_go_to_thunks_that_count() -> None:
    for code, kind, other in (("e8", "call", "jump"), ("e9", "jump", "call"), ("0f84", "jump", "call")):
        site, opcode = retpoline(code + "00000000", "rax"), bytes.fromhex(code)
        thunk = near(opcode, f"__x86_indirect_{kind}_thunk_rax")
        assert allows(site, thunk, COUNTING)
        assert not allows(site, thunk)
        assert not allows(site, near(opcode, f"__x86_indirect_{other}_thunk_rax"), COUNTING)


def paravirt(kind: int, size: int) -> Entry:
    code = Code(bytes.fromhex("ff1500000000")[:size], {2: (PC32, "pv_ops", 8 * kind, -4)})
    return Entry(bytes(8) + bytes((kind, size)) + bytes(6), {0: here()}, (code,))


def test_a_paravirt_call_goes_where_its_slot_points() -> None:
    site = one(".parainstructions", paravirt(3, 6))
    call, bug, nothing = near(b"\xe8", "native"), near(b"\xe8", "paravirt_BUG"), bytes.fromhex("660f1f440000")
    assert allows(site, call + b"\x90")
    assert not allows(site, near(b"\xe8", "new") + b"\x90")
    assert not allows(site, call + b"\xcc")
    for leads_to, allowed in (("native", call + b"\x90"), ("", bug + b"\x90"), ("_paravirt_nop", nothing)):
        for run in (call + b"\x90", bug + b"\x90", nothing):
            assert allows(site, run, holding("pv_ops", leads_to, 0x18)) is (run == allowed)


def test_a_paravirt_slot_is_counted_in_pointers() -> None:
    site = one(".parainstructions", paravirt(4, 6))
    assert not allows(site, near(b"\xe8", "native") + b"\x90")


def static_call(code: Code, flags: int = 0) -> Entry:
    return Entry(bytes(8), {0: here(), 4: Place(None, "key", flags)}, (code,))


def test_a_static_call_goes_where_its_key_points_or_nowhere() -> None:
    code = Code(bytes.fromhex("e800000000"), {1: (PLT32, "__SCT__key", 0, -4)})
    site = one(".static_call_sites", static_call(code))
    call, clear, nothing = near(b"\xe8", "new"), bytes.fromhex("2e2e2e31c0"), bytes.fromhex("0f1f440000")
    for leads_to, allowed in (
        ("new", call),
        ("", nothing),
        ("__static_call_return0", clear),
        ("native", b""),
    ):
        for run in (call, clear, nothing):
            assert allows(site, run, holding("key", leads_to)) is (run == allowed)
    assert not allows(site, near(b"\xe8", "native"))
    assert not allows(site, near(b"\xe9", "new"))


def test_a_trampoline_may_stand_for_the_key_of_its_name() -> None:
    code = Code(bytes.fromhex("e800000000"), {1: (PLT32, "__SCT__foo", 0, -4)})
    entry = Entry(bytes(8), {0: here(), 4: Place(None, "__SCT__foo", 2)}, (code,))
    site = one(".static_call_sites", entry)
    assert allows(site, near(b"\xe8", "new"))
    assert not allows(site, bytes.fromhex("0f1f440000"))
    assert allows(site, bytes.fromhex("0f1f440000"), holding("__SCK__foo", ""))


@pytest.mark.parametrize("flags", [1, 2, 3])
def test_flags_in_a_static_call_key_are_no_offset(flags: int) -> None:
    code = Code(bytes.fromhex("e900000000"), {1: (PLT32, "__SCT__key", 0, -4)})
    site = one(".static_call_sites", static_call(code, flags))
    returns = (bytes.fromhex("c3cccccccc"), near(b"\xe9", "srso_return_thunk"))
    assert allows(site, near(b"\xe9", "new"))
    assert not any(allows(site, each) for each in returns)
    assert all(allows(site, each, holding("key", "")) for each in returns)
    assert not allows(site, near(b"\xe9", "retbleed_return_thunk"), holding("key", ""))
    assert not allows(site, near(b"\xe8", "new"))


def test_a_conditional_static_tail_call_keeps_its_condition() -> None:
    code = Code(bytes.fromhex("0f8400000000"), {2: (PLT32, "__SCT__key", 0, -4)})
    site = one(".static_call_sites", static_call(code, 1))
    assert allows(site, near(b"\x0f\x84", "new"))
    for name in ("__static_call_return", "srso_return_thunk"):
        assert allows(site, near(b"\x0f\x84", name), holding("key", ""))
        assert not allows(site, near(b"\x0f\x84", name))
    assert not allows(site, near(b"\x0f\x85", "new"))


def test_a_static_call_that_is_no_branch_has_no_site() -> None:
    assert ask(".static_call_sites", static_call(Code(bytes.fromhex("31c0")))) == ()


def test_a_trampoline_jumps_where_the_key_of_its_name_points() -> None:
    row = rows()[".static_call.text"]
    assert row.code
    data = bytes.fromhex("e9000000000fb9cc")
    site = one(".static_call.text", Entry(data, {}, (), name="__SCT__foo"))
    assert allows(site, near(b"\xe9", "new"))
    assert not allows(site, near(b"\xe9", "native"))
    assert not allows(site, bytes.fromhex("c3cccccccc"))
    assert allows(site, bytes.fromhex("c3cccccccc"), holding("__SCK__foo", ""))
    assert ask(".static_call.text", Entry(data, {}, (), name="other")) == ()


def test_an_entry_of_a_function_is_a_no_op_or_calls_a_tracer() -> None:
    code = Code(bytes.fromhex("e800000000c3"), {1: (PLT32, "__fentry__", 0, -4)})
    site = one("__mcount_loc", Entry(bytes(8), {0: here()}, (code,)))
    assert allows(site, bytes.fromhex("0f1f440000"))
    assert allows(site, near(b"\xe8", "ftrace_caller"))
    assert allows(site, near(b"\xe8", "ftrace_regs_caller"))
    assert allows(site, near(b"\xe8", "ftrace_trampoline"))
    assert allows(site, near(b"\xe8", "bpf_trampoline_6442490113"))
    assert not allows(site, near(b"\xe9", "ftrace_trampoline"))
    assert not allows(site, near(b"\xe8", "kprobe_optinsn_page"))
    assert not allows(site, near(b"\xe8", "new"))
    assert not allows(site, bytes.fromhex("660f1f4400"))


# Jumps and single instructions -----------------------------------------------------------------------


def jump_label(code: bytes, target: Place) -> Entry:
    return Entry(bytes(16), {0: here(), 4: target, 8: Place(None, "key", 1)}, (Code(code),))


def test_a_short_jump_label_is_a_no_op_or_a_jump_to_its_target() -> None:
    for pre in ("6690", "eb00"):
        site = one("__jump_table", jump_label(bytes.fromhex(pre), here(0x22)))
        assert allows(site, bytes.fromhex("6690"))
        assert allows(site, bytes.fromhex("eb20"))
        assert not allows(site, bytes.fromhex("eb21"))
        assert not allows(site, bytes.fromhex("9090"))


def test_a_near_jump_label_may_lead_into_another_node() -> None:
    for pre in ("0f1f440000", "e900000000"):
        site = one("__jump_table", jump_label(bytes.fromhex(pre), Place(None, "new", 0)))
        assert allows(site, bytes.fromhex("0f1f440000"))
        assert allows(site, near(b"\xe9", "new"))
        assert not allows(site, near(b"\xe8", "new"))


def test_a_jump_label_on_any_other_instruction_has_no_site() -> None:
    assert ask("__jump_table", jump_label(bytes.fromhex("0f1f00"), here(0x22))) == ()


def test_a_return_is_plain_or_goes_to_a_thunk() -> None:
    code = Code(bytes.fromhex("e900000000"), {1: (PLT32, "__x86_return_thunk", 0, -4)})
    site = one(".return_sites", Entry(bytes(4), {0: here()}, (code,)))
    assert allows(site, bytes.fromhex("c3cccccccc"))
    assert allows(site, near(b"\xe9", "srso_return_thunk"))
    assert not allows(site, bytes.fromhex("c390909090"))
    assert not allows(site, near(b"\xe9", "new"))


def test_a_return_with_a_prefix_is_filled_up_with_int3() -> None:
    code = Code(bytes.fromhex("2ee900000000"), {2: (PLT32, "__x86_return_thunk", 0, -4)})
    site = one(".return_sites", Entry(bytes(4), {0: here()}, (code,)))
    assert site.size == 6
    assert allows(site, bytes.fromhex("c3cccccccccc"))
    assert allows(site, near(b"\xe9", "srso_return_thunk") + b"\xcc")
    assert not allows(site, bytes.fromhex("c3cccccccc90"))
    assert not allows(site, near(b"\x2e\xe9", "srso_return_thunk"))


def test_a_jump_elsewhere_is_no_return() -> None:
    code = Code(bytes.fromhex("e900000000"), {1: (PLT32, "new", 0, -4)})
    assert ask(".return_sites", Entry(bytes(4), {0: here()}, (code,))) == ()


def retpoline(code: str, register: str) -> Site:
    data = bytes.fromhex(code)
    fields = {len(data) - 4: (PLT32, f"__x86_indirect_thunk_{register}", 0, -4)}
    return one(".retpoline_sites", Entry(bytes(4), {0: here()}, (Code(data, fields),)))


@pytest.mark.parametrize(
    ("pre", "register", "run"),
    [
        ("e800000000", "rax", "ffd00f1f00"),
        ("e800000000", "rax", "0faee8ffd0"),
        ("2ee800000000", "r11", "41ffd30f1f00"),
        ("2ee800000000", "r11", "0faee841ffd3"),
        ("e900000000", "rax", "ffe0cc6690"),
        ("e900000000", "rax", "0faee8ffe0"),
        ("2ee900000000", "r11", "41ffe3cc6690"),
        ("0f8400000000", "rax", "7504ffe0cc90"),
        ("0f8500000000", "r11", "740441ffe3cc"),
    ],
)
def test_a_retpoline_becomes_the_indirect_branch_it_stands_for(pre: str, register: str, run: str) -> None:
    site, data = retpoline(pre, register), bytes.fromhex(run)
    assert allows(site, data)
    assert not allows(site, data[:-1] + bytes((data[-1] ^ 0xFF,)))


@pytest.mark.parametrize(
    ("pre", "register", "run"),
    [
        ("e800000000", "rax", "ffd1" + "0f1f00"),
        ("e800000000", "rax", "ffe0" + "0f1f00"),
        ("e900000000", "rax", "ffe0" + "0f1f00"),
        ("e800000000", "r11", "ffd3" + "0f1f00"),
        ("0f8400000000", "rax", "7404ffe0cc90"),
    ],
)
def test_a_retpoline_becomes_no_other_branch(pre: str, register: str, run: str) -> None:
    assert not allows(retpoline(pre, register), bytes.fromhex(run))


def test_a_fence_that_leaves_no_room_is_no_form() -> None:
    forms = retpoline("e800000000", "r11").forms
    assert not any(
        b"\x0f\xae\xe8" in part.data for form in forms for part in form if isinstance(part, Literal)
    )


def test_a_retpoline_may_go_to_the_thunk_against_its() -> None:
    site = retpoline("2ee800000000", "r11")
    assert allows(site, near(b"\x2e\xe8", "__x86_indirect_its_thunk_r11"))
    assert not allows(site, near(b"\x2e\xe8", "new"))


@pytest.mark.parametrize(
    ("pre", "register", "opcode", "thunk"),
    [
        ("e800000000", "rax", "e8", "ffe0cc"),
        ("e900000000", "rax", "e9", "ffe0cc"),
        ("2ee900000000", "r11", "2ee9", "41ffe3cc"),
        ("0f8400000000", "r11", "0f84", "41ffe3cc"),
    ],
)
def test_a_retpoline_may_go_to_a_thunk_made_for_it(pre: str, register: str, opcode: str, thunk: str) -> None:
    site = retpoline(pre, register)
    assert allows(site, near(bytes.fromhex(opcode), thunk))
    for other in {"ffe0cc", "41ffe3cc"} - {thunk}:
        assert not allows(site, near(bytes.fromhex(opcode), other))


def test_a_thunk_can_be_named_by_its_place_in_the_array() -> None:
    code = Code(bytes.fromhex("2ee800000000"), {2: (PLT32, "__x86_indirect_thunk_array", 11 * 32, -4)})
    site = one(".retpoline_sites", Entry(bytes(4), {0: here()}, (code,)))
    assert allows(site, bytes.fromhex("41ffd30f1f00"))


def test_a_lock_prefix_may_be_gone_and_nothing_else() -> None:
    entry = Entry(bytes(4), {0: here(1)}, (Code(bytes.fromhex("90f0ff08")),))
    site = one(".smp_locks", entry)
    assert (site.offset, site.size) == (1, 1)
    assert allows(site, b"\x3e")
    assert not allows(site, b"\x90")
    assert ask(".smp_locks", Entry(bytes(4), {0: here(0)}, (Code(b"\x90"),))) == ()


def test_a_sealed_entry_is_poisoned() -> None:
    site = one(".ibt_endbr_seal", Entry(bytes(4), {0: here()}, (Code(bytes.fromhex("f30f1efa")),)))
    assert allows(site, bytes.fromhex("660f1f00"))
    assert not allows(site, bytes.fromhex("0f1f4000"))


@pytest.mark.parametrize(
    "table",
    [
        ".altinstructions",
        ".parainstructions",
        ".smp_locks",
        ".retpoline_sites",
        ".return_sites",
        "__mcount_loc",
    ],
)
def test_an_entry_without_a_place_has_no_site(table: str) -> None:
    assert ask(table, Entry(bytes.fromhex("00000000000000000000" + "0505" + "00000000"), {}, ())) == ()

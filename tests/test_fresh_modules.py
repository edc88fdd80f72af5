# SPDX-License-Identifier: Apache-2.0
"""Updates that lay out a module's data in another way: it is loaded after them, and unloaded before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from compiled import graph, planned
from elftools.elf.elffile import ELFFile
from fakemachine import MODULE, FakeMachine, proof
from updates import PATCHES, make

from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError, Refused
from kdiff.guest import Guest, Result
from kdiff.kernel import Keep, SpecialSection
from kdiff.kernel_log import complaints
from kdiff.module_files import contents, module_files
from kdiff.package import Package, save
from kdiff.plan import Plan
from kdiff.rehearse import program
from kdiff.review import review
from kdiff.review_types import retyped, review_types
from kdiff.target import livepatch
from kdiff.target.apply import apply
from kdiff.target.undo import undo

ID = MODULE.removeprefix("ksplice_")
TEXT = "struct item { int id; }; int use(struct item *i) { return i->id; }"
GROWN = "struct item { int id, more; }; int use(struct item *i) { return i->id + i->more; }"
STANDS = "static struct item items[2]; struct item *all(int n) { items[n].id++; return items; }"


# What is refused -------------------------------------------------------------------------------------


def plan_of(*targets: str, before: str = TEXT, after: str = GROWN) -> tuple[Plan, ...]:
    """The plan of one unit for each of these targets."""
    plan = planned(graph(before, "-g"), graph(after, "-g"))
    return tuple(replace(plan, target=target) for target in targets)


def test_a_layout_that_only_modules_know_asks_for_modules_that_are_loaded_later() -> None:
    found = retyped(plan_of("one", "two"))
    assert review_types(found, ()) == ()
    assert found.fresh(()) == {"one": ("struct item",), "two": ("struct item",)}


def test_a_layout_that_the_kernel_knows_too_is_refused() -> None:
    found = retyped(plan_of("one", "vmlinux"))
    assert {each.key for each in review_types(found, ())} == {"review.layout_changed"}
    assert found.fresh(()) == {}


def test_a_layout_of_a_module_that_is_known_to_be_loaded_is_refused() -> None:
    found = retyped(plan_of("one", "two"), frozenset(("two",)))
    assert {each.key for each in review_types(found, ())} == {"review.layout_changed"}
    assert found.fresh(()) == {}


def test_code_of_the_kernel_that_is_right_for_both_layouts_does_not_matter() -> None:
    (module,) = plan_of("one")
    unused = "struct item { int id; }; int use(struct item *i) { return i->id; }"
    grown = unused.replace("int id;", "int id, more;")
    (kernel,) = plan_of("vmlinux", before=unused, after=grown)
    assert not kernel.delta.changed
    found = retyped((module, kernel))
    assert len(found.changes) == 2
    assert review_types(found, ()) == ()
    assert found.fresh(()) == {"one": ("struct item",)}
    (kernel,) = plan_of("vmlinux", before=unused, after=grown.replace("i->id", "i->id + 1"))
    assert {each.key for each in review_types(retyped((module, kernel)), ())} == {"review.layout_changed"}


def test_a_layout_of_nobody_knows_what_is_refused() -> None:
    assert {each.key for each in review_types(retyped(plan_of("")), ())} == {"review.layout_changed"}


def test_a_layout_that_the_author_accepts_asks_for_nothing() -> None:
    assert retyped(plan_of("one")).fresh(("item",)) == {}


STARTS = "int limit = 3, other = 4; int (*ask)(struct item *) = use; int get(void) { return limit + other; }"


@pytest.mark.parametrize(("old", "new"), [(3, 5), (3, 0), (0, 5)])  # what starts as 0 is in another section
def test_a_variable_may_start_with_another_value_in_a_module_that_is_loaded_later(old: int, new: int) -> None:
    before, after = (STARTS.replace("limit = 3", f"limit = {value}") for value in (old, new))
    (plan,) = plan_of("one", before=TEXT + before, after=GROWN + after)
    assert review(plan, True) == ()
    assert {each.key for each in review(plan, False)} == {"review.data_changed"}
    (item,) = plan.delta.initial
    assert plan.post.nodes[item.post].name == "limit"
    assert [(each.offset, each.old, each.new) for each in item.writes] == [(0, bytes([old]), bytes([new]))]


def test_a_variable_that_starts_with_another_address_or_of_each_processor_is_refused() -> None:
    (plan,) = plan_of("one", before=TEXT + STARTS, after=GROWN + STARTS.replace("= use", "= 0"))
    assert {each.key for each in review(plan, True)} == {"review.data_changed"}
    section = '__attribute__((section(".data..percpu"))) '
    (plan,) = plan_of(
        "one",
        before=TEXT + section + STARTS,
        after=GROWN + section + STARTS.replace("limit = 3", "limit = 5"),
    )
    assert "review.per_cpu_changed" in {each.key for each in review(plan, True)}


@pytest.mark.parametrize("keep", [Keep.OWNER, Keep.ADDED])
def test_a_variable_may_not_start_otherwise_if_a_table_about_code_refers_to_it(keep: Keep) -> None:
    text = """int limit = 3; int get(void) { asm(".pushsection __keys, \\"a\\"; .quad get; .quad limit;"
        ".popsection"); return limit; }"""
    row = SpecialSection("__keys", 16, keep, owner=0)
    before, after = TEXT + text, GROWN + text.replace("limit = 3", "limit = 5")
    plan = planned(*(graph(each, "-g", special=(row,)) for each in (before, after)))
    found = {each.key for each in review(plan, True)}
    assert ("review.data_changed" in found) == (keep is Keep.OWNER)


def test_a_variable_of_the_module_that_grows_is_refused_all_the_same() -> None:
    (plan,) = plan_of("one", before=TEXT + STANDS, after=GROWN + STANDS)
    assert "review.data_resized" in {each.key for each in review(plan)}


# Applying and undoing --------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    made = FakeMachine(tmp_path)
    made.fresh = "item,other"
    made.put("proc/modules", "ext4 1 0 - Live 0x0\n")
    return made


def tarball(fake: FakeMachine) -> str:
    value = proof()
    rows = [{"name": name, "build_id": "", "source_version": ""} for name in ("item", "other", "old")]
    value["modules"] = [row | {"fresh": row["name"] != "old"} for row in rows]
    return fake.tarball(proof=json.dumps(value).encode())


def applied(fake: FakeMachine, **options: Any) -> Any:
    return apply(tarball(fake), 5, fake.machine, print, print, lambda: None, **{"partial": True} | options)


def undone(fake: FakeMachine) -> str:
    return undo(ID, 5, fake.machine, print, lambda: None)


def is_open(fake: FakeMachine) -> str:
    return (fake.root / f"sys/module/{MODULE}/parameters/open").read_text()


def load(fake: FakeMachine, state: str = "Live") -> None:
    fake.put("proc/modules", f"ext4 1 0 - Live 0x0\nother 1 0 - {state} 0x0\n")


def test_the_modules_may_be_loaded_once_the_update_is_applied(fake: FakeMachine) -> None:
    seen = []
    fake.on_sleep = lambda count: seen.append(is_open(fake))
    assert applied(fake).awaited == ("item", "old", "other")
    assert set(seen) == {"0"}
    assert is_open(fake) == "1"


def test_only_other_modules_need_be_loaded_for_lack_of_partial(fake: FakeMachine) -> None:
    with pytest.raises(Refused) as caught:
        applied(fake, partial=False)
    assert [(each.key, each.place) for each in caught.value.refusals] == [("target.not_loaded", "module old")]


@pytest.mark.parametrize("state", ["Live", "Loading", "Unloading"])
def test_an_update_is_refused_while_such_a_module_is_there(fake: FakeMachine, state: str) -> None:
    load(fake, state)
    before = fake.snapshot()
    with pytest.raises(Refused) as caught:
        applied(fake)
    assert [(each.key, each.place) for each in caught.value.refusals] == [
        ("target.loaded_already", "module other")
    ]
    assert fake.snapshot() == before


def test_a_list_of_modules_that_cannot_be_read_is_told(fake: FakeMachine) -> None:
    (fake.root / "proc/modules").unlink()
    with pytest.raises(KdiffError, match="not known what is loaded"):
        applied(fake)
    assert not fake.loaded()


def test_a_module_that_comes_in_between_is_told(fake: FakeMachine) -> None:
    fake.insert_status = 26  # ETXTBSY, as pre_patch in runtime.c has it
    with pytest.raises(KdiffError) as caught:
        applied(fake)
    assert caught.value.key == "apply.loaded_already"


def other(fake: FakeMachine, module: str, says: str = "") -> None:
    """Another live patch, which replaces a function of a module."""
    fake.foreign_patch("ksplice_other", "elsewhere,1")
    (fake.root / "sys/kernel/livepatch/ksplice_other" / module / "helper,1").mkdir(parents=True)
    if says:
        fake.put("sys/module/ksplice_other/parameters/fresh", f"{says}\n")


@pytest.mark.parametrize(
    ("module", "says", "refused"),
    [
        ("item", "", True),  # this update lays out its data, the other does not know
        ("old", "old", True),  # the other way round
        ("old", "", False),
        ("else", "else", False),
    ],
)
def test_no_other_live_patch_may_change_a_module_with_another_layout(
    fake: FakeMachine, module: str, says: str, refused: bool
) -> None:
    other(fake, module, says)
    if not refused:
        assert not applied(fake).already
        return
    before = fake.snapshot()
    with pytest.raises(Refused) as caught:
        applied(fake)
    assert [(each.key, each.place) for each in caught.value.refusals] == [
        ("target.other_layout", f"module {module}")
    ]
    assert fake.snapshot() == before


def test_applying_again_opens_what_an_interrupt_left_closed(fake: FakeMachine) -> None:
    applied(fake)
    fake.put(f"sys/module/{MODULE}/parameters/open", "0")
    assert applied(fake).already
    assert is_open(fake) == "1"


def test_undoing_is_refused_while_such_a_module_is_there(fake: FakeMachine) -> None:
    applied(fake)
    load(fake)
    with pytest.raises(Refused) as caught:
        undone(fake)
    assert [(each.key, each.place) for each in caught.value.refusals] == [
        ("target.loaded_since", "module other")
    ]
    assert (livepatch.stage(fake.machine, ID), is_open(fake)) == (livepatch.APPLIED, "1")


def test_no_module_may_be_loaded_while_the_update_is_undone(fake: FakeMachine) -> None:
    applied(fake)
    seen = []
    fake.on_sleep = lambda count: seen.append(is_open(fake))
    assert undone(fake) == ID
    assert set(seen) == {"0"}
    assert not fake.loaded()


def test_modules_may_be_loaded_again_if_the_update_stays(fake: FakeMachine) -> None:
    applied(fake)
    fake.steps_back = None
    with pytest.raises(KdiffError, match="stays applied"):
        undone(fake)
    assert is_open(fake) == "1"


def test_a_module_that_takes_no_parameter_keeps_the_update(fake: FakeMachine) -> None:
    applied(fake)
    (fake.root / f"sys/module/{MODULE}/parameters/open").unlink()
    (fake.root / f"sys/module/{MODULE}/parameters/open").mkdir()
    with pytest.raises(KdiffError) as caught:
        undone(fake)
    assert caught.value.key == "update.closed"
    assert livepatch.stage(fake.machine, ID) == livepatch.APPLIED


# A running kernel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def update(kernel: KernelSetup) -> Package:
    return make(kernel, PATCHES / "fresh_brd.patch")


@pytest.fixture(scope="module")
def folder(kernel: KernelSetup, update: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("updates")
    save(update, made)
    (made / "update.ko").write_bytes(update.modules[0].data)
    (made / "brd.ko").write_bytes(contents(module_files(kernel.image / "modules")["brd"]))
    return made


@pytest.fixture(scope="module")
def guest(kernel: KernelSetup) -> Iterator[Guest]:
    with Guest.boot(kernel.image / "vmlinuz", kernel.image / "modules") as running:
        yield running


def held(guest: Guest, folder: Path, line: str, status: int = 0) -> Result:
    result = guest.run(line, timeout=120, directory=folder)
    assert result.status == status, f"{line}: status {result.status}\n{result.output}\n{guest.log()[-3000:]}"
    return result


START = "insmod brd.ko rd_nr=1"
LOAD = f"{START} rd_size=1024"
APPLY, UNDO = program("apply", "ksplice-fresh_brd.tar.gz"), program("undo", "fresh_brd")


def sectors(guest: Guest, folder: Path) -> int:
    """The size of a new disk of module brd."""
    return int(held(guest, folder, "cat /sys/block/ram0/size").output)


@pytest.mark.kernel
def test_the_update_says_what_must_be_loaded_later(update: Package) -> None:
    (module,) = update.manifest["modules"]  # type: ignore[misc]
    assert (module["name"], module["new_layouts"]) == ("brd", ["struct brd_device"])
    assert [each["fresh"] for each in json.loads(update.proof)["modules"]] == [True]
    (value,) = update.manifest["initial"]  # type: ignore[misc]
    assert (value["module"], value["name"], value["offset"]) == ("brd", "rd_size", 1)
    assert (value["old"], value["new"]) == ("40", "20")


@pytest.mark.kernel
@pytest.mark.guest
def test_a_module_gets_its_new_layout_when_it_is_loaded_after_the_update(guest: Guest, folder: Path) -> None:
    start = len(guest.records())
    held(guest, folder, LOAD)
    assert sectors(guest, folder) == 2048
    assert "target.loaded_already: module brd" in held(guest, folder, APPLY, status=3).output
    held(guest, folder, "rmmod brd && insmod brd.ko rd_nr=1")
    assert sectors(guest, folder) == 32768
    held(guest, folder, "rmmod brd")
    held(guest, folder, APPLY)
    held(guest, folder, START)
    assert sectors(guest, folder) == 16384 + 8
    held(guest, folder, "busybox dd if=/dev/zero of=/dev/ram0 bs=4k count=100")
    assert "target.loaded_since: module brd" in held(guest, folder, UNDO, status=3).output
    assert "fresh_brd" in held(guest, folder, program("view")).output
    held(guest, folder, "rmmod brd")
    held(guest, folder, LOAD)
    assert sectors(guest, folder) == 2048 + 8  # the parameter counts, not what the variable starts with
    held(guest, folder, "rmmod brd")
    held(guest, folder, UNDO)
    held(guest, folder, START)
    assert sectors(guest, folder) == 32768
    held(guest, folder, "rmmod brd")
    assert complaints(guest.records()[start:]) == ()


def other_value(module: bytes) -> bytes:
    """Module brd, unsigned, whose variable rd_size starts with another value."""
    module = module.removesuffix(b"~Module signature appended~\n")
    elf = ELFFile(BytesIO(module))
    (symbol,) = elf.get_section_by_name(".symtab").get_symbol_by_name("rd_size")
    at = elf.get_section(symbol["st_shndx"])["sh_offset"] + symbol["st_value"] + 1
    return module[:at] + bytes([module[at] ^ 1]) + module[at + 1 :]


@pytest.mark.kernel
@pytest.mark.guest
def test_a_module_that_starts_with_another_value_already_is_kept_out(guest: Guest, folder: Path) -> None:
    (folder / "other.ko").write_bytes(other_value((folder / "brd.ko").read_bytes()))
    held(guest, folder, APPLY)
    assert guest.run("insmod other.ko rd_nr=1", timeout=60, directory=folder).status != 0
    assert "was made for another build of module brd: rd_size differs" in guest.log()
    held(guest, folder, START)
    assert sectors(guest, folder) == 16384 + 8
    held(guest, folder, "rmmod brd")
    held(guest, folder, UNDO)


@pytest.mark.kernel
@pytest.mark.guest
def test_the_kernel_itself_keeps_the_module_out_at_other_times(guest: Guest, folder: Path) -> None:
    held(guest, folder, LOAD)
    assert guest.run("insmod update.ko", timeout=60, directory=folder).status != 0
    assert "lays out data of module brd in another way" in guest.log()
    assert sectors(guest, folder) == 2048
    held(guest, folder, "rmmod brd")
    held(guest, folder, APPLY)
    held(guest, folder, "echo 0 > /sys/module/ksplice_fresh_brd/parameters/open")
    assert guest.run(LOAD, timeout=60, directory=folder).status != 0
    assert guest.run("lsmod | grep -q ^brd", timeout=60).status != 0
    held(guest, folder, f"echo 1 > /sys/module/ksplice_fresh_brd/parameters/open && {LOAD} && rmmod brd")
    held(guest, folder, UNDO)
    held(guest, folder, f"{LOAD} && rmmod brd")

# SPDX-License-Identifier: Apache-2.0
"""`create` on a stock kernel's real source, objects and image: what it makes, and all that it must refuse."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from updates import EXAMPLE, PATCHES, make, request

from kdiff import registry
from kdiff.cli.main import run_command
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.emit import EmittedModule, Workshop
from kdiff.errors import KdiffError, NothingChanged, Refusal, Refused
from kdiff.graph import SectionGraph
from kdiff.kernel import KernelFacts
from kdiff.package import write
from kdiff.pairs import read_pairs
from kdiff.pipeline import create
from kdiff.plan import Plan
from kdiff.running import find_memory
from kdiff.update import Update

pytestmark = pytest.mark.kernel


def replaced(manifest: object) -> list[str]:
    assert isinstance(manifest, dict)
    return [each["name"] for each in manifest["replaced"]]


def test_the_example_replaces_tcp_v4_rcv_and_nothing_else(kernel: KernelSetup) -> None:
    package = make(kernel, EXAMPLE)
    assert replaced(package.manifest) == ["tcp_v4_rcv"]
    assert [module.file for module in package.modules] == ["ksplice_tcp_ipv4.ko"]


def test_equal_inputs_give_equal_bytes(kernel: KernelSetup) -> None:
    patch = PATCHES / "fs_cmdline.patch"
    assert write(make(kernel, patch)) == write(make(kernel, patch))


def test_two_units_go_into_one_module(kernel: KernelSetup) -> None:
    package = make(kernel, PATCHES / "two_units.patch")
    assert replaced(package.manifest) == ["cmdline_proc_show", "version_proc_show"]
    assert len(package.modules) == 1


def test_a_function_that_one_unit_adds_for_another_travels_with_it(kernel: KernelSetup) -> None:
    package = make(kernel, PATCHES / "new_global.patch")
    assert replaced(package.manifest) == ["cmdline_proc_show"]
    borrowed = package.manifest["borrowed"]
    assert isinstance(borrowed, list)
    assert not [each for each in borrowed if each["name"].startswith("kdiff_")]


def test_line_numbers_behind_the_patch_do_not_count_as_changes(kernel: KernelSetup) -> None:
    """tcp_sk_exit_batch and others behind tcp_v4_rcv hold line numbers in WARN_ON."""
    assert replaced(make(kernel, EXAMPLE).manifest) == ["tcp_v4_rcv"]


def test_what_the_author_said_of_pairs_is_recorded(kernel: KernelSetup, tmp_path: Path) -> None:
    file = tmp_path / "pairs.toml"
    file.write_text('pin = [["net/ipv4/tcp_ipv4.c", "tcp_v4_rcv", "tcp_v4_rcv"]]')
    made = make(kernel, EXAMPLE, pairs=read_pairs(file))
    assert replaced(made.manifest) == ["tcp_v4_rcv"]
    assert made.manifest["pairs"] == {
        "pin": [["net/ipv4/tcp_ipv4.c", "tcp_v4_rcv", "tcp_v4_rcv"]],
        "forbid": [],
    }


def test_a_pair_of_a_unit_that_is_not_built_is_an_error(kernel: KernelSetup, tmp_path: Path) -> None:
    file = tmp_path / "pairs.toml"
    file.write_text('pin = [["net/ipv4/tcp.c", "tcp_init", "tcp_init"]]')
    with pytest.raises(KdiffError) as caught:
        make(kernel, EXAMPLE, pairs=read_pairs(file))
    assert caught.value.key == "pairs.unit"


def test_a_patch_of_comments_changes_nothing(kernel: KernelSetup) -> None:
    with pytest.raises(NothingChanged):
        make(kernel, PATCHES / "no_change.patch")


def test_every_borrowed_symbol_says_how_it_was_resolved(kernel: KernelSetup) -> None:
    borrowed = make(kernel, EXAMPLE).manifest["borrowed"]
    assert isinstance(borrowed, list)
    assert {each["how"] for each in borrowed} == {"export", "position"}
    assert all(each["learned"] for each in borrowed)


REFUSED = {
    "ambiguous": "bind.ambiguous",
    "assembly": "livepatch.no_fentry",
    "config_changed": "patch.config_changed",
    "data_changed": "review.data_changed",
    "deleted_file": "patch.deleted_file",
    "deleted_file_initcall": "review.initcall_changed",
    "entry_code": "livepatch.noinstr",
    "in_place": "emit.in_place",
    "init_code": "review.init_code",
    "layout": "review.layout_changed",
    "layout_header": "review.layout_changed",
    "moved_to_unit": "review.moved_to_unit",
    "new_file_initcall": "review.initcall_changed",
    "new_module": "patch.new_module",
    "noinstr": "livepatch.noinstr",
    "no_fentry": "livepatch.no_fentry",
    "not_built": "patch.not_built",
    "per_cpu": "review.per_cpu",
    "unresolved": "bind.unresolved",
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_patch_that_must_not_be_applied_live_is_refused(kernel: KernelSetup, name: str) -> None:
    with pytest.raises(Refused) as caught:
        make(kernel, PATCHES / "refused" / f"{name}.patch")
    assert {refusal.key for refusal in caught.value.refusals} == {REFUSED[name]}
    assert all(refusal.place and refusal.reason for refusal in caught.value.refusals)


@pytest.mark.parametrize("name", ["new_export", "new_file_export"])
def test_an_export_that_the_patch_adds_is_left_out(kernel: KernelSetup, name: str) -> None:
    said: list[str] = []
    package = make(kernel, PATCHES / f"{name}.patch", said.append)
    (line,) = (each for each in said if "an export" in each)
    assert line.startswith("left out of the update: ")
    assert not any(b"__ksymtab_kdiff" in each.data for each in package.modules)


def test_a_changed_type_is_refused_before_all_units_that_see_it_are_looked_for(kernel: KernelSetup) -> None:
    said: list[str] = []
    with pytest.raises(Refused):
        make(kernel, PATCHES / "refused" / "layout_header.patch", said.append)
    assert not [line for line in said if "may include" in line]


def test_jump_labels_of_a_module_become_tests_of_their_keys(kernel: KernelSetup) -> None:
    """Four of nf_tables' own in one function."""
    said: list[str] = []
    assert make(kernel, PATCHES / "module_jump_labels.patch", said.append).modules
    assert any("without what the kernel would read too early" in line for line in said)


def test_a_key_that_another_module_exports_is_found_by_its_export(kernel: KernelSetup) -> None:
    """In the kernel's code only a table of jump labels tells of it, in the new code its test does."""
    said: list[str] = []
    (module,) = make(kernel, PATCHES / "module_key_of_another.patch", said.append).modules
    assert b".klp.sym.kvm.kvm_has_noapic_vcpu,0\0" in module.data
    assert b".klp.rela.kvm_intel." in module.data


def test_an_entry_that_would_be_read_too_early_is_refused(
    kernel: KernelSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdiff_kernel_linux.x86.without", lambda facts: {})
    with pytest.raises(Refused) as caught:
        make(kernel, PATCHES / "module_jump_labels.patch")
    assert {refusal.key for refusal in caught.value.refusals} == {"bind.module_table"}


class Bold:
    """An emitter that objects to nothing."""

    name = "bold"
    sets_initial = False

    def redirects(self, graph: SectionGraph, function: int) -> bool:
        return True

    def review(self, plan: Plan, facts: KernelFacts) -> tuple[Refusal, ...]:
        return ()

    def check(self, update: Update, facts: KernelFacts, headers: Path) -> None:
        return

    def emit(self, update: Update, facts: KernelFacts, shop: Workshop) -> tuple[EmittedModule, ...]:
        raise AssertionError("the update lacks what must be written in place")


def test_an_emitter_that_would_leave_a_constant_unwritten_is_overruled(kernel: KernelSetup) -> None:
    plugins = replace(registry.load(), emitters={"bold": Bold()})
    with pytest.raises(Refused) as caught:
        create(request(kernel, PATCHES / "refused" / "in_place.patch", emitter="bold"), plugins, print)
    assert {refusal.key for refusal in caught.value.refusals} == {"bind.in_place"}


def test_an_emitter_that_sets_no_variables_is_overruled(kernel: KernelSetup) -> None:
    plugins = replace(registry.load(), emitters={"bold": Bold()})
    with pytest.raises(Refused) as caught:
        create(request(kernel, PATCHES / "fresh_brd.patch", emitter="bold"), plugins, print)
    assert {refusal.key for refusal in caught.value.refusals} == {"review.data_changed"}


def test_a_refusal_has_a_case_for_every_patch_in_the_folder() -> None:
    names = {path.stem for path in (PATCHES / "refused").glob("*.patch")}
    assert names == {*REFUSED, "compile_error"}


def test_the_compilers_message_is_shown_when_the_patched_source_does_not_compile(
    kernel: KernelSetup,
) -> None:
    with pytest.raises(KdiffError, match="no_such_variable") as caught:
        make(kernel, PATCHES / "refused" / "compile_error.patch")
    assert caught.value.key == "build.post"


def flipped_image(kernel: KernelSetup, name: str, offset: int, path: Path) -> Path:
    """The kernel's image as an ELF file with one bit of a function turned over."""
    memory = registry.load().open_memory(find_memory(read_config(kernel.config)))
    address = memory.address_book().address(name)
    assert address is not None
    code = memory.read(address, 64)
    assert code is not None
    from kdiff_memory_image.unpack import unpack

    data = bytearray(unpack((kernel.image / "vmlinuz").read_bytes(), "vmlinuz")[0])
    assert data.count(code) == 1
    data[data.index(code) + offset] ^= 1
    path.write_bytes(data)
    return path


def test_one_flipped_bit_in_the_replaced_function_is_refused(kernel: KernelSetup, tmp_path: Path) -> None:
    image = flipped_image(kernel, "tcp_v4_rcv", 0x12, tmp_path / "vmlinux")
    with pytest.raises(Refused) as caught:
        make(kernel, EXAMPLE, memory=f"image:{image}")
    (refusal,) = caught.value.refusals
    assert refusal.key == "runpre.content"
    assert refusal.place.endswith(".text.tcp_v4_rcv+0x12")
    assert "pre:" in refusal.details
    assert "run:" in refusal.details


def test_one_flipped_bit_in_a_call_of_the_replaced_function_is_refused(
    kernel: KernelSetup, tmp_path: Path
) -> None:
    image = flipped_image(kernel, "cmdline_proc_show", 2, tmp_path / "vmlinux")
    with pytest.raises(Refused) as caught:
        make(kernel, PATCHES / "fs_cmdline.patch", memory=f"image:{image}")
    assert {refusal.key for refusal in caught.value.refusals} == {"runpre.content"}


def test_one_flipped_bit_in_another_function_of_the_unit_is_refused(
    kernel: KernelSetup, tmp_path: Path
) -> None:
    image = flipped_image(kernel, "tcp_v4_connect", 0x20, tmp_path / "vmlinux")
    with pytest.raises(Refused) as caught:
        make(kernel, EXAMPLE, memory=f"image:{image}")
    assert any("tcp_v4_connect" in refusal.reason for refusal in caught.value.refusals)


def test_a_system_map_of_another_kernel_is_refused(kernel: KernelSetup, tmp_path: Path) -> None:
    config = copy_config(kernel, tmp_path)
    lines = (kernel.config / "System.map").read_text().splitlines(keepends=True)
    moved = [
        f"{int(line[:16], 16) + 0x1000:016x}{line[16:]}" if " T tcp_" in line else line for line in lines
    ]
    (config / "System.map").unlink()
    (config / "System.map").write_text("".join(moved))
    with pytest.raises(Refused) as caught:
        make(kernel, EXAMPLE, config=config)
    assert caught.value.refusals[0].key == "config.system_map"


def test_source_of_another_version_is_refused(kernel: KernelSetup, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    text = (kernel.source / "Makefile").read_text()
    (source / "Makefile").write_text(text.replace("SUBLEVEL = ", "SUBLEVEL = 1", 1))
    with pytest.raises(Refused) as caught:
        make(kernel, EXAMPLE, source=source)
    assert caught.value.refusals[0].key == "source.version"


def test_without_an_image_create_says_where_to_put_one(kernel: KernelSetup, tmp_path: Path) -> None:
    config = copy_config(kernel, tmp_path, without=("vmlinuz",))
    with pytest.raises(KdiffError, match="vmlinuz") as caught:
        make(kernel, EXAMPLE, config=config)
    assert caught.value.key == "memory.missing"


def copy_config(kernel: KernelSetup, where: Path, without: tuple[str, ...] = ()) -> Path:
    """A CONFDIR of links to another one's files."""
    config = where / "config"
    config.mkdir()
    for each in kernel.config.iterdir():
        if each.name not in without:
            (config / each.name).symlink_to(each.resolve())
    return config


def test_the_command_writes_a_tarball_and_says_so(
    kernel: KernelSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"--patch={PATCHES / 'fs_cmdline.patch'}", f"--config={kernel.config}", "--id=abc12345"]
    assert run_command("create", [*words, "-q", str(kernel.source)], "ksplice-create") == 0
    assert capsys.readouterr().out == "Ksplice update tarball written to ksplice-abc12345.tar.gz\n"
    assert (tmp_path / "ksplice-abc12345.tar.gz").is_file()


def test_exit_statuses_tell_refused_from_unchanged(
    kernel: KernelSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = [f"--config={kernel.config}", "-q", str(kernel.source)]
    unchanged = [f"--patch={PATCHES / 'no_change.patch'}", *common]
    assert run_command("create", unchanged, "ksplice-create") == 66
    assert capsys.readouterr().out == "No changes detected\n"
    refused = [f"--patch={PATCHES / 'refused' / 'data_changed.patch'}", "--raw-errors", "--json", *common]
    assert run_command("create", refused, "ksplice-create") == 3
    output = capsys.readouterr()
    assert output.err.splitlines()[0] == "OTHER"
    assert json.loads(output.out)["refused"][0]["key"] == "review.data_changed"
    assert not list(tmp_path.iterdir())


def test_match_finds_every_function_of_an_object(
    kernel: KernelSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdiff import kbuild
    from kdiff.patch import read_patch

    built = kbuild.build(read_config(kernel.config), kernel.source, read_patch(EXAMPLE), say=print)
    capsys.readouterr()
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    pre.write_bytes(built.units[0].pre)
    post.write_bytes(built.units[0].post)
    memory = f"--memory=image:{kernel.image / 'vmlinuz'}"
    assert run_command("match", [memory, "--json", str(pre)], "kdiff match") == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["refusals"]
    assert "tcp_v4_rcv" in [each["name"] for each in found["matched"]]
    assert run_command("match", [memory, str(post)], "kdiff match") == 3
    assert "runpre.content" in capsys.readouterr().out


def test_diff_names_the_function_that_changed(
    kernel: KernelSetup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdiff import kbuild
    from kdiff.patch import read_patch

    built = kbuild.build(read_config(kernel.config), kernel.source, read_patch(EXAMPLE), say=print)
    capsys.readouterr()
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    pre.write_bytes(built.units[0].pre)
    post.write_bytes(built.units[0].post)
    assert run_command("diff", ["--json", str(pre), str(post)], "kdiff diff") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["changed"]] == ["tcp_v4_rcv"]
    assert run_command("diff", ["--json", str(pre), str(pre)], "kdiff diff") == 66


def test_the_source_is_left_as_it_was_after_success_and_failure(kernel: KernelSetup) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for folder in ("fs/proc", "net/ipv4", "mm")
            for path in (kernel.source / folder).iterdir()
        }

    before = state()
    make(kernel, PATCHES / "fs_cmdline.patch")
    with pytest.raises(KdiffError):
        make(kernel, PATCHES / "refused" / "compile_error.patch")
    assert state() == before


def test_an_interrupted_create_leaves_the_source_as_it_was_and_no_tarball(
    kernel: KernelSetup, tmp_path: Path
) -> None:
    patch = tmp_path / "slow.patch"
    text = (PATCHES / "mm_do_mmap.patch").read_text()
    patch.write_text(text.replace("first mapping", f"first mapping ({time.time_ns()})"))
    before = (kernel.source / "mm/mmap.c").read_bytes()
    command = [sys.executable, "-c", "from kdiff.cli.main import *; sys.exit(ksplice_create())"]
    process = subprocess.Popen(
        [*command, f"--patch={patch}", f"--config={kernel.config}", str(kernel.source)],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "(post)" in line:
            break
    process.send_signal(2)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (kernel.source / "mm/mmap.c").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["slow.patch"]
    assert replaced(make(kernel, PATCHES / "mm_do_mmap.patch").manifest) == ["do_mmap"]

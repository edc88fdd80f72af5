# SPDX-License-Identifier: Apache-2.0
"""Pre and post objects: the configuration, the compiler, the shadow of the source, both builds."""

from __future__ import annotations

import difflib
import hashlib
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakekernel import CORE, FakeKernel, make_fake_kernel

from kdiff import registry
from kdiff.compiler import find_compiler
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.elf.read import read_bytes
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.includes import read_by_makefiles
from kdiff.kbuild import Build, build, pristine_units
from kdiff.makefiles import Remade, other_targets
from kdiff.matchable import graph_to_match
from kdiff.patch import read_patch
from kdiff.running import find_memory
from kdiff.shadow import make_shadow, restore, tree_digest
from kdiff.sites import sites
from kdiff.solve import solve
from kdiff.units import find_units
from kdiff.workplace import building_config, open_workplace

EXAMPLE = Path(__file__).parent.parent / "examples/tcp_ipv4.patch"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeKernel]:
    """A fake kernel whose source must be untouched when the test ends."""
    kernel = make_fake_kernel(tmp_path)
    before = contents(kernel.source)
    yield kernel
    kernel.hold.unlink(missing_ok=True)
    assert contents(kernel.source) == before


def contents(tree: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and modification time."""
    files = [path for path in sorted(tree.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def run(kernel: FakeKernel, patch: Path, said: list[str] | None = None, **options: bool) -> Build:
    say: Callable[[str], None] = (said if said is not None else []).append
    config = read_config(kernel.config)
    return build(config, kernel.source, read_patch(patch), say=say, cache=kernel.cache, **options)


def error_of(kernel: FakeKernel, patch: Path) -> KdiffError:
    with pytest.raises(KdiffError) as caught:
        run(kernel, patch)
    return caught.value


def refusal_of(kernel: FakeKernel, patch: Path) -> Refusal:
    with pytest.raises(Refused) as caught:
        run(kernel, patch)
    (refusal,) = caught.value.refusals
    assert refusal.place
    assert refusal.remedy
    return refusal


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# The configuration -----------------------------------------------------------------------------------


def test_a_configuration_says_what_the_kernel_is(fake: FakeKernel) -> None:
    config = read_config(fake.config)
    assert (config.arch, config.version, config.release) == ("fake", "9.1.2", "9.1.0-7-fake")
    assert config.options["CONFIG_MODULE_SIG_ALL"] == "y"
    assert "CONFIG_OTHER" not in config.options


def test_the_release_may_come_from_kernel_release(fake: FakeKernel) -> None:
    (fake.config / "build/include/generated/utsrelease.h").unlink()
    (fake.config / "build/include/config").mkdir()
    (fake.config / "build/include/config/kernel.release").write_text("9.1.0-8-fake\n")
    assert read_config(fake.config).release == "9.1.0-8-fake"


@pytest.mark.parametrize("name", [".config", "System.map", "build/include/generated/utsrelease.h"])
def test_a_missing_file_of_the_configuration_is_named(fake: FakeKernel, name: str) -> None:
    (fake.config / name).unlink()
    with pytest.raises(KdiffError) as caught:
        read_config(fake.config)
    assert caught.value.key == "config.missing"
    assert caught.value.place == str(fake.config / name)
    assert "kdiff setup" in caught.value.remedy


def test_a_missing_configuration_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        read_config(tmp_path / "none")
    assert caught.value.key == "config.missing"


def test_a_config_without_the_kernels_header_is_an_error(fake: FakeKernel) -> None:
    replace(fake.config / ".config", "Kernel Configuration", "Something else")
    with pytest.raises(KdiffError) as caught:
        read_config(fake.config)
    assert caught.value.key == "config.unreadable"


def test_flags_are_shell_words_and_may_be_missing(fake: FakeKernel) -> None:
    (fake.config / "flags").write_text("CC='ccache gcc' KCFLAGS=-g0 V=1 # note\n")
    flags = read_config(fake.config).flags
    assert (flags.cc, flags.cflags, flags.others) == (("ccache", "gcc"), "-g0", ("V=1",))
    (fake.config / "flags").unlink()
    assert read_config(fake.config).flags.cc == ()


@pytest.mark.parametrize("text", ["vmlinux", "O=/elsewhere", "A='unclosed", "M=x"])
def test_flags_that_cannot_be_passed_on_are_an_error(fake: FakeKernel, text: str) -> None:
    (fake.config / "flags").write_text(text)
    with pytest.raises(KdiffError) as caught:
        read_config(fake.config)
    assert caught.value.key == "config.flags"


def test_the_distributions_keys_are_not_needed_for_building() -> None:
    text = 'CONFIG_A=y\nCONFIG_MODULE_SIG_KEY="x.pem"\nCONFIG_MODULE_SIG_ALL=y\nCONFIG_MODULE_SIG=y\n'
    assert building_config(text) == (
        'CONFIG_A=y\nCONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_KEY=""\n# CONFIG_MODULE_SIG_ALL is not set\n'
        'CONFIG_SYSTEM_TRUSTED_KEYS=""\nCONFIG_SYSTEM_REVOCATION_KEYS=""\n'
    )


# The compiler ----------------------------------------------------------------------------------------


def test_another_compiler_is_refused_with_both_versions(fake: FakeKernel) -> None:
    replace(fake.config / ".config", "Fake 1.2-3", "Fake 1.2-4")
    refusal = refusal_of(fake, fake.patch("net/core.c", 5, "int new;"))
    assert refusal.key == "compiler.mismatch"
    assert "Fake 1.2-3" in refusal.reason
    assert "Fake 1.2-4" in refusal.reason


def test_another_compiler_is_taken_when_that_is_asked_for(fake: FakeKernel) -> None:
    replace(fake.config / ".config", "Fake 1.2-3", "Fake 1.2-4")
    done = run(fake, fake.patch("net/core.c", 5, "int new;"), allow_compiler_mismatch=True)
    assert "Fake 1.2-3" in done.compiler
    assert any("Fake 1.2-4" in warning for warning in done.warnings)


@pytest.mark.parametrize("name", ["fakecc-1", "x86_64-linux-gnu-fakecc-1", "fakecc-9"])
def test_the_compiler_is_found_by_what_it_is_not_by_its_name(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (fake.config / "flags").unlink()
    replace(fake.config / ".config", '"fakecc (', f'"{name} (')
    monkeypatch.setenv("PATH", f"{fake.root}{os.pathsep}{os.environ['PATH']}")
    (fake.root / "fakecc").rename(fake.root / ("fakecc-1" if "linux" not in name else name))
    assert find_compiler(read_config(fake.config)).text == "fakecc (Fake 1.2-3) 1.2.0"


def test_no_compiler_at_all_is_an_error(fake: FakeKernel) -> None:
    (fake.config / "flags").write_text("CC=/nowhere/gcc")
    with pytest.raises(KdiffError) as caught:
        find_compiler(read_config(fake.config))
    assert caught.value.key == "compiler.missing"


# The source ------------------------------------------------------------------------------------------


def test_a_source_of_another_version_is_refused_with_both_versions(fake: FakeKernel) -> None:
    replace(fake.config / ".config", "9.1.2", "9.1.3")
    refusal = refusal_of(fake, fake.patch("net/core.c", 5, "int new;"))
    assert refusal.key == "source.version"
    assert "9.1.2" in refusal.reason
    assert "9.1.3" in refusal.reason


def test_a_source_that_was_built_in_is_an_error(tmp_path: Path) -> None:
    fake = make_fake_kernel(tmp_path)
    (fake.source / ".config").touch()
    error = error_of(fake, fake.patch("net/core.c", 5, "int new;"))
    assert error.key == "source.not_clean"
    assert "mrproper" in error.remedy


def test_a_directory_that_is_no_kernel_source_is_an_error(fake: FakeKernel, tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        build(
            read_config(fake.config),
            tmp_path / "none",
            read_patch(fake.patch("net/core.c", 5, "int new;")),
            say=print,
            cache=fake.cache,
        )
    assert caught.value.key == "source.missing"


def test_a_shadow_shows_every_file_and_its_digest_tells_any_change(tmp_path: Path) -> None:
    fake = make_fake_kernel(tmp_path)
    digest = tree_digest(fake.source)
    make_shadow(fake.source, tmp_path / "shadow")
    shown = {path: data for path, (data, _) in contents(tmp_path / "shadow").items()}
    real = {path: data for path, (data, _) in contents(fake.source).items()}
    assert {path.replace("/shadow/", "/source/"): data for path, data in shown.items()} == real
    assert all(path.is_symlink() for path in (tmp_path / "shadow").rglob("*") if not path.is_dir())
    (fake.source / "net/core.c").write_text(CORE.upper())
    assert tree_digest(fake.source) != digest


def test_a_changed_source_is_prepared_anew(tmp_path: Path) -> None:
    fake = make_fake_kernel(tmp_path)
    run(fake, fake.patch("net/core.c", 5, "int new;"))
    (fake.source / "net/core.c").write_text(CORE.upper())
    done = run(fake, fake.patch("net/core.c", 5, "int new;"))
    assert done.units[0].pre == CORE.upper().encode()


def test_a_changed_source_is_asked_anew_what_it_compiles(tmp_path: Path) -> None:
    fake = make_fake_kernel(tmp_path)
    patch = fake.patch("net/core.c", 5, "int new;")
    run(fake, patch)
    (fake.source / "net/Makefile").write_text("obj-y := part.o user.o other.o\n")
    assert refusal_of(fake, patch).key == "patch.not_built"


def test_nothing_found_out_about_another_source_is_left(tmp_path: Path) -> None:
    fake = make_fake_kernel(tmp_path)
    run(fake, fake.patch("net/core.c", 5, "int new;"))
    (place,) = fake.cache.iterdir()
    made = {each.name for each in place.iterdir()}
    (place / "includes").write_text('net/user.c\t"gone.h\n')
    (fake.source / "net/core.c").write_text(CORE.upper())
    run(fake, fake.patch("net/core.c", 5, "int new;"))
    assert {each.name for each in place.iterdir()} == made


# Both builds -----------------------------------------------------------------------------------------


def test_a_unit_is_compiled_before_and_after_the_patch(fake: FakeKernel) -> None:
    done = run(fake, fake.patch("net/core.c", 5, "int new;"))
    (unit,) = done.units
    assert (unit.target, unit.source, unit.name) == ("vmlinux", "net/core.c", "net/core.o")
    assert unit.pre == CORE.encode()
    after = CORE.replace("int core5;\n", "int new;\n{}int core5;\n").format
    assert unit.post == after("#line 5\n").encode()
    assert done.sources["net/core.c"] == (CORE.encode(), after("").encode())
    assert (done.release, done.arch, done.compiler) == ("9.1.0-7-fake", "fake", "fakecc (Fake 1.2-3) 1.2.0")
    assert done.warnings == ("the build's CONFIG_NEW is y, the kernel's is unset",)


def test_only_what_the_patch_names_is_compiled_and_nothing_twice(fake: FakeKernel) -> None:
    first = run(fake, fake.patch("net/core.c", 5, "int new;"))
    assert fake.made() == ["prepared 9.1.0-7-fake", "net/core.o", "net/core.o"]
    assert run(fake, fake.patch("net/core.c", 5, "int new;")) == first
    run(fake, fake.patch("net/core.c", 5, "int newer;"))
    assert fake.made() == ["prepared 9.1.0-7-fake", "net/core.o", "net/core.o", "net/core.o"]


def test_a_unit_of_a_module_carries_the_modules_name(fake: FakeKernel) -> None:
    (unit,) = run(fake, fake.patch("net/mod.c", 2, "int new;")).units
    assert unit.target == "mod_name"


def test_an_object_of_a_library_is_part_of_the_kernel(fake: FakeKernel) -> None:
    (unit,) = run(fake, fake.patch("lib/string.c", 2, "int new;")).units
    assert unit.target == "vmlinux"


def test_a_file_compiled_as_part_of_another_stands_for_that_one(fake: FakeKernel) -> None:
    (unit,) = run(fake, fake.patch("net/piece.c", 2, "int new;")).units
    assert unit.source == "net/part.c"


@pytest.mark.parametrize(
    "path, key",
    [
        ("net/off.c", "patch.not_built"),
        ("off/driver.c", "patch.not_built"),
        ("net/orphan.c", "patch.not_built"),
        ("lib/shared.c", "patch.shared_unit"),
    ],
)
def test_a_file_that_no_single_target_contains_is_refused(fake: FakeKernel, path: str, key: str) -> None:
    refusal = refusal_of(fake, fake.patch(path, 2, "int new;"))
    assert (refusal.key, refusal.place) == (key, path)
    assert path.replace(".c", ".o") not in fake.made() or key == "patch.shared_unit"


def test_a_file_the_source_has_not_got_is_an_error(fake: FakeKernel) -> None:
    patch = fake.patch("net/core.c", 5, "int new;")
    replace(patch, "net/core.c", "net/nope.c")
    assert error_of(fake, patch).key == "patch.no_such_file"


def test_a_link_out_of_the_source_is_not_followed(tmp_path: Path) -> None:
    fake = make_fake_kernel(tmp_path)
    patch = fake.patch("net/core.c", 5, "int new;")
    (fake.source / "net/core.c").rename(tmp_path / "core.c")
    (fake.source / "net/core.c").symlink_to(tmp_path / "core.c")
    assert error_of(fake, patch).key == "patch.outside"


def test_a_patch_that_does_not_apply_is_an_error(fake: FakeKernel) -> None:
    patch = fake.patch("net/core.c", 5, "int new;")
    replace(patch, " int core5;", " int core55;")
    assert error_of(fake, patch).key == "patch.does_not_apply"
    assert fake.made() == ["prepared 9.1.0-7-fake"]


def test_the_compilers_words_are_shown_if_the_patched_source_is_wrong(fake: FakeKernel) -> None:
    error = error_of(fake, fake.patch("net/core.c", 5, "error"))
    assert error.key == "build.post"
    assert "net/core.c:1: error: no such thing" in error.message
    assert str(fake.cache) not in error.message
    assert fake.shadow("net/core.c").is_symlink()
    assert run(fake, fake.patch("net/core.c", 5, "int new;")).units[0].pre == CORE.encode()


def test_a_pristine_source_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    fake = make_fake_kernel(tmp_path)
    (fake.source / "net/core.c").write_text("error\n" + CORE)
    assert error_of(fake, fake.patch("net/core.c", 5, "int new;")).key == "build.pre"


def test_the_compilers_warnings_about_the_patch_are_passed_on(fake: FakeKernel) -> None:
    said: list[str] = []
    run(fake, fake.patch("net/core.c", 5, "warn"), said)
    assert any("warning: dubious" in line for line in said)


def test_a_full_disk_is_called_that(fake: FakeKernel) -> None:
    replace(fake.root / "fakecc", 'paste "$3"', "echo 'as: No space left on device' >&2; exit 1; paste")
    assert error_of(fake, fake.patch("net/core.c", 5, "int new;")).key == "disk.full"


def test_a_cache_path_that_kbuild_cannot_stand_is_an_error(fake: FakeKernel, tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        build(
            read_config(fake.config),
            fake.source,
            read_patch(fake.patch("net/core.c", 5, "int new;")),
            say=print,
            cache=tmp_path / "a b",
        )
    assert caught.value.key == "cache.path"


def test_a_cache_that_cannot_be_made_is_an_error(fake: FakeKernel) -> None:
    fake.cache.write_text("a file")
    assert error_of(fake, fake.patch("net/core.c", 5, "int new;")).key == "cache.unwritable"


def test_a_makefile_of_the_caller_does_not_leak_into_the_build(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-n --jobserver-auth=3,4")
    monkeypatch.setenv("KERNELRELEASE", "wrong")
    assert run(fake, fake.patch("net/core.c", 5, "int new;")).units[0].pre == CORE.encode()


# Headers ---------------------------------------------------------------------------------------------


def through_header(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: list[str] | None = None
) -> list[str]:
    """The units that are compiled, and differ, when `old` becomes `new` in net/own.h."""
    monkeypatch.setattr("kdiff.kbuild.same_code", operator.eq)
    text = (fake.source / "net/own.h").read_text()
    assert text.count(old) == 1
    patch = fake.root / "x.patch"
    lines = [each.splitlines(keepends=True) for each in (text, text.replace(old, new))]
    patch.write_text("".join(difflib.unified_diff(*lines, "a/net/own.h", "b/net/own.h")))
    return [unit.source for unit in run(fake, patch, said).units]


def test_a_header_stands_for_the_units_whose_text_it_changes(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert through_header(fake, monkeypatch, "int three;", "int four;") == ["net/other.c", "net/user.c"]
    assert "net/stray.o" not in fake.made()


def test_a_unit_that_does_not_use_the_changed_inline_function_is_not_compiled(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert through_header(fake, monkeypatch, "one(int x)\n{\n\treturn x", "one(int x)\n{\n\treturn -x") == [
        "net/user.c"
    ]
    assert "net/other.o" not in fake.made()


def test_a_header_whose_comments_change_changes_nothing(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert through_header(fake, monkeypatch, "// for tests", "// for tests\n// only") == []
    assert not [line for line in fake.made() if line.endswith(".o")]


def test_line_numbers_behind_the_change_of_a_header_stay(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdiff.kbuild.same_code", operator.eq)
    done = run(fake, fake.patch("net/own.h", 4, "\tx++;"))
    (unit,) = done.units
    assert b"\tx++;\n#line 4\n\treturn x;" in unit.post


def test_a_unit_that_cannot_be_preprocessed_counts_as_changed(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(fake.root / "fakecc", "-E) ", '-E) grep -q other "$2" && exit 1; ')
    through_header(fake, monkeypatch, "one(int x)\n{\n\treturn x", "one(int x)\n{\n\treturn -x")
    assert "net/other.o" in fake.made()


def test_a_header_no_unit_includes_is_refused_alone_and_left_out_beside_code(fake: FakeKernel) -> None:
    header = fake.patch("net/unused.h", 2, "int new;")
    assert refusal_of(fake, header).key == "patch.not_built"
    text = header.read_text()
    code = fake.patch("net/core.c", 5, "int new;")
    code.write_text(code.read_text() + text)
    said: list[str] = []
    assert [unit.source for unit in run(fake, code, said).units] == ["net/core.c"]
    assert any(line.startswith("left out of the patch: net/unused.h") for line in said)


def test_a_header_that_a_makefile_generates_from_is_refused(fake: FakeKernel) -> None:
    assert refusal_of(fake, fake.patch("net/origin.h", 2, "int new;")).key == "patch.generated"


@pytest.mark.parametrize(
    ("line", "path", "read"),
    [
        ("$(obj)/names.h : $(srctree)/include/linux/net.h $(src)/Makefile", "include/linux/net.h", True),
        ("$(obj)/names.h : $(srctree)/include/linux/net.h", "security/apparmor/include/net.h", False),
        ("$(obj)/names.h : $(src)/net.h", "security/apparmor/net.h", True),
        ("$(obj)/names.h : $(src)/include/net.h", "security/apparmor/net.h", False),
        ("$(obj)/names.h : $(srctree)/arch/$(SRCARCH)/net.h", "arch/x86/net.h", True),
        ("$(obj)/names.h : $(src)/../net.h", "security/net.h", True),
        ("$(obj)/names.h : $(srctree)/./include/linux/net.h", "include/linux/net.h", True),
        ("$(obj)/names.h : $(srctree)/include//linux/net.h", "include/linux/net.h", True),
        ("$(obj)/names.h : $(srctree)/a.h,include/linux/net.h", "include/linux/net.h", True),
        ("ccflags-y += -include $(srctree)/include/linux/net.h", "include/linux/net.h", False),
        ("# $(srctree)/include/linux/net.h", "include/linux/net.h", False),
    ],
)
def test_a_makefile_reads_a_header_if_its_whole_path_may_be_meant(
    line: str, path: str, read: bool, tmp_path: Path
) -> None:
    (tmp_path / "makefiles").write_text(f"{line}\n")
    assert read_by_makefiles(SimpleNamespace(root=tmp_path), path) is read  # type: ignore[arg-type]


def test_where_many_units_may_include_a_header_only_those_that_mention_the_change_are_preprocessed(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdiff.headers._MANY", 1)
    monkeypatch.setattr("kdiff.users._FEW", 1)
    change = ("one(int x)\n{\n\treturn x", "one(int x)\n{\n\treturn -x")
    assert through_header(fake, monkeypatch, *change) == ["net/user.c"]
    assert set(fake.preprocessed()) == {"user.c"}


# Files that come and go ------------------------------------------------------------------------------

NEW = "--- /dev/null\n+++ b/net/new/fresh.c\n@@ -0,0 +1 @@\n+int fresh;\n"
LISTED = "--- a/net/Makefile\n+++ b/net/Makefile\n@@ -1 +1 @@\n-obj-y := core.o{old}\n+obj-y := core.o{new}\n"


def of_text(fake: FakeKernel, text: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[bytes, bytes]]:
    """The units of a patch, pre and post, where an object that holds nothing is written as `nothing`."""
    monkeypatch.setattr("kdiff.kbuild.read_bytes", lambda data, path: data)
    monkeypatch.setattr("kdiff.kbuild.nothing_like", lambda obj: obj)
    monkeypatch.setattr("kdiff.kbuild.write", lambda model: b"nothing")
    monkeypatch.setattr("kdiff.kbuild.same_code", operator.eq)
    patch = fake.root / "x.patch"
    patch.write_text(text)
    return {unit.source: (unit.pre, unit.post) for unit in run(fake, patch).units}


def listed(fake: FakeKernel, old: str, new: str) -> str:
    """A patch of the first line of net/Makefile."""
    text = (fake.source / "net/Makefile").read_text()
    lines = [each.splitlines(keepends=True) for each in (text, text.replace(old, new, 1))]
    assert lines[0] != lines[1]
    return "".join(difflib.unified_diff(*lines, "a/net/Makefile", "b/net/Makefile"))


def test_a_new_file_that_a_makefile_lists_is_a_unit_without_a_before(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = NEW.replace("net/new/", "net/")
    made = of_text(fake, new + listed(fake, "core.o", "core.o fresh.o"), monkeypatch)
    assert made == {"net/fresh.c": (b"nothing", b"int fresh;\n")}
    assert not fake.shadow("net/fresh.c").exists()


def test_a_new_file_that_no_makefile_lists_is_refused_and_its_folder_goes_again(fake: FakeKernel) -> None:
    patch = fake.root / "x.patch"
    patch.write_text(NEW)
    assert refusal_of(fake, patch).key == "patch.not_built"
    assert not fake.shadow("net/new").exists()


def test_a_unit_that_a_makefile_drops_has_no_after(fake: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = '--- a/net/other.c\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-#include "own.h"\n-int other;\n'
    made = of_text(fake, gone + listed(fake, " other.o", ""), monkeypatch)
    assert [(name, post) for name, (_, post) in made.items()] == [("net/other.c", b"nothing")]
    assert fake.shadow("net/other.c").is_symlink()


def test_a_renamed_unit_is_one_unit(fake: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = (
        "diff --git a/net/core.c b/net/heart.c\nsimilarity index 99%\n"
        "rename from net/core.c\nrename to net/heart.c\n"
    )
    makefile = "diff --git a/net/Makefile b/net/Makefile\n" + listed(fake, "core.o", "heart.o")
    made = of_text(fake, rename + makefile, monkeypatch)
    assert made == {"net/heart.c": (CORE.encode(), b'#line 1 "net/core.c"\n' + CORE.encode())}


def test_a_unit_that_goes_to_another_target_or_to_a_new_module_is_refused() -> None:
    def module(name: str) -> str:
        return f"""gcc -DMODULE -DKBUILD_MODNAME='"{name}"'"""

    before = {"net/a.c": "gcc -O2", "net/b.c": module("b"), "net/c.c": module("b:c")}
    after = {**before, "net/a.c": module("b"), "net/d.c": module("b"), "net/e.c": module("e")}
    refusals = other_targets(Remade(before, after, frozenset()))
    assert [(each.key, each.place) for each in refusals] == [
        ("patch.target_changed", "net/a.c"),
        ("patch.new_module", "net/e.c"),
    ]
    assert other_targets(Remade(before, before, frozenset())) == ()


def test_what_a_makefile_says_beside_lists_and_flags_is_found_by_building(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = listed(fake, "name-mod.o", "OBJECT_FILES_NON_STANDARD_core.o := y\nname-mod.o")
    assert of_text(fake, patch, monkeypatch) == {}
    objects = {line for line in fake.made() if line.endswith(".o")}
    assert objects == {f"net/{name}.o" for name in ("core", "part", "user", "other", "mod")}
    again = listed(
        fake, "name-mod.o", "CFLAGS_core.o := -O1\nobj-$(CONFIG_NONE) += off.o \\\n\torphan.o\nname-mod.o"
    )
    before = len(fake.made())
    assert of_text(fake, again, monkeypatch) == {}
    assert len(fake.made()) == before


# Interruptions ---------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from kdiff.confdir import read_config
from kdiff.kbuild import build
from kdiff.matchable import graph_to_match
from kdiff.patch import read_patch
from kdiff.running import find_memory
config, source, patch, cache = map(Path, sys.argv[1:])
build(read_config(config), source, read_patch(patch), say=print, cache=cache)
"""


def interrupted(fake: FakeKernel, number: int) -> subprocess.Popen[bytes]:
    """Start a build, send a signal while the patched file is being compiled, return the ended process."""
    run(fake, fake.patch("net/core.c", 7, "int other;"))
    patch = fake.patch("net/core.c", 5, "int new;")
    fake.hold.touch()
    arguments = [fake.config, fake.source, patch, fake.cache]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    until(lambda: not fake.shadow("net/core.c").is_symlink() and compiling(fake))
    child.send_signal(number)
    child.wait(20)
    return child


def compiling(fake: FakeKernel) -> bool:
    """Whether any process runs the fake compiler."""
    return bool(_compilers(fake))


def _compilers(fake: FakeKernel) -> list[bytes]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes()
        except OSError:
            continue
        if command.startswith(f"/bin/sh\0{fake.root}/fakecc\0".encode()):
            found.append(command)
    return found


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_interrupt_stops_the_compiler_and_puts_the_source_back(fake: FakeKernel) -> None:
    assert interrupted(fake, signal.SIGINT).returncode != 0
    assert not compiling(fake)
    assert fake.shadow("net/core.c").is_symlink()
    fake.hold.unlink()
    assert b"int new;" in run(fake, fake.patch("net/core.c", 5, "int new;")).units[0].post


def test_after_a_kill_the_next_run_waits_for_the_orphans_and_puts_the_source_back(fake: FakeKernel) -> None:
    assert interrupted(fake, signal.SIGKILL).returncode == -signal.SIGKILL
    assert not fake.shadow("net/core.c").is_symlink()
    fake.hold.unlink()
    said: list[str] = []
    done = run(fake, fake.patch("net/core.c", 9, "int newest;"), said)
    assert done.units[0].pre == CORE.encode()
    assert b"int new;" not in done.units[0].post
    assert "put back net/core.c, which an interrupted run had left patched" in said
    assert fake.shadow("net/core.c").is_symlink()


def test_an_interrupted_preparation_is_done_again(fake: FakeKernel) -> None:
    run(fake, fake.patch("net/core.c", 5, "int new;"))
    (marker,) = fake.cache.glob("*/prepared")
    marker.unlink()
    run(fake, fake.patch("net/core.c", 5, "int new;"))
    assert fake.made().count("prepared 9.1.0-7-fake") == 2


def test_a_failed_preparation_says_why_and_is_done_again(fake: FakeKernel) -> None:
    (fake.root / "spoil").touch()
    error = error_of(fake, fake.patch("net/core.c", 5, "int new;"))
    assert error.key == "build.prepare"
    assert "libelf.h" in error.message
    (fake.root / "spoil").unlink()
    assert run(fake, fake.patch("net/core.c", 5, "int new;")).units[0].pre == CORE.encode()


def test_there_is_nothing_to_put_back_without_a_journal(tmp_path: Path) -> None:
    assert restore(tmp_path, tmp_path, tmp_path / "journal") == ()


# Who built the kernel --------------------------------------------------------------------------------


def test_objects_that_name_another_builder_are_not_kept(tmp_path: Path) -> None:
    """Kbuild's `filechk` writes generated headers; here `prepare` does."""
    fake = make_fake_kernel(tmp_path)
    replace(
        fake.source / "Makefile",
        "prepare:\n",
        "prepare:\n\t@mkdir -p $(O)/include/generated\n"
        "\t@{ $(or $(filechk_package.h),echo none); } > $(O)/include/generated/package.h\n",
    )
    note = '@echo "deps := include/generated/package.h" >> $(@D)/.$(@F).cmd'
    replace(fake.source / "Makefile.build", "> $(@D)/.$(@F).cmd\n", f"> $(@D)/.$(@F).cmd\n\t{note}\n")
    patch = fake.patch("net/core.c", 10, "int more;")
    run(fake, patch)
    (made,) = fake.cache.glob("*/build/include/generated/package.h")
    assert made.read_text() == "none\n"
    theirs = fake.config / "build/include/generated/package.h"
    count = len(fake.made())
    run(fake, patch)
    assert len(fake.made()) == count
    theirs.write_text("Fake's 9.1\n")
    run(fake, patch)
    assert made.read_text() == theirs.read_text()
    assert fake.made()[count:] == ["net/core.o", "net/core.o"]


# A real kernel ---------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_the_example_compiles_and_the_kernels_source_stays_as_it_was(kernel: KernelSetup) -> None:
    touched = kernel.source / "net/ipv4"
    digest, files = tree_digest(kernel.source), _hash(touched)
    done = build(read_config(kernel.config), kernel.source, read_patch(EXAMPLE), say=print)
    (unit,) = done.units
    assert (unit.target, unit.source, done.release) == ("vmlinux", "net/ipv4/tcp_ipv4.c", kernel.abi)
    for data in (unit.pre, unit.post):
        assert data[:4] == b"\x7fELF"
        assert b".text.tcp_v4_rcv\0" in data
        assert b".orc_unwind\0" in data
    assert b"ksplice example" in unit.post
    assert b"ksplice example" not in unit.pre
    assert done.warnings == ()
    assert (tree_digest(kernel.source), _hash(touched)) == (digest, files)


@pytest.mark.kernel
@pytest.mark.parametrize(
    "path, key",
    [
        ("kernel/sched/rt.c", "kernel/sched/build_policy.c"),
        ("fs/xfs/libxfs/xfs_btree.c", "fs/xfs/libxfs/xfs_btree.c"),
        ("lib/string.c", "lib/string.c"),
        ("arch/x86/kernel/head64.c", "arch/x86/kernel/head64.c"),
        ("arch/x86/boot/string.c", ""),
        ("tools/objtool/check.c", ""),
        ("scripts/mod/modpost.c", ""),
        ("arch/x86/entry/vdso/vclock_gettime.c", ""),
        ("arch/x86/lib/memcpy_64.S", "arch/x86/lib/memcpy_64.S"),
    ],
)
def test_kbuild_is_asked_what_a_file_is_compiled_into(kernel: KernelSetup, path: str, key: str) -> None:
    config = read_config(kernel.config)
    compiler = find_compiler(config)
    with open_workplace(config, kernel.source, compiler, jobs=2, say=print) as place:
        assert find_units(place, path) == ((key,) if key else ())


@pytest.mark.kernel
def test_a_unit_in_two_folders_of_kbuilds_gets_the_flags_of_the_inner_one(kernel: KernelSetup) -> None:
    """arch/x86/lib/Makefile takes -pg from cmdline.o; arch/x86 knows nothing of that."""
    sources = ["arch/x86/lib/cmdline.c", "arch/x86/lib/delay.c", "arch/x86/kernel/head64.c", "lib/cmdline.c"]
    units = pristine_units(read_config(kernel.config), kernel.source, sources, say=print)
    command = {unit.source: unit.command for unit in units}
    assert command.keys() == set(sources)
    assert all(f"""-DKBUILD_MODFILE='"{unit[:-2]}"'""" in text for unit, text in command.items())
    traced = {unit for unit, text in command.items() if " -pg " in text}
    assert traced == {"arch/x86/lib/delay.c"}, "lib/Makefile takes it away, too"


@pytest.mark.kernel
def test_a_unit_names_the_package_that_the_kernel_was_built_for(kernel: KernelSetup) -> None:
    """Debian puts its package's version into an oops; lib/dump_stack.c has it as a string."""
    config = read_config(kernel.config)
    (unit,) = pristine_units(config, kernel.source, ["lib/dump_stack.c"], say=print)
    assert f" Debian {kernel.package_version}\0".encode() in unit.pre
    plugins = registry.load()
    memory = plugins.open_memory(find_memory(config))
    obj = read_bytes(unit.pre, unit.source)
    facts = memory.facts()
    arch = plugins.architecture(obj.machine, obj.byte_order, obj.path)
    graph = graph_to_match(obj, arch, plugins.special_sections(facts), plugins.habits(facts))
    run = solve(graph, sites(graph), memory, memory.address_book())
    matched = {graph.nodes[index].name for index in run.matches}
    assert "dump_stack_print_info" in matched
    assert not run.refusals


def _hash(tree: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            total.update(str(path).encode() + path.read_bytes())
    return total.hexdigest()

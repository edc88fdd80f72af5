# SPDX-License-Identifier: Apache-2.0
"""Build real kernel units before and after small patches: the objects `bench_pairs.py` compares.

A *lab* is one release's source with some builds of it, each an O= directory with a configuration of its own.
Sources come from Debian's linux-source packages. A patch of benchmarks/pairs touches one unit; patches of
different units are applied together, so that one make builds many pairs. Nothing is built twice: objects
are kept under the cache directory by the hash of the patch.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

import othersuite

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdiff" / "pairs"
PATCHES = Path(__file__).parent / "pairs"
SECTIONS = "-ffunction-sections -fdata-sections"

PLAIN = """
# CONFIG_LOCALVERSION_AUTO is not set
# CONFIG_MODULE_SIG is not set
# CONFIG_WERROR is not set
# CONFIG_DEBUG_INFO_BTF is not set
# CONFIG_SYSTEM_TRUSTED_KEYRING is not set
CONFIG_DEBUG_INFO_NONE=y
CONFIG_FTRACE=y
CONFIG_FUNCTION_TRACER=y
CONFIG_DYNAMIC_FTRACE=y
CONFIG_FTRACE_SYSCALLS=y
CONFIG_JUMP_LABEL=y
CONFIG_LIVEPATCH=y
CONFIG_KALLSYMS_ALL=y
CONFIG_STACKPROTECTOR=y
CONFIG_STACKPROTECTOR_STRONG=y
CONFIG_MODVERSIONS=y
CONFIG_EXT4_FS=y
CONFIG_NET=y
CONFIG_INET=y
CONFIG_KEYS=y
CONFIG_TTY=y
"""
DEBUG = (
    PLAIN
    + """
CONFIG_DEBUG_KERNEL=y
CONFIG_DYNAMIC_DEBUG=y
CONFIG_PROVE_LOCKING=y
CONFIG_DEBUG_ATOMIC_SLEEP=y
CONFIG_DEBUG_LIST=y
CONFIG_UBSAN=y
CONFIG_UBSAN_BOUNDS=y
CONFIG_UBSAN_SHIFT=y
CONFIG_UBSAN_SANITIZE_ALL=y
CONFIG_PRINTK_INDEX=y
CONFIG_DEBUG_INFO=y
CONFIG_DEBUG_INFO_DWARF5=y
# CONFIG_DEBUG_INFO_NONE is not set
"""
)
IBT = PLAIN + "CONFIG_X86_KERNEL_IBT=y\n"
EXPOLINE = "CONFIG_EXPOLINE=y\n"


@dataclass(frozen=True, slots=True)
class Build:
    """One configuration of one release for one architecture."""

    release: str
    name: str
    arch: str
    tools: tuple[str, ...]
    defconfig: str
    options: str

    @property
    def folder(self) -> Path:
        return CACHE / self.release / self.name

    @property
    def objects(self) -> Path:
        return CACHE / "objects" / self.release / self.name


_ARCHES = {
    "x86": ("x86", ("CC=gcc",), "x86_64_defconfig"),
    "ppc64le": ("powerpc", ("CROSS_COMPILE=powerpc64le-linux-gnu-",), "ppc64le_defconfig"),
    "s390x": ("s390", ("CROSS_COMPILE=s390x-linux-gnu-",), "defconfig"),
    "arm64": ("arm64", ("CROSS_COMPILE=aarch64-linux-gnu-",), "defconfig"),
    "clang": ("x86", ("LLVM=-19",), "x86_64_defconfig"),
    "loongarch": ("loongarch", ("LLVM=-19",), "loongson3_defconfig"),
}
_WANTED = {
    "5.10": {"x86": DEBUG, "ppc64le": PLAIN, "s390x": DEBUG, "arm64": PLAIN},
    "6.1": {
        "x86": PLAIN, "x86-debug": DEBUG, "ppc64le": PLAIN, "ppc64le-debug": DEBUG, "s390x": PLAIN + EXPOLINE,
        "s390x-debug": DEBUG, "arm64": PLAIN, "arm64-debug": DEBUG, "clang": PLAIN,
    },
    "6.12": {"x86-debug": DEBUG, "x86": IBT, "ppc64le": PLAIN, "arm64": DEBUG, "s390x": PLAIN,
             "loongarch": PLAIN},
}  # fmt: skip


_SUITES = {"5.10": "http://deb.debian.org/debian-security bullseye-security main"}
"""Where sources come from that Debian 12 has not."""


def builds() -> Iterator[Build]:
    """Every build of every lab."""
    for release, wanted in _WANTED.items():
        for name, options in wanted.items():
            yield Build(release, name, *_ARCHES[name.removesuffix("-debug")], options)


@dataclass(frozen=True, slots=True)
class Case:
    """One patch. `expected`: (verb, what, names of the builds it is about; none: all)."""

    name: str
    file: Path
    unit: str
    releases: tuple[str, ...]
    builds: tuple[str, ...]
    expected: tuple[tuple[str, str, str], ...]

    @property
    def stamp(self) -> str:
        return hashlib.sha256(_body(self.file.read_text()).encode()).hexdigest()[:10]

    def pre(self, build: Build) -> Path:
        return build.objects / "pre" / (self.unit.replace("/", "!").removesuffix(".c") + ".o")

    def post(self, build: Build) -> Path:
        return build.objects / f"{self.name}-{self.stamp}.o"

    def about(self, build: Build) -> bool:
        """Whether the case is meant for this build."""
        return (not self.releases or build.release in self.releases) and (
            not self.builds or any(build.name == n or build.name == f"{n}-debug" for n in self.builds)
        )


def cases(wanted: str = "") -> list[Case]:
    """All patches whose name matches a regular expression."""
    return [_case(f) for f in sorted(PATCHES.glob("*.patch")) if re.search(wanted, f.stem)]


def _body(text: str) -> str:
    return text[text.index("\n--- ") :]


def _case(file: Path) -> Case:
    text = file.read_text()
    head = text[: text.index("\n--- ")]
    fields = dict(re.findall(r"^(Kernels|Builds): (.*)$", head, re.MULTILINE))
    unit = re.search(r"^\+\+\+ b/(\S+\.c)", text, re.MULTILINE)
    assert unit is not None, file
    expected = [
        (v, w, a) for a, v, w in re.findall(r"^Expect(?:\[(\S+)\])?: (\S+) ?(.*)$", head, re.MULTILINE)
    ]
    return Case(
        file.stem, file, unit[1], tuple(fields.get("Kernels", "").split()),
        tuple(fields.get("Builds", "").split()), tuple(expected),
    )  # fmt: skip


# Building --------------------------------------------------------------------------------------------


def build_all(chosen: Iterable[Build], wanted: list[Case]) -> None:
    """Make all objects that are missing."""
    for build in chosen:
        mine = [case for case in wanted if case.about(build)]
        todo = [case for case in mine if not (case.post(build).exists() and case.pre(build).exists())]
        if not todo:
            continue
        source = _source(build.release)
        with _alone(source):
            if not (build.folder / ".ready").exists():
                _prepare(build, source)
            missing = {case.unit: case.pre(build) for case in todo if not case.pre(build).exists()}
            _make(build, source, "pre", missing)
            for number, batch in enumerate(_rounds(todo)):
                _keep(source, {case.unit for case in batch if _has(source, case)})
                applied = [case for case in batch if _has(source, case) and _patch(source, case)]
                _make(build, source, f"post{number}", {case.unit: case.post(build) for case in applied})
                _restore(source)


@contextmanager
def _alone(source: Path) -> Iterator[None]:
    """Wait until nobody else patches a source tree; mend what one that was killed left there."""
    with (source.parent / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        _restore(source)
        try:
            yield
        finally:
            _restore(source)


def _keep(source: Path, units: Iterable[str]) -> None:
    """Copy units before they are patched."""
    for unit in units:
        copy = source.parent / "kept" / unit
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / unit, copy.with_suffix(".part"))
        copy.with_suffix(".part").replace(copy)


def _restore(source: Path) -> None:
    """Put back what was kept, and forget it."""
    kept = source.parent / "kept"
    for copy in (each for each in kept.rglob("*") if each.is_file() and each.suffix != ".part"):
        unit = source / copy.relative_to(kept)
        if unit.read_bytes() != copy.read_bytes():
            shutil.copy(copy, unit)
        copy.unlink()


def _rounds(todo: list[Case]) -> Iterator[list[Case]]:
    """Batches in which no unit occurs twice."""
    while todo:
        batch = {case.unit: case for case in reversed(todo)}
        yield list(batch.values())
        todo = [case for case in todo if batch[case.unit] is not case]


def _has(source: Path, case: Case) -> bool:
    return (source / case.unit).exists()


def _patch(source: Path, case: Case) -> bool:
    command = ("patch", "-p1", "-s", "-f", "--no-backup-if-mismatch", "-r", "-", "-i", str(case.file))
    dry = subprocess.run((*command, "--dry-run"), cwd=source, capture_output=True, check=False)
    if dry.returncode:
        _say(f"{case.name} does not apply to {source.name}")
        return False
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return True


def _make(build: Build, source: Path, what: str, wanted: dict[str, Path]) -> None:
    present = {unit: file for unit, file in wanted.items() if (source / unit).exists()}
    if not present:
        return
    _say(f"{build.release} {build.name}: {len(present)} units, {what}")
    objects = [unit.removesuffix(".c") + ".o" for unit in present]
    for each in objects:
        (build.folder / each).unlink(missing_ok=True)
    with (build.folder / f"{what}.log").open("w") as log:
        subprocess.run((*_command(build, source), "-k", "-j2", *objects), stdout=log, stderr=log, check=False)
    for (_, file), each in zip(present.items(), objects, strict=True):
        if (build.folder / each).exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(build.folder / each, file)
        else:
            _say(f"  not built: {each}")


def _command(build: Build, source: Path) -> tuple[str, ...]:
    return (
        "make", "-s", "-C", str(source), f"O={build.folder}", f"ARCH={build.arch}", *build.tools,
        f"KCFLAGS={SECTIONS} -Wno-error",
    )  # fmt: skip


def _prepare(build: Build, source: Path) -> None:
    _say(f"{build.release} {build.name}: preparing")
    build.folder.mkdir(parents=True, exist_ok=True)
    with (build.folder / "prepare.log").open("w") as log:

        def make(*goals: str) -> None:
            subprocess.run((*_command(build, source), *goals), stdout=log, stderr=log, check=True)

        make(build.defconfig)
        with (build.folder / ".config").open("a") as config:
            config.write(build.options)
        make("olddefconfig")
        make("-j2", "prepare")
    (build.folder / ".ready").touch()


def _source(release: str) -> Path:
    """A lab's source tree: unpacked from Debian's package once."""
    tree = CACHE / release / "source"
    if not (tree / "Makefile").exists():
        archive = Path(f"/usr/src/linux-source-{release}.tar.xz")
        if not archive.exists():
            archive = CACHE / archive.name
        if not archive.exists() and release in _SUITES:
            _download(release, archive)
        if not archive.exists():
            raise SystemExit(f"install linux-source-{release}, or put its {archive.name} into {CACHE}")
        tree.mkdir(parents=True, exist_ok=True)
        _say(f"unpacking {archive.name}")
        subprocess.run(("tar", "-xf", archive, "-C", tree, "--strip-components=1"), check=True)
    return tree


def _download(release: str, archive: Path) -> None:
    """Get a release's source that the suite at hand has not."""
    _say(f"downloading linux-source-{release}")
    CACHE.mkdir(parents=True, exist_ok=True)
    (package,) = othersuite.download(_SUITES[release], (f"linux-source-{release}",), CACHE)
    pipe = 'dpkg-deb --fsys-tarfile "$0" | tar -xO "./usr/src/$1" > "$2"'
    part = archive.with_suffix(".part")
    subprocess.run(("bash", "-o", "pipefail", "-c", pipe, package, archive.name, part), check=True)
    part.replace(archive)
    package.unlink()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

# SPDX-License-Identifier: Apache-2.0
"""Build the same kernel units from two stable releases: the objects that `bench_releases.py` compares.

Both sources are Debian's linux-source packages, both builds have the configuration of the stock kernel and
say that they are the same version. Each unit is compiled twice on either side: as it is, for kdiff, and with
`__LINE__` defined as 0, for a judge who must not mistake a line number for a change. The preprocessed text
of the second build is kept for the other judge. Everything is cached below $XDG_CACHE_HOME/kdiff/releases.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kdiff_distro_debian import apt, layout

from kdiff.workplace import building_config

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdiff" / "releases"
SECTIONS = "-ffunction-sections -fdata-sections"
NO_LINES = "-D__LINE__=0 -Wno-builtin-macro-redefined"
PINNED = ("SUBLEVEL=999", "EXTRAVERSION=", "KERNELRELEASE=6.1.999", "KBUILD_BUILD_TIMESTAMP=@0",
          "KBUILD_BUILD_USER=kdiff", "KBUILD_BUILD_HOST=kdiff", "KBUILD_BUILD_VERSION=1")  # fmt: skip
"""What tells versions apart without being source."""
OPTIONS = """
CONFIG_DEBUG_INFO_DWARF5=y
# CONFIG_DEBUG_INFO_NONE is not set
# CONFIG_DEBUG_INFO_BTF is not set
# CONFIG_MODULE_SIG is not set
# CONFIG_LOCALVERSION_AUTO is not set
# CONFIG_WERROR is not set
"""
SKIPPED = (
    "Documentation/", "tools/", "samples/", "scripts/", "lib/test", "arch/x86/boot/", "arch/x86/entry/vdso/",
    "arch/x86/purgatory/", "arch/x86/realmode/", "arch/x86/tools/", "drivers/firmware/efi/libstub/",
)  # fmt: skip
"""Not compiled as the kernel is, or not at all."""
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*[<"]([^">]+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Side:
    """One release: its tree, and where its objects go."""

    version: str

    @property
    def root(self) -> Path:
        return CACHE / self.version

    @property
    def source(self) -> Path:
        return self.root / "source"

    def product(self, kind: str, unit: str, suffix: str = ".o") -> Path:
        """`kind`: `plain` or `nolines`."""
        return self.root / kind / unit.replace("/", "!").replace(".c", suffix)


@dataclass(frozen=True, slots=True)
class Pair:
    """One unit of both releases. `own`: whether its own file differs, and not only headers."""

    unit: str
    own: bool
    before: Side
    after: Side


def prepare(before: Side, after: Side, config: str) -> None:
    """Unpack both sources and make both builds ready."""
    for side in (before, after):
        if not (side.root / "ready").exists():
            layout.unpack_source(fetch(side), side.root, say)
            for kind in ("plain", "nolines"):
                _prepare(side, kind, config)
            (side.root / "ready").touch()


def fetch(side: Side) -> Path:
    """The package with one release's source and changelog, downloaded if it is not there."""
    package = next((each for each in apt.known("linux-source-6.1") if each.version == side.version), None)
    if package is None:
        served = ", ".join(each.version for each in apt.known("linux-source-6.1"))
        raise SystemExit(f"apt does not serve linux-source-6.1 {side.version}; it serves {served}")
    return apt.download(package, side.root, say)


def _prepare(side: Side, kind: str, config: str) -> None:
    say(f"{side.version}: preparing {kind}")
    folder = side.root / f"build-{kind}"
    folder.mkdir(exist_ok=True)
    (folder / ".config").write_text(building_config(config) + OPTIONS)
    with (side.root / f"prepare-{kind}.log").open("w") as log:
        for goals in (("olddefconfig",), ("-j2", "prepare")):
            subprocess.run((*_command(side, kind), *goals), stdout=log, stderr=log, check=True)


def _command(side: Side, kind: str) -> tuple[str, ...]:
    flags = SECTIONS if kind == "plain" else f"{SECTIONS} {NO_LINES}"
    return (
        "make", "-s", "-C", str(side.source), f"O={side.root / f'build-{kind}'}", "CC=gcc-12", *PINNED,
        f"KCFLAGS={flags} -Wno-error",
    )  # fmt: skip


def choose(before: Side, after: Side, own: int, headers: int, seed: int) -> list[Pair]:
    """Draw units whose file differs, and units for which only headers do, and build them until enough do."""
    texts = {
        path: data
        for path in _sources(before.source)
        if not path.startswith(SKIPPED)
        and (data := (before.source / path).read_bytes())
        and (after.source / path).is_file()
    }
    differing = {path for path, data in texts.items() if (after.source / path).read_bytes() != data}
    units = sorted(path for path in differing if path.endswith(".c"))
    changed_headers = {path for path in differing if path.endswith(".h")}
    say(f"{len(units)} .c and {len(changed_headers)} .h files differ")
    names = {path.rpartition("/")[2].encode() for path in changed_headers}
    behind = sorted(
        path
        for path, data in texts.items()
        if path.endswith(".c")
        and path not in differing
        and any(found.rpartition(b"/")[2] in names for found in _INCLUDE.findall(data))
    )
    random = Random(seed)
    random.shuffle(units)
    random.shuffle(behind)
    return [
        *_built(units, own, True, before, after),
        *_built(behind, headers, False, before, after),
    ]


def _sources(tree: Path) -> list[str]:
    listed = subprocess.run(
        ("find", ".", "-name", "*.[ch]", "-type", "f", "-printf", "%P\n"),
        cwd=tree, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(listed.stdout.splitlines())


def _built(units: Sequence[str], wanted: int, own: bool, before: Side, after: Side) -> list[Pair]:
    """The first of `units` that Kbuild compiles on both sides, and whose text after preprocessing differs."""
    pairs: list[Pair] = []
    at = 0
    while len(pairs) < wanted and at < len(units):
        batch = units[at : at + max(8, wanted - len(pairs))]
        at += len(batch)
        for side in (before, after):
            _compile(side, batch)
        for unit in batch:
            texts = [side.product("nolines", unit, ".i") for side in (before, after)]
            objects = [side.product(kind, unit) for side in (before, after) for kind in ("plain", "nolines")]
            if not all(each.exists() for each in (*texts, *objects)):
                continue
            if own or preprocessed(texts[0]) != preprocessed(texts[1]):
                pairs.append(Pair(unit, own, before, after))
        say(f"{len(pairs[:wanted])} of {wanted} units {'that differ' if own else 'behind headers'}")
    return pairs[:wanted]


def preprocessed(file: Path) -> str:
    """Preprocessed text without line markers, and with equal numbers for names made of counters."""
    text = re.sub(r"^#.*\n", "", file.read_text(errors="replace"), flags=re.MULTILINE)
    return re.sub(
        r"(__UNIQUE_ID_\w*?|__compiletime_assert_|__already_done_|__initcall__\w*?__)\d+", r"\1", text
    )


def _compile(side: Side, units: Iterable[str]) -> None:
    for kind in ("plain", "nolines"):
        goals = {side.product(kind, unit): f"{unit[:-2]}.o" for unit in units}
        if kind == "nolines":
            goals |= {side.product(kind, unit, ".i"): f"{unit[:-2]}.i" for unit in units}
        missing = {
            file: goal for file, goal in goals.items() if not file.exists() and not _tried(file).exists()
        }
        if not missing:
            continue
        say(f"{side.version}: compiling {len(missing)} files ({kind})")
        build = side.root / f"build-{kind}"
        with (side.root / f"compile-{kind}.log").open("a") as log:
            subprocess.run(
                (*_command(side, kind), "-k", "-j2", *missing.values()), stdout=log, stderr=log, check=False
            )
        for file, goal in missing.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            if (build / goal).exists():
                (build / goal).rename(file)
            else:
                _tried(file).touch()


def _tried(file: Path) -> Path:
    return file.with_name(f"{file.name}.none")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

# SPDX-License-Identifier: Apache-2.0
"""A place below $XDG_CACHE_HOME/kdiff in which units of one kernel can be built, made ready once.

It holds a shadow of the source (`source`), the directory that the kernel calls O= (`build`), and what
was found out about both. Its name is a hash of all that decides what the compiler sees; a marker that is
written last tells a finished place from an interrupted one. The marker carries the digest of the source
tree, and a tree that has changed since makes the place be made anew. One process at a time works in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kdiff.compiler import Compiler
from kdiff.confdir import Config, parse_options
from kdiff.distribution import Say
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.make import Outcome, failure, run_make
from kdiff.shadow import cache_error, make_shadow, remove_tree, restore, tree_digest, write_file
from kdiff.values import dataclass

LAYOUT = "1"
"""Raised when a place made by an older kdiff cannot be used any more."""
SECTIONS = "-ffunction-sections -fdata-sections"
_KEYS = re.compile(
    r"^(# )?(CONFIG_MODULE_SIG_KEY|CONFIG_SYSTEM_TRUSTED_KEYS|CONFIG_SYSTEM_REVOCATION_KEYS"
    r"|CONFIG_MODULE_SIG_ALL)[= ].*\n",
    re.MULTILINE,
)
OF_THE_BUILDER = ("package.h", "compile.h")
"""Generated headers that say who built the kernel, and of what package: objects hold that as text."""
NOT_COMPILED = frozenset({"Documentation", "tools", "samples", "scripts", "LICENSES"})


@dataclass(frozen=True, slots=True)
class Workplace:
    """A prepared place; `source` is the pristine tree. Holds its lock while `open_workplace` lasts."""

    root: Path
    source: Path
    arguments: tuple[str, ...]
    """What every make of this kernel gets."""
    jobs: int
    lock: int
    warnings: tuple[str, ...]

    @property
    def shadow(self) -> Path:
        return self.root / "source"

    @property
    def build(self) -> Path:
        return self.root / "build"

    @property
    def journal(self) -> Path:
        """Names the files that are replaced in the shadow at the moment."""
        return self.root / "replaced"

    def make(self, *goals: str, environment: Mapping[str, str] | None = None, jobs: int = 0) -> Outcome:
        """Run the kernel's make, with `jobs` jobs or the place's number."""
        arguments = [*self.arguments, f"-j{jobs or self.jobs}", *goals]
        return run_make(arguments, lock=self.lock, environment=environment)

    def included(self) -> tuple[tuple[str, str], ...]:
        """All (file, text) where `file` of the source includes a .c file as `text`."""
        lines = (self.root / "included").read_text("utf-8", "surrogateescape").splitlines()
        return tuple((file, text) for file, _, text in (line.partition("\t") for line in lines))


@contextmanager
def open_workplace(
    config: Config, source: Path, compiler: Compiler, *, jobs: int, say: Say, cache: Path | None = None
) -> Iterator[Workplace]:
    """Lock and, if need be, prepare the place for this kernel; `cache` is where kernels are kept."""
    source = source.resolve()
    check_source(config, source)
    root = (cache or _cache_home() / "kdiff/kernels").absolute() / _key(config, source, compiler)
    if re.search(r"[\s:]", str(root)):
        remedy = "set XDG_CACHE_HOME to a directory without them"
        raise KdiffError(
            "cache.path",
            "Kbuild cannot work below a path with blanks or colons",
            place=str(root),
            remedy=remedy,
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cache_error(error, root) from error
    try:
        _take(lock, say)
        place = Workplace(root, source, _arguments(config, compiler, root), jobs, lock, ())
        yield _prepare(place, config, say)
    finally:
        os.close(lock)


def check_source(config: Config, source: Path) -> None:
    """Refuse a tree that is no kernel source, of another version, or that somebody has built in."""
    makefile = source / "Makefile"
    try:
        text = makefile.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise KdiffError(
            "source.missing",
            f"this is no kernel source: {error.strerror}",
            place=str(makefile),
            remedy="give the directory that holds the kernel's top Makefile; `kdiff setup` makes one",
        ) from error
    parts = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*=[ \t]*(\S*)", text, re.MULTILINE)
    )
    version = ".".join(parts.get(name, "?") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    version += parts.get("EXTRAVERSION", "")
    if version != config.version:
        raise Refused(
            Refusal(
                "source.version",
                str(source),
                f"the source is Linux {version}, but the configuration is one of Linux {config.version}",
                "use the source that the running kernel was built from; `kdiff setup` fetches it",
            )
        )
    for left in (".config", "include/config", "include/generated"):
        if (source / left).exists():
            raise KdiffError(
                "source.not_clean",
                f"the source has been built in: {left} is there, and Kbuild will not use O= with it",
                place=str(source),
                remedy=f"use an unpacked, unused source tree, or run `make -C {source} mrproper`",
            )


def building_config(text: str) -> str:
    """A .config without the distribution's keys: they are not needed for objects and not published."""
    return _KEYS.sub("", text) + (
        'CONFIG_MODULE_SIG_KEY=""\n# CONFIG_MODULE_SIG_ALL is not set\n'
        'CONFIG_SYSTEM_TRUSTED_KEYS=""\nCONFIG_SYSTEM_REVOCATION_KEYS=""\n'
    )


# Making a place ready --------------------------------------------------------------------------------


def _prepare(place: Workplace, config: Config, say: Say) -> Workplace:
    """Return the place with its warnings, prepared now or earlier."""
    for path in restore(place.source, place.shadow, place.journal):
        say(f"put back {path}, which an interrupted run had left patched")
    _forget_other_builders(place, config)
    digest = tree_digest(place.source)
    marker = place.root / "prepared"
    known = json.loads(marker.read_text()) if marker.exists() else {}
    if known.get("digest") != digest:
        try:
            warnings = _prepare_anew(place, config, say)
        except OSError as error:
            raise cache_error(error, place.root) from error
        known = {"digest": digest, "warnings": warnings}
        write_file(marker, json.dumps(known).encode())
    return Workplace(
        place.root, place.source, place.arguments, place.jobs, place.lock, tuple(known["warnings"])
    )


def _prepare_anew(place: Workplace, config: Config, say: Say) -> list[str]:
    began = time.monotonic()
    (place.root / "prepared").unlink(missing_ok=True)
    for name in ("includes", "edges", "makefiles"):
        (place.root / name).unlink(missing_ok=True)
    for name in ("source", "build", "commands", "objects"):
        remove_tree(place.root / name)
    say(f"preparing to build for {config.release} (once per kernel) in {place.root}")
    count = make_shadow(place.source, place.shadow)
    say(f"shadow of {count} source files made; configuring")
    place.build.mkdir()
    wanted = building_config(config.text)
    write_file(place.build / ".config", wanted.encode("utf-8", "surrogateescape"))
    _stand_in_for_pahole(place.root, config)
    for goal in ("olddefconfig", "prepare"):
        outcome = place.make(goal)
        if outcome.status:
            remedy = "install what it misses (bc bison flex libelf-dev libssl-dev), then try again"
            raise failure("build.prepare", f"make {goal}", outcome, place=str(place.root), remedy=remedy)
        if goal == "olddefconfig":
            say("generating headers and building objtool")
    write_file(place.root / "included", _find_included(place.source).encode("utf-8", "surrogateescape"))
    say(f"prepared in {time.monotonic() - began:.0f} s")
    return _differences(wanted, (place.build / ".config").read_text("utf-8", "surrogateescape"))


def _builders(config: Config) -> dict[str, Path]:
    """Those headers of the kernel itself, as far as CONFDIR/build has them."""
    found = {name: (config.headers / "include/generated" / name).absolute() for name in OF_THE_BUILDER}
    return {name: path for name, path in found.items() if path.is_file()}


def _forget_other_builders(place: Workplace, config: Config) -> None:
    """Drop kept objects that were compiled when another builder's header was in the place."""
    for name, theirs in _builders(config).items():
        ours = place.build / "include/generated" / name
        if ours.exists() and ours.read_bytes() != theirs.read_bytes():
            for note in (place.root / "objects").glob("*.cmd"):
                if f" include/generated/{name}" in note.read_text("utf-8", "surrogateescape"):
                    note.unlink()
            write_file(ours, theirs.read_bytes())


def _arguments(config: Config, compiler: Compiler, root: Path) -> tuple[str, ...]:
    return (
        "-s",
        *("-C", str(root / "source"), f"O={root / 'build'}"),
        f"ARCH={config.flags.value('ARCH') or config.arch}",
        f"CC={' '.join(compiler.command)}",
        f"KERNELRELEASE={config.release}",
        f"PAHOLE={root / 'pahole'}",
        *(_show(name, path) for name, path in _builders(config).items()),
        *config.flags.others,
        f"KCFLAGS={f'{config.flags.cflags} {SECTIONS}'.strip()}",
    )


def _show(header: str, path: Path) -> str:
    """Let Kbuild's rule for a generated header (`filechk`) repeat a file."""
    return f"filechk_{header}=cat {shlex.quote(str(path)).replace('$', '$$')}"


def _stand_in_for_pahole(root: Path, config: Config) -> None:
    """Answer Kconfig's question for pahole's version as the kernel's builder did.

    Without it options that change the layout of `struct module` would go. No object needs the program.
    """
    version = int(config.options.get("CONFIG_PAHOLE_VERSION", "0"))
    script = root / "pahole"
    write_file(script, f"#!/bin/sh\necho v{version // 100}.{version % 100:02d}\n".encode())
    script.chmod(0o755)


def _differences(wanted: str, got: str) -> list[str]:
    """What olddefconfig changed: options that depend on this machine's tools."""
    before, after = parse_options(wanted), parse_options(got)
    changes = []
    for name in sorted({*before, *after} - {"CONFIG_CC_VERSION_TEXT"}):
        old, new = before.get(name, "unset"), after.get(name, "unset")
        if old != new and not (name == "CONFIG_SYSTEM_REVOCATION_KEYS" and old == '""'):
            changes.append(f"the build's {name} is {new}, the kernel's is {old}")
    return changes


def _find_included(source: Path) -> str:
    """List which files include a .c file: lines of file, tabulator, what is written in the #include."""
    folders = sorted(
        entry.name for entry in os.scandir(source) if entry.is_dir() and entry.name not in NOT_COMPILED
    )
    pattern = r'^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"][^<>"]+\.c[">]'
    done = subprocess.run(
        ["grep", "-rEHIo", "--include=*.[ch]", pattern, *folders],
        cwd=source,
        capture_output=True,
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        check=False,
    )
    found = re.findall(
        r'^([^:\n]+):.*[<"]([^<>"]+)[">]$', done.stdout.decode("utf-8", "surrogateescape"), re.M
    )
    return "".join(f"{file}\t{text}\n" for file, text in sorted(found))


def _key(config: Config, source: Path, compiler: Compiler) -> str:
    flags = config.flags
    parts = [LAYOUT, str(source), config.text, *compiler.command, compiler.text, flags.cflags, *flags.others]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{config.release}-{digest[:16]}"


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _take(lock: int, say: Say) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another kdiff is building for this kernel; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)

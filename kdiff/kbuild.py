# SPDX-License-Identifier: Apache-2.0
"""Stage 0: pre and post objects from a source tree, by the kernel's own Kbuild.

In: a CONFDIR, the pristine source, a patch. Out: a `Build` with a `Unit` for each translation unit that
the patch reaches. Only those units are compiled, each with -ffunction-sections -fdata-sections, so that
the compiler puts every function and every object of data in a section of its own; objtool runs as in any
build of the kernel. The source tree is never written to (see `kdiff.shadow`).
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kdiff.assembly import from_edited
from kdiff.compiler import Compiler, find_assembler, find_compiler
from kdiff.confdir import Config
from kdiff.distribution import Say
from kdiff.elf.same import same_code
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.headers import generated, reached
from kdiff.lines import pin_lines
from kdiff.make import Outcome, complaint, failure
from kdiff.patch import Patch
from kdiff.shadow import replaced, write_file
from kdiff.texts import Patched, apply_change, decode, encode, pristine
from kdiff.units import SUFFIXES, commands, find_units, not_built
from kdiff.workplace import Workplace, open_workplace

_KEPT_OBJECTS = 4000
"""At 0.7 MB each."""
_AT_ONCE = 16
"""How many units one make compiles where many are wanted."""
_NAMED = 4
"""How many units progress names."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One translation unit. `target` is `vmlinux` or the name of the module it belongs to."""

    target: str
    source: str
    """Relative to the source tree: `net/ipv4/tcp_ipv4.c`."""
    pre: bytes
    post: bytes

    @property
    def name(self) -> str:
        """The object's path in a build: `net/ipv4/tcp_ipv4.o`."""
        return f"{self.source[:-2]}.o"


@dataclass(frozen=True, slots=True)
class Build:
    """What a patch makes of a kernel's source."""

    units: tuple[Unit, ...]
    compiler: str
    release: str
    arch: str
    """The kernel's own name of its architecture: `x86`."""
    sources: Mapping[str, tuple[bytes, bytes]]
    """For each patched file its pristine and its patched contents."""
    make_arguments: tuple[str, ...]
    """What a module for this kernel must be built with: CC= and the user's flags."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Compiled:
    data: bytes
    command: str
    """The contents of the .cmd file that Kbuild left."""


def build(
    config: Config,
    source: Path,
    patch: Patch,
    *,
    say: Say,
    jobs: int = 0,
    allow_compiler_mismatch: bool = False,
    cache: Path | None = None,
) -> Build:
    """Compile every unit that the patch reaches, before and after it.

    `jobs`: 0 is one for each processor. `cache`: where prepared kernels are kept, by default
    $XDG_CACHE_HOME/kdiff/kernels.
    """
    _check_objtool(config)
    compiler = find_compiler(config, allow_mismatch=allow_compiler_mismatch)
    jobs = jobs or len(os.sched_getaffinity(0))
    with open_workplace(config, source, compiler, jobs=jobs, say=say, cache=cache) as place:
        texts = patch_texts(place.source, patch)
        for line in (line for _, text in texts.values() for line in text.moved):
            say(line)
        named, through = _units(place, texts, say)
        units = list(_compiled(place, named, texts, say))
        units += (
            each for each in _compiled(place, through, texts, say) if not same_code(each.pre, each.post)
        )
    return Build(
        units=tuple(sorted(units, key=lambda unit: unit.source)),
        compiler=compiler.text,
        release=config.release,
        arch=config.arch,
        sources=MappingProxyType({path: (old, encode(text.text)) for path, (old, text) in texts.items()}),
        make_arguments=_module_arguments(config, compiler),
        warnings=_compiler_warning(config, compiler) + place.warnings,
    )


def _check_objtool(config: Config) -> None:
    """Refuse kernels whose objtool runs over all of vmlinux: a unit's own object then lacks its tables.

    `delay-objtool` in scripts/Makefile.lib.
    """
    late = [name for name in ("CONFIG_LTO_CLANG", "CONFIG_X86_KERNEL_IBT") if config.options.get(name) == "y"]
    if late and config.options.get("CONFIG_OBJTOOL") == "y":
        raise Refused(
            Refusal(
                "build.late_objtool",
                str(config.directory / ".config"),
                f"{late[0]}=y: Kbuild runs objtool over the whole kernel only, so the objects of single units"
                " lack the tables that run-pre matching and updates need",
                "such kernels cannot be updated yet",
            )
        )


@dataclass(frozen=True, slots=True)
class Pristine:
    """A unit of the unpatched kernel, and the contents of the .cmd file that Kbuild left beside it."""

    source: str
    pre: bytes
    command: str


def pristine_units(
    config: Config,
    source: Path,
    sources: Iterable[str],
    *,
    say: Say,
    jobs: int = 0,
    cache: Path | None = None,
) -> Iterator[Pristine]:
    """Compile those of `sources` that Kbuild builds, unpatched, a few at a time; cached as by `build`."""
    compiler = find_compiler(config)
    jobs = jobs or len(os.sched_getaffinity(0))
    with open_workplace(config, source, compiler, jobs=jobs, say=say, cache=cache) as place:
        units = sorted(each for each in commands(place, sources) if each.endswith(".c"))
        for start in range(0, len(units), _AT_ONCE):
            step = _Step("pre", "the unpatched source does not compile", say)
            made = _compile(place, tuple(units[start : start + _AT_ONCE]), {}, step)
            for unit, each in made.items():
                yield Pristine(unit, each.data, each.command)


def patch_texts(source: Path, patch: Patch) -> Mapping[str, tuple[bytes, Patched]]:
    """Apply a patch to the files of `source` in memory: path -> (pristine contents, patched text)."""
    texts: dict[str, tuple[bytes, Patched]] = {}
    for change in patch.changes:
        if change.path not in texts:
            data = _read(source, change.path, patch)
            texts[change.path] = data, pristine(decode(data))
        data, text = texts[change.path]
        texts[change.path] = data, apply_change(change, text)
    return MappingProxyType(dict(sorted(texts.items())))


def _read(source: Path, path: str, patch: Patch) -> bytes:
    file = source / path
    if not file.resolve().is_relative_to(source.resolve()):
        raise KdiffError("patch.outside", f"{path} leads out of the kernel source", place=patch.name)
    try:
        return file.read_bytes()
    except OSError as error:
        raise KdiffError(
            "patch.no_such_file",
            f"the patch changes {path}, which the kernel source has not got: {error.strerror}",
            place=patch.name,
            remedy="check that the patch is for this kernel, and that its names need -p1 (a/net/ipv4/tcp.c)",
        ) from error


def reassembled(
    config: Config,
    source: Path,
    patch: Patch,
    edits: Mapping[str, Callable[[str], str]],
    *,
    say: Say,
    jobs: int = 0,
    allow_compiler_mismatch: bool = False,
    cache: Path | None = None,
) -> Mapping[str, bytes]:
    """Objects of patched units from edited assembly (`kdiff.assembly`): unit -> object; they are not kept."""
    compiler = find_compiler(config, allow_mismatch=allow_compiler_mismatch)
    jobs = jobs or len(os.sched_getaffinity(0))
    with open_workplace(config, source, compiler, jobs=jobs, say=say, cache=cache) as place:
        versions = _versions(patch_texts(place.source, patch))

        def compile_units(environment: Mapping[str, str]) -> Mapping[str, bytes]:
            for files in versions:
                with replaced(place.source, place.shadow, place.journal, files):
                    outcome = _make_objects(place, tuple(edits), environment)
                if not outcome.status:
                    return {unit: _products(place, unit)[0].read_bytes() for unit in edits}
            step = _Step("post", "compiling the patched source from edited assembly", say)
            raise step.failed(place, tuple(edits), outcome)

        return from_edited(compile_units, edits, find_assembler(compiler))


# The units -------------------------------------------------------------------------------------------


_Texts = Mapping[str, tuple[bytes, Patched]]


def _units(place: Workplace, texts: _Texts, say: Say) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The units that the patch names, and those that it reaches through headers."""
    found = {path: find_units(place, path) for path in texts if path.endswith(SUFFIXES)}
    named = {unit for units in found.values() for unit in units}
    headers = [path for path in texts if path not in found]
    files = _versions(texts)[0]
    refusals = generated(place, headers, files)
    if refusals:
        raise Refused(*refusals)
    through = reached(place, headers, files, named, say)
    unused = sorted({*through.unused, *(path for path, units in found.items() if not units)})
    if len(unused) == len(texts):
        raise Refused(*map(not_built, unused))
    for path in unused:
        say(f"left out of the patch: {path}, which no unit of this configuration is compiled from")
    return tuple(sorted(named)), through.units


def _compiled(place: Workplace, units: tuple[str, ...], texts: _Texts, say: Say) -> Iterator[Unit]:
    """Compile units before and after the patch, a few at a time."""
    began = time.monotonic()
    for start in range(0, len(units), _AT_ONCE):
        if start:
            left = (time.monotonic() - began) / start * (len(units) - start)
            say(f"{start} of {len(units)} units compiled; about {left:.0f} s left")
        some = units[start : start + _AT_ONCE]
        pre = _compile(place, some, {}, _Step("pre", "compiling the unpatched source", say))
        post = _compile_patched(place, some, texts, say)
        for unit in some:
            yield Unit(_target(place, unit, pre[unit]), unit, pre[unit].data, post[unit].data)


# Compiling -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """Which of the two builds is going on; `say` hears of it."""

    name: str
    doing: str
    say: Say

    def failed(self, place: Workplace, units: tuple[str, ...], outcome: Outcome) -> KdiffError:
        readable = Outcome(outcome.status, _relative(place, outcome.output))
        remedy = (
            "correct the patch" if self.name == "post" else "check that source and --config belong together"
        )
        return failure(f"build.{self.name}", self.doing, readable, place=", ".join(units), remedy=remedy)


def _compile_patched(
    place: Workplace, units: tuple[str, ...], texts: _Texts, say: Say
) -> Mapping[str, _Compiled]:
    """Compile with line numbers pinned; if that fails compile as the patch says, for its true messages."""
    step = _Step("post", "compiling the patched source", say)
    pinned, plain = _versions(texts)
    try:
        return _compile(place, units, pinned, step)
    except KdiffError as error:
        if error.key != "build.post":
            raise
    made = _compile(place, units, plain, step)
    say("line numbers behind the change could not be kept, so more functions may count as changed")
    return made


def _versions(texts: Mapping[str, tuple[bytes, Patched]]) -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
    """The patched files with line numbers pinned, and as they are."""
    pinned = {path: encode(pin_lines(text.text, text.origin)) for path, (_, text) in texts.items()}
    return pinned, {path: encode(text.text) for path, (_, text) in texts.items()}


def _compile(
    place: Workplace, units: tuple[str, ...], files: Mapping[str, bytes], step: _Step
) -> Mapping[str, _Compiled]:
    """Compile units with `files` in place of the pristine ones; objects once made are kept and reused."""
    kept = {unit: place.root / "objects" / _digest(unit, files) for unit in units}
    missing = tuple(unit for unit, file in kept.items() if not file.with_suffix(".cmd").exists())
    if missing:
        shown = ", ".join(missing) if len(missing) <= _NAMED else f"{len(missing)} units"
        step.say(f"compiling {shown} ({step.name})")
        with replaced(place.source, place.shadow, place.journal, files):
            outcome = _make_objects(place, missing)
        if outcome.status:
            raise step.failed(place, missing, outcome)
        if step.name == "post" and "warning:" in outcome.output:
            step.say(complaint(_relative(place, outcome.output)))
        for unit in missing:
            _keep(place, unit, kept[unit])
    return {
        unit: _Compiled(file.with_suffix(".o").read_bytes(), file.with_suffix(".cmd").read_text())
        for unit, file in kept.items()
    }


def _make_objects(
    place: Workplace, units: tuple[str, ...], environment: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    for unit in units:
        for file in _products(place, unit):
            file.unlink(missing_ok=True)
    objects = [f"{unit[:-2]}.o" for unit in units]
    # what is in arch/x86/lib is a goal of arch/x86, too, and two makes at once spoil each other's files
    jobs = 1 if any(each.startswith("arch/") for each in objects) else 0
    return place.make(*objects, environment=environment, jobs=jobs)


def _products(place: Workplace, unit: str) -> tuple[Path, Path]:
    """The object and the .cmd file that Kbuild makes of a unit."""
    made = place.build / f"{unit[:-2]}.o"
    return made, made.with_name(f".{made.name}.cmd")


def _keep(place: Workplace, unit: str, file: Path) -> None:
    """Move a fresh object to the cache; the .cmd file is written last and makes it valid."""
    made, command = _products(place, unit)
    if not made.exists() or not command.exists():
        reason = "Kbuild was asked for its object and made none"
        raise Refused(Refusal("patch.not_built", unit, reason, "leave the file out of the patch"))
    file.parent.mkdir(exist_ok=True)
    old = sorted(file.parent.glob("*.cmd"), key=lambda each: each.stat().st_mtime_ns)
    for each in old[: max(0, len(old) - _KEPT_OBJECTS)]:
        each.unlink()
        each.with_suffix(".o").unlink(missing_ok=True)
    write_file(file.with_suffix(".o"), made.read_bytes())
    write_file(file.with_suffix(".cmd"), command.read_bytes())


def _digest(unit: str, files: Mapping[str, bytes]) -> str:
    """The name of an object in the cache; all else that decides it is in the place's own name and marker."""
    total = hashlib.sha256(unit.encode())
    for path in sorted(files):
        total.update(f"\0{path}\0".encode() + hashlib.sha256(files[path]).digest())
    return total.hexdigest()[:32]


def _relative(place: Workplace, output: str) -> str:
    return output.replace(f"{place.shadow}/", "")


def _target(place: Workplace, unit: str, made: _Compiled) -> str:
    """Read off Kbuild's command what the unit is a part of; that for assembly does not name the module."""
    if not re.search(r"\s-DMODULE\s", made.command):
        return "vmlinux"
    command = made.command if unit.endswith(".c") else commands(place, [unit])[unit]
    found = re.search(r"""-DKBUILD_MODNAME='"([^"]+)"'""", command)
    if found is None or ":" in found[1]:
        names = found[1].replace(":", " and ") if found else "an unnamed module"
        reason = f"this file is linked into {names}, and its symbols cannot be told apart yet"
        raise Refused(Refusal("patch.shared_unit", unit, reason, "leave the file out of the patch"))
    return found[1]


def _module_arguments(config: Config, compiler: Compiler) -> tuple[str, ...]:
    return (f"CC={' '.join(compiler.command)}", *config.flags.others)


def _compiler_warning(config: Config, compiler: Compiler) -> tuple[str, ...]:
    if compiler.text.partition(" ")[2] == config.compiler.partition(" ")[2]:
        return ()
    return (f"the kernel was built with {config.compiler!r}, this update with {compiler.text!r}",)

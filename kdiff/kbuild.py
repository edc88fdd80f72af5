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
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from kdiff.affected import Affected, affected, headers, through_headers
from kdiff.assembly import from_edited
from kdiff.compiler import Compiler, find_assembler, find_compiler
from kdiff.confdir import Config
from kdiff.distribution import Say
from kdiff.edits import Edit, Files, patch_texts, versions
from kdiff.elf.model import nothing_like
from kdiff.elf.read import read_bytes
from kdiff.elf.same import same_code
from kdiff.elf.write import write
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.make import Outcome, complaint, failure
from kdiff.makefiles import retargeted, target_of
from kdiff.patch import Patch
from kdiff.shadow import replaced, write_file
from kdiff.texts import encode
from kdiff.units import Commands, at_home, commands, homes
from kdiff.values import dataclass
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
    """Relative to the source tree: `net/ipv4/tcp_ipv4.c`; of a renamed file the new name."""
    pre: bytes
    """Of a unit that the patch adds, an object that holds nothing; so is `post` of one that it deletes."""
    post: bytes
    is_new: bool = False
    is_gone: bool = False

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
    """For each patched file its pristine and its patched contents, empty where there is no file."""
    make_arguments: tuple[str, ...]
    """What a module for this kernel must be built with: CC= and the user's flags."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Compiled:
    data: bytes
    command: str
    """The contents of the .cmd file that Kbuild left."""


_NONE = _Compiled(b"", "")


def build(
    config: Config,
    source: Path,
    patch: Patch,
    *,
    say: Say,
    jobs: int = 0,
    allow_compiler_mismatch: bool = False,
    cache: Path | None = None,
    look: Callable[[tuple[Unit, ...]], None] | None = None,
) -> Build:
    """Compile every unit that the patch reaches, before and after it.

    `jobs`: 0 is one for each processor. `cache`: where prepared kernels are kept, by default
    $XDG_CACHE_HOME/kdiff/kernels. `look` gets the units that a patch with headers names, and then those
    that the headers reach, some at a time; what it raises spares the search for more.
    """
    _check_objtool(config)
    compiler = find_compiler(config, allow_mismatch=allow_compiler_mismatch)
    jobs = jobs or len(os.sched_getaffinity(0))
    with open_workplace(config, source, compiler, jobs=jobs, say=say, cache=cache) as place:
        edits = patch_texts(place.source, patch)
        for edit in edits.values():
            for line in edit.patched.moved if edit.patched else ():
                say(line)
        wanted = affected(place, edits, say)
        looking = look if headers(edits) else None
        units = tuple(_compiled(place, wanted.named, edits, wanted, say))
        if looking:
            looking(units)
        for perhaps in chain((wanted.perhaps,), through_headers(place, edits, wanted, say)):
            made = _compiled(place, perhaps, edits, wanted, say)
            found = tuple(each for each in made if not same_code(each.pre, each.post))
            if looking:
                looking(found)
            units += found
    return Build(
        units=tuple(sorted(units, key=lambda unit: unit.source)),
        compiler=compiler.text,
        release=config.release,
        arch=config.arch,
        sources=MappingProxyType(
            {
                path: (edit.pristine or b"", encode(edit.patched.text) if edit.patched else b"")
                for path, edit in edits.items()
            }
        ),
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
        files_of = versions(patch_texts(place.source, patch))

        def compile_units(environment: Mapping[str, str]) -> Mapping[str, bytes]:
            for files in files_of:
                with replaced(place.source, place.shadow, place.journal, files):
                    outcome = _make_objects(place, tuple(edits), environment)
                if not outcome.status:
                    return {unit: _products(place, unit)[0].read_bytes() for unit in edits}
            step = _Step("post", "compiling the patched source from edited assembly", say)
            raise step.failed(place, tuple(edits), outcome)

        return from_edited(compile_units, edits, find_assembler(compiler))


# Both objects ----------------------------------------------------------------------------------------


def _compiled(
    place: Workplace, units: tuple[str, ...], edits: Mapping[str, Edit], wanted: Affected, say: Say
) -> Iterator[Unit]:
    """Compile units before and after the patch, a few at a time."""
    began = time.monotonic()
    for start in range(0, len(units), _AT_ONCE):
        if start:
            left = (time.monotonic() - began) / start * (len(units) - start)
            say(f"{start} of {len(units)} units compiled; about {left:.0f} s left")
        some = units[start : start + _AT_ONCE]
        before = tuple(wanted.renamed.get(unit, unit) for unit in some if unit not in wanted.added)
        after = tuple(unit for unit in some if unit not in wanted.removed)
        pre = _compile(place, before, {}, _Step("pre", "compiling the unpatched source", say))
        post = _compile_patched(place, after, edits, say)
        for unit in some:
            yield _unit(place, unit, pre.get(wanted.renamed.get(unit, unit)), post.get(unit), wanted)


def _unit(
    place: Workplace, unit: str, pre: _Compiled | None, post: _Compiled | None, wanted: Affected
) -> Unit:
    """Put both objects together, one that holds nothing in place of a missing one."""
    former = wanted.renamed.get(unit, unit)
    found = [_target(place, former, pre.command, {})] if pre else []
    found += [_target(place, unit, post.command, wanted.told)] if post else []
    if len(set(found)) > 1:
        raise Refused(retargeted(unit, *found))
    known = (pre or post or _NONE).data
    absent = b"" if pre and post else write(nothing_like(read_bytes(known, unit)))
    return Unit(
        found[0], unit, (pre or _NONE).data or absent, (post or _NONE).data or absent, not pre, not post
    )


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
    place: Workplace, units: tuple[str, ...], edits: Mapping[str, Edit], say: Say
) -> Mapping[str, _Compiled]:
    """Compile with line numbers pinned; if that fails compile as the patch says, for its true messages."""
    step = _Step("post", "compiling the patched source", say)
    pinned, plain = versions(edits)
    try:
        return _compile(place, units, pinned, step)
    except KdiffError as error:
        if error.key != "build.post":
            raise
    made = _compile(place, units, plain, step)
    say("line numbers behind the change could not be kept, so more functions may count as changed")
    return made


def _compile(place: Workplace, units: tuple[str, ...], files: Files, step: _Step) -> Mapping[str, _Compiled]:
    """Compile units with `files` in place of the pristine ones; objects once made are kept and reused."""
    known = homes(place, units)
    kept = {unit: place.root / "objects" / _digest(unit, known.get(unit, ""), files) for unit in units}
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
    known = homes(place, units)
    # what is in arch/x86/lib is a goal of arch/x86, too, and two makes at once spoil each other's files
    jobs = 1 if any(unit.startswith("arch/") and unit not in known for unit in units) else 0
    objects = (f"{unit[:-2]}.o" for unit in units)
    return place.make(*objects, environment={**at_home(place, known), **environment}, jobs=jobs)


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


def _digest(unit: str, home: str, files: Files) -> str:
    """The name of an object in the cache; all else that decides it is in the place's own name and marker."""
    total = hashlib.sha256(f"{unit}\0{home}".encode() if home else unit.encode())
    for path in sorted(files):
        data = files[path]
        total.update(f"\0{path}\0".encode() + (b"" if data is None else hashlib.sha256(data).digest()))
    return total.hexdigest()[:32]


def _relative(place: Workplace, output: str) -> str:
    return output.replace(f"{place.shadow}/", "")


def _target(place: Workplace, unit: str, command: str, told: Commands) -> str:
    """Read off Kbuild's command what the unit is a part of; that for assembly does not name the module."""
    if re.search(r"\s-DMODULE\s", command) and not unit.endswith(".c"):
        command = told[unit] if unit in told else commands(place, [unit])[unit]
    target = target_of(command)
    if not re.fullmatch(r"\w+", target):
        names = target.replace(":", " and ")
        reason = f"this file is linked into {names}, and its symbols cannot be told apart yet"
        raise Refused(Refusal("patch.shared_unit", unit, reason, "leave the file out of the patch"))
    return target


def _module_arguments(config: Config, compiler: Compiler) -> tuple[str, ...]:
    return (f"CC={' '.join(compiler.command)}", *config.flags.others)


def _compiler_warning(config: Config, compiler: Compiler) -> tuple[str, ...]:
    if compiler.text.partition(" ")[2] == config.compiler.partition(" ")[2]:
        return ()
    return (f"the kernel was built with {config.compiler!r}, this update with {compiler.text!r}",)

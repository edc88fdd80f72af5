# SPDX-License-Identifier: Apache-2.0
"""The first phase: `create` for each candidate, as the command does it, in one process.

Units are compiled before the patch a batch at a time and kept by kdiff itself; the kernel's image is opened
once.
"""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FrameType, MappingProxyType

from releaselab import say

from corpus.manifest import Row
from corpus.outcomes import Created, Reason, counted, save
from corpus.trees import Trees
from kdiff import package, pipeline, registry
from kdiff.addressbook import KERNEL
from kdiff.compare import Comparer
from kdiff.confdir import read_config
from kdiff.elf.read import read_bytes
from kdiff.errors import KdiffError, NothingChanged, Refused
from kdiff.habits import Standing
from kdiff.kbuild import Unit, build, pristine_units
from kdiff.patch import read_patch
from kdiff.pipeline import Request
from kdiff.registry import Registry

LONGEST = 900
"""Seconds after which a creation is given up, if nothing else is said."""


def build_pristine(both: Trees, rows: Iterable[Row], jobs: int) -> None:
    """Compile every unit that some candidate names, before the patch."""
    names = sorted({path for row in rows for path in row.paths if path.endswith(".c")})
    config = read_config(both.kernel.config)
    built = pristine_units(config, both.kernel.source, names, say=_quiet, jobs=jobs)
    for done, unit in enumerate(built, 1):
        if done % 16 == 0:
            say(f"units before: {done} of at most {len(names)}, {unit.source}")


def create_all(both: Trees, rows: Iterable[Row], jobs: int, longest: int = LONGEST) -> None:
    """Create an update of each row, and save what became of it."""
    plugins = registry.load()
    once = {name: replace(each, open=cache(each.open)) for name, each in plugins.memory_schemes.items()}
    plugins = replace(plugins, memory_schemes=MappingProxyType(once))
    for row in counted(rows, "create"):
        outcome = create(both, row, plugins, jobs, longest)
        save(both.store / "created", outcome)
        what = " ".join((outcome.result, *outcome.keys))
        say(f"  {row.id} {row.paths[0]}: {what}, {outcome.wall:.0f} s, own {outcome.own:.1f} s")


def create(both: Trees, row: Row, plugins: Registry, jobs: int, longest: int) -> Created:
    """Create one update."""
    asked = Request(
        config=both.kernel.config,
        source=both.kernel.source,
        patch=both.store / "patches" / f"{row.id}.patch",
        id=row.id,
        timestamp=0,
        description=row.paths[0],
        jobs=jobs,
    )
    began, own, children = time.monotonic(), _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    outcome = guarded(row.id, lambda: _made(asked, plugins, both.store / "updates"), longest)
    measured = replace(
        outcome,
        wall=round(time.monotonic() - began, 2),
        own=round(_cpu(resource.RUSAGE_SELF) - own, 2),
        compilers=round(_cpu(resource.RUSAGE_CHILDREN) - children, 2),
    )
    if measured.result == "refused":
        told = guarded(row.id, lambda: _would_replace(asked, plugins), longest)
        return replace(measured, units=told.units, targets=told.targets, functions=told.functions)
    return measured


def _made(asked: Request, plugins: Registry, folder: Path) -> Created:
    folder.mkdir(parents=True, exist_ok=True)
    made = pipeline.create(asked, plugins, _quiet)
    package.save(made, folder)
    told = made.manifest
    return Created(
        asked.id,
        "update",
        units=tuple(sorted(told["inputs"]["units"])),
        targets=tuple(sorted({each["target"] for each in told["replaced"]})),
        functions=tuple(sorted(f"{each['target']}:{each['name']}" for each in told["replaced"])),
        fresh=tuple(each["name"] for each in told["modules"] if each["new_layouts"]),
    )


def _would_replace(asked: Request, plugins: Registry) -> Created:
    """What a refused update would have replaced, as `Created` lists it; boot code is not among it.

    If the patch names units, those that it only reaches through headers are not looked for.
    """
    units = _named_units(asked)
    compare = Comparer(plugins)
    found = set()
    for unit in units:
        plan = compare(read_bytes(unit.pre, unit.name), read_bytes(unit.post, unit.name), True, None)
        for pre, _ in plan.replaced:
            node = plan.pre.nodes[pre]
            gone = (Standing.BOOT, Standing.EXIT) if unit.target == KERNEL else (Standing.BOOT,)
            if node.standing not in gone:
                found.add(f"{unit.target}:{node.label}")
    return Created(
        asked.id,
        "refused",
        units=tuple(unit.source for unit in units),
        targets=tuple(sorted({unit.target for unit in units})),
        functions=tuple(sorted(found)),
    )


class _Enough(Exception):
    """The units that a patch names are built."""


def _named_units(asked: Request) -> tuple[Unit, ...]:
    """The units that a patch names, without those that it reaches through headers, if it names any."""
    named: list[Unit] = []

    def look(units: tuple[Unit, ...]) -> None:
        named.extend(units)
        if units:
            raise _Enough

    config, patch = read_config(asked.config), read_patch(asked.patch)
    try:
        return build(config, asked.source, patch, say=_quiet, jobs=asked.jobs, look=look).units
    except _Enough:
        return tuple(named)


def guarded(id: str, make: Callable[[], Created], longest: int = LONGEST) -> Created:
    """What `make` returns, or in which way it ended."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(longest)
    try:
        return make()
    except Refused as error:
        return Created(
            id, "refused", tuple(Reason(each.key, each.place, each.reason) for each in error.refusals)
        )
    except NothingChanged:
        return Created(id, "nothing")
    except KdiffError as error:
        result = "uncompilable" if error.key == "build.post" else "error"
        return Created(id, result, (Reason(error.key, error.place, error.message),))
    except _TooLong:
        return Created(id, "slow", (Reason("slow", "", f"took more than {longest} seconds"),))
    except Exception as error:  # finding these is what the run is for
        return Created(id, "crash", (Reason(type(error).__name__, "", traceback.format_exc()[-2000:]),))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _TooLong(Exception):
    """A creation is to be given up."""


def _too_long(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _quiet(line: str) -> None:
    """Progress of one update is no news here."""

# SPDX-License-Identifier: Apache-2.0
"""Have Kbuild link the carried object and `runtime.c` into a module.

Symbols that only livepatch can resolve stay undefined, which modpost is told to accept; whether the result
holds no other undefined symbol is checked later, when the module has its final form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from kdiff.api import (
    KERNEL,
    KdiffError,
    Replacement,
    Update,
    Workshop,
    failure,
    module_file,
    module_name,
    run_make,
    write_object,
)

RUNTIME = Path(__file__).with_name("runtime.c")
NEEDED = ("Makefile", "Module.symvers", "include/generated/autoconf.h", "scripts/mod/modpost")
"""What modules cannot be built without; a source tree has all of it only after `make modules`."""


def build(update: Update, shop: Workshop) -> bytes:
    """Return the module that Kbuild makes; KdiffError `emit.headers`, `emit.build` or `disk.full`."""
    check_headers(shop.headers)
    scratch = shop.scratch
    try:
        _lay_out(update, scratch)
        with (scratch / "lock").open("w") as lock:
            outcome = run_make(
                (
                    *("-s", "-C", str(shop.headers), f"M={scratch}", "KBUILD_MODPOST_WARN=1"),
                    *(*shop.make_arguments, "modules"),
                ),
                lock=lock.fileno(),
            )
        if "Exec format error" in outcome.output:
            raise KdiffError(
                "emit.headers",
                "the build tools in these kernel headers are for another processor",
                place=str(shop.headers),
                remedy="install the headers package for this machine's architecture",
            )
        if outcome.status:
            raise failure("emit.build", "building the update's module", outcome, place=str(shop.headers))
        return (scratch / module_file(update.id)).read_bytes()
    except OSError as error:
        raise KdiffError(
            "emit.scratch", f"cannot build here: {error.strerror}", place=str(error.filename or scratch)
        ) from error


def check_headers(headers: Path) -> None:
    """Raise KdiffError `emit.headers` unless modules can be built with them."""
    for name in NEEDED:
        if not (headers / name).is_file():
            raise KdiffError(
                "emit.headers",
                f"these kernel headers cannot build modules: {name} is missing",
                place=str(headers),
                remedy="let `build` in the configuration directory be the kernel's headers package,"
                " or a build tree after `make modules`",
            )


def _lay_out(update: Update, scratch: Path) -> None:
    """Write the sources of the module. The carried object comes first, so its sections keep their offsets."""
    name = module_name(update.id)
    files = {
        "Kbuild": f"obj-m := {name}.o\n{name}-objs := carried.o runtime.o\nccflags-y := -g0\n".encode(),
        "runtime.c": RUNTIME.read_bytes(),
        "update.h": header(update).encode(),
        "carried.o_shipped": write_object(update.carried),
        ".carried.o.cmd": b"",
    }
    for file, data in files.items():
        (scratch / file).write_bytes(data)


def header(update: Update) -> str:
    """The text of update.h: the update's id, its modules, and a row for each function to redirect.

    Of a function in a module also its code as it must be in memory, and which bytes of it are known: a module
    may be loaded long after the update was applied. FRESH: those that must be loaded later, if there are any,
    with what their variables start with.
    """
    lines = [f"#define UPDATE_ID {_quoted(update.id)}"]
    ordered = sorted(update.replacements, key=lambda each: (each.name, each.position, each.target))
    numbered = list(enumerate(ordered))
    names = [module.name for module in update.modules]
    for number, each in numbered:
        if each.target != KERNEL:
            lines.append(f"static const u8 code_{number}[] = {{ {_bytes(each.code)} }};")
            lines.append(f"static const u8 known_{number}[] = {{ {_bytes(each.known)} }};")
    lines.append("#define REPLACEMENTS(ROW)" + _rows(numbered, KERNEL))
    for index, name in enumerate(names):
        lines.append(f"#define REPLACEMENTS_{index}(ROW)" + _rows(numbered, name))
        found = [number for number, each in enumerate(update.initial) if each.variable.owner == name]
        lines.append(f"#define INITIAL_{index}(ROW)" + "".join(f" ROW({number})" for number in found))
    for number, value in enumerate(update.initial):
        lines.append(f"#define NAME_{number} {_quoted(value.variable.name)}")
        lines.append(f"#define OFFSET_{number} {value.offset}")
        lines.append(f"static const u8 old_{number}[] = {{ {_bytes(value.old)} }};")
        lines.append(f"static const u8 new_{number}[] = {{ {_bytes(value.new)} }};")
    fresh = [each.module for each in update.fresh]
    modules = "".join(
        f" MODULE({index}, {_quoted(name)}, {int(name in fresh)})" for index, name in enumerate(names)
    )
    lines.append("#define MODULES(MODULE)" + modules)
    if fresh:
        lines.append(f"#define FRESH {_quoted(','.join(fresh))}")
    return "".join(f"{line}\n" for line in lines)


def _rows(numbered: Iterable[tuple[int, Replacement]], target: str) -> str:
    return "".join(
        f" \\\n\tROW({number}, {_quoted(each.name)}, {each.position}, {_quoted(each.symbol)})"
        for number, each in numbered
        if each.target == target
    )


def _bytes(data: bytes) -> str:
    return ", ".join(f"{byte:#04x}" for byte in data)


def _quoted(text: str) -> str:
    """A C string literal; names that `convert.check_update` lets pass need no other escapes than JSON's."""
    return json.dumps(text)

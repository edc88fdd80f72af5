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
        "update.h": header(update.id, update.replacements).encode(),
        "carried.o_shipped": write_object(update.carried),
        ".carried.o.cmd": b"",
    }
    for file, data in files.items():
        (scratch / file).write_bytes(data)


def header(id: str, replacements: Iterable[Replacement]) -> str:
    """The text of update.h: the update's id and a row for each function to redirect."""
    rows = "".join(
        f" \\\n\tROW({number}, {_quoted(each.name)}, {each.position}, {_quoted(each.symbol)})"
        for number, each in enumerate(sorted(replacements, key=lambda each: (each.name, each.position)))
    )
    return f"#define UPDATE_ID {_quoted(id)}\n#define REPLACEMENTS(ROW){rows}\n"


def _quoted(text: str) -> str:
    """A C string literal; names that `convert.check_update` lets pass need no other escapes than JSON's."""
    return json.dumps(text)

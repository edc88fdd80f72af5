# SPDX-License-Identifier: Apache-2.0
"""Objects from the compiler's assembly, after that was edited.

In: a way to compile units in some environment, and what becomes of each unit's assembly. Out: the objects,
made by the same compiler, assembler and objtool with the same arguments. Kbuild and the compiler know nothing
of it: a script stands in for the assembler (COMPILER_PATH, "Environment Variables Affecting GCC"), which the
first time keeps the text it is given, and the second time hands over the edited one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from kdiff.errors import KdiffError

Compile = Callable[[Mapping[str, str]], Mapping[str, bytes]]
"""Takes an environment; returns unit -> object."""

_STAND_IN = """#!/bin/sh
# The assembler between the compiler and Kbuild: keeps each text, or hands over another in its place.
set -e
out= text= last=
for each; do
    case $last in -o) out=$each;; esac
    case $each in *.s) text=$each;; esac
    last=$each
done
kept=$KDIFF_TEXTS/$out.s
if [ -n "$out" ] && [ -n "$text" ]; then
    if [ -e "$kept" ]; then cat "$kept" > "$text"
    else mkdir -p "${kept%/*}"; cp "$text" "$kept"; fi
fi
exec "$KDIFF_ASSEMBLER" "$@"
"""


def from_edited(
    compile_units: Compile, edits: Mapping[str, Callable[[str], str]], assembler: str
) -> Mapping[str, bytes]:
    """Compile, edit the assembly of each unit (`fs/jbd2/commit.c`), and make the objects of that.

    `assembler`: the program. KdiffError `assembly.unseen` if the compiler does not use it as GCC does.
    """
    with TemporaryDirectory(prefix="kdiff-") as scratch:
        texts = Path(scratch, "texts")
        stand_in = Path(scratch, "bin", "as")
        stand_in.parent.mkdir()
        stand_in.write_text(_STAND_IN)
        stand_in.chmod(0o755)
        environment = {
            "COMPILER_PATH": str(stand_in.parent),
            "KDIFF_TEXTS": str(texts),
            "KDIFF_ASSEMBLER": assembler,
        }
        compile_units(environment)
        for unit, edit in edits.items():
            kept = texts / f"{unit[:-2]}.o.s"
            try:
                text = kept.read_text("utf-8", "surrogateescape")
            except FileNotFoundError as error:
                raise KdiffError(
                    "assembly.unseen", "the compiler did not hand its assembly to the assembler", place=unit,
                    remedy="compile the kernel with gcc and without -pipe",
                ) from error  # fmt: skip
            kept.write_text(edit(text), "utf-8", "surrogateescape")
        return compile_units(environment)

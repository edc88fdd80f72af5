# SPDX-License-Identifier: Apache-2.0
"""What has certainly been read before a line: the preprocessor then makes the same without that line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kdiff.certain import Certain
from kdiff.includes import Includes
from kdiff.workplace import Workplace


def guarded(name: str, *lines: str) -> str:
    return "\n".join((f"#ifndef {name}", f"#define {name}", *lines, "#endif", ""))


T = guarded("T_H", "int t;")
LINE = "#include <t.h>"
CASES = {
    "another file above": (True, {"a.h": guarded("A_H", LINE), "t.h": T}, "#include <a.h>\n"),
    "over two files": (
        True,
        {"a.h": guarded("A_H", "#include <b.h>"), "b.h": guarded("B_H", LINE), "t.h": T},
        "#include <a.h>\n",
    ),
    "through one without a guard": (True, {"a.h": f"{LINE}\n", "t.h": T}, "#include <a.h>\n"),
    "the line stands there already": (False, {"t.h": T}, ""),
    "under a condition": (
        False,
        {"a.h": guarded("A_H", "#ifdef X", LINE, "#endif"), "t.h": T},
        "#include <a.h>\n",
    ),
    "the line above under a condition": (
        False,
        {"a.h": guarded("A_H", LINE), "t.h": T},
        "#ifdef X\n#include <a.h>\n#endif\n",
    ),
    "a file that is read while this one is": (
        False,
        {"a.h": guarded("A_H", "#include <h.h>", LINE), "t.h": T},
        "#include <a.h>\n",
    ),
    "another one defines its guard": (
        False,
        {"a.h": guarded("A_H", LINE), "t.h": T, "o.h": "#define A_H\n"},
        "#include <a.h>\n",
    ),
    "another one forgets the guard": (
        False,
        {"a.h": guarded("A_H", LINE), "t.h": T, "o.h": "#undef T_H\n"},
        "#include <a.h>\n",
    ),
    "another one has the same guard": (
        False,
        {"a.h": guarded("A_H", LINE), "t.h": T, "o.h": guarded("T_H", "int o;")},
        "#include <a.h>\n",
    ),
    "no guard": (False, {"a.h": guarded("A_H", LINE), "t.h": "int t;\n"}, "#include <a.h>\n"),
    "a guard with another branch": (
        False,
        {"a.h": guarded("A_H", LINE), "t.h": T.replace("#endif", "#else\nint u;\n#endif")},
        "#include <a.h>\n",
    ),
    "something behind the guard": (
        False,
        {"a.h": guarded("A_H", LINE), "t.h": f"{T}int u;\n"},
        "#include <a.h>\n",
    ),
    "what only includes such files": (
        True,
        {"a.h": guarded("A_H", LINE), "t.h": "#include <r.h>\n", "r.h": guarded("R_H", "int r;")},
        "#include <a.h>\n",
    ),
    "what includes others, too": (
        False,
        {
            "a.h": guarded("A_H", LINE),
            "t.h": '#include <r.h>\n#include "n.h"\n',
            "r.h": guarded("R_H", "int r;"),
            "n.h": "int n;",
        },
        "#include <a.h>\n",
    ),
    "what the command line includes": (True, {"first.h": guarded("F_H", LINE), "t.h": T}, ""),
    "another file of the name": (
        False,
        {
            "a.h": guarded("A_H", '#include "t.h"'),
            "sub/t.h": guarded("S_H", "int s;"),
            "sub/a.h": guarded("SA_H", '#include "t.h"'),
            "t.h": T,
        },
        "#include <sub/a.h>\n",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_line_that_only_repeats_changes_nothing(case: str, tmp_path: Path) -> None:
    expected, headers, above = CASES[case]
    source, build = tmp_path / "source", tmp_path / "build"
    build.mkdir()
    files = {"first.h": "", "h.h": guarded("H_H", *above.splitlines(), LINE, "int h;")} | headers
    for name, text in files.items():
        path = source / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    place = cast(Workplace, SimpleNamespace(root=tmp_path, source=source, shadow=source, build=build))
    includes = Includes(place)
    command = f"gcc -nostdinc -I{source}/include -include {source}/include/first.h"

    def find(words: Iterable[bytes]) -> dict[str, frozenset[bytes]]:
        wanted = frozenset(words)
        return {
            f"include/{name}": wanted & set(re.findall(rb"\w+", text.encode()))
            for name, text in files.items()
        }

    certain = Certain(place, {"x.c": f"{command} -DX"}, {}, includes.reaching, find)
    found = certain.repeats("include/h.h", [LINE.removeprefix("#include ").encode()])
    assert found is expected

    def made(header: str) -> list[bytes]:
        (source / "include/h.h").write_text(header)
        names = sorted({*files} - {"first.h"})
        texts = ["".join(f"#include <{name}>\n" for name in order) for order in permutations(names, 2)]
        return [
            subprocess.run(
                [*command.split(), *flags, "-E", "-P", "-x", "c", "-"],
                input=text.encode(),
                capture_output=True,
                check=True,
            ).stdout
            for text in texts
            for flags in ([], ["-DX"])
        ]

    same = made(files["h.h"]) == made(files["h.h"].replace(f"{LINE}\nint h", "int h"))
    assert same or not found


def test_where_units_search_elsewhere_first_nothing_is_certain(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "include").mkdir(parents=True)
    (tmp_path / "build").mkdir()
    for name, text in {"a.h": guarded("A_H", LINE), "t.h": T, "h.h": f"#include <a.h>\n{LINE}\n"}.items():
        (source / "include" / name).write_text(text)
    place = cast(
        Workplace, SimpleNamespace(root=tmp_path, source=source, shadow=source, build=tmp_path / "build")
    )

    def repeats(*commands: str) -> bool:
        units = {f"{at}.c": f"gcc {command}" for at, command in enumerate(commands)}
        return Certain(place, units, {}, lambda path: frozenset([path]), lambda words: {}).repeats(
            "include/h.h", [b"<t.h>"]
        )

    ours = f"-I{source}/include"
    assert repeats(ours, f"{ours} -I{source}/net")
    assert not repeats(ours, f"-I{source}/net {ours}")
    assert not repeats(f"-I/elsewhere {ours}")
    assert not repeats("")

# SPDX-License-Identifier: Apache-2.0
"""A header that includes more than it did: units that a compiler makes otherwise must not be missed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kdiff.includes import Includes
from kdiff.macros import definition, may_be_called
from kdiff.users import users
from kdiff.workplace import Workplace


def guarded(name: str, *lines: str) -> str:
    return "\n".join((f"#ifndef {name}", f"#define {name}", *lines, "#endif", ""))


N = guarded(
    "N_H",
    "#define guard(x) (x + 1)",
    "#define NUMBER 3",
    "static inline int is_n(int x) { return x < 0; }",
)
HEADERS = {
    "n.h": N,
    "a.h": guarded("A_H", "#include <n.h>", "#define TWICE(x) (2 * guard(x))"),
    "b.h": "#ifndef B_H\n#define B_H\n#include <n.h>\n#endif\n#define THRICE(x) (3 * guard(x))\n",
    "m.h": guarded("M_H", "#ifdef NUMBER", "#define M 1", "#else", "#define M 2", "#endif"),
    "late.h": guarded("LATE_H", "#define LATE(x) guard(x)"),
}
UNITS = {
    "nothing of it": (False, "#include <h.h>\nint f(int x) { return x; }"),
    "a macro of it, which another header has brought before": (
        False,
        "#include <h.h>\n#include <a.h>\nint f(int x) { return guard(x) + TWICE(x); }",
    ),
    "what a header without a guard around all of it has brought": (
        False,
        "#include <h.h>\n#include <b.h>\nint f(int x) { return THRICE(x); }",
    ),
    "a function of it": (False, "#include <h.h>\n#include <a.h>\nint f(int x) { return is_n(x); }"),
    "a function of its name, without the header": (
        False,
        "#include <h.h>\nstruct s { int is_n; };\nint f(struct s *s) { return s->is_n; }",
    ),
    "a variable that is called like a macro with arguments": (
        False,
        "#include <h.h>\nint f(int guard) { return (guard) + 1; }",
    ),
    "the same as an argument that is made a string or pasted": (
        False,
        "#include <h.h>\n#define S(a) #a\n#define P(a) x##a\nint f(int xguard)\n"
        "{ return *S(guard) + P(guard); }",
    ),
    "the same as an argument that is called": (
        True,
        "int guard(int);\n#include <h.h>\n#define CALL(f, x) f(x)\nint g(int x) { return CALL(guard, x); }",
    ),
    "a macro of it that was a function": (
        True,
        "int guard(int);\n#include <h.h>\nint f(int x) { return guard(x); }",
    ),
    "a question whether there is one": (
        True,
        "#include <h.h>\n#ifdef NUMBER\nint f(void) { return 1; }\n#else\nint f(void) { return 2; }\n#endif",
    ),
    "a header that asks": (True, "#include <h.h>\n#include <m.h>\nint f(void) { return M; }"),
    "a header that relies on others": (
        True,
        "int guard(int);\n#include <h.h>\n#include <late.h>\nint f(int x) { return LATE(x); }",
    ),
    "a name that is pasted": (
        True,
        "enum { NUMBER = 7 };\n#include <h.h>\n#define CAT(a, b) a##b\nint f(void) { return CAT(NUM, BER); }",
    ),
    "a question for its guard": (
        True,
        "#include <h.h>\n#ifdef N_H\nint f(void) { return 1; }\n#else\nint f(void) { return 2; }\n#endif",
    ),
    "a macro that another sets, too": (
        True,
        "#include <h.h>\n#ifndef NUMBER\n#define NUMBER 9\n#endif\nint f(void) { return NUMBER; }",
    ),
}


def found_by(
    folder: Path, headers: Mapping[str, str], units: Mapping[str, str], added: str = "#include <n.h>"
) -> tuple[set[str], set[str]]:
    """The units that are found, and those whose code differs, if `added` is a new line of `h.h`."""
    source, build = folder / "source", folder / "build"
    (source / "include/linux").mkdir(parents=True)
    build.mkdir()
    before, after = guarded("H_H", "int h;"), guarded("H_H", added, "int h;")
    for name, text in {"h.h": before, "linux/kconfig.h": "", **headers}.items():
        (source / "include" / name).write_text(text)
    command = f"gcc -nostdinc -I{source}/include -include {source}/include/linux/kconfig.h"
    paths = {f"net/u{at}.c": text for at, text in enumerate(units.values())}
    (source / "net").mkdir()
    for path, text in paths.items():
        (source / path).write_text(f"{text}\n")
    place = cast(Workplace, SimpleNamespace(root=folder, source=source, shadow=source, build=build))
    header = "include/h.h"
    found = users(place, Includes(place), [header], {header: after.encode()}, dict.fromkeys(paths, command))
    names = dict(zip(paths, units, strict=True))

    def codes() -> dict[str, bytes | None]:
        made = {}
        for path in paths:
            done = subprocess.run(
                [*command.split(), "-O1", "-S", "-o", "-", source / path], capture_output=True, check=False
            )
            made[path] = None if done.returncode else re.sub(rb"\.L[A-Z]*\d+", b".L", done.stdout)
        return made

    old = codes()
    (source / header).write_text(after)
    new = codes()
    assert None not in old.values()
    differing = {names[path] for path in paths if new[path] is not None and new[path] != old[path]}
    return {names[path] for path in found}, differing


def test_units_to_which_a_new_include_line_matters(tmp_path: Path) -> None:
    found, differing = found_by(tmp_path, HEADERS, {name: text for name, (_, text) in UNITS.items()})
    assert differing <= found
    assert found == {name for name, (matters, _) in UNITS.items() if matters}


def test_what_is_read_earlier_may_mean_something_else(tmp_path: Path) -> None:
    headers = {
        "n.h": guarded("N_H", "static inline int is_n(int x) { return x < LIMIT; }"),
        "a.h": guarded("A_H", "#include <n.h>"),
    }
    own = "#define LIMIT 4\n#include <h.h>\n#undef LIMIT\n#define LIMIT 9\n#include <a.h>\n"
    units = {
        "sets it": f"{own}int f(int x) {{ return is_n(x); }}",
        "has one": "enum { LIMIT = 5 };\n#include <h.h>\n#include <a.h>\nint f(int x) { return is_n(x); }",
        "has another": "enum { LIMIT = 6 };\n#include <h.h>\nint f(int x) { return x; }",
    }
    found, differing = found_by(tmp_path, headers, units)
    assert found == differing == {"sets it"}


def test_a_function_that_is_new_matters_to_nobody_who_has_compiled_without_it(tmp_path: Path) -> None:
    units = {
        "none of it": "#include <h.h>\nint f(int x) { return x; }",
        "a member": "#include <h.h>\nstruct s { int get; };\nint f(struct s *s) { return s->get; }",
        "a variable": "#include <h.h>\nint f(int get) { return get + sizeof(get); }",
        "pasted": "#include <h.h>\n#define CAT(a, b) a##b\nint f(int get) { return CAT(g, et); }",
        "own": "int get(int x);\nint f(int x) { return get(x); }",
    }
    added = "static inline int get(int x) { return x + 1; }"
    found, differing = found_by(tmp_path / "a", {}, units, added)
    assert found == differing == set()
    macro = "#define get own\n#include <h.h>\nint f(int x) { return x + 2; }"
    found, _ = found_by(tmp_path / "b", {}, {**units, "a macro": macro}, added)
    assert found == {"a member", "a variable", "own", "pasted"}


@pytest.mark.parametrize(
    "header",
    [
        "#define NUMBER 3\n",
        guarded("N_H", "int number;"),
        guarded("N_H", '#include "beside.h"'),
        guarded("N_H", "#pragma pack(1)"),
    ],
)
def test_where_what_is_read_may_do_more_than_declare_all_units_count(header: str, tmp_path: Path) -> None:
    units = {str(at): f"#include <h.h>\nint f(int x) {{ return x + {at}; }}" for at in range(3)}
    found, _ = found_by(tmp_path, {"n.h": header}, units)
    assert found == set(units)


@pytest.mark.parametrize(
    ("code", "called"),
    [
        ("int x = F;", False),
        ("int x = F (1);", True),
        ("int x = (F) + 1;", False),
        ("int x = f(F);", False),
        ("int x = RAW(F);", False),
        ("int x = STRING(1, F);", False),
        ("int x = CALL(F, 1);", True),
        ("int x = CALL(1, F);", True),
        ("int x = REST(1, 2, F);", True),
        ("int x = RAW(CALL(F, 1));", True),
        ("int x = g(1, (RAW(F)));", False),
        ("int x = NAME(F);", True),
        ("int x = RAW(1)(F);", True),
        ("int x = RAW(1) + F;", False),
    ],
)
def test_where_a_name_may_be_called(code: str, called: bool) -> None:
    macros = [
        definition(each)
        for each in (
            b"#define RAW(a) x_##a y##a",
            b"#define STRING(a, b) a, #b",
            b"#define CALL(f, x) f(x)",
            b"#define REST(a, ...) CALL(__VA_ARGS__)",
            b"#define NAME CALL",
        )
    ]
    assert (
        may_be_called(code.encode(), b"F", lambda names: [m for m in macros if m and m.name in set(names)])
        is called
    )

# SPDX-License-Identifier: Apache-2.0
"""Where macros paste names together: what the compiler's preprocessor makes is found, and little else."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from kdiff.compiler import find_compiler
from kdiff.confdir import read_config
from kdiff.distribution import KernelSetup
from kdiff.includes import Includes
from kdiff.macros import GLUE, Macro, Part
from kdiff.parts import chunks, definitions, directives
from kdiff.pastes import Paste, Pastes
from kdiff.preprocess import preprocess
from kdiff.sight import Sight
from kdiff.units import commands
from kdiff.users import given
from kdiff.workplace import open_workplace

NAME = b"get_thing"
CAT = b"#define CAT_(a, b) a##b\n#define CAT(a, b) CAT_(a, b)\n"
"""Arguments are expanded before they are pasted."""


class Tree(dict[str, bytes]):
    """Files that one unit sees, all of them."""

    def find(self, words: Iterable[bytes]) -> dict[str, frozenset[bytes]]:
        wanted = frozenset(words)
        found = {path: wanted & set(re.findall(rb"\w+", text)) for path, text in self.items()}
        return {path: words for path, words in found.items() if words}

    def parts(self, path: str) -> list[Part]:
        return (directives if path.endswith(".c") else chunks)(self[path])

    def define(self, words: Iterable[bytes]) -> list[Macro]:
        wanted = frozenset(words)
        return [macro for path in self for macro in self.macros(path) if macro.name in wanted]

    def pastes(self, *names: bytes) -> set[Paste]:
        macros = [(path, macro) for path in self for macro in self.macros(path) if GLUE in macro.body]
        return Pastes(macros, self.find, self.parts, self.define, lambda path: 1, frozenset({b"GIVEN"})).of(
            names
        )

    def macros(self, path: str) -> list[Macro]:
        return definitions(self[path])

    def preprocessed(self, folder: Path) -> set[bytes]:
        """The words of the unit as the compiler sees them."""
        for path, text in self.items():
            (folder / path).write_bytes(text)
        command = ["gcc", "-E", "-P", "-DGIVEN=get", "x.c"]
        return set(
            re.findall(rb"\w+", subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)
        )


MADE = {
    "two arguments": (b"#define CAT(a, b) a##b\n", b"CAT(get_, thing)"),
    "cut anywhere": (b"#define CAT(a, b) a ## b\n", b"CAT(get_th, ing)"),
    "a literal before": (b"#define GET(x) get_##x\n", b"GET(thing)"),
    "a literal behind": (b"#define THING(x) x##_thing\n", b"THING(get)"),
    "a literal between": (b"#define CAT(a, b) a##_##b\n", b"CAT(get, thing)"),
    "literals alone": (b"#define IT get_ ## thing\n", b"IT"),
    "an empty argument": (b"#define CAT(a, b, c) a##b##c\n", b"CAT(get_, , thing)"),
    "over two macros": (CAT, b"CAT(get_, thing)"),
    "through a macro's parameter": (b"#define GET(x) get_##x\n#define USE(y) GET(y)(0)\n", b"USE(thing)"),
    "an argument that is expanded": (
        b"#define WHAT thing\n" + CAT, b"CAT(get_, WHAT)",
    ),
    "expanded twice": (
        b"#define REAL thing\n#define WHAT REAL\n" + CAT, b"CAT(get_, WHAT)",
    ),
    "an argument that is a call": (
        b"#define ID(x) x\n" + CAT, b"CAT(get_, ID(thing))",
    ),
    "nested pastes": (
        CAT, b"CAT(CAT(get, _), CAT(thi, ng))",
    ),
    "a paste in an argument": (
        CAT + b"#define USE(x) CAT(ge##x, thing)\n", b"USE(t_)",
    ),
    "the last token of the left": (b"#define CAT(a, b) a##b\n", b"CAT(static get_, thing(void))"),
    "further arguments": (b"#define GET(...) get_##__VA_ARGS__\n", b"GET(thing, 2)"),
    "named further arguments": (b"#define GET(a, args...) a##args\n", b"GET(get_, thing, 2)"),
    "another name of a macro": (b"#define GET(x) get_##x\n#define OTHER GET\n", b"OTHER(thing)"),
    "a macro that calls its argument": (
        b"#define GET(x) get_##x\n#define ALL(do) do(other) do(thing)\n", b"ALL(GET)",
    ),
    "a macro whose name is pasted": (
        b"#define GET_x(a) get_##a\n#define CALL(k, a) GET_##k(a)\n", b"CALL(x, thing)",
    ),
    "a pasted name that is called later": (
        b"#define GET_x(a) get_##a\n#define FN(k) GET_##k\n", b"FN(x)(thing)",
    ),
    "one argument that becomes two": (
        b"#define GET(k, x) get_##x\n#define BOTH 1, thing\n#define ALL(a) GET(a)\n", b"ALL(BOTH)",
    ),
    "one further argument that becomes two": (
        b"#define GET(k, x, ...) get_##x\n#define BOTH 1, thing\n#define ALL(a...) GET(a)\n", b"ALL(BOTH, 3)",
    ),
    "a macro that another one chooses": (
        b"#define GET(x) get_##x\n#define PICK(a, b, ...) b\n#define ALL(a...) PICK(1, GET, 2)(a)\n",
        b"ALL(thing)",
    ),
    "what the command line defines": (CAT, b"CAT(GIVEN, _thing)"),
    "lines that go on": (b"#define CAT(a, \\\n b) a ## \\\n b\n", b"CAT(get_,\n\tthing)"),
    "chosen by the number of arguments": (
        b"#define N(X, a, b) a##_##b\n#define I(X, a, b, c) a##b##c\n"
        b"#define PICK_(X, _1, _2, _3, IMPL, ...) IMPL\n"
        b"#define PICK(A...) PICK_(X, ##A, I, N)(X, ##A)\n#define USE(A...) PICK(get, ##A)\n",
        b"USE(thing)",
    ),
    "chosen by what is no chooser": (
        b"#define GET(a, b) a##_##b\n#define NOT(f, a) f(a, thing) other\n#define ALL(a) NOT(GET, get)(a)\n",
        b"ALL(1)",
    ),
    "the first of further arguments": (
        b"#define GET(x, ...) x##_thing\n#define ALL(A...) GET(A)\n", b"ALL(get, 1)",
    ),
    "the second of further arguments": (
        b"#define GET(a, x, ...) x##_thing\n#define ALL(A...) GET(1, ##A)\n", b"ALL(get, 1)",
    ),
    "further arguments that become several": (
        b"#define GET(a, b, c, ...) b##_##c\n#define BOTH 1, get\n#define ALL(A...) GET(A)\n",
        b"ALL(BOTH, thing)",
    ),
    "a call by a pasted name": (
        b"#define DATA(X, m) X##m##_thing\n#define ONE(X, f, m) PUSH_##f(X, m)\n"
        b"#define PUSH_DATA(X, m) DATA(X, m)\n#define USE(f, m) ONE(, f, m)\n",
        b"USE(DATA, get)",
    ),
    "either branch in the arguments": (
        b"#define CAT(a, b) a##b\n", b"CAT(\n#ifdef NONE\nother_\n#else\nget_\n#endif\n, thing)",
    ),
    "the branch that comes last": (
        b"#define CAT(a, b) a##b\n", b"CAT(get_,\n#ifndef NONE\nthing\n#else\nother\n#endif\n)",
    ),
    "no blank and no capital": (b"#define page(uname) Page##uname get##uname\n", b"page(_thing)"),
}  # fmt: skip


@pytest.mark.parametrize("shape", MADE)
def test_what_the_preprocessor_pastes_is_found(shape: str, tmp_path: Path) -> None:
    header, use = MADE[shape]
    tree = Tree({"x.h": header, "x.c": b'#include "x.h"\nint x = ' + use + b";\n"})
    assert NAME in tree.preprocessed(tmp_path)
    assert b"get_thing" not in b"".join(tree.values())
    assert {(paste.file, paste.name) for paste in tree.pastes(NAME)} & {("x.c", NAME), ("x.h", NAME)}


@pytest.mark.parametrize(
    "header, use",
    [
        (b"#define CAT(a, b) a##b\n", b"CAT(get_, other) thing"),
        (b"#define CAT(a, b) a##b\n", b"CAT(thing, get_)"),
        (b"#define GET(x) get_##x\n", b"GET(thing2) GET(x)"),
        (CAT, b"CAT(get_, __COUNTER__)"),
        (b"#define GET(x) get_##x\n#define OTHER GET\n", b"OTHER(other)"),
        (b"#define WHAT other\n" + CAT, b"CAT(get_, WHAT)"),
        (b"#define CAT(a, b) a##b\n#undef CAT\n#ifdef CAT\n#endif\n", b"1"),
        (b"#define LOG(f, a...) print(f, ##a)\n", b"LOG(get_, thing)"),
        (b"#define CAT(a, b) a##b\n", b'CAT(L, "get_thing")'),
        (
            b"#define N(X, a, b) a##_##b\n#define PICK_(X, _1, _2, IMPL, ...) IMPL\n"
            b"#define PICK(A...) PICK_(X, ##A, N, N)(X, ##A)\n",
            b"PICK(get, other) PICK(other, thing)",
        ),
        (
            b"#define DATA(X, m) X##m\n#define ONE(X, f, m) PUSH_##f(X, m)\n"
            b"#define PUSH_IT(X, m) DATA(X, m)\n#define USE(f, m) ONE(, f, m)\n",
            b"USE(IT, get_) thing",
        ),
    ],
)
def test_what_cannot_make_the_name_is_not_found(header: bytes, use: bytes, tmp_path: Path) -> None:
    tree = Tree({"x.h": header, "x.c": b'#include "x.h"\nint x = ' + use + b";\n"})
    assert tree.pastes(NAME) == set()


def test_files_that_no_unit_sees_together_paste_nothing() -> None:
    tree = Tree({"a.h": b"#define CAT(a, b) a##b\n", "b.c": b"CAT(get_, thing)"})
    (macro,) = tree.macros("a.h")
    for sees, names in ((lambda path: 1 if path == "a.h" else 2, []), (lambda path: 3, [NAME])):
        search = Pastes([("a.h", macro)], tree.find, tree.parts, tree.define, sees)
        assert [paste.name for paste in search.of([NAME])] == names


@pytest.mark.kernel
def test_names_that_units_of_the_kernel_paste_are_found(kernel: KernelSetup) -> None:
    """Words of preprocessed units that none of their files has, and no command line: macros made them."""
    config = read_config(kernel.config)
    chosen = (
        "kernel/fork.c", "net/ipv4/tcp.c", "fs/ext4/super.c", "mm/slub.c", "kernel/bpf/core.c",
        "drivers/gpu/drm/nouveau/nv50_fbcon.c", "drivers/net/ethernet/mellanox/mlx5/core/cmd.c",
        "net/netfilter/nf_tables_api.c", "arch/x86/kvm/x86.c", "sound/core/pcm_native.c",
    )  # fmt: skip
    compiler = find_compiler(config)
    with open_workplace(config, kernel.source, compiler, jobs=2, say=print) as place:
        units = commands(place, chosen)
        assert sorted(units) == sorted(chosen)
        sight = Sight(place, Includes(place), units)

        def text(path: str) -> bytes:
            tree = place.source if (place.source / path).exists() else place.build
            return (tree / path).read_bytes()

        def parts(path: str) -> list[Part]:
            return (directives if path in units else chunks)(text(path))

        def macros(path: str) -> list[Macro]:
            return definitions(text(path))

        def define(words: Iterable[bytes]) -> Iterator[Macro]:
            wanted = frozenset(words)
            for path in sight.setting(wanted):
                yield from (macro for macro in macros(path) if macro.name in wanted)

        pasting = [
            (path, macro) for path in sight.containing(GLUE) for macro in macros(path) if GLUE in macro.body
        ]
        pastes = Pastes(pasting, sight.find, parts, define, sight.units, given(units.values()))
        for unit, command in units.items():
            text_of = preprocess(command, place.shadow / unit, place.build)
            assert text_of is not None
            written = set(re.findall(rb"\w+", command.encode()))
            for file in text_of.files:
                path = place.build / file
                written |= set(re.findall(rb"\w+", path.read_bytes())) if path.is_file() else set()
            made = (
                set(re.findall(rb"\b[A-Za-z_]\w*", re.sub(rb'"(?:\\.|[^"\\\n])*"', b" ", text_of.code)))
                - written
            )
            assert len(made) > 100
            names = random.Random(unit).sample(sorted(made), 25)
            found = {paste.name for paste in pastes.of(names) if paste.units & sight.units(unit)}
            assert not set(names) - found, unit

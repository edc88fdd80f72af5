# SPDX-License-Identifier: Apache-2.0
"""What depends on a structure's layout: code that a compiler makes otherwise must not be missed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from kdiff.mentions import change, mentioning
from kdiff.parts import chunks, directives
from kdiff.pointers import Kind, Name, calling, knowing, named

TAGS, VALUES = frozenset({b"item"}), frozenset({b"held"})
BEFORE = b"struct item { int id; struct item *next; long last; };\n"
AFTER = BEFORE.replace(b"int id;", b"int id; long more[3];")


def depends(text: str) -> set[str] | None:
    """What changes with a declaration, tags with `struct` in front."""
    (part,) = chunks(text.encode())
    found = knowing(part, TAGS, VALUES)
    if found is None:
        return None
    return {f"{'struct ' * (kind is Kind.LAYOUT)}{word.decode()}" for word, kind in found}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("void put(struct item *item);", set()),
        ("void put(const struct item *, int item);", set()),
        ("bool each(bool (*item)(struct item *item, void *), struct list *l);", set()),
        ("void put(struct item item);", {"put"}),
        ("void put(struct item);", {"put"}),
        ("void put(struct item a[]);", {"put"}),
        ("void put(struct other *a, int b[sizeof(struct item *)]);", {"put"}),
        ("struct item *get(int a);", {"get"}),
        ("int item(struct item *a);", {"item"}),
        ("int get(item *a, int b);", {"get"}),
        ("extern struct item *first;", {"first"}),
        ("static inline void put(struct item *i) { i->id = 1; }", {"put"}),
        ("#define FIRST(x) ((struct item *)(x))", {"FIRST"}),
        ("struct item;", set()),
        ("struct box { struct item *a, **b[2]; int c; };", {"a", "b"}),
        ("struct box { struct item __rcu *a; union { struct item const *b; }; };", {"a", "b"}),
        ("struct box { struct item a; };", {"struct box"}),
        ("struct item { int id; struct item *next, **all; };", set()),
        ("struct item { int id; union { int x; struct item *next; }; };", set()),
        ("struct item { int id; struct item *(*get)(void); };", {"get"}),
        ("struct item { int id; struct in { struct item *next; } in; };", {"next"}),
        ("struct item { int held; struct box *held; };", set()),
        ("struct box { struct item *a, b; };", {"struct box"}),
        ("struct box { struct item a[4]; };", {"struct box"}),
        ("struct box { struct { struct item a; } b; };", {"struct box"}),
        ("struct box { struct item { int a; } b; };", {"struct box", "struct item"}),
        ("struct box { char a[sizeof(struct item)]; };", {"struct box"}),
        ("struct box { LIST(struct item *a); };", {"struct box"}),
        ("struct box { int a[item]; };", {"struct box"}),
        ("struct box { item a; };", {"struct box"}),
        ("struct box { int item; struct other item[2]; struct { int a; } item; unsigned item:2; };", set()),
        ("struct box { int (*use)(struct item *i); };", set()),
        ("struct box { struct item *(*get)(struct item *i); };", {"get"}),
        ("struct box { struct item (*get)(int i); };", {"struct box"}),
        ("struct box { int (*use)(struct item i); };", {"struct box"}),
        ("int held(int held, struct other *held, struct held *a);", set()),
        ("int put(held *a, int b);", {"put"}),
        ('int put(int b) __attribute__((alias("held")));', None),
        ("int put(int b[held]);", {"put"}),
        ("held put(int b);", {"put"}),
        ("struct item *held(int held);", {"held"}),
        ("static inline int put(struct other *o) { return o->held; }", {"put"}),
        ("struct box { int a, held; struct other *held; struct { int a; } held; struct held a; };", set()),
        ("struct box { int (*held)(struct item *held); };", set()),
        ("struct box { int a[held]; };", {"struct box"}),
        ("struct box { int a[2], held[sizeof(held)]; };", {"struct box"}),
        ("struct box { unsigned a:held; };", {"struct box"}),
        ("struct box { held a; };", {"struct box"}),
        ("struct box { HELD(held); };", {"struct box"}),
        ("enum { SIZE = held };", {"SIZE"}),
        ("enum { SIZE = sizeof(struct item *) };", {"SIZE"}),
        ("DEFINE(struct item *a);", None),
        ("typedef struct item *pointer;", None),
    ],
)
def test_what_depends_on_a_layout(text: str, names: set[str] | None) -> None:
    assert depends(text) == names


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("struct box { int a; };", Kind.LAYOUT),
        ("struct box { int a; } __packed;", Kind.LAYOUT),
        ("struct __attribute__((packed)) box { int a; };", Kind.ANY),
        ("struct box { int a; } __attribute__((packed));", Kind.LAYOUT),
        ("struct box __attribute__((packed)) { int a; };", Kind.ANY),
        ("enum box { ONE = (1) };", Kind.ANY),
        ("#define box(x) (x)", Kind.ANY),
        ("extern int box;", Kind.ANY),
        ("extern int box __attribute__((unused));", Kind.ANY),
        ("int box(int box);", Kind.VALUE),
        ("static inline int box (void) { return 1; }", Kind.VALUE),
    ],
)
def test_where_what_is_declared_matters(text: str, kind: Kind) -> None:
    part = chunks(text.encode())[0]
    assert part.declares is None or dict(named(part) or ())[b"box"] is kind


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("static inline int use(int a) { return get(a); }", {"use"}),
        ("#define USE(a) get(a)", {"USE"}),
        ("#ifdef get\n#endif", set()),
        ("struct box { int get; char a[sizeof(get(1))]; };", set()),
        ("enum { GET = sizeof(get(1)), LAST = 2 };", set()),
        ("int use(int (*get)(int a));", set()),
        ("extern int get;", set()),
        ("DEFINE(get);", None),
        ("int (*use)(int a) = get;", None),
        ("static const struct box b = { .use = get };", None),
        ("static int use(int a) { return get(a); }", None),
    ],
)
def test_what_depends_on_the_body_of_a_function(text: str, names: set[str] | None) -> None:
    found = [calling(part) for part in chunks(text.encode())]
    assert (
        None in found
        if names is None
        else set(found[0] or ()) == {Name(name.encode(), Kind.CODE) for name in names}
    )


@pytest.mark.parametrize(
    ("after", "names"),
    [
        ("static inline int get(int a) { return 2; }", {Name(b"get", Kind.CODE)}),
        ("static  inline int get(int a)\n{ return 2; }\n", {Name(b"get", Kind.CODE)}),
        ("static inline long get(int a) { return 2; }", {Name(b"get", Kind.VALUE)}),
        ("static inline const int get(int a) { return 2; }", {Name(b"get", Kind.VALUE)}),
        ("static inline int get(long a) { return 2; }", {Name(b"get", Kind.VALUE)}),
        ("int get(int a);", {Name(b"get", Kind.VALUE)}),
        ("#ifdef A\nstatic inline int get(int a) { return 2; }\n#endif", {Name(b"get", Kind.VALUE)}),
        ("#define get(a) 2", {Name(b"get", Kind.VALUE), Name(b"get")}),
        ("", {Name(b"get", Kind.VALUE)}),
    ],
)
def test_when_it_is_but_the_body_that_changes(after: str, names: set[Name]) -> None:
    before = b"int a;\nstatic inline int get(int a) { return 1; }\n"
    found = change(before, b"int a;\n" + after.encode() + b"\n")
    assert found.names == names


@pytest.mark.parametrize(
    ("added", "names", "new"),
    [
        ("static inline int get(int a) { return 2; }", set(), {"get"}),
        ("struct box { int a; };", set(), {"box"}),
        ("enum { ONE, TWO };", set(), {"ONE", "TWO"}),
        ("#ifdef A\nstatic inline int get(int a) { return 2; }\n#endif", set(), {"get"}),
        ("int get(int a);", {"get"}, set()),
        ("extern int get;", {"get"}, set()),
        ("#define GET 1", {"GET"}, set()),
        ("static inline int there(int a) { return 2; }", {"there"}, set()),
        ("struct other { int a; };", {"other"}, set()),
        ("enum { FIRST, TWO };", {"FIRST", "TWO"}, set()),
        ("DEFINE(get);", None, set()),
    ],
)
def test_functions_and_types_that_are_new(added: str, names: set[str] | None, new: set[str]) -> None:
    before = b"int there(int a);\nstruct other { int a, b; };\nenum { FIRST };\n"
    found = change(before, before + added.encode() + b"\n")
    assert (found.names is None) is (names is None)
    assert {name.word.decode() for name in found.names or ()} == (names or set())
    assert {name.decode() for name in found.new} == new


CALLED = b"static inline long get(long n) { return n + 1; }\n"
CALLERS = (
    "long f(void) { return get(1); }",
    "long f(void) { return sizeof(get(1)); }",
    "long (*f)(long) = get;",
    "#define f(n) (get(n) * 2)\nlong g(long n) { return f(n); }",
    "#define f(n) get(n)\nenum { A = sizeof(f(1)) }; long g(void) { return A; }",
    "#define each(x) x(get)\n#define name(n) N_##n,\nenum { each(name) Z };\nlong g(void) { return Z; }",
    "#define each(x) x(get)\n#define call(n) n(1)\nlong g(void) { long a[] = { each(call) }; return *a; }",
    "static inline long f(long n) { return get(n); }\nlong g(void) { return f(1); }",
    "static inline long f(long n) { return get(n); }\nlong g(long n) { return n; }",
    "struct box { typeof(get(1)) a; }; long g(struct box *b) { return b->a; }",
    "struct box { long get; }; long g(struct box *b) { return b->get; }",
    "typedef typeof(get(1)) number; number g(number n) { return n; }",
    "static inline long a(long n) { long (*f)(long) = get; return f(n); }\nlong g(void) { return a(1); }",
)


@pytest.mark.parametrize("more", CALLERS)
def test_no_unit_is_missed_that_a_body_changes(more: str, tmp_path: Path) -> None:
    """The last declaration is the unit's, the others are in a header."""
    after = CALLED.replace(b"n + 1", b"n + 3")
    names = change(CALLED, after).names
    assert names == {Name(b"get", Kind.CODE)}
    *header, unit = more.encode().split(b"\n")
    texts = (b"\n".join((get, *header, unit, b"")) for get in (CALLED, after))
    codes = [compiled(tmp_path, text) for text in texts]
    files = Files({"all.h": b"\n".join((CALLED, *header, b"")), "unit.c": unit})
    parts = {path: (directives if path == "unit.c" else chunks)(text) for path, text in files.items()}
    found = mentioning(names, 1, files, parts.__getitem__, lambda words: [])
    assert codes[0] is not None
    assert found or codes[0] == codes[1]


def test_constants_and_types_do_not_change_with_a_body() -> None:
    header = (
        b"#define each(x) x(get)\nenum { each(name) LAST };\nstruct box { long get; typeof(get(1)) a; };\n"
    )
    files = Files({"all.h": CALLED + header, "unit.c": b"long f(struct box *b) { return b->a + LAST; }"})
    parts = {path: (directives if path == "unit.c" else chunks)(text) for path, text in files.items()}
    assert mentioning([Name(b"get", Kind.CODE)], 1, files, parts.__getitem__, lambda words: []) == 0


def test_what_a_condition_cuts_is_not_plain() -> None:
    cut = b"struct box {\n\tstruct item\n#ifdef A\n\t*a;\n#else\n\ta;\n#endif\n};\n"
    (part,) = (each for each in chunks(cut) if each.text.startswith(b"struct"))
    assert knowing(part, TAGS, VALUES) == named(part) == {Name(b"box", Kind.LAYOUT)}


HEADERS = (
    "struct box { struct item *held; int n; };",
    "struct box { struct item held; int n; };",
    "struct box { int n; struct item *(*get)(void); void (*put)(struct item *); };",
    "struct box { int n; struct { union { struct item *held; long x; }; } in; };",
    "struct box { struct item __rcu *held[2]; int n; };",
    "struct box { int n; }; struct outer { struct box b; struct item *held; };",
    "struct box { int n; }; extern struct item *held; struct item *item_of(struct box *);",
    "struct box { int n; }; struct item *item_of(struct box *); void use(struct item *);",
    "struct box { int n; }; extern struct item all[4]; void use(struct item *, int);",
    "struct box { void *held; int n; }; void use(struct item *);\n"
    "#define item_of(b) ((struct item *)(b)->held)",
    "struct box { void *held; int n; };\nstatic inline int last(struct box *b)\n"
    "{ struct item *i = b->held; return i->last; }",
    "struct box { int n; }; struct list { struct item first; }; extern struct list *lists;",
    "struct list { struct item *first; }; struct box { struct list l; int n; };",
)
USERS = (
    "long f(struct box *b) { return b->n; }",
    "long f(struct box *b) { return b->held->last; }",
    "long f(struct box *b) { return b->held.last; }",
    "long f(struct box *b) { return b->in.held->last; }",
    "long f(struct box *b) { return b->get()->last; }",
    "long f(struct box *b) { b->put(0); return sizeof(struct box); }",
    "long f(struct box *b) { b->put(b->get()); return 0; }",
    "long f(struct box *b) { b->put(b->get() + 1); return 0; }",
    "long f(struct box *b) { return b->held[1]->last; }",
    "struct box two[2]; struct box *f(int n) { return &two[n]; }",
    "struct box *f(struct box *b) { return b + 1; }",
    "long f(struct outer *o) { return o->held->last; }",
    "long f(struct outer *o) { return o->b.n; }",
    "long f(void) { return held->last; }",
    "long f(void) { return item_of(0)->last; }",
    "void f(struct box *b) { use(item_of(b)); }",
    "void f(struct box *b) { use(item_of(b)->next); }",
    "void f(struct box *b) { use(item_of(b) + 2); }",
    "void f(void *p) { use(p); }",
    "void f(int n) { use(all + n, n); }",
    "long f(struct box *b) { return last(b); }",
    "long f(void) { return sizeof(*lists); }",
    "long f(void) { return sizeof(struct list); }",
    "long f(struct box *b) { return b->l.first->last; }",
    "long f(struct box *b) { __auto_type i = b->l.first; return i->last; }",
    "void *f(struct box *b) { return b->l.first; }",
    "struct item *f(struct item *i) { return i->next; }",
)


class Files(dict[str, bytes]):
    """A header that one unit sees."""

    def units(self, file: str) -> int:
        return 1

    def find(self, words: Iterable[bytes]) -> dict[str, frozenset[bytes]]:
        wanted = frozenset(words)
        return {path: wanted & set(re.findall(rb"\w+", text)) for path, text in self.items()}


@pytest.mark.parametrize("header", HEADERS)
def test_no_unit_is_missed_whose_code_a_layout_changes(header: str, tmp_path: Path) -> None:
    names = change(BEFORE, AFTER).names
    assert names == {Name(b"item", Kind.LAYOUT)}
    differing, found = set(), set()
    for user in USERS:
        texts = (b"%b%b\n%b\n" % (items, header.encode(), user.encode()) for items in (BEFORE, AFTER))
        codes = [code for text in texts if (code := compiled(tmp_path, text)) is not None]
        if codes and codes[0] != codes[-1]:
            differing.add(user)
        files = Files({"all.h": BEFORE + header.encode(), "unit.c": user.encode()})
        parts = {path: (directives if path == "unit.c" else chunks)(text) for path, text in files.items()}
        if mentioning(names, 1, files, parts.__getitem__, lambda words: []):
            found.add(user)
    assert differing
    assert differing <= found
    assert found < set(USERS)


def compiled(folder: Path, text: bytes) -> bytes | None:
    """The assembler text of a unit; None if it does not compile."""
    done = subprocess.run(
        ["gcc", "-O1", "-D__rcu=", "-S", "-o", "-", "-xc", "-"],
        cwd=folder,
        input=text,
        capture_output=True,
        check=False,
    )
    return None if done.returncode else done.stdout

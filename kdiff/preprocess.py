# SPDX-License-Identifier: Apache-2.0
"""Judge whether a changed header changes what the compiler gets to see of a unit.

The unit is preprocessed with its own flags, before and after. Line markers and empty lines do not count;
values of `__LINE__` do. Where the texts differ only in declarations that leave nothing in an object (static
inline functions, prototypes, types) and the unit uses none of them, its code cannot change.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import numpy as np

_MARKER = re.compile(rb'^# \d+ "[^\n]*\n|^[ \t\f\v]*\n', re.MULTILINE)
_MARKED = re.compile(rb'^# \d+ "([^"\n]*)"', re.MULTILINE)
_TOKEN = re.compile(rb""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}();]""")
_QUOTED = re.compile(rb""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_DEEPER = np.zeros(256, "i1")
_DEEPER[[ord("("), ord("{"), ord(")"), ord("}")]] = 1, 1, -1, -1
_SIGN = _DEEPER != 0
_SIGN[ord(";")] = True
_ATTRIBUTE = re.compile(rb"__attribute__\s*\(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\)")
_HARMLESS = re.compile(
    rb"__attribute__\s*\(\((?:[\s,()]|\d+|\"[^\"]*\"|\b_*(?:gnu_inline|unused|no_instrument_function|always_inline"
    rb"|const|pure|cold|warn_unused_result|malloc|noreturn|nonnull|alloc_size|assume_aligned|format|printf|scanf"
    rb"|error|warning|deprecated)_*\b)*\)\)"
)
_TYPE = re.compile(rb"\s*(?:(?:struct|union)\s+\w+|enum\b[\w\s]*)\s*\0(?:\s|__\w+)*;\s*")
_BLOCK = re.compile(rb"\{[^{}]*\}")
_INNER = re.compile(rb"\b(?:struct|union)\s+(\w+)\s*\{|\benum\s+(\w+)\s*\{")
_ENUM = re.compile(rb"\benum\b[\w\s]*(\{[^{}]*)\}")
_VALUE = re.compile(rb"[{,]\s*(\w+)")
_FORWARD = re.compile(rb"\s*(?:struct|union|enum)\s+\w+\s*;\s*")
_FUNCTION = re.compile(rb"[\w\s*]*?[\s*](\w+)\s*\((?!\s*\*)(?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\s*;?\s*")
_VARIABLE = re.compile(rb"\s*extern\b[\w\s*]*?[\s*](\w+)\s*(?:\[[^\[\]]*\]\s*)*;\s*")
_NO_DECLARATION = frozenset({b"asm", b"__asm__", b"typeof", b"__typeof__", b"_Static_assert", b"typedef"})
_INLINE = frozenset({b"inline", b"__inline", b"__inline__", b"__always_inline"})
_STORAGE = _INLINE | {b"static", b"extern", b"const", b"volatile", b"register", b"noinline", b"asmlinkage"}
_SCALAR = re.compile(
    rb"\s*(?:void|bool|_Bool|char|short|int|long|signed|unsigned|float|double|[us](?:8|16|32|64)|\w+_t)\s*"
)
_WORD = re.compile(rb"\w+")
_CONTEXT = 300
"""Bytes of text by which the place of an edit is found again."""


@dataclass(frozen=True, slots=True)
class Text:
    """A unit as the compiler sees it: `code` without markers, `files` the names of all it was read from."""

    code: bytes
    files: frozenset[str]


def preprocess(command: str, source: Path, folder: Path) -> Text | None:
    """Run the compiler's preprocessor in `folder`; None if it fails (what it includes is not made yet)."""
    kept = [word for word in shlex.split(command) if not word.startswith("-Wp,-MMD")]
    done = subprocess.run(
        [*kept, "-E", str(source)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        check=False,
    )
    if done.returncode:
        return None
    files = frozenset(os.fsdecode(name) for name in set(_MARKED.findall(done.stdout)))
    return Text(_MARKER.sub(b"", done.stdout), files)


@dataclass(frozen=True, slots=True)
class _Edit:
    """What a header's change makes of a text: `pre`, behind the text `before`, becomes `post`."""

    before: bytes
    pre: bytes
    post: bytes
    kept: bytes
    """The declarations among them that do not change."""
    names: frozenset[bytes] | None
    """What the others declare, or None if they may leave something in an object."""


@dataclass(slots=True)
class Judge:
    """Compares texts; edits are remembered, for all units that include a header see the same one."""

    _edits: list[_Edit] = field(default_factory=list)

    def affected(self, pre: bytes, post: bytes) -> bool:
        """Whether the unit's code may differ."""
        if pre == post:
            return False
        for edit in self._edits:
            place = _place(edit, pre, post)
            if place is not None:
                break
        else:
            edit, place = _edit(pre, post)
            self._edits.append(edit)
        if edit.names is None:
            return True
        rest = b"\n".join((pre[:place], edit.kept, pre[place + len(edit.pre) :]))
        return any(re.search(rb"\b%b\b" % name, rest) for name in edit.names)


def _place(edit: _Edit, pre: bytes, post: bytes) -> int | None:
    """Where in `pre` the edit happens, if it is all that happens."""
    if not edit.before or len(post) - len(pre) != len(edit.post) - len(edit.pre):
        return None
    at = pre.find(edit.before + edit.pre) + len(edit.before)
    behind = pre[at + len(edit.pre) :]
    same = at >= len(edit.before) and post.startswith(pre[:at]) and post[at + len(edit.post) :] == behind
    return at if same and post.startswith(edit.post, at) else None


def _edit(pre: bytes, post: bytes) -> tuple[_Edit, int]:
    """The differing declarations of two texts, and where they begin."""
    start = _common(pre, post)
    shortest = min(len(pre), len(post)) - start
    end = _common(pre[len(pre) - shortest :][::-1], post[len(post) - shortest :][::-1])
    old, new = bounds(pre), bounds(post)
    begin = max(at for at in old if at <= start)
    tails = {len(post) - at for at in new if at >= len(post) - end}
    behind = max(len(pre) - at for at in old if at >= len(pre) - end and len(pre) - at in tails)
    old_parts, new_parts = (
        [
            text[left:right]
            for left, right in pairwise(at for at in bounds if begin <= at <= len(text) - behind)
        ]
        for text, bounds in ((pre, old), (post, new))
    )
    kept: list[bytes] = []
    changed: list[bytes] = []
    for what, a, b, c, d in SequenceMatcher(None, old_parts, new_parts, autojunk=False).get_opcodes():
        if what == "equal":
            kept += old_parts[a:b]
        else:
            changed += [*old_parts[a:b], *new_parts[c:d]]
    found = [declared(each) for each in changed]
    names = None if None in found else frozenset(name for names in found for name in names or ())
    before = pre[max(0, begin - _CONTEXT) : begin]
    whole = pre[begin : len(pre) - behind], post[begin : len(post) - behind]
    return _Edit(before, *whole, b"".join(kept), names), begin


def _common(a: bytes, b: bytes) -> int:
    """The length of the longest common prefix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def bounds(text: bytes) -> list[int]:
    """The offsets between external declarations, the text's start and end included, ascending.

    They end in a semicolon, or in the brace of a body that follows a parameter list.
    """
    signs = np.frombuffer(bytearray(text), "u1")
    for quoted in _QUOTED.finditer(text):
        signs[quoted.start() : quoted.end()] = 0
    places = np.flatnonzero(_SIGN[signs])
    signs = signs[places]
    inside = np.cumsum(_DEEPER[signs], dtype="i4")
    """How deep what follows each sign is."""
    ends = places[(inside == 0) & (signs == ord(";"))]
    bodies = places[(inside == 1) & (signs == ord("{"))]
    closed = places[(inside == 0) & (signs == ord("}"))]
    function = np.array([_follows_parameters(text, at) for at in bodies.tolist()], bool)
    last = np.searchsorted(bodies, closed) - 1
    ends = np.union1d(ends, closed[(last >= 0) & function[last]] if len(bodies) else closed[:0]) + 1
    found: list[int] = [0, *ends.tolist()]
    return [*found, len(text)] if found[-1] != len(text) else found


def _follows_parameters(text: bytes, brace: int) -> bool:
    return text[max(brace - _CONTEXT, 0) : brace].rstrip().endswith(b")")


def declared(declaration: bytes, *, expanded: bool = True) -> frozenset[bytes] | None:
    """What a declaration declares, if it leaves nothing in an object unless it is used; else None.

    Where macros are not `expanded` yet, any name may be one: a function needs a type and parameters that can
    be nothing else.
    """
    if not declaration.strip(b" \t\n;"):
        return frozenset()
    tokens = Counter(_TOKEN.findall(declaration))
    if b"#" in declaration or tokens[b"{"] != tokens[b"}"] or tokens[b"("] != tokens[b")"]:
        return None
    plain = _ATTRIBUTE.sub(b" ", declaration)
    if _TYPE.fullmatch(_folded(plain)):
        inner = (name for found in _INNER.findall(plain) for name in found)
        values = (name for body in _ENUM.findall(plain) for name in _VALUE.findall(body))
        return frozenset(filter(None, (*inner, *values)))
    if _FORWARD.fullmatch(declaration):
        return frozenset()
    head, brace, _ = declaration.partition(b"{")
    if not all(_HARMLESS.fullmatch(attribute) for attribute in _ATTRIBUTE.findall(head)):
        return None
    bare = _ATTRIBUTE.sub(b" ", head)
    words = set(_WORD.findall(bare))
    if words & _NO_DECLARATION or b"=" in bare:
        return None
    function = _FUNCTION.fullmatch(bare)
    if function is None:
        variable = _VARIABLE.fullmatch(bare)
        return frozenset({variable[1]}) if variable is not None and not brace else None
    if brace and not (b"static" in words and words & _INLINE):
        return None
    if not expanded and not _is_plain(bare):
        return None
    return frozenset({function[1]})


def _is_plain(head: bytes) -> bool:
    """Whether text that looks like a function's head is no call of a macro that declares something else."""
    before, _, parameters = head.partition(b"(")
    inside = re.sub(rb"\([^()]*\)", b" * ", parameters.rpartition(b")")[0])
    return len(set(_WORD.findall(before)) - _STORAGE) > 1 and all(
        not each.strip()
        or b"*" in each
        or b"..." in each
        or len(_WORD.findall(each)) > 1
        or _SCALAR.fullmatch(each)
        for each in inside.split(b",")
    )


def _folded(text: bytes) -> bytes:
    """The text with a null byte for each outermost pair of braces."""
    count = 1
    while count:
        text, count = _BLOCK.subn(b"\0", text)
    return text

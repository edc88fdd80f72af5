# SPDX-License-Identifier: Apache-2.0
"""Read a unified diff, as `diff -u` or git write it.

Out: a `Patch`, the hunks of each file it changes, adds, deletes or renames. What a live update cannot be
made from (binary files, languages other than C) is refused here, and nothing that unidiff would skip is
overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk as DiffHunk
from unidiff.patch import PatchedFile, PatchSet

from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.texts import FileChange, Hunk, decode, split_lines
from kdiff.values import dataclass

DEV_NULL = "/dev/null"
NO_CODE = re.compile(
    r"(.*/)?\.gitignore|Documentation/.*\.(rst|txt|yaml)|tools/testing/.*|MAINTAINERS|CREDITS|\.mailmap"
)
"""Files of a kernel tree that no part of a kernel is made from: they are left out, not refused."""
_SOURCES = re.compile(r".*\.(c|h|inc|S)|(.*/)?(Makefile|Kbuild|Kconfig[^/]*)")
_GLOBAL = re.compile(r"Makefile|Kbuild|scripts/.*|arch/[^/]+/Makefile")
"""Makefiles that decide how all units are built."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A source patch: `text` is the file as it was given."""

    name: str
    text: bytes
    changes: tuple[FileChange, ...]
    ignored: tuple[str, ...]
    """Files it names that no code is made from."""
    fuzz: int = 0
    """How many lines of a hunk's context need not agree."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files it changes or makes, each once, sorted."""
        return tuple(sorted({change.path for change in self.changes}))


def read_patch(path: Path, strip: int = 1, fuzz: int = 0) -> Patch:
    """Read a patch file; `strip` leading parts are cut off the names in it, as patch -p does."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KdiffError(
            "patch.missing", f"cannot read the patch: {error.strerror}", place=str(path)
        ) from error
    return replace(parse_patch(data, str(path), strip), fuzz=fuzz)


def parse_patch(data: bytes, name: str, strip: int = 1) -> Patch:
    """Parse a patch; KdiffError if it is broken, Refused if it changes what kdiff cannot update."""
    lines = _without_carriage_returns(split_lines(decode(data)))
    if not "".join(lines).strip():
        raise _not_a_diff("the patch is empty", name)
    try:
        parts = list(PatchSet(iter(lines)))
    except (UnidiffParseError, AssertionError, IndexError, ValueError) as error:
        raise _not_a_diff(f"not a well-formed unified diff: {error}".strip().split("\n")[0], name) from error
    _no_stray_lines(parts, lines, name)
    changes: list[FileChange] = []
    ignored: list[str] = []
    refusals: list[Refusal] = []
    for part in parts:
        path = _path(part, strip, name)
        if NO_CODE.fullmatch(path):
            ignored.append(path)
            continue
        refusal = _refusal(part, path, strip)
        if refusal is not None:
            refusals.append(refusal)
            continue
        change = _change(part, path, strip)
        if len(part) or change.before != change.after:
            changes.append(change)
    if refusals:
        raise Refused(*refusals)
    if not changes:
        names = f"only {', '.join(ignored)}" if ignored else "no hunk"
        raise _not_a_diff(f"the patch changes no code ({names})", name)
    return Patch(name, data, tuple(changes), tuple(ignored))


def _not_a_diff(message: str, name: str) -> KdiffError:
    remedy = "give a unified diff, as `git diff` or `diff -up` write it"
    return KdiffError("patch.not_a_diff", message, place=name, remedy=remedy)


def _without_carriage_returns(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Undo a transport that made all line ends CRLF; a patch that only contains CRLF lines keeps them."""
    headers = [line for line in lines if line.startswith(("--- ", "+++ ", "@@ "))]
    if headers and all(line.endswith("\r\n") for line in headers):
        return tuple(line[:-2] + "\n" if line.endswith("\r\n") else line for line in lines)
    return lines


def _no_stray_lines(parts: Sequence[PatchedFile], lines: Sequence[str], name: str) -> None:
    """Refuse to overlook anything: unidiff takes what it cannot parse for a comment."""
    taken = [
        {line.diff_line_no for line in hunk if line.diff_line_no is not None}
        for part in parts
        for hunk in part
    ]
    inside = {number for numbers in taken for number in numbers}
    headers = {min(numbers) - 1 for numbers in taken if numbers}
    behind = {max(numbers) + 1 for numbers in taken if numbers}
    for number, line in enumerate(lines, 1):
        if number in inside or number in headers:
            continue
        if line.startswith("@@"):
            raise _not_a_diff(f"line {number} is not a well-formed hunk header", name)
        longer = line.startswith(("+", "-", " ")) and not line.startswith(("--- ", "+++ "))
        if number in behind and longer and line.rstrip() != "--":
            raise _not_a_diff(f"line {number}: the hunk before it is longer than its header says", name)


def _path(part: PatchedFile, strip: int, name: str) -> str:
    """The file a part of a patch is about; for a renamed file the new name."""
    given = part.target_file if part.target_file != DEV_NULL else part.source_file
    path = _strip(given, strip)
    pure = PurePosixPath(path)
    absolute = given.startswith("/") or path.startswith("/")
    if absolute or not pure.name or ".." in pure.parts or pure.as_posix() != path:
        raise KdiffError(
            "patch.outside",
            f"the patch names {given!r}, which is no file below the kernel source",
            place=name,
            remedy=f"make it with names that need -p{strip}, such as a/net/ipv4/tcp.c",
        )
    return path


def _strip(given: str, strip: int) -> str:
    return "/".join(given.split("/")[strip:])


def _change(part: PatchedFile, path: str, strip: int) -> FileChange:
    """Both names of the file, and the hunks."""
    hunks = tuple(_hunk(hunk, path) for hunk in part)
    if _adds(part):
        return FileChange(None, path, hunks)
    if _removes(part):
        return FileChange(path, None, hunks)
    was = _strip(part.source_file, strip)
    return FileChange(was if _git_says(part) else path, path, hunks, _git_says(part) == "copy")


def _adds(part: PatchedFile) -> bool:
    return part.source_file == DEV_NULL or part.is_added_file


def _removes(part: PatchedFile) -> bool:
    return part.target_file == DEV_NULL or part.is_removed_file


def _git_says(part: PatchedFile) -> str:
    """`rename` or `copy` if git's header says so."""
    found = re.search(r"^(rename|copy) from ", str(part.patch_info or ""), re.MULTILINE)
    return found[1] if found else ""


def _refusal(part: PatchedFile, path: str, strip: int) -> Refusal | None:
    """Say why this part is beyond kdiff, if it is."""
    wider = "make an update from a patch to .c, .h and .S files only"
    if part.is_binary_file:
        return Refusal("patch.binary", path, "the patch changes a binary file", wider)
    other = (
        not _adds(part) and not _removes(part) and _backup(_strip(part.source_file, strip)) != _backup(path)
    )
    if other and not _git_says(part):
        return Refusal(
            "patch.renamed_file", path,
            f"the patch names two files, {part.source_file} and this one, without git's line of a rename",
            "make it with `git diff -M`",
        )  # fmt: skip
    if _GLOBAL.fullmatch(path):
        reason = "the patch changes a makefile or script that decides how all of the kernel is built"
        return Refusal("patch.global_makefile", path, reason, "leave it out of the patch")
    if not _SOURCES.fullmatch(path) or path.endswith(".lds.S"):
        reason = (
            "the patch changes a file that is no source of units, and what depends on it is not found yet"
        )
        return Refusal("patch.not_c", path, reason, wider)
    return None


def _backup(path: str) -> str:
    """`net/tcp.c.orig` is what `net/tcp.c` was called while somebody made the patch."""
    return re.sub(r"(\.orig|\.old|~)$", "", path)


def _hunk(hunk: DiffHunk, path: str) -> Hunk:
    """Turn unidiff's lines into before and after; "\\ No newline" takes the end off the line before it."""
    body: list[tuple[str, str]] = []
    for line in hunk:
        if line.line_type == "\\" and body:
            body[-1] = (body[-1][0], body[-1][1].removesuffix("\n"))
        elif line.line_type in {" ", "+", "-"}:
            body.append((line.line_type, line.value))
    before: list[str] = []
    after: list[str] = []
    kept: list[tuple[int, int]] = []
    for kind, value in body:
        if kind == " ":
            kept.append((len(before), len(after)))
        if kind != "+":
            before.append(value)
        if kind != "-":
            after.append(value)
    kinds = "".join(kind for kind, _ in body)
    start = hunk.source_start if before else hunk.source_start + 1
    leading, trailing = len(kinds) - len(kinds.lstrip(" ")), len(kinds) - len(kinds.rstrip(" "))
    return Hunk(
        start, tuple(before), tuple(after), tuple(kept), leading, trailing, f"{path}:{hunk.source_start}"
    )

# SPDX-License-Identifier: Apache-2.0
"""What a patch makes of a source tree, in memory.

In: a tree and a `Patch`. Out: an `Edit` by path, and from those the files that the compiler is shown, with
line numbers pinned or as they are. A file that is renamed is two edits: one path goes, another one comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from kdiff.errors import KdiffError
from kdiff.lines import pin_lines
from kdiff.patch import Patch
from kdiff.texts import FileChange, Patched, apply_change, decode, encode, pristine
from kdiff.values import dataclass

Files = Mapping[str, bytes | None]
"""Path below the tree -> contents, None where there is no file."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One file: `pristine` is None if it is new, `patched` if it is deleted; `was`: its former name."""

    pristine: bytes | None
    patched: Patched | None
    was: str = ""


def patch_texts(source: Path, patch: Patch) -> Mapping[str, Edit]:
    """Apply a patch to the files of `source` in memory; KdiffError `patch.*` if it does not fit them."""
    edits: dict[str, Edit] = {}
    for change in patch.changes:
        _apply(change, edits, source, patch)
    return MappingProxyType(dict(sorted(edits.items())))


def _apply(change: FileChange, edits: dict[str, Edit], source: Path, patch: Patch) -> None:
    old = _edit(source, change.before, edits, patch) if change.before else Edit(None, pristine(""))
    if old.patched is None:
        raise _missing(change.before or "", "the patch itself has deleted it", patch)
    text = apply_change(change, old.patched, patch.fuzz)
    if change.after is None:
        if text.lines:
            raise KdiffError(
                "patch.does_not_apply", "the patch deletes the file, and lines of it would be left",
                place=change.path, remedy="make the patch against exactly this kernel's source",
            )  # fmt: skip
        edits[change.path] = replace(old, patched=None)
        return
    if change.before == change.after:
        edits[change.path] = replace(old, patched=text)
        return
    there = edits.get(change.after)
    if (source / change.after).exists() and (there is None or there.patched is not None):
        raise KdiffError(
            "patch.file_exists", f"the patch makes {change.after}, and the kernel source has it already",
            place=patch.name, remedy="check that the patch is not in the source already",
        )  # fmt: skip
    _inside(source, change.after, patch)
    was = ""
    if change.before and not change.copies:
        edits[change.before] = replace(old, patched=None)
        was = old.was or change.before
    else:  # none of its lines has a number that code was compiled with
        text = replace(text, origin=(None,) * len(text.lines))
    edits[change.after] = Edit(there.pristine if there else None, text, was)


def _edit(source: Path, path: str, edits: Mapping[str, Edit], patch: Patch) -> Edit:
    if path in edits:
        return edits[path]
    _inside(source, path, patch)
    try:
        data = (source / path).read_bytes()
    except OSError as error:
        raise _missing(path, str(error.strerror), patch) from error
    return Edit(data, pristine(decode(data)))


def _inside(source: Path, path: str, patch: Patch) -> None:
    if not (source / path).resolve().is_relative_to(source.resolve()):
        raise KdiffError("patch.outside", f"{path} leads out of the kernel source", place=patch.name)


def _missing(path: str, why: str, patch: Patch) -> KdiffError:
    return KdiffError(
        "patch.no_such_file",
        f"the patch changes {path}, which the kernel source has not got: {why}",
        place=patch.name,
        remedy="check that the patch is for this kernel, and that its names need -p1 (a/net/ipv4/tcp.c)",
    )


def versions(edits: Mapping[str, Edit]) -> tuple[Files, Files]:
    """The patched files that compilers and make read, with line numbers pinned, and as they are."""
    pinned: dict[str, bytes | None] = {}
    plain: dict[str, bytes | None] = {}
    for path, edit in edits.items():
        if is_kconfig(path):
            continue
        plain[path] = None if edit.patched is None else encode(edit.patched.text)
        pinned[path] = plain[path]
        if edit.patched is not None and path.endswith((".c", ".h", ".inc", ".S")):
            name = f'#line 1 "{edit.was}"\n' if edit.was else ""  # what __FILE__ was
            pinned[path] = encode(name + pin_lines(edit.patched.text, edit.patched.origin))
    return pinned, plain


def is_kconfig(path: str) -> bool:
    """Whether a file is read by Kconfig."""
    return PurePosixPath(path).name.startswith("Kconfig")

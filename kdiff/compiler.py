# SPDX-License-Identifier: Apache-2.0
"""Find the compiler that a kernel was built with.

Equal source gives equal code only with an equal compiler, so the first line of `--version` must agree
with CONFIG_CC_VERSION_TEXT. The name that line starts with is the name of the program and says nothing:
`gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0` and `gcc (Debian 12.2.0-14+deb12u1) 12.2.0` are one compiler.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from kdiff.confdir import Config
from kdiff.errors import KdiffError, Refusal, Refused
from kdiff.values import dataclass


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that was found: the words of make's CC, and the first line of its --version."""

    command: tuple[str, ...]
    text: str


def find_compiler(config: Config, *, allow_mismatch: bool = False) -> Compiler:
    """Return the kernel's compiler; Refused `compiler.mismatch` if this machine has another.

    With `allow_mismatch` the first compiler there is will do: run-pre matching then decides.
    """
    found: list[Compiler] = []
    for command in _candidates(config):
        text = _version_line(command)
        if text is None:
            continue
        compiler = Compiler(command, text)
        if _identity(text) == _identity(config.compiler):
            return compiler
        found.append(compiler)
    if not found:
        tried = ", ".join(" ".join(command) for command in _candidates(config))
        raise KdiffError(
            "compiler.missing",
            f"the kernel was built with {config.compiler!r}; no compiler is installed here (tried {tried})",
            remedy=f"install {_package(config.compiler)}",
        )
    if allow_mismatch:
        return found[0]
    raise Refused(
        Refusal(
            "compiler.mismatch",
            str(config.directory / ".config"),
            f"the kernel was built with {config.compiler!r}, but {' '.join(found[0].command)}"
            f" here is {found[0].text!r}",
            f"install {_package(config.compiler)} in that version, or leave the decision to run-pre matching"
            " with --allow-compiler-mismatch",
            tuple(f"{' '.join(each.command)}: {each.text}" for each in found[1:]),
        )
    )


def find_assembler(compiler: Compiler) -> str:
    """The program that a compiler hands its assembly to; KdiffError `tool.missing`."""
    command = [*compiler.command, "-print-prog-name=as"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = shutil.which(done.stdout.strip() or "as")
    if found is None:
        raise KdiffError("tool.missing", "the assembler is not installed", remedy="install binutils")
    return found


def _candidates(config: Config) -> Iterator[tuple[str, ...]]:
    """What to try; a CC in the flags is the only one."""
    if config.flags.cc:
        yield config.flags.cc
        return
    name = config.compiler.split()[0]
    plain = _package(config.compiler)
    prefix = config.flags.value("CROSS_COMPILE")
    major = config.compiler.split()[-1].split(".")[0]
    family = re.sub(r"-[\d.]+$", "", plain)
    seen: set[str] = set()
    for each in (prefix + plain, name, plain, prefix + family, f"{prefix}{family}-{major}"):
        if each not in seen and not (prefix and not each.startswith(prefix)):
            seen.add(each)
            yield (each,)


def _package(text: str) -> str:
    """The program's name without the triplet of a cross compiler; Debian's package has the same name."""
    return re.sub(r"^\w+(-\w+)+-(?=(gcc|clang)\b)", "", text.split()[0])


def _identity(text: str) -> str:
    return text.partition(" ")[2].strip()


def _version_line(command: tuple[str, ...]) -> str | None:
    """The first line of --version, or None if the program is not there."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True, env=None, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n", 1)[0].strip() or None

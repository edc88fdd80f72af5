# SPDX-License-Identifier: Apache-2.0
"""Read a CONFDIR: what the kernel that is to be updated was configured and built with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from kdiff.errors import KdiffError
from kdiff.values import dataclass

SETUP = "make a configuration directory with `kdiff setup`"
_HEADER = re.compile(r"^# Linux/(\S+) (\S+) Kernel Configuration$", re.MULTILINE)
_OPTION = re.compile(r"^(CONFIG_\w+)=(.*)$", re.MULTILINE)
_UTS_RELEASE = re.compile(r'^#define UTS_RELEASE "([^"]+)"', re.MULTILINE)
_OURS = frozenset({"O", "KBUILD_OUTPUT", "M", "KBUILD_EXTMOD", "KERNELRELEASE", "MAKEFILES"})


@dataclass(frozen=True, slots=True)
class Flags:
    """Extra make arguments, the two that kdiff must know taken out."""

    cc: tuple[str, ...]
    """The words of CC=, empty if not given."""
    cflags: str
    """What KCFLAGS= asks for."""
    others: tuple[str, ...]

    def value(self, name: str) -> str:
        """The value of a variable among `others`, or the empty string."""
        for word in reversed(self.others):
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return ""


@dataclass(frozen=True, slots=True)
class Config:
    """One CONFDIR."""

    directory: Path
    text: str
    options: Mapping[str, str]
    """`CONFIG_` names to values as written (`y`, `m`, `"text"`, `42`); unset names are absent."""
    arch: str
    """The kernel's own name of its architecture: `x86`."""
    version: str
    """Of the source: `6.1.192`."""
    release: str
    """Of the kernel, as uname -r prints it: `6.1.0-56-amd64`."""
    compiler: str
    """CONFIG_CC_VERSION_TEXT: `gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0`."""
    flags: Flags
    headers: Path
    system_map: Path


def read_config(directory: Path) -> Config:
    """Read and check a CONFDIR; KdiffError `config.*` names the file that is wrong."""
    if not directory.is_dir():
        raise KdiffError("config.missing", "no such directory", place=str(directory), remedy=SETUP)
    text = _read(directory / ".config")
    header = _HEADER.search(text)
    options = parse_options(text)
    compiler = options.get("CONFIG_CC_VERSION_TEXT", "").strip('"')
    if header is None or not compiler:
        what = "CONFIG_CC_VERSION_TEXT" if header else "the line `# Linux/ARCH VERSION Kernel Configuration`"
        raise KdiffError(
            "config.unreadable", f"{what} is missing", place=str(directory / ".config"), remedy=SETUP
        )
    system_map = directory / "System.map"
    if not system_map.is_file():
        raise KdiffError("config.missing", "no such file", place=str(system_map), remedy=SETUP)
    return Config(
        directory=directory,
        text=text,
        options=options,
        arch=header[1],
        version=header[2],
        release=_release(directory / "build"),
        compiler=compiler,
        flags=_flags(directory / "flags"),
        headers=directory / "build",
        system_map=system_map,
    )


def parse_options(text: str) -> Mapping[str, str]:
    """The options that a .config sets."""
    return MappingProxyType({name: value for name, value in _OPTION.findall(text) if value != "n"})


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise KdiffError(
            "config.missing", f"cannot read it: {error.strerror}", place=str(path), remedy=SETUP
        ) from error


def _release(headers: Path) -> str:
    """From utsrelease.h, which modules are built with; a distribution's kernel.release may say less."""
    if not headers.is_dir():
        raise KdiffError(
            "config.missing", "no prepared kernel headers here", place=str(headers), remedy=SETUP
        )
    uts = headers / "include/generated/utsrelease.h"
    if uts.is_file():
        found = _UTS_RELEASE.search(_read(uts))
        if found:
            return found[1]
    release = headers / "include/config/kernel.release"
    if release.is_file():
        return _read(release).strip()
    raise KdiffError(
        "config.missing",
        "the headers are not prepared: neither this file nor include/config/kernel.release names a release",
        place=str(uts),
        remedy=SETUP,
    )


def _flags(path: Path) -> Flags:
    if not path.exists():
        return Flags((), "", ())
    try:
        words = shlex.split(_read(path), comments=True)
        cc: tuple[str, ...] = ()
        cflags: list[str] = []
        others: list[str] = []
        for word in words:
            name, equals, value = word.partition("=")
            if not word.startswith("-") and (not equals or name in _OURS):
                raise ValueError(f"{word!r} is not an argument that kdiff can pass on to make")
            if name == "CC":
                cc = tuple(shlex.split(value))
            elif name == "KCFLAGS":
                cflags.append(value)
            else:
                others.append(word)
    except ValueError as error:
        remedy = "write VARIABLE=value words, quoted as for a shell"
        raise KdiffError("config.flags", str(error), place=str(path), remedy=remedy) from error
    return Flags(cc, " ".join(cflags), tuple(others))

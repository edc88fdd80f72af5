# SPDX-License-Identifier: Apache-2.0
"""What apt knows of a package, and downloading it. Packages are verified by apt, never by us alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

from kdiff.api import KdiffError, Say

UPDATE = "run `apt-get update` as root and try again"


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one package as apt could download it."""

    name: str
    version: str
    size: int
    sha256: str
    file: str
    """The name apt gives the downloaded file."""
    depends: tuple[str, ...]
    """Names only; the first of alternatives."""

    @property
    def megabytes(self) -> int:
        return round(self.size / 1e6)


def architecture() -> str:
    """Debian's name for this machine's architecture: `amd64`."""
    return _output("dpkg", "--print-architecture").strip()


def known(name: str) -> tuple[Package, ...]:
    """Every version of a package that apt can download, newest first; empty if there is none."""
    result = _run("apt-cache", "show", name)
    if result.returncode:
        return ()
    stanzas = (_stanza(text) for text in re.split(r"\n\n+", result.stdout) if text.strip())
    found = {
        fields["Version"]: _package(fields)
        for fields in stanzas
        if fields.get("Package") == name and "Filename" in fields
    }
    return tuple(sorted(found.values(), key=cmp_to_key(_compare), reverse=True))


def candidate(name: str) -> Package:
    """The version apt would install."""
    policy = re.search(r"Candidate: (\S+)", _output("apt-cache", "policy", name))
    for package in known(name):
        if policy and package.version == policy[1]:
            return package
    raise unknown_kernel(name)


def kernels() -> tuple[str, ...]:
    """Every kernel release that apt knows an image for, metapackages left out."""
    names = _output("apt-cache", "pkgnames", "linux-image-").split()
    release = re.compile(rf"linux-image-(\d+\.\d+\.\d.*-{re.escape(architecture())})")
    found = (release.fullmatch(name) for name in names)
    return tuple(sorted({match[1] for match in found if match}, key=_natural))


def unknown_kernel(name: str) -> KdiffError:
    """The error for a package that apt does not know, with what it does know of the same flavour."""
    alike = [release for release in kernels() if _flavour(release) == _flavour(name)]
    served = alike or kernels()
    if not served:
        return KdiffError("setup.package_lists", "apt knows no kernel at all", remedy=UPDATE)
    return KdiffError(
        "setup.package",
        f"apt serves no {name}; it serves the kernels {', '.join(served)}",
        remedy=f"choose one of them with --kernel, or {UPDATE}",
    )


def not_older(version: str, than: str) -> bool:
    return _run("dpkg", "--compare-versions", version, "ge", than).returncode == 0


def download(package: Package, folder: Path, say: Say) -> Path:
    """Return the package's file in `folder`; one that is there and whole is not downloaded again."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / package.file
    if _whole(file, package):
        return file
    say(f"downloading {package.name} {package.version} ({package.megabytes} MB)")
    file.unlink(missing_ok=True)
    sandbox = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
    command = ("apt-get", "-qq", *sandbox, "download", f"{package.name}={package.version}")
    result = _run(*command, directory=folder)
    if result.returncode or not _whole(file, package):
        raise KdiffError(
            "setup.download",
            f"cannot download {package.name} {package.version}:"
            f" {result.stderr.strip() or 'the file is not whole'}",
            place=str(folder),
            remedy=f"check the network and the disk; if the package is gone, {UPDATE}",
        )
    return file


def _whole(file: Path, package: Package) -> bool:
    if not file.is_file() or file.stat().st_size != package.size:
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == package.sha256


def _stanza(text: str) -> Mapping[str, str]:
    lines = (line.partition(":") for line in text.splitlines() if line[:1].strip())
    return {name: value.strip() for name, _, value in lines}


def _package(fields: Mapping[str, str]) -> Package:
    depends = (each.split("|")[0].split()[0] for each in fields.get("Depends", "").split(",") if each.strip())
    version = fields["Version"]
    return Package(
        name=fields["Package"],
        version=version,
        size=int(fields["Size"]),
        sha256=fields["SHA256"],
        file=f"{fields['Package']}_{version.replace(':', '%3a')}_{fields['Architecture']}.deb",
        depends=tuple(depends),
    )


def _compare(one: Package, other: Package) -> int:
    if one.version == other.version:
        return 0
    return 1 if not_older(one.version, other.version) else -1


def _flavour(release: str) -> str:
    """`rt-amd64` of `6.1.0-56-rt-amd64`."""
    return re.sub(r".*\d-(?=[a-z])", "", release)


def _natural(release: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", release))


def _output(*command: str) -> str:
    result = _run(*command)
    if result.returncode:
        raise KdiffError("setup.apt", f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


def _run(*command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise KdiffError(
            "setup.tool",
            f"no {command[0]} on this machine",
            remedy="set up Debian's kernels on a Debian system",
        )
    return subprocess.run(
        command, capture_output=True, text=True, cwd=directory, env={**os.environ, "LC_ALL": "C"}, check=False
    )

# SPDX-License-Identifier: Apache-2.0
"""The running kernel, set up as a user would, and the source that fixes it, from Debian's packages."""

from __future__ import annotations

import gzip
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kdiff_distro_debian import apt, layout
from releaselab import Side, fetch, say

from kdiff import registry, setup
from kdiff.distribution import KernelSetup

DOCUMENT = "./usr/share/doc/linux-source-6.1/changelog.Debian.gz"


@dataclass(frozen=True, slots=True)
class Trees:
    """`kernel` runs; `fixed` is the source that mends it, `changelog` what Debian says of that."""

    before: str
    after: str
    kernel: KernelSetup
    fixed: Path
    changelog: str

    @property
    def store(self) -> Path:
        """Where all that a run makes is kept."""
        return setup.cache() / "corpus" / f"{self.before}_{self.after}"


def trees(before: str, after: str) -> Trees:
    """Everything for two versions of linux-source-6.1, such as 6.1.176-1 and 6.1.187-1."""
    plugins = registry.load()
    wanted = setup.choose(plugins, abi_of(before), None)
    kernel = setup.make(plugins, wanted, say)
    side = Side(after)
    package = fetch(side)
    layout.unpack_source(package, side.root, say)
    return Trees(before, after, kernel, side.source, _changelog(package))


def abi_of(version: str) -> str:
    """The kernel release whose image has that package version, of the plain flavour: `6.1.0-50-amd64`."""
    flavour = f"-{apt.architecture()}"
    for release in apt.kernels():
        plain = release.removesuffix(flavour).replace(".", "").replace("-", "").isdigit()
        if plain and any(each.version == version for each in apt.known(f"linux-image-{release}")):
            return release
    raise SystemExit(f"apt serves no kernel image of version {version}; it serves {', '.join(apt.kernels())}")


def _changelog(package: Path) -> str:
    archive = subprocess.run(("dpkg-deb", "--fsys-tarfile", str(package)), stdout=subprocess.PIPE, check=True)
    done = subprocess.run(
        ("tar", "-xO", DOCUMENT),
        input=archive.stdout,
        stdout=subprocess.PIPE,
        env=dict(os.environ),
        check=True,
    )
    return gzip.decompress(done.stdout).decode()

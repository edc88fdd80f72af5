# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels, from Debian's own packages: image, headers, kbuild and source at one version.

Nothing is installed and no root is needed: packages are downloaded by apt, which verifies them, and
unpacked side by side. What does it is imported only when a kernel is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kdiff.api import hookimpl

if TYPE_CHECKING:
    from kdiff.api import Distribution, KernelSetup, Say


class Debian:
    """Satisfies `Distribution`."""

    id = "debian"

    def newest(self) -> str:
        """The kernel that the metapackage linux-image-ARCH stands for in the chosen release."""
        from kdiff_distro_debian import apt

        metapackage = apt.candidate(f"linux-image-{apt.architecture()}")
        for name in metapackage.depends:
            if name.startswith("linux-image-"):
                return name.removeprefix("linux-image-")
        raise apt.unknown_kernel(metapackage.name)

    def serves(self, abi: str) -> bool:
        from kdiff_distro_debian import apt

        return bool(apt.known(f"linux-image-{abi}"))

    def setup(self, abi: str, dest: Path, say: Say) -> KernelSetup:
        from kdiff_distro_debian import apt, layout
        from kdiff_distro_debian.choice import choose

        running = os.uname()
        packages = choose(abi, prefer=running.version if running.release == abi else "")
        folder = dest / "packages"
        files = [apt.download(package, folder, say) for package in packages.all()]
        unpacked = dict(zip(packages.all(), files, strict=True))
        layout.unpack([unpacked[each] for each in packages.unpacked()], dest, say)
        layout.unpack_source(unpacked[packages.source], dest, say)
        return layout.arrange(abi, packages.image.version, dest)


@hookimpl
def kdiff_distributions() -> Iterable[Distribution]:
    return (Debian(),)

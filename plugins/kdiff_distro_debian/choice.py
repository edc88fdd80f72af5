# SPDX-License-Identifier: Apache-2.0
"""Which packages belong to one kernel.

The image says the version. The headers package of that version names its common part and its kbuild. The
source package (linux-source-6.1) carries the series in its name and is served in several versions at
once: only the image's own will do. Kbuild's tools may be younger, never older (Debian's own dependency).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdiff.api import KdiffError
from kdiff_distro_debian import apt
from kdiff_distro_debian.apt import Package


@dataclass(frozen=True, slots=True)
class Packages:
    """Everything one kernel needs."""

    image: Package
    headers: Package
    common: Package
    kbuild: Package
    source: Package

    def unpacked(self) -> tuple[Package, ...]:
        return (self.image, self.headers, self.common, self.kbuild)

    def all(self) -> tuple[Package, ...]:
        return (*self.unpacked(), self.source)


def choose(abi: str, prefer: str = "") -> Packages:
    """Return the packages of a kernel release; of several versions the one that the text `prefer` names.

    `prefer`: the running kernel's version text, which ends in `Debian 6.1.192-2 (date)`. KdiffError if one
    of them is not served, with what is.
    """
    images = apt.known(f"linux-image-{abi}")
    if not images:
        raise apt.unknown_kernel(f"linux-image-{abi}")
    image = next((each for each in images if f"Debian {each.version} " in f"{prefer} "), images[0])
    headers = _exactly(f"linux-headers-{abi}", image)
    kbuild = _depended(headers, r"linux-kbuild-.+")
    series = re.match(r"\d+\.\d+", kbuild.removeprefix("linux-kbuild-"))
    if series is None:
        raise KdiffError("setup.package", f"cannot tell the kernel series from {kbuild}", place=headers.name)
    return Packages(
        image=image,
        headers=headers,
        common=_exactly(_depended(headers, r"linux-headers-.+-common(-rt)?"), image),
        kbuild=_not_older(kbuild, image),
        source=_exactly(f"linux-source-{series[0]}", image),
    )


def _depended(package: Package, pattern: str) -> str:
    for name in package.depends:
        if re.fullmatch(pattern, name):
            return name
    raise KdiffError("setup.package", f"depends on nothing like {pattern}", place=package.name)


def _exactly(name: str, image: Package) -> Package:
    served = apt.known(name)
    for package in served:
        if package.version == image.version:
            return package
    raise _missing(name, image.version, image, served)


def _not_older(name: str, image: Package) -> Package:
    served = apt.known(name)
    fitting = [package for package in served if apt.not_older(package.version, image.version)]
    if not fitting:
        raise _missing(name, f"{image.version} or newer", image, served)
    return fitting[-1]


def _missing(name: str, wanted: str, image: Package, served: tuple[Package, ...]) -> KdiffError:
    listed = ", ".join(package.version for package in served) or "none"
    return KdiffError(
        "setup.package_version",
        f"{image.name} is {image.version}, but apt does not serve {name} {wanted}; it serves {listed}",
        remedy=f"choose a newer kernel with --kernel, or {apt.UPDATE}",
    )

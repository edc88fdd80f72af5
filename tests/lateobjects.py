# SPDX-License-Identifier: Apache-2.0
"""Objects of single units of a kernel whose Kbuild runs objtool over all of vmlinux only (IBT).

kdiff refuses such kernels (`build.late_objtool`), but what they write over their code can be tested all the
same: objtool runs over each object here, with the options of scripts/Makefile.lib, as if it were the whole.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdiff.distribution import KernelSetup
from kdiff.setup import cache

OPTIONS = (
    *("--hacks=jump_label", "--hacks=noinstr", "--hacks=skylake", "--ibt", "--orc", "--retpoline"),
    *("--rethunk", "--sls", "--static-call", "--uaccess", "--prefix=16", "--link"),
)
UNSIGNED = (
    (r"CONFIG_MODULE_SIG_KEY=.*", 'CONFIG_MODULE_SIG_KEY=""'),
    (r"CONFIG_MODULE_SIG_ALL=y", "# CONFIG_MODULE_SIG_ALL is not set"),
    (r"CONFIG_SYSTEM_TRUSTED_KEYS=.*", 'CONFIG_SYSTEM_TRUSTED_KEYS=""'),
)
COMPILER = "gcc-12"


def compiled(kernel: KernelSetup, units: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Each unit's name and object."""
    build = cache() / "late" / kernel.abi
    make = (
        *("make", "-s", "-j2", "-C", kernel.source, f"O={build}", f"CC={COMPILER}", f"HOSTCC={COMPILER}"),
        *(f"KERNELRELEASE={kernel.abi}", "KCFLAGS=-ffunction-sections -fdata-sections"),
    )
    if not (build / "tools/objtool/objtool").exists():
        build.mkdir(parents=True, exist_ok=True)
        (build / ".config").write_text(unsigned((kernel.config / ".config").read_text()))
        for goal in ("olddefconfig", "prepare"):
            subprocess.run((*make, goal), check=True)
    targets = [f"{unit.removesuffix('.c')}.o" for unit in units]
    subprocess.run((*make, *targets), check=True)
    for unit, target in zip(units, targets, strict=True):
        yield unit, finished(build, target, OPTIONS)


def finished(build: Path, target: str, options: Iterable[str]) -> bytes:
    """An object of a build directory after its objtool."""
    result = (build / target).with_suffix(".finished.o")
    result.write_bytes((build / target).read_bytes())
    subprocess.run((build / "tools/objtool/objtool", *options, result), check=True, cwd=build)
    return result.read_bytes()


def unsigned(config: str) -> str:
    for pattern, instead in UNSIGNED:
        config = re.sub(f"(?m)^{pattern}$", instead, config)
    return config

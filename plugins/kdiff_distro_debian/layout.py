# SPDX-License-Identifier: Apache-2.0
"""From downloaded packages to the directories that kdiff works with.

`root/` holds the packages as they would be installed, `source/` the kernel's source, `image/` and `config/`
point into root. Whatever is complete is kept: a directory gets its name when it is whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kdiff.api import KdiffError, KernelSetup, Say


def unpack(files: Sequence[Path], dest: Path, say: Say) -> None:
    """Unpack packages into `dest`/root."""
    root = dest / "root"
    if root.is_dir():
        return
    part = _fresh(dest / "root.part")
    for file in files:
        say(f"unpacking {file.name}")
        _pipe(["dpkg-deb", "-x", str(file), str(part)])
    part.rename(root)


def unpack_source(file: Path, dest: Path, say: Say) -> None:
    """Unpack the kernel source that a linux-source package holds into `dest`/source."""
    source = dest / "source"
    if source.is_dir():
        return
    say(f"unpacking {file.name} (the kernel's source)")
    part = _fresh(dest / "source.part")
    _pipe(
        ["dpkg-deb", "--fsys-tarfile", str(file)],
        ["tar", "-xO", "--wildcards", "./usr/src/linux-source-*.tar.xz"],
        ["xz", "-dc", "-T0"],
        ["tar", "-x", "--strip-components=1", "-C", str(part)],
    )
    if not (part / "Makefile").is_file():
        raise KdiffError("setup.source", "holds no kernel source", place=str(file))
    part.rename(source)


def arrange(abi: str, version: str, dest: Path) -> KernelSetup:
    """Make `config` and `image` out of the unpacked packages."""
    root = dest / "root"
    headers = root / "usr/src" / f"linux-headers-{abi}"
    _refuse_real_time(headers / ".config", dest / "source")
    _localize(headers / "Makefile")
    config = _folder(dest / "config")
    shutil.copyfile(headers / ".config", config / ".config")
    (config / "flags").touch()
    image = _folder(dest / "image")
    _link(image / "vmlinuz", root / "boot" / f"vmlinuz-{abi}")
    _link(image / "modules", root / "lib/modules" / abi)
    _link(config / "vmlinuz", root / "boot" / f"vmlinuz-{abi}")
    _link(config / "build", headers)
    return KernelSetup(abi, version, config, dest / "source", image)


def _refuse_real_time(config: Path, source: Path) -> None:
    """Some real-time kernels are built from more than the source package holds."""
    kconfigs = (file.read_text(errors="replace") for file in (source / "arch").glob("*/Kconfig"))
    if "\nCONFIG_PREEMPT_RT=y\n" in config.read_text() and not any(
        "select ARCH_SUPPORTS_RT" in k for k in kconfigs
    ):
        raise KdiffError(
            "setup.real_time",
            "is a real-time kernel, whose patches Debian's source package lacks",
            place=config.parent.name.removeprefix("linux-headers-"),
            remedy="choose a kernel that is not real-time with --kernel",
        )


def _localize(makefile: Path) -> None:
    """Make the headers work where they lie: Debian's Makefile includes another by its absolute path."""
    text = makefile.read_text()
    here = "$(dir $(abspath $(lastword $(MAKEFILE_LIST))))../"
    makefile.write_text(text.replace("include /usr/src/", f"include {here}"))


def _link(link: Path, target: Path) -> None:
    if not target.exists():
        raise KdiffError("setup.layout", "the packages do not hold what they should", place=str(target))
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def _fresh(path: Path) -> Path:
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


def _pipe(*commands: Sequence[str]) -> None:
    """Run commands, each reading what the one before it writes; KdiffError if any fails."""
    running: list[subprocess.Popen[bytes]] = []
    for command in commands:
        before = running[-1].stdout if running else None
        last = command is commands[-1]
        try:
            process = subprocess.Popen(
                command,
                stdin=before if before else subprocess.DEVNULL,
                stdout=None if last else subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError as error:
            raise KdiffError("setup.tool", f"no {command[0]} on this machine") from error
        if before:
            before.close()
        running.append(process)
    said = [process.stderr.read() if process.stderr else b"" for process in running]
    for command, process, text in zip(commands, running, said, strict=True):
        if process.wait():
            raise KdiffError(
                "setup.unpack",
                f"{command[0]} failed: {text.decode(errors='replace').strip()}",
                remedy="check that the disk is not full; run the same command again to go on",
            )

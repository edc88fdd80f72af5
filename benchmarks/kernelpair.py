# SPDX-License-Identifier: Apache-2.0
"""Build a pair of whole vmlinux.o files of Linux 7, as klp-build does: the input of `bench_kernel_pair.py`.

The source is Debian's linux-source package of sid, which apt downloads and verifies by package lists of its
own. Built once, with gcc-12, and kept in the cache: the objects of `DIRECTORIES`, with a section for each
function and datum, linked with `ld -r` and finished by the objtool of that source. The post object differs in
the functions of `EDITS`, whose lines do not move; the large ones in all units of directories (`LARGE`).
Whatever is made has another name until it is whole, and nothing is left out that cannot be made.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import othersuite

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdiff" / "kernel-pair"
SOURCE, BUILD = CACHE / "source", CACHE / "build"
PACKAGE = "linux-source-7.2"
SECTIONS = "-ffunction-sections -fdata-sections"
DIRECTORIES = (
    "init", "kernel", "mm", "fs", "ipc", "arch/x86", "security", "block", "io_uring", "crypto",
)  # fmt: skip
EDITS = {"kernel/sys.c": "do_sysinfo", "mm/mmap.c": "do_mmap", "fs/proc/meminfo.c": "meminfo_proc_show"}
INSERTED = ' if (!jiffies) printk("kdiff was here\\n");'
LARGE = {"large": ("kernel", "mm"), "larger": ("kernel", "mm", "fs/xfs")}
"""Directories of which all C is compiled with `LARGE_CHANGE` for a post object of that name."""
LARGE_CHANGE = "-fno-schedule-insns2"
CONFIG = """
# CONFIG_LOCALVERSION_AUTO is not set
# CONFIG_MODULE_SIG is not set
# CONFIG_WERROR is not set
# CONFIG_DEBUG_INFO_BTF is not set
# CONFIG_SYSTEM_TRUSTED_KEYRING is not set
CONFIG_DEBUG_INFO_NONE=y
CONFIG_FTRACE=y
CONFIG_FUNCTION_TRACER=y
CONFIG_DYNAMIC_FTRACE=y
CONFIG_FTRACE_SYSCALLS=y
CONFIG_KALLSYMS_ALL=y
CONFIG_LIVEPATCH=y
CONFIG_XFS_FS=y
CONFIG_BTRFS_FS=y
"""
HIDDEN = ("__pi__text", "__pi__end")
"""Symbols of the kernel's linker script without which ld writes nothing."""
OBJTOOL = BUILD / "tools/objtool/objtool"


def build() -> tuple[Path, Path]:
    """Return pre and post object; what is missing is made first."""
    _prepare()
    for folder in DIRECTORIES:
        if not (BUILD / folder / "built-in.a").exists():
            _say(f"compiling {folder}")
            _make(f"{folder}/", "-j2")
    pre, post = CACHE / "pre.o", CACHE / "post.o"
    if not pre.exists():
        _finish(leaves(), pre)
    if not post.exists():
        changed = {BUILD / source.replace(".c", ".o"): edited(source) for source in EDITS}
        _finish([changed.get(each, each) for each in leaves()], post)
    return pre, post


def large_post(name: str = "large") -> Path:
    """The post object of a change of compiler flags, which reaches nearly every function of directories."""
    build()
    post = CACHE / f"{name}.o"
    if not post.exists():
        made = recompiled(within(LARGE[name]))
        _finish([made.get(each, each) for each in leaves()], post)
    return post


def within(folders: tuple[str, ...]) -> list[Path]:
    """The leaves below some directories."""
    return [each for each in leaves() if any(each.is_relative_to(BUILD / folder) for folder in folders)]


def recompiled(units: list[Path]) -> dict[Path, Path]:
    """Units compiled with one more flag, of those that are C; each is kept."""
    outs = {unit: CACHE / "large" / unit.relative_to(BUILD) for unit in units if _command(unit)}
    todo = [unit for unit, out in outs.items() if not out.exists()]
    if todo:
        _say(f"compiling {len(todo)} units with {LARGE_CHANGE}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda unit: _recompile(unit, outs[unit], LARGE_CHANGE), todo))
    return outs


def symids(pre: Path) -> Path:
    """A folder to run `objtool klp diff` in: it wants a vmlinux with .klp.symid, and Module.symvers."""
    folder = CACHE / "klp"
    folder.mkdir(exist_ok=True)
    if not (folder / "vmlinux").exists():
        marked = folder / "vmlinux.o"  # objtool marks files of this name only
        shutil.copy(pre.with_suffix(".raw.o"), marked)
        _objtool(marked, "--klp-symids")
        link = ["ld", "-m", "elf_x86_64", "--noinhibit-exec", "--unresolved-symbols=ignore-all"]
        link += [f"--defsym={name}=0" for name in HIDDEN]
        part = folder / "vmlinux.part"
        said = subprocess.run((*link, "-o", part, marked), capture_output=True, text=True, check=False)
        if not part.exists():
            raise SystemExit(f"cannot link {marked}:\n{said.stderr[-2000:]}")
        marked.unlink()
        (folder / "Module.symvers").touch()
        part.rename(folder / "vmlinux")
    return folder


# Making ----------------------------------------------------------------------------------------------


def _prepare() -> None:
    if not (SOURCE / "Makefile").exists():
        _say(f"getting {PACKAGE}")
        (package,) = othersuite.download("http://deb.debian.org/debian sid main", (PACKAGE,), CACHE)
        _unpack(package)
    if not OBJTOOL.exists():
        _say("configuring")
        BUILD.mkdir(parents=True, exist_ok=True)
        _make("x86_64_defconfig")
        with (BUILD / ".config").open("a") as config:
            config.write(CONFIG)
        _make("olddefconfig")
        _make("-j2", "prepare")
    said = subprocess.run((OBJTOOL, "klp"), capture_output=True, text=True, check=False)
    if "checksum" not in said.stdout + said.stderr:
        raise SystemExit("objtool was built without klp: install libxxhash-dev, remove the build, run again")


def _unpack(package: Path) -> None:
    part = CACHE / "source.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    pipe = (
        'dpkg-deb --fsys-tarfile "$0" | tar -xO --wildcards "./usr/src/linux-source-*.tar.xz"'
        ' | xz -dc -T0 | tar -x --strip-components=1 -C "$1"'
    )
    subprocess.run(("bash", "-o", "pipefail", "-c", pipe, package, part), check=True)
    part.rename(SOURCE)


def _make(*words: str) -> None:
    command = ("make", "-s", "-C", SOURCE, f"O={BUILD}", "CC=gcc-12", "HOSTCC=gcc-12", f"KCFLAGS={SECTIONS}")
    path = CACHE / "make.log"
    with path.open("a") as log:
        ended = subprocess.run((*command, *words), stdout=log, stderr=log, check=False)
    if ended.returncode:
        last = "\n".join(path.read_text(errors="replace").splitlines()[-10:])
        raise SystemExit(f"make {' '.join(words)} failed, and {path} ends with\n{last}")


def leaves() -> list[Path]:
    """The objects of all directories, in the order in which the kernel links them."""
    found: dict[Path, None] = {}
    for folder in DIRECTORIES:
        listed = subprocess.run(
            ("ar", "t", BUILD / folder / "built-in.a"), capture_output=True, text=True, check=True
        )
        found.update(dict.fromkeys(BUILD / each for each in listed.stdout.split()))
    missing = [str(each.relative_to(BUILD)) for each in found if not each.exists()]
    if missing:
        raise SystemExit(f"listed in a built-in.a, but not there: {', '.join(missing)}")
    return list(found)


def edited(source: str) -> Path:
    """Compile a unit with a statement more at the start of the function that is edited, in the same line."""
    text = (SOURCE / source).read_text()
    begin = re.search(rf"^[^\n;#/ \t][^\n;#/]*\b{EDITS[source]}\([^;{{}}]*\)\s*\n\{{", text, re.MULTILINE)
    if begin is None:
        raise SystemExit(f"{source} has no {EDITS[source]}")
    copy = CACHE / "edited" / source
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text[: begin.end()] + INSERTED + text[begin.end() :])
    unit, out = BUILD / source.replace(".c", ".o"), copy.with_suffix(".o")
    if not _command(unit):
        raise SystemExit(f"no command is known that made {unit}")
    flags = f"-I{(SOURCE / source).parent} -fmacro-prefix-map={copy}={source}"
    _recompile(unit, out, flags, (source, str(copy)))
    return out


def _command(unit: Path) -> str:
    """The command that made a unit; nothing for what is no C."""
    note = unit.parent / f".{unit.name}.cmd"
    if not note.exists():
        return ""
    command = note.read_text().splitlines()[0].partition(":=")[2].split(" ; ")[0].strip()
    written = f"-c -o {unit.relative_to(BUILD)} "
    return command if command.startswith("gcc-12") and command.endswith(".c") and written in command else ""


def _recompile(unit: Path, out: Path, flags: str, instead: tuple[str, str] = ("", "")) -> None:
    """Run the command that made a unit again, with more flags, and perhaps another source."""
    command, part = _command(unit), out.with_suffix(".part")
    if instead[0]:
        command = re.sub(rf"\S*{re.escape(instead[0])}$", instead[1], command)
    command = command.replace(f"-c -o {unit.relative_to(BUILD)} ", f"{flags} -c -o {part} ")
    command = re.sub(r"-Wp,-MMD,\S+", "", command)
    out.parent.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(command, shell=True, cwd=BUILD, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"cannot compile {unit} again with {flags}:\n{ended.stderr[-2000:]}")
    part.rename(out)


def _finish(objects: list[Path], out: Path) -> None:
    """Link, and let objtool write what it writes into a vmlinux.o (`scripts/Makefile.vmlinux_o`)."""
    _say(f"linking {out.name}: {len(objects)} objects")
    raw, listed = out.with_suffix(".raw.o"), out.with_suffix(".list")
    listed.write_text("\n".join(map(str, objects)))
    subprocess.run(("ld", "-m", "elf_x86_64", "-z", "noexecstack", "-r", "-o", raw, f"@{listed}"), check=True)
    part = out.with_suffix(".part")
    shutil.copy(raw, part)
    _objtool(part)
    part.rename(out)


def _objtool(file: Path, *more: str) -> None:
    config = set((BUILD / ".config").read_text().splitlines())
    words = ["--hacks=jump_label", "--hacks=noinstr", "--ibt", "--orc", "--retpoline", "--rethunk", "--sls"]
    words += ["--static-call", "--uaccess", "--noinstr"]
    words += ["--hacks=skylake"] * ("CONFIG_MITIGATION_CALL_DEPTH_TRACKING=y" in config)
    words += ["--prefix=16"] * ("CONFIG_CALL_PADDING=y" in config)
    words += ["--unret"] * ("CONFIG_MITIGATION_UNRET_ENTRY=y" in config)
    subprocess.run((OBJTOOL, *words, *more, "--link", file), cwd=BUILD, capture_output=True, check=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

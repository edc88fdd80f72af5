# SPDX-License-Identifier: Apache-2.0
"""How much of a stock kernel does run-pre matching find, and where? Every function of a sample of its units.

Units are drawn from all that vmlinux was linked from, as the file symbols of the distribution's debug package
say, built as `ksplice-create` builds them, and matched by the code of `kdiff match --all`. Each function that
is not found is listed with its reason; each address is held against the symbol table of the debug package.
Objects and that symbol table are kept in the cache.

    python benchmarks/bench_coverage.py --sample 300 --seed 1 [--kernel ABI] [--booted] [--built]
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import qmp

from kdiff import registry, setup
from kdiff.addressbook import KERNEL
from kdiff.buildtree import BuiltUnit, built_units
from kdiff.cli.match_all import lines, outcome, summary, tally
from kdiff.confdir import Config, read_config
from kdiff.coverage import cover_all
from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError, Refused
from kdiff.guest import Guest
from kdiff.kbuild import Pristine, pristine_units
from kdiff.running import find_memory
from kdiff.truth import source_files

NOT_LINKED = (
    *("Documentation/", "LICENSES/", "samples/", "scripts/", "tools/", "usr/"),
    *("arch/x86/boot/", "arch/x86/entry/vdso/", "arch/x86/purgatory/", "arch/x86/realmode/"),
    "drivers/firmware/efi/libstub/",
)
"""Programs of the build, and code that is linked into something of its own, not into the kernel."""
AT_ONCE = 48
"""Units that are asked for together; Kbuild takes seconds to answer the first time."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="how many units to draw")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kernel", help="kernel ABI (default: the newest)")
    parser.add_argument("--built", action="store_true", help="draw from what is built already, build nothing")
    parser.add_argument("--memory", help="what to match against (default: the kernel's vmlinuz)")
    parser.add_argument("--booted", action="store_true", help="match against the memory of a booted guest")
    parser.add_argument("--jobs", type=int, default=1, help="processes that match")
    given = parser.parse_args()
    plugins = registry.load()
    abi = given.kernel or setup.distribution(plugins).newest()
    kernel = setup.make(plugins, setup.choose(plugins, abi, None), say)
    config = read_config(kernel.config)
    truth = debug_symbols(abi)
    tree = setup.cache() / "coverage" / abi
    if given.built:
        units = drawn(truth, tree, given.sample, given.seed)
    else:
        units = sampled(config, kernel.source, truth, tree, given.sample, given.seed)
    if not units:
        parser.exit(1, f"{parser.prog}: no unit of {abi} is in {tree}; run it without --built\n")
    with ExitStack() as stack:
        memory = given.memory or find_memory(config)
        if given.booted:
            memory = f"core:{stack.enter_context(dump(kernel))}"
        scheme = memory.partition(":")[0]
        print(f"coverage of {abi}, {len(units)} units, seed {given.seed}, against {scheme}:", flush=True)
        report(units, memory, truth, given.jobs)
    return 0


@contextmanager
def dump(kernel: KernelSetup) -> Iterator[Path]:
    """The memory of a machine that has just booted this kernel, moved to wherever it moved itself."""
    say("booting the kernel and dumping its memory")
    with TemporaryDirectory() as scratch:
        control, file = Path(scratch) / "qmp", Path(scratch) / "dump"
        image, modules = kernel.image / "vmlinuz", kernel.image / "modules"
        hardware = qmp.options(control)
        with Guest.boot(image, modules, memory=400, hardware=hardware, timeout=240) as guest:
            guest.run("ls -R /proc/sys > /dev/null", timeout=120)
            qmp.ask(control, "dump-guest-memory", paging=False, protocol=f"file:{file}")
        yield file


def report(units: list[BuiltUnit], memory: str, truth: Path, jobs: int) -> None:
    """Match all units, list what is left over, and print the totals."""
    totals: Counter[str] = Counter()
    seconds, start = 0.0, time.monotonic()
    for found in cover_all(units, memory, truth, jobs):
        totals.update(tally(found))
        seconds += found.seconds
        if outcome(found) not in ("ok", "module"):
            print("\n".join(lines(found)))
    print("\n".join(f"  {line}" for line in summary(totals, True)))
    wall = time.monotonic() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"  {seconds:.1f} s CPU, {1000 * seconds / max(totals['units'], 1):.1f} ms a unit,"
        f" {1e6 * seconds / max(totals['functions'], 1):.0f} us a function; {wall:.1f} s in all, {most} MiB"
    )


def debug_symbols(abi: str) -> Path:
    """The vmlinux of the debug package, without debugging information and relocations; made once."""
    kept = setup.cache() / "debug" / abi / "vmlinux"
    if kept.exists():
        return kept
    folder = kept.parent
    folder.mkdir(parents=True, exist_ok=True)
    say(f"downloading linux-image-{abi}-dbg (0.9 GB)")
    subprocess.run(["apt-get", "-qq", "download", f"linux-image-{abi}-dbg"], cwd=folder, check=True)
    (package,) = folder.glob("*.deb")
    whole, part = folder / "vmlinux.whole", folder / "vmlinux.part"
    say("unpacking its vmlinux")
    with whole.open("wb") as file:
        tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        subprocess.run(
            ["tar", "-xO", f"./usr/lib/debug/boot/vmlinux-{abi}"], stdin=tar.stdout, stdout=file, check=True
        )
        tar.communicate()
    unwanted = ("--remove-section=.debug*", "--remove-section=.rela*")
    subprocess.run(["objcopy", "--wildcard", *unwanted, whole, part], check=True)
    part.rename(kept)
    whole.unlink()
    package.unlink()
    return kept


def sampled(config: Config, source: Path, truth: Path, tree: Path, sample: int, seed: int) -> list[BuiltUnit]:
    """Units of the kernel itself, in random order until there are enough; built where they are missing."""
    names = source_files(truth)
    others = {f"arch/{each.name}" for each in (source / "arch").iterdir() if each.name != config.arch}
    files = [
        path
        for path in (str(each.relative_to(source)) for each in sorted(source.rglob("*.c")))
        if Path(path).name in names
        and not path.startswith(NOT_LINKED)
        and "/".join(path.split("/")[:2]) not in others
    ]
    random.Random(seed).shuffle(files)
    found: list[BuiltUnit] = []
    for start in range(0, len(files), AT_ONCE):
        if len(found) >= sample:
            break
        part = files[start : start + AT_ONCE]
        build(config, source, tree, part)
        made = {unit.name: unit for unit in built_units(tree) if unit.part_of == KERNEL}
        found += [made[name] for name in (f"{path[:-2]}.o" for path in part) if name in made]
    return found[:sample]


def drawn(truth: Path, tree: Path, sample: int, seed: int) -> list[BuiltUnit]:
    """Units of the kernel itself out of the cache, in random order."""
    names = source_files(truth)
    found = [
        unit
        for unit in built_units(tree)
        if unit.part_of == KERNEL and Path(unit.source).name in names and not unit.name.startswith(NOT_LINKED)
    ]
    random.Random(seed).shuffle(found)
    return found[:sample]


def build(config: Config, source: Path, tree: Path, files: list[str]) -> None:
    """Lay units out as Kbuild does, and note in the tree which ones this configuration has not got."""
    known = tree / "not-built"
    passed = set(known.read_text().split()) if known.exists() else set()
    missing = [path for path in files if not (tree / f"{path[:-2]}.o").exists() and path not in passed]
    if not missing:
        return
    made = set()
    for unit in attempts(config, source, missing):
        path = tree / f"{unit.source[:-2]}.o"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.cmd").write_text(unit.command)
        path.write_bytes(unit.pre)
        made.add(unit.source)
    known.write_text("\n".join(sorted(passed | (set(missing) - made))))


def attempts(config: Config, source: Path, files: list[str]) -> Iterator[Pristine]:
    """Compile; if that fails, in halves, so that one file does not take the others along."""
    try:
        yield from pristine_units(config, source, files, say=say)
    except (KdiffError, Refused) as error:
        if len(files) == 1:
            print(f"left out: {error}", file=sys.stderr)
            return
        middle = len(files) // 2
        yield from attempts(config, source, files[:middle])
        yield from attempts(config, source, files[middle:])


def say(text: str) -> None:
    print(text[:200], file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Does anything but a KdiffError come out of broken files? Mutated objects, images, tables and packages.

The unit of the tests is compiled for every architecture whose compiler is installed, in several forms, and
real kernel units join it where a folder of objects is at hand. Each execution breaks one file, feeds it to
one target (tests/fuzztargets.py) and judges how that ended; too much time or memory is a bug as well. With
atheris (`pip install kdiff[fuzz]`) mutations are guided by coverage, without it they are drawn at random.

    python benchmarks/bench_fuzz.py --seconds 1800 [--executions N] [--seed 1] [--out fuzz] [--replay FILE]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

MEMORY = 3 << 30
"""Bytes of address space; a claimed size that is believed does not fit."""
MOST = 5
"""Kernel units of one folder."""
LARGEST = 40_000
"""Bytes of a real kernel unit: a larger one is slow, and has nothing that smaller ones have not."""
CROSS = (
    ("aarch64", ("aarch64-linux-gnu-gcc", "-mgeneral-regs-only")),
    ("arm", ("arm-linux-gnueabihf-gcc", "-marm", "-mfloat-abi=soft", "-march=armv7-a")),
    ("i386", ("i686-linux-gnu-gcc", "-march=i686", "-mregparm=3")),
    ("ppc64le", ("powerpc64le-linux-gnu-gcc", "-mcpu=power8")),
    ("riscv64", ("riscv64-linux-gnu-gcc", "-mcmodel=medany")),
    ("s390x", ("s390x-linux-gnu-gcc", "-march=z13", "-m64")),
    ("loongarch64", ("clang-19", "--target=loongarch64-linux-gnu")),
)
FORMS = (
    ("-ffunction-sections", "-fdata-sections"),
    ("-ffunction-sections", "-fdata-sections", "-g"),
    ("-ffunction-sections", "-g", "-gdwarf-4", "-gz"),
    ("-fno-function-sections",),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--executions", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where files that hit a bug are kept")
    parser.add_argument(
        "--objects",
        type=Path,
        nargs="*",
        default=[],
        help="folders of kernel objects; a few are used",
    )
    parser.add_argument("--targets", help="only these, by name, with commas")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--replay", type=Path, help="run one kept file again and show how it ends")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    atheris = None if given.plain or given.replay else _atheris()
    packages = ["kdiff", *(each.value for each in entry_points(group="kdiff"))]
    with atheris.instrument_imports(include=packages) if atheris else nullcontext():
        import_module("fuzztargets")._registry()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    fuzz = Fuzz(given.out, given.seconds, given.executions, corpus(given.objects, given.targets))
    if given.replay:
        print(fuzz.execute(given.replay.read_bytes()))
        return 0
    print(f"{len(fuzz.cases)} cases, {'atheris' if atheris else 'plain'}, seed {given.seed}", flush=True)
    (_guided if atheris else _plain)(fuzz, given.seed, atheris)
    return fuzz.report()


def _atheris() -> Any:
    try:
        return import_module("atheris")
    except ImportError:
        print("atheris is not installed: mutations are drawn at random", file=sys.stderr)
        return None


class Fuzz:
    """What was run and found. An input is the number of its case, in two bytes, and a file."""

    def __init__(self, out: Path, seconds: float, executions: int, cases: list[tuple[Any, Any]]) -> None:
        self.out, self.seconds, self.most, self.cases = out, seconds, executions, cases
        self.start = self.told = time.monotonic()
        self.executions = 0
        self.by_target: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        self.bugs: Counter[str] = Counter()
        self.slowest = 0.0
        self.running = out / "running.bin"

    @property
    def done(self) -> bool:
        return self.executions >= self.most or time.monotonic() - self.start >= self.seconds

    def case(self, data: bytes) -> tuple[Any, Any]:
        return self.cases[int.from_bytes(data[:2], "little") % len(self.cases)]

    def damage(self, data: bytes, random: Random) -> bytes:
        """Break an input; now and then let another target or partner have the file."""
        target, _ = self.case(data)
        head = data[:2] if random.random() < 0.97 else random.randrange(len(self.cases)).to_bytes(2, "little")
        return bytes(head) + bytes(target.damage(data[2:], random))

    def execute(self, data: bytes) -> str:
        """Run one input; what hits a bug is kept under the bug's name."""
        target, case = self.case(data)
        self.running.write_bytes(data)
        before = time.process_time()
        outcome = import_module("fuzztargets").judge(target, data[2:], case.partner)
        self.slowest = max(self.slowest, time.process_time() - before)
        self.executions += 1
        self.by_target[target.name] += 1
        self.keys[outcome.key] += 1
        if outcome.bug:
            self._keep(f"{target.name}: {outcome.bug}", data, outcome.trace)
        if time.monotonic() - self.told > 60:
            self.told = time.monotonic()
            self.report(short=True)
        return f"{target.name}, {case.name}: {outcome.key or 'sound'} {outcome.bug}\n{outcome.trace}"

    def _keep(self, bug: str, data: bytes, trace: str) -> None:
        if not self.bugs[bug]:
            name = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in bug)
            (self.out / f"{name}.bin").write_bytes(data)
            (self.out / f"{name}.txt").write_text(trace, errors="backslashreplace")
            print(f"bug: {bug}", flush=True)
        self.bugs[bug] += 1

    def report(self, short: bool = False) -> int:
        seconds = time.monotonic() - self.start
        errors = {key for key in self.keys if key}
        print(
            f"{self.executions} executions in {seconds:.0f} s,"
            f" {self.executions / max(seconds, 1):.0f} a second,"
            f" {len(errors)} distinct error keys, {len(self.bugs)} bugs, slowest {self.slowest:.1f} s",
            flush=True,
        )
        if not short:
            print("  " + ", ".join(f"{name} {count}" for name, count in self.by_target.most_common()))
            print("  " + ", ".join(f"{key or 'sound'} {count}" for key, count in self.keys.most_common()))
            for bug, count in self.bugs.most_common():
                print(f"  bug: {bug}: {count} times")
            sys.stdout.flush()
        return bool(self.bugs)


def _plain(fuzz: Fuzz, seed: int, _: Any) -> None:
    random = Random(seed)
    while not fuzz.done:
        index = random.randrange(len(fuzz.cases))
        fuzz.execute(fuzz.damage(index.to_bytes(2, "little") + fuzz.cases[index][1].data, random))


def _guided(fuzz: Fuzz, seed: int, atheris: Any) -> None:
    def one(data: bytes) -> None:
        if len(data) > 2:
            fuzz.execute(data)
        if fuzz.done:
            # libFuzzer never returns to its caller.
            os._exit(fuzz.report())

    def mutated(data: bytes, most: int, state: int) -> bytes:
        return fuzz.damage(data, Random(state))[:most] if len(data) > 2 else data

    folder = Path(TemporaryDirectory().name)
    folder.mkdir()
    for index, (_, case) in enumerate(fuzz.cases):
        (folder / f"{index}").write_bytes(index.to_bytes(2, "little") + case.data)
    longest = max(len(case.data) for _, case in fuzz.cases) + 4096
    words = [f"-seed={seed}", f"-max_len={longest}", "-len_control=0", "-rss_limit_mb=0", "-timeout=300"]
    words += ["-verbosity=0", f"-artifact_prefix={fuzz.out}/", str(folder)]
    atheris.Setup([sys.argv[0], *words], one, custom_mutator=mutated)
    atheris.Fuzz()


# The corpus ------------------------------------------------------------------------------------------


def corpus(objects: list[Path], names: str | None) -> list[tuple[Any, Any]]:
    """All (target, case) pairs; those of objects are for each target that takes objects."""
    targets = import_module("fuzztargets")
    kinds = (targets.OBJECTS, targets.MANY, targets.FACTS, targets.MODULES)
    found = list(targets.objects())
    found += [case for name, command in CROSS for case in _crossed(name, command)]
    found += [case for folder in objects for case in _kernel(folder)]
    pairs = [(target, case) for case in found for target in kinds] + list(targets.others())
    # Objects of two architectures, and of two classes
    last = found[-1].data
    pairs.append((targets.OBJECTS, targets.Case("two architectures", found[0].data, last)))
    wanted = names.split(",") if names else None
    return [(target, case) for target, case in pairs if wanted is None or target.name in wanted]


def _crossed(name: str, command: tuple[str, ...]) -> Iterator[Any]:
    """The unit and its edit, compiled for another architecture."""
    targets = import_module("fuzztargets")
    if shutil.which(command[0]) is None:
        print(f"left out: {name} has no {command[0]}", file=sys.stderr)
        return
    for form in FORMS:
        pre, post = (
            _compiled((*command, *form), text) for text in (targets.UNIT, targets.UNIT.replace(*targets.EDIT))
        )
        yield targets.Case(f"{name} {' '.join(form[1:])}", pre, post)


def _compiled(command: tuple[str, ...], text: str) -> bytes:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "unit.o"
        flags = ("-O2", "-ffreestanding", "-std=gnu11", "-w", "-fno-pic", "-fno-pie", "-fno-common")
        words = [*command[:1], *flags, *command[1:], "-x", "c", "-c", "-o", str(path), "-"]
        subprocess.run(words, input=text.encode(), check=True)
        return path.read_bytes()


def _kernel(folder: Path) -> list[Any]:
    """Kernel units, each its own partner: what is broken is the only change."""
    targets = import_module("fuzztargets")
    files = [path for path in sorted(folder.glob("*.o")) if path.stat().st_size <= LARGEST]
    chosen = Random(1).sample(files, min(MOST, len(files)))
    return [targets.Case(f"kernel {path.name}", path.read_bytes(), path.read_bytes()) for path in chosen]


if __name__ == "__main__":
    sys.exit(main())

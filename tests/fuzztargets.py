# SPDX-License-Identifier: Apache-2.0
"""What is fed with broken files, and how it is judged.

    outcome = judge(OBJECTS, case, broken)
    outcome.bug        # empty: read, or a KdiffError or Refused, whose key is in outcome.key

A `Case` is a sound file and its partner. A broken object is compared with the intact partner, as pre and as
post, through every stage of `kdiff diff`.
"""

from __future__ import annotations

import gzip
import io
import json
import signal
import tarfile
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import FrameType, MappingProxyType
from typing import Any

import fakeimage
from compiled import ASSEMBLY, REST, UNIT, WHOLE
from compiled import compiled as native
from elfmutator import mutate
from fakedump import FakeMachine, flattened
from fakemachine import package, proof
from run_memory import link

import kdiff
from kdiff import btf, kallsyms, registry
from kdiff.arch import ByteOrder
from kdiff.cli.delta import as_json
from kdiff.compare import Comparer, planned
from kdiff.correlate import correlate
from kdiff.diff import diff
from kdiff.dwarflines import source_lines
from kdiff.elf.image import image_sections, image_symbols, note_build_id, open_image
from kdiff.elf.model import model
from kdiff.elf.read import read_bytes
from kdiff.elf.second import describe_module
from kdiff.elf.write import write
from kdiff.errors import KdiffError, Refused
from kdiff.extract import extract
from kdiff.graph import SectionGraph, build
from kdiff.kernel import KernelFacts, Structure
from kdiff.layouts import types_of
from kdiff.page import page
from kdiff.plan import Plan, plan
from kdiff.review import review
from kdiff.review_types import retyped, review_types
from kdiff.sectionrows import Rows
from kdiff.sites import sites
from kdiff.target import proof_reader, tarball
from kdiff.why import why

SECONDS = 10.0
"""CPU time that one execution may take: a sound case takes a tenth of a second."""
HERE = Path(__file__).parent
ROOTS = (str(Path(kdiff.__file__).parent), str(Path(kdiff.__file__).parent.parent / "plugins"))
SIZES = {
    "alt_instr": 12,
    "paravirt_patch_site": 16,
    "jump_entry": 16,
    "static_call_site": 8,
    "bug_entry": 12,
    "exception_table_entry": 12,
    "orc_entry": 6,
    "_ddebug": 56,
}


@dataclass(frozen=True)
class Case:
    """A sound file, its partner (a sound file of the same kind), and what breaks it."""

    name: str
    data: bytes
    partner: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """`key` of the error, empty for success; `bug`: `TypeError at graph.py:218`; `trace` for a person."""

    key: str = ""
    bug: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Target:
    """`run` must end well, or in a KdiffError or Refused; `damage` breaks a case's data."""

    name: str
    run: Callable[[bytes, bytes], None]
    damage: Callable[[bytes, Random], bytes] = mutate


class Slow(BaseException):
    """An execution took too long; not an Exception, so that nothing on the way takes it for its own."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `Slow` once the block has used that much CPU time."""

    def expired(_: int, __: FrameType | None) -> None:
        raise Slow

    before = signal.signal(signal.SIGPROF, expired)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judge(target: Target, data: bytes, partner: bytes, seconds: float = SECONDS) -> Outcome:
    """Run one execution and tell how it ended."""
    try:
        with limited(seconds):
            target.run(data, partner)
    except KdiffError as error:
        return Outcome(error.key, *_untold(error))
    except Refused as refused:
        return Outcome(refused.refusals[0].key)
    except (Exception, Slow) as error:
        return Outcome("", _named(error), "".join(traceback.format_exception(error)))
    return Outcome()


def _untold(error: KdiffError) -> tuple[str, ...]:
    """An error without a key, a message of one line and a place where there is one is a bug, too."""
    if error.key and error.message and "\n" not in str(error):
        return ()
    return f"untold {_named(error)}", "".join(traceback.format_exception(error))


def _named(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(ROOTS)]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
    return f"{type(error).__name__} at {where}"


# Objects ---------------------------------------------------------------------------------------------


@cache
def _registry() -> registry.Registry:
    return registry.load()


@cache
def _rows(machine: str) -> tuple[Any, Any]:
    structures = MappingProxyType({name: Structure(size, {}) for name, size in SIZES.items()})
    facts = KernelFacts(machine=machine, structures=structures)
    return _registry().special_sections(facts), _registry().habits(facts)


def graph(data: bytes, name: str) -> SectionGraph:
    """Read an object and build its graph, as `kdiff diff` does."""
    obj = read_bytes(data, name)
    arch = _registry().architecture(obj.machine, obj.byte_order, obj.path)
    return build(obj, arch, *_rows(arch.name))


@cache
def _sound(data: bytes) -> SectionGraph:
    return graph(data, "sound.o")


def compare(pre: SectionGraph, post: SectionGraph) -> None:
    """Do all that `kdiff diff` can do with two graphs."""
    if pre.arch is not post.arch:
        raise KdiffError("diff.architecture", "built for another architecture", place=post.obj.path)
    pairing = correlate(pre, post)
    delta = diff(pre, post, pairing)
    update = plan(pre, post, pairing, delta, "")
    refusals = [*review(update)]
    lines = [source_lines(each.obj, each.arch) for each in (pre, post)]
    page(update, tuple(refusals), *lines).encode("utf-8", "backslashreplace")
    names = [post.nodes[change.post].label for change in delta.changed[:2]]
    for name in [*names, *(post.nodes[index].label for index in delta.added[:1])]:
        why(update, name, *lines)
    refusals += review_types(retyped((update,) if update.replaced else ()), ())
    if update.replaced and not refusals:
        made = extract(update).obj
        read_bytes(write(made), "extract.o")


def _object(data: bytes, partner: bytes) -> None:
    broken = graph(data, "broken.o")
    sound = _sound(partner)
    compare(broken, sound)
    compare(sound, broken)
    for one, other in ((broken, sound), (sound, broken)):
        special, habits = _rows(one.arch.name)
        planned(one.obj, other.obj, one.arch, Rows(special), habits)


def _many(data: bytes, partner: bytes) -> None:
    """Compare a broken object among sound ones: each pair comes out as it does by itself."""
    one, other = (read_bytes(native(text, "-g"), "sound.o") for text in (UNIT, UNIT.replace(*EDIT)))
    broken, sound = read_bytes(data, "broken.o"), read_bytes(partner, "sound.o")
    pairs = [(one, other), (broken, sound), (other, one), (sound, broken), (one, other)]
    compare_pair = Comparer(_registry())
    alone = [_result(partial(compare_pair, *pair, False, None)) for pair in pairs]
    together = [_result(each) for each in compare_pair.each(pairs)]
    if together != alone:
        raise AssertionError(f"alone {alone}, among others {together}")


def _result(planned: Callable[[], Plan]) -> str:
    """What an update would hold, and what of it is refused; or the error."""
    try:
        found = planned()
        return json.dumps((as_json(found, same=True), [str(each) for each in review(found)]))
    except (KdiffError, Refused) as error:
        return str(error)


def _facts_of_object(data: bytes, partner: bytes) -> None:
    """Ask a broken object for its types, its lines, its sites, and for the object itself once more."""
    broken = graph(data, "broken.o")
    asked: tuple[Callable[[], object], ...] = (
        lambda: types_of(broken.obj, broken.arch).locals,
        lambda: source_lines(broken.obj, broken.arch),
        lambda: dict(sites(broken)),
        lambda: [broken.code(node) for node in broken.nodes],
        lambda: read_bytes(write(model(broken.obj)), "again.o"),
    )
    failed: KdiffError | Refused | None = None
    for ask in asked:
        try:
            ask()
        except (KdiffError, Refused) as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _module(data: bytes, partner: bytes) -> None:
    describe_module(data, "broken.ko")


# Images, tables, packages ----------------------------------------------------------------------------


def _image(data: bytes, partner: bytes) -> None:
    image = open_image(data, "broken")
    for each in image.segments:
        note_build_id(image.read(each.address, min(each.size, 4096)) or b"", image.byte_order)
    image_sections(image)
    image_symbols(image)


def _opened(scheme: str, data: bytes) -> None:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "broken"
        path.write_bytes(data)
        memory = _registry().open_memory(f"{scheme}:{path}")
        memory.address_book()
        memory.facts()


def _memory(data: bytes, partner: bytes) -> None:
    _opened("image", data)


def _core(data: bytes, partner: bytes) -> None:
    _opened("core", data)


def _kallsyms(data: bytes, partner: bytes) -> None:
    order: ByteOrder = "big" if partner.startswith(b"big") else "little"
    kallsyms.decode(data, int(partner.split()[2], 16), order, 4 if partner.split()[1] == b"4" else 8)


def _text(data: bytes, partner: bytes) -> None:
    kallsyms.format_system_map(kallsyms.parse_text(data, "broken"))


def _btf(data: bytes, partner: bytes) -> None:
    btf.structures(data)


def _proof(data: bytes, partner: bytes) -> None:
    proof_reader.read(data)


def _damaged_json(data: bytes, random: Random) -> bytes:
    """Change values of a JSON text, so that it stays one; sometimes the text itself."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate(data, random)
    for _ in range(random.randint(1, 3)):
        if random.random() < 0.2:
            return mutate(json.dumps(value).encode(), random)
        holder: Any = value
        while isinstance(holder, (dict, list)) and holder:
            key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            if isinstance(holder[key], (dict, list)) and holder[key] and random.random() < 0.85:
                holder = holder[key]
                continue
            break
        if not isinstance(holder, (dict, list)) or not holder:
            break
        odd = (None, True, -1, 0, 1, 2**63, 2**64, 10**30, 0.5, 1e308, "", "\ud800", "zz", [], {}, [[]])
        found = (holder[key], *odd)
        if random.random() < 0.2 and len(holder) > 1:
            del holder[key]
        else:
            holder[key] = random.choice(found)
    return json.dumps(value).encode()


def _tarball(data: bytes, partner: bytes) -> None:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "ksplice-broken.tar.gz"
        path.write_bytes(data)
        proof_reader.read(tarball.read(str(path)).proof)


def _damaged_tarball(data: bytes, random: Random) -> bytes:
    """Break the compressed file, the archive, or a file in it, whose header stays right."""
    if random.random() < 0.2:
        return mutate(data, random)
    try:
        return _repacked(gzip.decompress(data), random)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError, OverflowError):
        return mutate(data, random)


def _repacked(plain: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        out = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(plain)) as old, tarfile.open(fileobj=out, mode="w") as new:
            for member in old.getmembers():
                file = old.extractfile(member)
                content = file.read() if file is not None else b""
                if random.random() < 0.2:
                    content = mutate(content, random)
                    member.size = len(content) if member.isreg() else 0
                new.addfile(member, io.BytesIO(content))
        plain = out.getvalue()
    else:
        plain = mutate(plain, random)
    return gzip.compress(plain, 1, mtime=0)


OBJECTS = Target("object", _object)
MANY = Target("objects", _many)
FACTS = Target("facts", _facts_of_object)
MODULES = Target("module", _module)
IMAGES = Target("image", _image)
MEMORY = Target("memory", _memory)
CORES = Target("core", _core)
KALLSYMS = Target("kallsyms", _kallsyms)
TEXTS = Target("symbol list", _text)
BTF = Target("btf", _btf)
PROOFS = Target("proof", _proof, _damaged_json)
TARBALLS = Target("tarball", _tarball, _damaged_tarball)
TARGETS = (OBJECTS, MANY, FACTS, MODULES, IMAGES, MEMORY, CORES, KALLSYMS, TEXTS, BTF, PROOFS, TARBALLS)


# Sound files -----------------------------------------------------------------------------------------

TABLES = """
.section .text.f,"ax"
.globl f
.type f,@function
f:  nop; nop; nop; nop; nop
1:  call other
2:  jmp 3f
3:  mov (%rdi),%eax
    ud2
    ret
.size f,.-f
.section .altinstr_replacement,"ax"
4:  xor %eax,%eax
5:
.section .altinstructions,"a"
    .long 1b - ., 4b - . ; .word 7 ; .byte 5, 5b - 4b
.section __jump_table,"aw"
    .long f - ., 3b - . ; .quad key - .
    .long 2b - ., 3b - . ; .quad key + 1 - .
.section __bug_table,"aw"
    .long 3b - ., name - . ; .word 12, 3, 0, 0
.section __ex_table,"a"
    .long 3b - ., 2b - ., 1
.section .static_call_sites,"aw"
    .long 1b - ., key - .
.section .rodata.str1.1,"aMS",@progbits,1
name: .string "drivers/{0}.c"
.section .data.key,"aw"
.globl key
.type key,@object
key: .quad {1}
.size key,8
.comm shared,8,8
"""
EDIT = ("return primes[limit % 6];", "if (a == 77) return other(a); return primes[limit % 5];")


def objects(options: tuple[tuple[str, ...], ...] = ((), ("-g",), (WHOLE,))) -> Iterator[Case]:
    """What gcc for this machine makes of the tests' unit, before and after an edit, and a unit of tables."""
    for option in options:
        post = native(UNIT.replace(*EDIT), *option)
        yield Case(f"x86_64 {' '.join(option)}", native(UNIT, *option), post)
    pre, post = (native(TABLES.format("net", number), ASSEMBLY) for number in (1, 2))
    yield Case("x86_64 tables", pre, post)


def others() -> Iterator[tuple[Target, Case]]:
    """Sound files for all targets that are not about objects."""
    for layout in (fakeimage.LAYOUTS[2], fakeimage.LAYOUTS[6], fakeimage.LAYOUTS[8], fakeimage.LAYOUTS[9]):
        base = 0xC1000000 if layout.word == 4 else fakeimage.BASE
        found = fakeimage.rows(base=base, percpu=layout.addresses == "percpu")
        data = bytes(0x200) + fakeimage.tables(found, layout, base + 0x200)
        yield KALLSYMS, Case(layout.name, data, f"{layout.order} {layout.word} {base:x}".encode())
    yield IMAGES, Case("vmlinux", fakeimage.vmlinux())
    yield MEMORY, Case("vmlinux", fakeimage.vmlinux())
    machine = FakeMachine()
    yield CORES, Case("physical", machine.elf(state=False))
    yield CORES, Case("virtual", machine.elf(virtual=True, info=False))
    yield CORES, Case("compressed", machine.kdump())
    yield CORES, Case("flattened", flattened(machine.kdump()))
    lines = "".join(f"{address:016x} {kind} {name}\n" for name, address, kind in fakeimage.rows(8))
    yield TEXTS, Case("System.map", lines.encode())
    linked = link(native(UNIT, WHOLE), native(REST)).image
    yield IMAGES, Case("linked", bytes(linked.data))
    members = (("code", 1, 0), ("target", 1, 32), ("key", 1, 64))
    yield BTF, Case("btf", fakeimage.btf([(1, "int", 4, ()), (4, "jump_entry", 16, members)]))
    yield PROOFS, Case("proof.json", json.dumps(proof()).encode())
    yield TARBALLS, Case("update", package_bytes())


def package_bytes() -> bytes:
    """A sound update."""
    from kdiff.package import write as written

    return written(package())

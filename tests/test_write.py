# SPDX-License-Identifier: Apache-2.0
import subprocess
from pathlib import Path

import lief
import pytest
from elfwriter import (
    ABS,
    FUNC,
    GLOBAL,
    LIVEPATCH,
    LOCAL,
    NOBITS,
    OBJECT,
    PPC,
    S390,
    WEAK,
    X86_64,
    Sec,
    Sym,
    elf,
    relocatable,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kdiff.elf.model import model
from kdiff.elf.read import RESERVED, SHT_SYMTAB_SHNDX, read_bytes
from kdiff.elf.write import (
    NO_SYMBOL,
    Relocatable,
    Relocation,
    RelocationSection,
    Section,
    Symbol,
    write,
)
from kdiff.errors import KdiffError

SAMPLE = (
    Sec(".text.f", b"\xe8\0\0\0\0\xc3", "ax", 16, relocs=((1, 4, "printk", -4),)),
    Sec(
        ".data.d",
        bytes(16),
        "wa",
        8,
        relocs=((0, 1, "f", 0), (8, 1, ".rodata.str1.1", 2)),
        more=((".klp.rela.vmlinux..data.d", 0x100002, ((8, 1, ".klp.sym.vmlinux.hidden,2", 3),)),),
    ),
    Sec(".rodata.str1.1", b"a\0b\0", "aMS", entry_size=1),
    Sec(".bss.b", type=NOBITS, size=4096, flags="wa", align=64),
    Sec("__mcount_loc", bytes(8), "aL", 8, link=".text.f", relocs=((0, 1, "f", 0), (4, 0, "", 0))),
    Sym("f", ".text.f", 0, 6, FUNC),
    Sym("local", ".data.d", 8, 8, OBJECT, LOCAL),
    Sym("weak", ".bss.b", 0, 4096, OBJECT, WEAK, other=2),
    Sym("absolute", ABS, 0x1234),
    Sym(".klp.sym.vmlinux.hidden,2", LIVEPATCH),
)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def compiled(tmp_path: Path, source: str) -> Path:
    (tmp_path / "unit.c").write_text(source)
    run("gcc", "-O2", "-c", "-ffunction-sections", "-g", "-o", tmp_path / "unit.o", tmp_path / "unit.c")
    return tmp_path / "unit.o"


@pytest.mark.parametrize(
    ("machine", "elf_class", "byte_order"),
    [(X86_64, 64, "little"), (S390, 64, "big"), (X86_64, 32, "little"), (PPC, 32, "big")],
)
def test_readelf_finds_nothing_wrong_in_either_class_and_byte_order(tmp_path, machine, elf_class, byte_order):
    path = tmp_path / "odd.o"
    path.write_bytes(elf(*SAMPLE, machine=machine, elf_class=elf_class, byte_order=byte_order))
    shown = run("readelf", "-aW", path)
    assert ".klp.rela.vmlinux..data.d" in shown
    assert "Warning" not in shown


def test_lief_reads_the_same_sections_symbols_and_relocations():
    binary = lief.parse(elf(*SAMPLE))
    indices = {section.name: index for index, section in enumerate(binary.sections)}
    symbols = [(s.name, s.value, s.size, s.shndx) for s in binary.symtab_symbols if s.name]
    assert symbols == [
        ("local", 8, 8, indices[".data.d"]),
        ("f", 0, 6, indices[".text.f"]),
        ("weak", 0, 4096, indices[".bss.b"]),
        ("absolute", 0x1234, 0, ABS),
        (".klp.sym.vmlinux.hidden,2", 0, 0, LIVEPATCH),
        ("printk", 0, 0, 0),
    ]
    sizes = {section.name: section.size for section in binary.sections}
    assert (sizes[".bss.b"], sizes[".data.d"], sizes[".text.f"]) == (4096, 16, 6)
    found = sorted((r.address, r.symbol.name, r.addend) for r in binary.relocations if r.symbol.name)
    assert (1, "printk", -4) in found
    assert (8, ".klp.sym.vmlinux.hidden,2", 3) in found


def test_ld_accepts_the_object_and_keeps_its_relocations(tmp_path):
    path = tmp_path / "odd.o"
    path.write_bytes(elf(*(part for part in SAMPLE if getattr(part, "section", None) != LIVEPATCH)))
    run("ld", "-r", "-o", tmp_path / "linked.o", path)
    shown = run("readelf", "-rW", tmp_path / "linked.o")
    assert "printk - 4" in shown
    assert ".rodata.str1.1 + 2" in shown


def test_an_object_of_gcc_disassembles_alike_after_it_was_written_again(tmp_path):
    path = compiled(
        tmp_path,
        'int puts(const char *); static int n; int f(int a) { return n++ + puts("x") + a; } int g = 3;',
    )
    again = tmp_path / "again" / "unit.o"
    again.parent.mkdir()
    again.write_bytes(write(model(read_bytes(path.read_bytes()))))
    for options in ("-dr", "-s", "-t", "-h"):
        before, after = run("objdump", options, path), run("objdump", options, again)
        if options == "-h":
            before, after = without_offsets(before), without_offsets(after)
        assert after.replace(str(again), "") == before.replace(str(path), "")


def without_offsets(listing: str) -> str:
    """objdump -h without the column that says where in the file a section lies."""
    rows = [line.split() for line in listing.splitlines()]
    return "\n".join(" ".join(row[:5] + row[6:]) for row in rows if len(row) == 7)


def test_local_symbols_come_first_and_relocations_follow_their_symbols():
    obj = read_bytes(elf(*SAMPLE))
    bindings = obj.symbols["binding"].tolist()
    assert bindings == sorted(bindings, key=lambda binding: binding != LOCAL)
    assert int(obj.sections["info"][obj.symtab]) == bindings.count(LOCAL)
    targets = {obj.symbol_name(symbol) for symbol in obj.relocations["symbol"].tolist()}
    assert targets == {"printk", "f", ".rodata.str1.1", ".klp.sym.vmlinux.hidden,2", ""}


def test_alignment_of_sections_is_kept_in_the_file():
    obj = read_bytes(elf(Sec("a", b"x"), Sec("b", b"y", align=4096), Sec("c", b"z", align=64)))
    assert not any(int(s["offset"]) % max(int(s["align"]), 1) for s in obj.sections)


def test_an_alignment_beyond_a_page_takes_no_room_in_the_file():
    data = elf(Sec("a", b"x"), Sec("b", b"y", align=1 << 40))
    assert len(data) < 10_000
    assert int(read_bytes(data).sections["align"][2]) == 1 << 40


def test_more_sections_than_a_short_can_count_use_the_extended_tables():
    count = 0xFF00 + 5
    last = f".text.{count - 1}"
    parts = (*(Sec(f".text.{i}", b"\xc3") for i in range(count)), Sym("last", last), Sym("undefined"))
    obj = read_bytes(elf(*parts))
    assert SHT_SYMTAB_SHNDX in obj.sections["type"]
    assert len(obj.sections) == 1 + count + 4
    names = {obj.symbol_name(i): int(obj.symbols["section"][i]) for i in range(len(obj.symbols))}
    assert obj.section_name(names["last"]) == last
    assert names["undefined"] == 0


def test_readelf_finds_the_extended_tables_sound(tmp_path):
    path = tmp_path / "many.o"
    path.write_bytes(elf(*(Sec(f".t{i}", b"\xc3", "ax") for i in range(0xFF01)), Sym("last", ".t65280")))
    assert f" {0xFF01} last" in run("readelf", "-sW", path)
    assert ".t65280" in run("readelf", "-SW", path)


def test_equal_models_give_equal_bytes():
    assert elf(*SAMPLE) == elf(*SAMPLE)


def test_a_klp_relocation_section_has_its_own_name_and_flags_and_changes_its_section():
    obj = read_bytes(elf(*SAMPLE))
    names = [obj.section_name(i) for i in range(len(obj.sections))]
    header = obj.sections[names.index(".klp.rela.vmlinux..data.d")]
    assert int(header["flags"]) == 0x100000 | 0x2 | 0x40
    assert names[int(header["info"])] == ".data.d"
    livepatch = [int(s) for s in obj.symbols["section"] if s >= RESERVED]
    assert RESERVED + LIVEPATCH in livepatch


BROKEN = {
    "size": Relocatable(64, "little", 62, 0, (Section(".a", 1, 2, 1, b"abc", 4),), ()),
    "bits in NOBITS": Relocatable(64, "little", 62, 0, (Section(".a", 8, 2, 1, b"abc", 4),), ()),
    "offset": relocatable(Sec(".a", b"abcd", relocs=((4, 1, "x", 0),))),
    "symbol": Relocatable(
        64, "little", 62, 0, (Section(".a", 1, 2, 1, b"abc", 3, 0, (Relocation(0, 1, 0, 0),)),), ()
    ),
    "link": Relocatable(64, "little", 62, 0, (Section(".a", 1, 2, 1, b"", 0, link=3),), ()),
    "section": Relocatable(64, "little", 62, 0, (), (Symbol("x", 7),)),
    "reserved": Relocatable(64, "little", 62, 0, (), (Symbol("x", None, reserved=7),)),
    "name": Relocatable(64, "little", 62, 0, (), (Symbol("x\0y", None),)),
    "value": Relocatable(32, "little", 62, 0, (), (Symbol("x", None, value=1 << 32),)),
    "relocation in NOBITS": relocatable(
        Sec(".bss", type=NOBITS, size=8, relocs=((0, 1, "x", 0),)),
    ),
    "type": relocatable(Sec(".a", b"abcd", relocs=((0, 256, "x", 0),)), elf_class=32),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_model_that_contradicts_itself_is_an_error(what):
    with pytest.raises(KdiffError) as caught:
        write(BROKEN[what])
    assert caught.value.key == "elf.model"


names = st.text(st.sampled_from("abc.$_"), min_size=1, max_size=6)


@st.composite
def models(draw: st.DrawFn) -> Relocatable:
    elf_class = draw(st.sampled_from((32, 64)))
    word = st.integers(0, 2**elf_class - 1)
    addend = st.integers(-(2 ** (elf_class - 1)), 2 ** (elf_class - 1) - 1)
    count = draw(st.integers(0, 4))
    symbols = draw(
        st.lists(symbol(count, word), max_size=5).map(lambda s: sorted(s, key=lambda x: x.binding > 0))
    )

    def relocations(size: int) -> st.SearchStrategy[tuple[Relocation, ...]]:
        if not size:
            return st.just(())
        record = st.builds(
            Relocation,
            st.integers(0, size - 1),
            st.integers(0, 255),
            st.integers(NO_SYMBOL, len(symbols) - 1),
            addend,
        )
        return st.lists(record, max_size=3).map(tuple)

    sections = []
    for _ in range(count):
        kind = draw(st.sampled_from((1, 7, 8, 14)))
        data = b"" if kind == 8 else draw(st.binary(max_size=9))
        size = draw(st.integers(0, 99)) if kind == 8 else len(data)
        more = tuple(
            RelocationSection(
                f".klp.rela.{i}", draw(st.sampled_from((0, 2, 0x100002))), draw(relocations(len(data)))
            )
            for i in range(draw(st.integers(0, 2)))
        )
        sections.append(
            Section(
                draw(names),
                kind,
                draw(st.integers(0, 0x37)),
                draw(st.sampled_from((0, 1, 2, 8, 64))),
                data,
                size,
                draw(st.integers(0, 24)),
                draw(relocations(len(data))),
                more,
                draw(st.none() | st.integers(0, count - 1)),
            )
        )
    order = draw(st.sampled_from(("little", "big")))
    return Relocatable(elf_class, order, draw(st.integers(0, 0xFFFF)), 5, tuple(sections), tuple(symbols))


def symbol(sections: int, word: st.SearchStrategy[int]) -> st.SearchStrategy[Symbol]:
    place = st.tuples(st.none(), st.sampled_from((None, ABS, LIVEPATCH)))
    if sections:
        place |= st.tuples(st.integers(0, sections - 1), st.none())
    return place.flatmap(
        lambda at: st.builds(
            Symbol,
            names,
            st.just(at[0]),
            word,
            word,
            st.integers(0, 4),
            st.sampled_from((LOCAL, GLOBAL, WEAK)),
            st.integers(0, 3),
            st.just(at[1]),
        )
    )


@given(models())
@settings(deadline=None)
def test_what_was_written_reads_back_as_the_same_model(value: Relocatable):
    assert model(read_bytes(write(value))) == value


def test_a_relocation_section_may_be_empty():
    empty = RelocationSection(".rela.klp", 0, ())
    section = Section(".text", 1, 0, 1, b"", 0, 0, (), (empty,), None)
    value = Relocatable(64, "little", 62, 0, (section,), (), True)
    assert model(read_bytes(write(value))) == value

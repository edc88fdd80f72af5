# SPDX-License-Identifier: Apache-2.0
"""Line programs make the rows that pyelftools makes of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from kdiff.lineprogram import END, lines

HEADER = "static inline int twice(int a)\n{\n\tif (a > 7)\n\t\ta += 3;\n\n\n\treturn a * 2;\n}\n"
UNIT = (
    '#include "sub/twice.h"\nint shared;\nvoid _start(void)\n{\n\tfor (int i = 0; i < 9; i++)\n'
    "\t\tshared += twice(i);\n" + "\n" * 90 + "\tshared = twice(shared);\n}\n"
)
COMPILERS = {
    **{f"gcc, DWARF {version}": ("gcc", f"-gdwarf-{version}") for version in (2, 3, 4, 5)},
    "clang": ("clang-19",),
    "clang, DWARF 4": ("clang-19", "-gdwarf-4"),
    "aarch64": ("aarch64-linux-gnu-gcc",),
    "ppc64le": ("powerpc64le-linux-gnu-gcc",),
    "riscv64": ("riscv64-linux-gnu-gcc",),
    "s390x": ("s390x-linux-gnu-gcc",),
}


def sections(path: Path) -> tuple[bytes, ...]:
    with path.open("rb") as file:
        elf = ELFFile(file)
        found = (elf.get_section_by_name(f".debug_{name}") for name in ("line", "str", "line_str"))
        return tuple(b"" if each is None else each.data() for each in found)


def expected(path: Path) -> list[tuple[int, str, int]]:
    """(address, name of the file without its folder, line), as pyelftools reads them."""
    rows = []
    with path.open("rb") as file:
        info = ELFFile(file).get_dwarf_info()
        for unit in info.iter_CUs():
            program = info.line_program_for_CU(unit)
            first = 0 if program.header["version"] >= 5 else 1
            for state in (entry.state for entry in program.get_entries() if entry.state is not None):
                name = program.header["file_entry"][state.file - first].name.decode()
                rows.append((state.address, Path(name).name, END if state.end_sequence else state.line))
    return rows


def made(folder: Path, *command: str) -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (folder / "sub").mkdir()
    (folder / "sub/twice.h").write_text(HEADER)
    (folder / "unit.c").write_text(UNIT)
    options = ("-g", *command[1:], "-O2", "-ffreestanding", "-nostdlib", "-static", "-ffunction-sections")
    subprocess.run((command[0], *options, "unit.c", "-o", "unit"), cwd=folder, check=True)
    return folder / "unit"


@pytest.mark.parametrize("name", sorted(COMPILERS))
def test_rows_are_those_of_pyelftools(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, *COMPILERS[name])
    table, strings, line_strings = sections(path)
    order = "big" if name == "s390x" else "little"
    found = lines(table, order, strings, line_strings)
    rows = [(address, Path(found.files[file]).name, line) for address, file, line in found.rows]
    assert rows == expected(path)
    assert {"twice.h", "unit.c"} == {name for _, name, _ in rows}
    assert any(each.endswith("sub/twice.h") for each in found.files)


def test_offsets_of_64_bits_lead_to_the_same_rows(tmp_path: Path) -> None:
    """Which pyelftools does not read."""
    found = []
    for name in ("-gdwarf32", "-gdwarf64"):
        folder = tmp_path / name
        folder.mkdir()
        table, strings, line_strings = sections(made(folder, "clang-19", name))
        assert (table[:4] == b"\xff" * 4) is (name == "-gdwarf64")
        found.append(lines(table, "little", strings, line_strings).rows)
    assert found[0] == found[1] != []


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 1 << 16), value=st.integers(0, 255), end=st.integers(0, 1 << 16))
def test_what_makes_no_sense_is_an_error_of_its_values(
    sound: tuple[bytes, ...], at: int, value: int, end: int
) -> None:
    table, strings, line_strings = sound
    broken = bytearray(table)
    broken[at % len(broken)] = value
    try:
        lines(bytes(broken[: end % len(broken) + 1]), "little", strings, line_strings)
    except (ValueError, LookupError):
        return


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    return sections(made(tmp_path_factory.mktemp("sound"), "gcc"))

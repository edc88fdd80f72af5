# SPDX-License-Identifier: Apache-2.0
import time

import pytest
from fakeimage import BASE, LAYOUTS, Layout, name_table, rows, tables

from kdiff import registry
from kdiff.addressbook import AddressBook
from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError
from kdiff.kallsyms import decode, format_system_map, parse_text

STUB = b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"


def symbols_of(layout: Layout) -> list[tuple[str, int, str]]:
    return rows(base=BASE if layout.word == 8 else 0xC1000000, percpu=layout.addresses == "percpu")


def run_of(layout: Layout, symbols: list[tuple[str, int, str]]) -> tuple[bytes, int]:
    base = BASE if layout.word == 8 else 0xC1000000
    return b"\x90" * 0x8000 + tables(symbols, layout, base + 0x8000) + bytes(64), base


def listed(book: AddressBook) -> list[tuple[str, int, str]]:
    return [(entry.name, entry.address, entry.kind) for entry in book.entries]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_tables_of_every_layout_are_decoded_in_their_order(layout: Layout) -> None:
    symbols = symbols_of(layout)
    data, base = run_of(layout, symbols)
    assert listed(decode(data, base, layout.order, layout.word)) == symbols


@pytest.mark.parametrize("count", [511, 512, 513, 767, 768])
def test_a_last_block_of_any_length_is_decoded(count: int) -> None:
    symbols = symbols_of(LAYOUTS[2])[:count]
    data, base = run_of(LAYOUTS[2], symbols)
    assert listed(decode(data, base)) == symbols


def test_a_part_of_a_file_is_decoded_where_it_lies() -> None:
    symbols = symbols_of(LAYOUTS[7])
    data, base = run_of(LAYOUTS[7], symbols)
    book = decode(b"abc" + data + b"xyz", base, part=slice(3, 3 + len(data)))
    assert listed(book) == symbols


def test_tables_far_apart_are_found_too() -> None:
    symbols = symbols_of(LAYOUTS[2])
    data, base = run_of(LAYOUTS[2], symbols)
    last = name_table(symbols, LAYOUTS[2])[1][-1].to_bytes(4, "little")
    assert data.count(last) == 1
    behind = data.index(last) + 8 - data.index(last) % 8
    assert listed(decode(data[:behind] + bytes(2 << 20) + data[behind:], base)) == symbols


def test_positions_count_equal_names_in_table_order() -> None:
    data, base = run_of(LAYOUTS[2], symbols_of(LAYOUTS[2]))
    book = decode(data, base)
    found = book.named("dup")
    assert [entry.position for entry in found] == list(range(1, 101))
    assert [entry.address for entry in found] == sorted(entry.address for entry in found)


@pytest.mark.parametrize("layout", [LAYOUTS[2], LAYOUTS[6], LAYOUTS[7]], ids=lambda layout: layout.name)
def test_addresses_out_of_order_are_not_taken(layout: Layout) -> None:
    symbols = symbols_of(layout)
    symbols[300], symbols[301] = symbols[301], symbols[300]
    data, base = run_of(layout, symbols)
    with pytest.raises(KdiffError) as caught:
        decode(data, base)
    assert caught.value.key == "kallsyms.not_found"


def test_a_wrong_length_of_a_name_is_noticed() -> None:
    data, base = run_of(LAYOUTS[2], symbols_of(LAYOUTS[2]))
    place = data.index(b"T\x83v4_rcv") - 1
    with pytest.raises(KdiffError) as caught:
        decode(data[:place] + bytes([data[place] + 1]) + data[place + 1 :], base)
    assert caught.value.key == "kallsyms.not_found"


def test_a_wrong_marker_is_noticed() -> None:
    symbols = symbols_of(LAYOUTS[2])
    data, base = run_of(LAYOUTS[2], symbols)
    marker = name_table(symbols, LAYOUTS[2])[1][2].to_bytes(4, "little")
    assert data.count(marker) == 1
    with pytest.raises(KdiffError) as caught:
        decode(data.replace(marker, (int.from_bytes(marker, "little") + 1).to_bytes(4, "little")), base)
    assert caught.value.key == "kallsyms.not_found"


def test_bytes_without_tables_are_an_error() -> None:
    for data in (b"", b"\0" * 100_000, bytes(range(256)) * 500):
        with pytest.raises(KdiffError) as caught:
            decode(data, BASE)
        assert caught.value.key == "kallsyms.not_found"


def test_tables_cut_off_anywhere_are_an_error() -> None:
    data, base = run_of(LAYOUTS[4], symbols_of(LAYOUTS[4]))
    for size in range(0x8000, len(data) - 3000, 997):
        with pytest.raises(KdiffError):
            decode(data[:size], base)


def test_proc_kallsyms_is_read_in_order_with_the_owners_of_symbols() -> None:
    book = parse_text(
        b"0000000000000000 A fixed_percpu_data\n"
        b"ffffffff81000000 T _text\n"
        b"ffffffffc0001000 t init\t[ext4]\n"
        b"ffffffffc0002000 t init\t[xfs]\n"
    )
    assert [(e.name, e.kind, e.owner, e.position) for e in book.entries] == [
        ("fixed_percpu_data", "A", "vmlinux", 1),
        ("_text", "T", "vmlinux", 1),
        ("init", "t", "ext4", 1),
        ("init", "t", "xfs", 1),
    ]
    assert book.entries[2].address == 0xFFFFFFFFC0001000


def test_zero_addresses_mean_that_the_kernel_hides_them() -> None:
    with pytest.raises(KdiffError) as caught:
        parse_text(b"0000000000000000 T _text\n0000000000000000 t f\t[m]\n", "/proc/kallsyms")
    assert caught.value.key == "kallsyms.hidden"
    assert "root" in caught.value.remedy


def test_the_stub_that_debian_ships_is_told_apart() -> None:
    with pytest.raises(KdiffError) as caught:
        parse_text(STUB)
    assert caught.value.key == "kallsyms.stub"


@pytest.mark.parametrize("text", [b"ffffffff81000000 T _text\nnonsense\n", b"zz T f\n", b"0 T\n"])
def test_a_line_that_is_none_is_an_error_with_its_number(text: bytes) -> None:
    with pytest.raises(KdiffError) as caught:
        parse_text(text)
    assert caught.value.key == "kallsyms.malformed"
    assert f"line {text.count(10)} " in caught.value.message


def test_no_lines_are_an_error() -> None:
    with pytest.raises(KdiffError) as caught:
        parse_text(b"\n\n")
    assert caught.value.key == "kallsyms.empty"


def test_a_system_map_lists_vmlinux_by_address_and_equal_addresses_by_name() -> None:
    book = AddressBook(
        [
            ("_text", BASE, "T", "vmlinux"),
            ("_stext", BASE, "T", "vmlinux"),
            ("late", BASE + 8, "t", "vmlinux"),
            ("f", 0xFFFFFFFFC0000000, "t", "ext4"),
            ("early", 0, "A", "vmlinux"),
        ]
    )
    assert format_system_map(book) == (
        "0000000000000000 A early\n"
        "ffffffff81000000 T _stext\n"
        "ffffffff81000000 T _text\n"
        "ffffffff81000008 t late\n"
    )


def test_a_system_map_reads_back_with_the_positions_it_was_written_from() -> None:
    book = AddressBook([(name, address, kind, "vmlinux") for name, address, kind in symbols_of(LAYOUTS[2])])
    assert set(parse_text(format_system_map(book).encode()).entries) == set(book.entries)


@pytest.mark.kernel
def test_the_tables_of_a_real_kernel_are_decoded_quickly(kernel: KernelSetup) -> None:
    memory = registry.load().open_memory(f"image:{kernel.image / 'vmlinuz'}")
    started = time.process_time()
    book = memory.address_book()
    assert time.process_time() - started < 5
    assert len(book.entries) > 50_000
    receive = book.address("tcp_v4_rcv")
    banner = book.address("linux_banner")
    assert receive is not None
    assert banner is not None
    assert memory.read(receive, 1) in (b"\xe8", b"\xf3")
    assert memory.read(banner, 14) == b"Linux version "
    assert [e.address for e in book.entries] == sorted(e.address for e in book.entries)


def test_what_lies_at_an_address_is_found_in_a_table_that_is_not_in_order() -> None:
    lines = [("b", 0x30), ("a", 0x10), ("c", 0x30), ("d", 0x20)]
    book = AddressBook((name, address, "t", "vmlinux") for name, address in lines)
    assert [entry.name for entry in book.at(0x30)] == ["b", "c"]
    assert [entry.name for entry in book.at(0x10)] == ["a"]
    assert book.at(0x18) == ()

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import socket
from random import Random

import pytest
from fakedump import FakeMachine
from fakeimage import CODE
from fakestub import DESCRIPTION, FakeStub
from kdiff_arch_x86_64 import ARCHITECTURE
from kdiff_memory_gdb import kdiff_memory_schemes, protocol, stub

from kdiff.api import KdiffError, MemorySource

KNOWN = (ARCHITECTURE,)
"""The architectures that memory is opened with."""

MACHINE = FakeMachine()


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub.Stub.__init__, "__defaults__", (0.5,))


def opened(server: FakeStub) -> MemorySource:
    (scheme,) = kdiff_memory_schemes()
    return scheme.open(f"127.0.0.1:{server.port}", KNOWN)


def refused(server: FakeStub) -> KdiffError:
    with server, pytest.raises(KdiffError) as caught:
        opened(server)
    assert caught.value.place == f"gdb:127.0.0.1:{server.port}"
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("binary", [False, True], ids=("m", "x"))
def test_the_kernel_of_a_machine_is_read_whole(levels: int, binary: bool) -> None:
    machine = FakeMachine(levels=levels)
    with FakeStub(machine, binary=binary) as server:
        memory = opened(server)
        book, data = memory.address_book(), machine.kernel()
        assert book.address("_stext") == machine.base
        assert memory.facts().release == "6.1.0-test"
        assert not memory.pristine
        assert memory.name == f"gdb:127.0.0.1:{server.port}"
        assert [(each.address, each.size) for each in memory.extents()] == [(machine.base, len(data))]
        assert memory.read(machine.base, len(data)) == data
        assert memory.read(machine.base + 0x40, len(CODE)) == CODE
        for address in (0, machine.base - 1, machine.base + len(data) - 4, 1 << 63):
            assert memory.read(address, 8) is None
        assert server.resumed >= 1
        assert server.physical == b"0"


def test_what_was_copied_is_read_without_stopping_the_machine_again() -> None:
    with FakeStub(MACHINE) as server:
        memory = opened(server)
        asked = len(server.asked)
        assert memory.read(MACHINE.base, 100) == MACHINE.kernel()[:100]
        assert len(server.asked) == asked
        assert memory.read(1 << 40, 8) is None
        assert len(server.asked) > asked
        assert server.resumed == 2


@pytest.mark.parametrize(
    "ran, tells, status, version, resumed",
    [
        (True, True, b"VM status: paused", b"7.2.22", 1),
        (False, True, b"VM status: paused", b"7.2.22", 0),
        (False, True, b"VM status: paused (prelaunch)", b"7.2.22", 0),
        (True, False, b"VM status: paused", b"10.0.2", 1),
        (False, False, b"VM status: paused (debug)", b"10.0.2", 0),
        (False, False, b"VM status: paused (guest-panicked)", b"8.1.0", 0),
    ],
)
def test_a_machine_goes_on_only_if_it_ran_before(
    ran: bool, tells: bool, status: bytes, version: bytes, resumed: int
) -> None:
    with FakeStub(MACHINE, ran=ran, tells=tells, status=status, version=version) as server:
        opened(server)
        assert server.resumed == resumed
        assert server.physical == b"0"


def test_a_stub_whose_machine_runs_is_interrupted_first_and_resumed() -> None:
    with FakeStub(MACHINE, tells=False, deaf=True) as server:
        assert opened(server).read(MACHINE.base, 8) == MACHINE.kernel()[:8]
        assert server.resumed == 1


def test_the_mode_that_was_set_before_is_set_again() -> None:
    with FakeStub(MACHINE) as server:
        server.physical = b"1"
        opened(server)
        assert server.physical == b"1"


def test_a_stub_whose_checksums_are_wrong_is_an_error() -> None:
    error = refused(FakeStub(MACHINE, spoil=lambda packet, number: packet[:-2] + b"zz"))
    assert error.key in ("gdb.timeout", "gdb.protocol")


def test_a_packet_that_arrives_damaged_is_asked_for_again() -> None:
    """The stub sends each packet twice, damaged at first, as if it had been asked again at once."""

    def twice(packet: bytes, number: int) -> bytes:
        return packet if number == 1 else packet[:-3] + b"0" + packet[-3:] + packet

    with FakeStub(MACHINE, spoil=twice) as server:
        assert opened(server).read(MACHINE.base, 8) == MACHINE.kernel()[:8]
        assert server.resumed == 1


@pytest.mark.parametrize(
    "changed, key",
    [
        ({b"qSupported": None}, "gdb.timeout"),
        ({b"qSupported": b""}, "gdb.protocol"),
        ({b"qSupported": b"PacketSize=zz"}, "gdb.protocol"),
        ({b"qqemu": b""}, "gdb.stub"),
        ({b"qXfer": b""}, "gdb.protocol"),
        ({b"qXfer": b"m" + b"x" * 400}, "gdb.protocol"),
        ({b"qXfer:features:read:target.xml": b"l" + DESCRIPTION % b"aarch64"}, "gdb.machine"),
        ({b"qXfer:features:read:target.xml": b"l<target/>"}, "gdb.machine"),
        ({b"qXfer:features:read:core.xml": b"l<feature/>"}, "gdb.machine"),
        ({b"p": b"E14"}, "gdb.protocol"),
        ({b"p1": b"00" * 8}, "gdb.no_kernel"),
        ({b"p2": b"ff" * 8}, "gdb.no_kernel"),
        ({b"m": b"E14"}, "gdb.no_kernel"),
        ({b"m": b"00"}, "gdb.protocol"),
        ({b"m": b"xyz"}, "gdb.protocol"),
        ({b"m": None}, "gdb.timeout"),
        ({b"D": None}, "gdb.detach"),
    ],
    ids=str,
)
def test_a_stub_that_answers_oddly_is_an_error_and_the_machine_goes_on(
    changed: dict[bytes, bytes | None], key: str
) -> None:
    server = FakeStub(MACHINE, changed)
    assert refused(server).key == key
    assert server.resumed == (0 if b"D" in changed else 1)
    assert server.physical == b"0"


def test_what_is_no_stub_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (scheme,) = kdiff_memory_schemes()
        with pytest.raises(KdiffError) as caught:
            scheme.open(f"127.0.0.1:{port}", KNOWN)
        assert caught.value.key == "gdb.timeout"
    with pytest.raises(KdiffError) as caught:
        scheme.open(f"127.0.0.1:{port}", KNOWN)
    assert caught.value.key == "gdb.connect"
    assert "-s" in caught.value.remedy


@pytest.mark.parametrize("where", ["", "1234", "host:", "host:0", "host:99999", "host:12a", "a:b:1"])
def test_what_is_no_address_is_an_error(where: str) -> None:
    (scheme,) = kdiff_memory_schemes()
    with pytest.raises(KdiffError) as caught:
        scheme.open(where, KNOWN)
    assert caught.value.key == "gdb.where"


def test_run_lengths_and_escapes_are_undone() -> None:
    assert protocol._expanded(b'0*"') == b"0" * 6
    assert protocol._expanded(b"a0* b") == b"a0000b"
    assert protocol._expanded(b"}\x03}\x04}\x0a}]") == b"#$*}"


@pytest.mark.parametrize("seed", range(12))
def test_answers_damaged_on_purpose_are_errors_or_do_no_harm(seed: int) -> None:
    """Their checksums are right, so that nobody asks again."""
    random = Random(seed)

    def damaged(packet: bytes, number: int) -> bytes:
        data = bytearray(packet[1:-3])
        if not data or random.random() < 0.97:
            return packet
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.choice(b"0123456789abcdefEOK;:<>}*")
        return b"$" + data + b"#%02x" % (sum(data) & 0xFF)

    with FakeStub(MACHINE, spoil=damaged, binary=bool(seed % 2)) as server:
        with contextlib.suppress(KdiffError):
            opened(server).facts()
        server.spoil = lambda packet, number: packet
        assert opened(server).read(MACHINE.base, 8) == MACHINE.kernel()[:8]

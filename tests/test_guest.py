# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdiff.distribution import KernelSetup
from kdiff.errors import KdiffError
from kdiff.guest import SHARE, Guest
from kdiff.kernel_log import complaints

pytestmark = pytest.mark.guest


def boot(kernel: KernelSetup, **options: float) -> Guest:
    return Guest.boot(kernel.image / "vmlinuz", kernel.image / "modules", **options)


@pytest.fixture(scope="module")
def guest(kernel: KernelSetup) -> Iterator[Guest]:
    with boot(kernel) as running:
        yield running


def test_the_guest_runs_the_kernel_it_was_given(guest: Guest, kernel: KernelSetup) -> None:
    assert guest.run("uname -r").output.strip() == kernel.abi


def test_status_and_output_come_back(guest: Guest) -> None:
    result = guest.run("echo out; echo err >&2; exit 7")
    assert (result.status, result.output, result.held) == (7, "out\nerr\n", False)


def test_quotes_and_bytes_of_a_line_arrive_as_written(guest: Guest) -> None:
    assert guest.run("""printf '%s' "a'b" '$HOME' 'ü'""").output == "a'b$HOMEü"


def test_a_long_output_arrives_whole(guest: Guest) -> None:
    assert len(guest.run("head -c 2000000 /dev/zero | tr '\\0' x").output) == 2_000_000


def test_the_guest_runs_this_python_under_its_own_path(guest: Guest) -> None:
    result = guest.run(f"{sys.executable} -c 'import sys; print(sys.executable)'")
    assert result.output.strip() == sys.executable


def test_this_installations_programs_are_found_first(guest: Guest) -> None:
    path = guest.run("echo $PATH").output
    assert path.startswith(f"{Path(sys.executable).parent}:")


def test_a_line_runs_in_the_directory_it_is_given(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("yes")
    assert guest.run("cat here", directory=tmp_path).output == "yes"


def test_what_the_guest_writes_does_not_reach_this_machine(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert guest.run("echo yours >file; echo new >other; cat file", directory=tmp_path).output == "yours\n"
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "other").exists()


def test_the_share_works_both_ways(guest: Guest) -> None:
    (guest.share / "question").write_text("6 * 7")
    assert guest.run(f"echo $(( $(cat {SHARE}/question) )) >{SHARE}/answer").held
    assert (guest.share / "answer").read_text() == "42\n"


def test_loopback_is_up(guest: Guest) -> None:
    listen = "busybox nc -l -p 4242 </dev/null >/tmp/got & sleep 1"
    assert guest.run(f"{listen}; echo hi | busybox nc 127.0.0.1 4242; wait; cat /tmp/got").output == "hi\n"


def test_the_updates_directory_starts_empty_and_is_writable(guest: Guest) -> None:
    assert guest.run("ls -A /var/lib/kdiff && touch /var/lib/kdiff/x && rm /var/lib/kdiff/x").output == ""


def test_the_log_holds_what_was_just_logged(guest: Guest) -> None:
    guest.run("echo '<4>a message of the test' >/dev/kmsg")
    last = guest.records()[-1]
    assert (last.level, last.text) == (4, "a message of the test")
    assert guest.log().endswith("a message of the test\n")


def test_a_stock_kernel_starts_without_trouble(guest: Guest) -> None:
    assert complaints(guest.records()) == ()


def test_a_line_that_takes_too_long_is_killed_with_its_children(guest: Guest) -> None:
    result = guest.run("sleep 4321 & sleep 4321", timeout=2)
    assert result.late
    assert not result.held
    assert guest.run("ps ax | grep -c '[s]leep 4321'").output == "0\n"


def test_a_panic_is_an_error_with_the_last_words(kernel: KernelSetup) -> None:
    with boot(kernel) as guest:
        with pytest.raises(KdiffError) as caught:
            guest.run("echo c >/proc/sysrq-trigger")
        assert caught.value.key == "guest.died"
        assert "Kernel panic - not syncing: sysrq triggered crash" in str(caught.value)
        assert "log.panic" in {complaint.key for complaint in complaints(guest.records())}


def test_power_off_ends_the_guest_and_closing_removes_its_files(kernel: KernelSetup) -> None:
    with boot(kernel) as guest:
        started = time.monotonic()
        guest.power_off()
        assert time.monotonic() - started < 15
        share = guest.share
    assert not share.exists()


def test_a_guest_that_does_not_come_up_in_time_is_an_error(kernel: KernelSetup) -> None:
    with pytest.raises(KdiffError) as caught:
        boot(kernel, timeout=0.5)
    assert caught.value.key == "guest.hung"


def test_a_file_that_is_no_kernel_is_an_error(kernel: KernelSetup, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"not a kernel" * 1000)
    with pytest.raises(KdiffError) as caught:
        Guest.boot(tmp_path / "vmlinuz", kernel.image / "modules", timeout=20)
    assert caught.value.key in ("guest.died", "guest.hung")


def test_a_missing_image_is_an_error(kernel: KernelSetup, tmp_path: Path) -> None:
    with pytest.raises(KdiffError) as caught:
        Guest.boot(tmp_path / "nothing", kernel.image / "modules")
    assert caught.value.key == "guest.image"

# SPDX-License-Identifier: Apache-2.0
"""A stock kernel in QEMU: boot it, run shell lines in it, read its log, power it off.

The guest sees this machine's files, under their own paths, read-only over virtio-9p with a layer in the
guest's memory on top: what a line writes is gone afterwards. Only /proc, /sys, /dev, /run and
/var/lib/kdiff are the guest's own. The image is booted as it is; every driver comes from its own modules.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from kdiff import kernel_log
from kdiff.errors import KdiffError
from kdiff.initramfs import DIRECTORY, EXECUTABLE, PLAIN, Entry, archive, modules
from kdiff.kernel_log import LogRecord
from kdiff.values import dataclass

SHARE = "/run/kdiff-guest"
"""Where the guest sees `Guest.share`."""
WANTED = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"), Path("/usr/lib/busybox/busybox"))
QEMU = "qemu-system-x86_64"
MACHINE = ("-accel", "tcg,thread=single", "-cpu", "max", "-nodefaults", "-display", "none", "-no-reboot")
"""TCG in one thread: with several, a kernel that patches its own code now and then dies of `int3`."""
MARK = "kdiff-guest:"
"""How guest_init.sh and this file start their own messages."""
LAST_WORDS = 25
GRACE = 20.0
"""Seconds a living guest may need to tell that a line was killed for being late."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one line. `status` is the shell's, 137 for a line that was killed."""

    line: str
    status: int
    output: str
    """Standard output and standard error as they came."""
    seconds: float
    late: bool = False
    """Whether it was killed because its time was up."""

    @property
    def held(self) -> bool:
        return self.status == 0


class Guest:
    """A running guest; leave the `with` block and it is gone."""

    def __init__(self, process: subprocess.Popen[bytes], scratch: Path) -> None:
        """Use `boot`."""
        self._process = process
        self._scratch = scratch
        self._count = 0
        self._buffer = b""
        self.share = scratch / "share"
        """A directory of this machine that the guest sees, writable, as `SHARE`."""

    @classmethod
    def boot(
        cls,
        image: Path,
        module_tree: Path,
        *,
        memory: int = 1024,
        processors: int = 2,
        timeout: float = 90,
        arguments: Sequence[str] = (),
        hardware: Sequence[str] = (),
    ) -> Guest:
        """Start `image` and return once it takes lines.

        `memory` in MiB, `timeout` in seconds; `arguments` are added to the kernel's command line, `hardware`
        to QEMU's, which runs in a directory that goes with the guest. KdiffError
        `guest.qemu`, `guest.busybox`, `guest.image` or `guest.module` if something is missing, `guest.died`
        or `guest.hung` with the end of the kernel's log if it does not come up.
        """
        qemu = shutil.which(QEMU)
        if qemu is None:
            raise KdiffError(
                "guest.qemu", f"no {QEMU} on this machine", remedy="apt-get install qemu-system-x86"
            )
        if not image.is_file():
            raise KdiffError("guest.image", "no such kernel image", place=str(image))
        scratch = Path(tempfile.mkdtemp(prefix="kdiff-guest-"))
        try:
            (scratch / "share").mkdir()
            token = secrets.token_hex(8)
            (scratch / "initramfs").write_bytes(_initramfs(module_tree, token))
            command = (
                *_dies_with_us(),
                *(qemu, *MACHINE, "-m", str(memory), "-smp", str(processors)),
                *("-kernel", str(image), "-initrd", str(scratch / "initramfs")),
                *("-append", " ".join(("console=ttyS0", "panic=-1", "quiet", *arguments))),
                *("-serial", f"file:{scratch / 'console'}", "-serial", "stdio"),
                *_shared("host", Path("/"), ",readonly=on,multidevs=remap"),
                *_shared("share", scratch / "share", ""),
                *hardware,
            )
            with (scratch / "qemu").open("wb") as errors:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=scratch
                )
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        guest = cls(process, scratch)
        try:
            guest._expect(f"ready {token}", timeout, "did not come up")
        except BaseException:
            guest.close()
            raise
        return guest

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, line: str, timeout: float = 120, directory: Path = Path("/")) -> Result:
        """Run a shell line (sh) in the guest, with `directory` as its working directory.

        A line that takes longer than `timeout` seconds is killed. KdiffError `guest.died` if the guest is
        gone, `guest.hung` if it does not answer any more.
        """
        self._count += 1
        number = self._count
        (self.share / f"{number}.line").write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in _environment())
            + f"cd {shlex.quote(str(directory))} || exit\n{line}\n"
        )
        started = time.monotonic()
        self._send(f"{number} {max(1, round(timeout))}\n")
        status = self._expect(f"{number} ", timeout + GRACE, f"did not finish: {line}")
        seconds = time.monotonic() - started
        output = (self.share / f"{number}.out").read_bytes().decode(errors="replace")
        return Result(line, int(status), output, seconds, late=(self.share / f"{number}.late").exists())

    def records(self) -> tuple[LogRecord, ...]:
        """The kernel's log until now; of a guest that has died or hangs, as far as it came."""
        if self._process.poll() is None:
            try:
                self._catch_up()
            except KdiffError:
                return self._last_records()
            return self._handed_out()
        return self._last_records()

    def log(self) -> str:
        """The kernel's log until now as `dmesg` shows it."""
        return "".join(f"{record}\n" for record in self.records())

    def power_off(self, timeout: float = 30) -> None:
        """Let the guest power itself off; KdiffError `guest.hung` if it does not."""
        if self._process.poll() is None:
            self._send("off\n")
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise self._lost("guest.hung", "did not power off") from error

    def close(self) -> None:
        """End the guest whatever it is doing, and remove its files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _catch_up(self, patience: float = 10) -> None:
        """Wait until everything logged so far has arrived, which a message of our own proves."""
        mark = f"{MARK} {secrets.token_hex(4)}"
        self.run(f"echo '<6>{mark}' >/dev/kmsg", timeout=patience)
        deadline = time.monotonic() + patience
        while mark.encode() not in (self.share / "kmsg").read_bytes():
            if time.monotonic() > deadline:
                raise self._lost("guest.hung", "does not hand out its log any more")
            time.sleep(0.05)

    def _send(self, text: str) -> None:
        if self._process.stdin is None:
            raise KdiffError("guest.died", "the guest was closed")
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise self._lost("guest.died", "is gone") from error

    def _expect(self, prefix: str, timeout: float, problem: str) -> str:
        """Return what follows `prefix` on the line that starts with it; other lines are noise."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._read_line(deadline, problem)
            if line.startswith(prefix):
                return line[len(prefix) :]

    def _read_line(self, deadline: float, problem: str) -> str:
        stream = self._process.stdout
        if stream is None:
            raise KdiffError("guest.died", "the guest was closed")
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise self._lost("guest.hung", problem)
                data = os.read(stream.fileno(), 65536)
                if not data:
                    self._process.wait()
                    raise self._lost("guest.died", f"{problem}; it stopped")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").strip()

    def _handed_out(self) -> tuple[LogRecord, ...]:
        records = kernel_log.parse(_text(self.share / "kmsg"))
        return tuple(record for record in records if not record.text.startswith(MARK))

    def _last_records(self) -> tuple[LogRecord, ...]:
        """What the guest handed out, then what only its console shows, such as a panic's last words."""
        records = self._handed_out()
        known = records[-1].seconds if records else -1.0
        console = kernel_log.parse_console(_text(self._scratch / "console").replace("\r", ""))
        return records + tuple(record for record in console if record.seconds > known)

    def _lost(self, key: str, problem: str) -> KdiffError:
        """The error for a guest that does not answer, with the last words of QEMU and of the kernel."""
        records = self._last_records()
        first = next(iter(kernel_log.complaints(records)), None)
        said = records[records.index(first.record) :][:LAST_WORDS] if first else records[-LAST_WORDS:]
        lines = [*_text(self._scratch / "qemu").splitlines(), *map(str, said)]
        lines += [line for line in _text(self._scratch / "console").splitlines() if line.startswith(MARK)]
        tail = "".join(f"\n    {line}" for line in lines)
        return KdiffError(key, f"the guest {problem}" + (f"; its last words:{tail}" if tail else ""))


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace") if file.exists() else ""


def _dies_with_us() -> Iterable[str]:
    """What to start QEMU through, so that it does not outlive a kdiff that was killed."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL") if setpriv else ()


def _shared(tag: str, path: Path, options: str) -> Iterable[str]:
    folder = str(path).replace(",", ",,")
    yield from ("-fsdev", f"local,id={tag},path={folder},security_model=none{options}")
    yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _initramfs(module_tree: Path, token: str) -> bytes:
    busybox = next((path for path in BUSYBOX if path.is_file()), None)
    if busybox is None:
        raise KdiffError(
            "guest.busybox", "no busybox on this machine", remedy="apt-get install busybox-static"
        )
    script = Path(__file__).with_name("guest_init.sh").read_bytes()
    loaded = modules(module_tree, WANTED)
    folders = ("bin", "dev", "lower", "modules", "over", "proc", "root", "sys")
    return archive(
        [
            *(Entry(folder, DIRECTORY) for folder in folders),
            Entry("init", EXECUTABLE, script),
            Entry("token", PLAIN, token.encode()),
            Entry("bin/busybox", EXECUTABLE, busybox.read_bytes()),
            Entry("modules/order", PLAIN, "".join(f"{name}\n" for name, _ in loaded).encode()),
            *(Entry(f"modules/{name}.ko", PLAIN, data) for name, data in loaded),
        ]
    )


def _environment() -> Iterable[tuple[str, str]]:
    """What a line needs to find this installation's programs first."""
    yield (
        "PATH",
        f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
    yield "HOME", str(Path.home())
    yield "LANG", "C.UTF-8"
    yield "PYTHONDONTWRITEBYTECODE", "1"

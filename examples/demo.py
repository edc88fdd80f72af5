# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a stock kernel stops, and starts again, answering on TCP port 6688.

It types the commands a user would type: `kdiff setup`, `ksplice-create` and `kdiff rehearse`, for the
distribution's newest kernel, with the update of tcp_ipv4.patch.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from kdiff import registry, setup
from kdiff.errors import KdiffError

EXAMPLES = Path(__file__).resolve().parent
WORK = EXAMPLES.parent / "demo"
BIN = Path(sys.executable).parent
ID = "demo6688"


def main() -> int:
    started = time.monotonic()
    WORK.mkdir(exist_ok=True)
    try:
        abi = setup.distribution(registry.load()).newest()
    except KdiffError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    kernel = setup.default_destination(abi)
    port = EXAMPLES / "port.sh"
    done = (
        step("The kernel: packages of the distribution, unpacked", "kdiff", "setup", f"--kernel={abi}")
        and step(
            "The update: from a source patch, matched against the kernel's image",
            "ksplice-create",
            f"--patch={EXAMPLES / 'tcp_ipv4.patch'}",
            f"--config={kernel / 'config'}",
            f"--id={ID}",
            "--description=drop TCP segments to port 6688",
            str(kernel / "source"),
        )
        and step(
            "The rehearsal: the unmodified kernel in QEMU, before, with and after the update",
            *("kdiff", "rehearse", f"ksplice-{ID}.tar.gz"),
            *("--before", f"{port} 6688 answers"),
            *("--after", f"{port} 6688 silent", "--after", f"{port} 6689 answers"),
            *("--undone", f"{port} 6688 answers"),
        )
    )
    seconds = time.monotonic() - started
    if not done:
        print(f"\nThe demonstration FAILED after {seconds:.0f} s.")
        return 1
    print(
        f"\nThe demonstration WORKED in {seconds:.0f} s: {abi} answered on port 6688, fell silent with the"
        " update and answered again without it."
    )
    return 0


def step(title: str, program: str, *arguments: str) -> bool:
    """Show and run one command in the demonstration's directory; True if it exits with 0."""
    print(f"\n== {title}\n$ {shlex.join((program, *arguments))}", flush=True)
    return subprocess.run([BIN / program, *arguments], cwd=WORK, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())

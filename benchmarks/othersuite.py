# SPDX-License-Identifier: Apache-2.0
"""Packages of a Debian suite that this machine does not use: downloaded by apt, with lists of their own.

Nothing of the system's apt is changed, and what comes is signed by Debian as always.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def download(suite: str, packages: tuple[str, ...], folder: Path) -> list[Path]:
    """The packages' newest versions in `suite` ("URL SUITE COMPONENT"), as files of `folder`."""
    apt = folder / "apt"
    for each in ("lists/partial", "cache/archives/partial"):
        (apt / each).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYS}] {suite}\n")
    (apt / "options").write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{apt}/lists";\nDir::Cache "{apt}/cache";\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(apt / "options")}
    for words in (("update", "-qq"), ("download", "-qq", *packages)):
        subprocess.run(("apt-get", *words), cwd=folder, env=environment, check=True)
    return [next(folder.glob(f"{package}_*.deb")) for package in packages]

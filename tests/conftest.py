# SPDX-License-Identifier: Apache-2.0
"""What tests share: one stock kernel, set up once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from kdiff import registry, setup
from kdiff.distribution import KernelSetup

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, as would children


@pytest.fixture(scope="session")
def kernel() -> KernelSetup:
    """A stock kernel with configuration, source and image.

    From the directory KDIFF_TEST_KERNEL_DIR, else the newest kernel in its usual place; made if missing.
    """
    plugins = registry.load()
    named = os.environ.get("KDIFF_TEST_KERNEL_DIR")
    if named:
        wanted = setup.choose(plugins, None, Path(named))
    else:
        wanted = setup.choose(plugins, setup.distribution(plugins).newest(), None)
    return setup.make(plugins, wanted, lambda text: print(text, file=sys.stderr))

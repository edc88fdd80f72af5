# SPDX-License-Identifier: Apache-2.0
"""kdiff updates a running Linux kernel from a source patch, and proves first what it replaces."""

__version__ = "0.1.0"

# SPDX-License-Identifier: Apache-2.0
"""Load and unload kernel modules by the C library's two functions.

The kernel gets the very bytes that were checked, and its error number comes back unaltered.
"""

from __future__ import annotations

import os


def insert(module: bytes) -> int:
    """Load a module; return 0 or an errno."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    status = library.init_module(module, ctypes.c_ulong(len(module)), b"")
    return ctypes.get_errno() if status else 0


def remove(name: str) -> int:
    """Unload a module that nobody uses, without waiting; return 0 or an errno."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    status = library.delete_module(name.encode(), ctypes.c_int(os.O_NONBLOCK))
    return ctypes.get_errno() if status else 0

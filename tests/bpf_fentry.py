# SPDX-License-Identifier: Apache-2.0
"""Attach an empty BPF program to the entry of a kernel function, and stay: python bpf_fentry.py FUNCTION

Runs in a guest as root, with the standard library only. Numbers: include/uapi/linux/bpf.h and btf.h. Prints
`attached` once the program is in place.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time

BPF = 321
"""__NR_bpf on x86-64."""
PROG_LOAD, RAW_TRACEPOINT_OPEN = 5, 17
TRACING, TRACE_FENTRY = 26, 24
RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")
FUNC = 12
_EXTRA = {1: 4, 3: 12, 14: 4, 17: 4}
"""Bytes behind a type of this kind: INT, ARRAY, VAR, DECL_TAG."""
_MEMBERS = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""Bytes for each of its members: STRUCT, UNION, ENUM, FUNC_PROTO, DATASEC, ENUM64."""


def btf_id(wanted: str) -> int:
    """The number of a function's type in the kernel's BTF."""
    with open("/sys/kernel/btf/vmlinux", "rb") as file:
        data = file.read()
    header, types, size, texts, length = struct.unpack_from("<IIIII", data, 4)
    names = data[header + texts : header + texts + length]
    name = names.index(b"\0" + wanted.encode() + b"\0") + 1
    at, number = header + types, 1
    while at < header + types + size:
        name_off, info, _ = struct.unpack_from("<III", data, at)
        kind = info >> 24 & 31
        if kind == FUNC and name_off == name:
            return number
        at += 12 + _EXTRA.get(kind, 0) + (info & 0xFFFF) * _MEMBERS.get(kind, 0)
        number += 1
    raise SystemExit(f"no BTF of {wanted}")


def bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    found = libc.syscall(BPF, command, buffer, 128)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)


def main(function: str) -> None:
    code, licence = ctypes.create_string_buffer(RETURN_0), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII", TRACING, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0
    )
    attributes += bytes(16) + struct.pack("<II", 0, TRACE_FENTRY)
    attributes = attributes.ljust(108, b"\0") + struct.pack("<I", btf_id(function))
    program = bpf(PROG_LOAD, attributes)
    link = bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QI", 0, program))
    print("attached", link, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1])

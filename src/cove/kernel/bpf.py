"""Small eBPF programs, assembled here and loaded through bpf(2).

Owns the encoding of instructions and the system call. What a program decides belongs to who assembles it:
`cove.kernel.device_filter` (devices of a control group) and `cove.kernel.traffic` (classes of packets).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

PROG_LOAD, PROG_ATTACH, PROG_DETACH, PROG_GET_FD_BY_ID, PROG_QUERY = 5, 8, 9, 13, 16
PROG_TYPE_SCHED_CLS, PROG_TYPE_CGROUP_DEVICE = 3, 15

_NR_BPF = 321 if os.uname().machine == "x86_64" else 280

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def instruction(code: int, target: int, source: int, offset: int, value: int) -> bytes:
    """One instruction (Documentation/bpf/standardization/instruction-set.rst of the kernel)."""
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


def load(kind: int, program: bytes) -> int:
    """Have the kernel verify and keep a program of type `kind`; returns its descriptor, close-on-exec."""
    code = ctypes.create_string_buffer(program, len(program))
    terms = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII",
        kind,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(terms),
        *(0, 0, 0, 0, 0),
    )
    return bpf(PROG_LOAD, attributes)


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2) with attributes that the kernel only reads."""
    return call(command, ctypes.create_string_buffer(attributes, len(attributes)))


def call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2) with attributes that the kernel may write."""
    result: int = _libc.syscall(
        ctypes.c_long(_NR_BPF), ctypes.c_int(command), ctypes.byref(buffer), ctypes.c_uint(len(buffer))
    )
    if result < 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, f"bpf: {os.strerror(number)}")
    return result

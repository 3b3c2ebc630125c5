"""Which devices a control group of version 2 may use: an eBPF program, as version 1's files are gone there.

    rules (in order, later ones win) ──▶ decide: a default and its exemptions ──▶ assemble ──▶ install (bpf(2))

The exemptions behave as those of version 1's devices.allow and devices.deny. Sources: bpf(2),
include/uapi/linux/bpf.h (struct bpf_cgroup_dev_ctx), security/device_cgroup.c of the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from cove.oci.spec import DeviceRule

_NR_BPF = 321 if platform.machine() == "x86_64" else 280
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_MAX_PROGRAMS = 64

_BLOCK, _CHARACTER = 1, 2
_TYPES = {"b": (_BLOCK,), "c": (_CHARACTER,), "u": (_CHARACTER,), "a": (_BLOCK, _CHARACTER)}
_ACCESS = {"m": 1, "r": 2, "w": 4}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Exemption:
    """Devices of one type (and number, None for any) with access bits that differ from the default."""

    type: int
    major: int | None
    minor: int | None
    access: int


def decide(rules: Iterable[DeviceRule]) -> tuple[bool, tuple[Exemption, ...]]:
    """The default (True allows) and its exemptions that `rules` amount to; without any rule all is allowed."""
    allowed, found = True, dict[tuple[int, int | None, int | None], int]()
    for rule in rules:
        access = sum(_ACCESS[letter] for letter in set(rule.access) & set(_ACCESS))
        if rule.type == "a" and rule.major is None and rule.minor is None:
            allowed, found = rule.allow, {}
            continue
        for kind in _TYPES[rule.type]:
            key = (kind, rule.major, rule.minor)
            before = found.get(key, 0)
            found[key] = before | access if rule.allow != allowed else before & ~access
    return allowed, tuple(Exemption(*key, access) for key, access in found.items() if access)


def assemble(allowed: bool, exemptions: Iterable[Exemption]) -> bytes:
    """The program: r2 = wanted access, r3 = type, r4 = major, r5 = minor; r0 = 1 allows."""
    code = [
        _instruction(0x61, 2, 1, 0, 0),  # r2 = ctx->access_type
        _instruction(0xBC, 3, 2, 0, 0),  # r3 = r2
        _instruction(0x54, 3, 0, 0, 0xFFFF),  # r3 &= 0xffff: the type
        _instruction(0x74, 2, 0, 0, 16),  # r2 >>= 16: the access
        _instruction(0x61, 4, 1, 4, 0),  # r4 = ctx->major
        _instruction(0x61, 5, 1, 8, 0),  # r5 = ctx->minor
    ]
    for each in exemptions:
        code += _clause(each, allowed)
    return b"".join([*code, _instruction(0xB7, 0, 0, 0, int(allowed)), _instruction(0x95, 0, 0, 0, 0)])


def _clause(each: Exemption, allowed: bool) -> list[bytes]:
    """Return the opposite of the default if the exemption applies: all of the access, or any of it when it denies."""
    mask, leave = (each.access, 0x15) if allowed else (~each.access & 7, 0x55)
    tests = [(3, each.type), (4, each.major), (5, each.minor)]
    wanted = [(register, value) for register, value in tests if value is not None]
    length = len(wanted) + 5
    code = [_instruction(0x55, register, 0, length - at - 1, value) for at, (register, value) in enumerate(wanted)]
    return [
        *code,
        _instruction(0xBC, 6, 2, 0, 0),
        _instruction(0x54, 6, 0, 0, mask),
        _instruction(leave, 6, 0, 2, 0),
        _instruction(0xB7, 0, 0, 0, int(not allowed)),
        _instruction(0x95, 0, 0, 0, 0),
    ]


def _instruction(code: int, target: int, source: int, offset: int, value: int) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


def install(directory: int, rules: Iterable[DeviceRule]) -> None:
    """Let the group whose open directory `directory` is use devices as `rules` say, and no longer as before."""
    old = _attached(directory)
    program = _load(assemble(*decide(rules)))
    try:
        _bpf(_PROG_ATTACH, struct.pack("=IIII", directory, program, _CGROUP_DEVICE, _ALLOW_MULTI))
    finally:
        os.close(program)
    for identity in old:
        former = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", identity, 0, 0))
        try:
            _bpf(_PROG_DETACH, struct.pack("=IIII", directory, former, _CGROUP_DEVICE, 0))
        finally:
            os.close(former)


def _load(program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    terms = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII",
        _PROG_TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(terms),
        *(0, 0, 0, 0, 0),
    )
    return _bpf(_PROG_LOAD, attributes)


def _attached(directory: int) -> list[int]:
    identities = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attributes = struct.pack(
        "=IIIIQII", directory, _CGROUP_DEVICE, 0, 0, ctypes.addressof(identities), _MAX_PROGRAMS, 0
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    _call(_PROG_QUERY, buffer)
    count: int = struct.unpack_from("=I", buffer.raw, 24)[0]
    return list(identities[:count])


def _bpf(command: int, attributes: bytes) -> int:
    return _call(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    result: int = _libc.syscall(
        ctypes.c_long(_NR_BPF), ctypes.c_int(command), ctypes.byref(buffer), ctypes.c_uint(len(buffer))
    )
    if result < 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, f"bpf: {os.strerror(number)}")
    return result

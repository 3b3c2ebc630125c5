"""Which devices a control group of version 2 may use: an eBPF program, as version 1's files are gone there.

    rules (in order, later ones win) ──▶ decide: a default and its exemptions ──▶ assemble ──▶ install (bpf(2))

The exemptions behave as those of version 1's devices.allow and devices.deny. Sources: bpf(2),
include/uapi/linux/bpf.h (struct bpf_cgroup_dev_ctx), security/device_cgroup.c of the kernel.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

import msgspec

from cove.kernel.bpf import (
    PROG_ATTACH,
    PROG_DETACH,
    PROG_GET_FD_BY_ID,
    PROG_QUERY,
    PROG_TYPE_CGROUP_DEVICE,
    bpf,
    call,
    instruction,
    load,
)
from cove.oci.spec import DeviceRule

_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_MAX_PROGRAMS = 64

_BLOCK, _CHARACTER = 1, 2
_TYPES = {"b": (_BLOCK,), "c": (_CHARACTER,), "u": (_CHARACTER,), "a": (_BLOCK, _CHARACTER)}
_ACCESS = {"m": 1, "r": 2, "w": 4}


class Exemption(msgspec.Struct, frozen=True):
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
        instruction(0x61, 2, 1, 0, 0),  # r2 = ctx->access_type
        instruction(0xBC, 3, 2, 0, 0),  # r3 = r2
        instruction(0x54, 3, 0, 0, 0xFFFF),  # r3 &= 0xffff: the type
        instruction(0x74, 2, 0, 0, 16),  # r2 >>= 16: the access
        instruction(0x61, 4, 1, 4, 0),  # r4 = ctx->major
        instruction(0x61, 5, 1, 8, 0),  # r5 = ctx->minor
    ]
    for each in exemptions:
        code += _clause(each, allowed)
    return b"".join([*code, instruction(0xB7, 0, 0, 0, int(allowed)), instruction(0x95, 0, 0, 0, 0)])


def _clause(each: Exemption, allowed: bool) -> list[bytes]:
    """Return the opposite of the default if the exemption applies: all of the access, or any of it when it denies."""
    mask, leave = (each.access, 0x15) if allowed else (~each.access & 7, 0x55)
    tests = [(3, each.type), (4, each.major), (5, each.minor)]
    wanted = [(register, value) for register, value in tests if value is not None]
    length = len(wanted) + 5
    code = [instruction(0x55, register, 0, length - at - 1, value) for at, (register, value) in enumerate(wanted)]
    return [
        *code,
        instruction(0xBC, 6, 2, 0, 0),
        instruction(0x54, 6, 0, 0, mask),
        instruction(leave, 6, 0, 2, 0),
        instruction(0xB7, 0, 0, 0, int(not allowed)),
        instruction(0x95, 0, 0, 0, 0),
    ]


def install(directory: int, rules: Iterable[DeviceRule]) -> None:
    """Let the group whose open directory `directory` is use devices as `rules` say, and no longer as before."""
    old = _attached(directory)
    program = load(PROG_TYPE_CGROUP_DEVICE, assemble(*decide(rules)))
    try:
        bpf(PROG_ATTACH, struct.pack("=IIII", directory, program, _CGROUP_DEVICE, _ALLOW_MULTI))
    finally:
        os.close(program)
    for identity in old:
        former = bpf(PROG_GET_FD_BY_ID, struct.pack("=III", identity, 0, 0))
        try:
            bpf(PROG_DETACH, struct.pack("=IIII", directory, former, _CGROUP_DEVICE, 0))
        finally:
            os.close(former)


def _attached(directory: int) -> list[int]:
    identities = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    attributes = struct.pack(
        "=IIIIQII", directory, _CGROUP_DEVICE, 0, 0, ctypes.addressof(identities), _MAX_PROGRAMS, 0
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    call(PROG_QUERY, buffer)
    count: int = struct.unpack_from("=I", buffer.raw, 24)[0]
    return list(identities[:count])

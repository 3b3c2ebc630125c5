"""The default system call filter: what a container may ask of the kernel.

An allow list. What is not on it fails with EPERM; what a capability unlocks is on it only for
containers that have the capability. Three calls are judged by their arguments:

    clone     without new namespaces, unless CAP_SYS_ADMIN          clone3 cannot be judged: ENOSYS,
    socket    every family but AF_ALG (38) and AF_VSOCK (40)        so that libc falls back to clone
    personality   Linux, its 32-bit and uname variants, and the query

The names are data, in seccomp.json; names that a machine does not know are skipped by the compiler.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources

import msgspec

from cove.oci.spec import Seccomp, SeccompArg, SeccompRule

_ALLOW = "SCMP_ACT_ALLOW"
_REFUSE = "SCMP_ACT_ERRNO"

_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
}

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET (linux/sched.h)."""

_AF_ALG, _AF_VSOCK = 38, 40
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


class _Names(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    always: tuple[str, ...]
    with_capability: dict[str, tuple[str, ...]]
    on_machine: dict[str, tuple[str, ...]]


@lru_cache(maxsize=1)
def _names() -> _Names:
    return msgspec.json.decode((resources.files("cove.engine") / "seccomp.json").read_bytes(), type=_Names)


def default_profile(machine: str, capabilities: Iterable[str]) -> Seccomp:
    """The filter for a container with these capabilities (its bounding set, "CAP_…") on `machine` (uname -m)."""
    return _profile(machine, frozenset(capabilities))


@lru_cache(maxsize=64)
def _profile(machine: str, capabilities: frozenset[str]) -> Seccomp:
    names = _names()
    allowed = {*names.always, *names.on_machine.get(machine, ())}
    for capability in capabilities:
        allowed.update(names.with_capability.get(capability, ()))
    rules = [SeccompRule(names=tuple(sorted(allowed)), action=_ALLOW), *_sockets(), *_personalities()]
    if "CAP_SYS_ADMIN" not in capabilities:
        rules += _clones(machine)
    return Seccomp(
        default_action=_REFUSE,
        default_errno_ret=errno.EPERM,
        architectures=_ARCHITECTURES.get(machine, ()),
        syscalls=tuple(rules),
    )


def _judged(name: str, op: str, value: int, *, index: int = 0, value_two: int = 0) -> SeccompRule:
    argument = SeccompArg(index=index, value=value, value_two=value_two, op=op)
    return SeccompRule(names=(name,), action=_ALLOW, args=(argument,))


def _sockets() -> list[SeccompRule]:
    return [
        _judged("socket", "SCMP_CMP_LT", _AF_ALG),
        _judged("socket", "SCMP_CMP_EQ", _AF_ALG + 1),
        _judged("socket", "SCMP_CMP_GT", _AF_VSOCK),
    ]


def _personalities() -> list[SeccompRule]:
    return [_judged("personality", "SCMP_CMP_EQ", value) for value in _PERSONALITIES]


def _clones(machine: str) -> list[SeccompRule]:
    """clone's flags are its first argument, on s390 its second; MASKED_EQ takes the mask, then the value."""
    flags = 1 if machine == "s390x" else 0
    return [
        _judged("clone", "SCMP_CMP_MASKED_EQ", _NEW_NAMESPACES, index=flags),
        SeccompRule(names=("clone3",), action=_REFUSE, errno_ret=errno.ENOSYS),
    ]

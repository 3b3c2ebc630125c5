"""Seccomp profiles with conditions on the container and the host, made into the runtime specification's.

A profile file (as `--security-opt seccomp=FILE` takes it) may say that a rule applies only with some
capabilities, on some architectures or from some kernel on. `resolve` decides that, once the container's
capabilities are known; what remains is an `oci.spec.Seccomp`. Cove's own profile is one of these too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache

import msgspec

from cove.errors import InvalidArgument
from cove.oci import seccomp_default as data
from cove.oci.spec import Seccomp, SeccompArg, SeccompRule

_ENOSYS, _EPERM = 38, 1
_AMD64, _ARM64 = "amd64", "arm64"
_MACHINES = {"x86_64": _AMD64, "aarch64": _ARM64, "i686": "x86", "armv7l": "arm"}
_NATIVE = {_AMD64: "SCMP_ARCH_X86_64", _ARM64: "SCMP_ARCH_AARCH64"}


class Condition(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Where a rule applies: on one of `arches`, with all `caps`, from kernel `min_kernel` on."""

    arches: tuple[str, ...] | None = None
    caps: tuple[str, ...] | None = None
    min_kernel: str | None = None


class Rule(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One rule; `name` is the old form of `names`. `excludes` removes it on one of its arches or caps."""

    action: str
    names: tuple[str, ...] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None


class ArchitectureFamily(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A profile file, in the form with `archMap` or in the specification's own with `architectures`."""

    default_action: str
    default_errno_ret: int | None = None
    arch_map: tuple[ArchitectureFamily, ...] | None = None
    architectures: tuple[str, ...] | None = None
    flags: tuple[str, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[Rule, ...] | None = None


def parse(text: str | bytes) -> Profile:
    """Read a profile file; InvalidArgument when it is none."""
    try:
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(f"Opening seccomp profile failed: it is no valid profile: {error}") from None
    if profile.arch_map and profile.architectures:
        raise InvalidArgument("Opening seccomp profile failed: it has both architectures and archMap; use one")
    for rule in profile.syscalls or ():
        if bool(rule.name) == bool(rule.names):
            raise InvalidArgument("Opening seccomp profile failed: each rule needs either name or names")
    return profile


@lru_cache(maxsize=64)
def resolve(profile: Profile, *, capabilities: frozenset[str], machine: str, kernel: str) -> Seccomp:
    """The rules that apply to a container.

    `capabilities` are those it is bounded by, with CAP_; `machine` and `kernel` as uname(2) says them.
    """
    architecture = _MACHINES.get(machine, machine)
    rules = tuple(
        SeccompRule(
            names=rule.names or (rule.name,), action=rule.action, errno_ret=rule.errno_ret, args=rule.args or ()
        )
        for rule in profile.syscalls or ()
        if _applies(rule, capabilities, architecture, _release(kernel))
    )
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=_architectures(profile, architecture),
        flags=profile.flags or (),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=rules,
    )


@cache
def default() -> Profile:
    """Cove's own profile."""
    return Profile(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=_EPERM,
        arch_map=(
            _family("X86_64", "X86", "X32"),
            _family("AARCH64", "ARM"),
            _family("MIPS64", "MIPS", "MIPS64N32"),
            _family("MIPS64N32", "MIPS", "MIPS64"),
            _family("MIPSEL64", "MIPSEL", "MIPSEL64N32"),
            _family("MIPSEL64N32", "MIPSEL", "MIPSEL64"),
            _family("S390X", "S390"),
            _family("RISCV64"),
            _family("LOONGARCH64"),
        ),
        syscalls=(
            _allow(data.ALWAYS),
            *(_allow(names.split(), Condition(min_kernel=kernel)) for kernel, names in data.SINCE_KERNEL.items()),
            *(_allow(names.split(), Condition(caps=(name,))) for name, names in data.WITH_CAPABILITY.items()),
            *(_allow(names.split(), Condition(arches=on)) for on, names in data.ON_ARCHITECTURE.items()),
            *_sockets(),
            *(_allow_if("personality", SeccompArg(index=0, value=each, op=_EQ)) for each in data.PERSONALITIES),
            *_clones(),
        ),
    )


_EQ, _LT, _GT, _MASKED_EQ = "SCMP_CMP_EQ", "SCMP_CMP_LT", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"


def _sockets() -> list[Rule]:
    """Every address family but AF_ALG and AF_VSOCK."""
    below = SeccompArg(index=0, value=data.AF_ALG, op=_LT)
    between = SeccompArg(index=0, value=data.AF_ALG + 1, op=_EQ)
    above = SeccompArg(index=0, value=data.AF_VSOCK, op=_GT)
    return [_allow_if("socket", each) for each in (below, between, above)]


def _clones() -> list[Rule]:
    """Without CAP_SYS_ADMIN: `clone` with no namespace flag (s390 has the flags second), and no `clone3`."""
    s390 = ("s390", "s390x")
    first = SeccompArg(index=0, value=data.NAMESPACE_FLAGS, op=_MASKED_EQ)
    second = SeccompArg(index=1, value=data.NAMESPACE_FLAGS, op=_MASKED_EQ)
    admin = Condition(caps=("CAP_SYS_ADMIN",))
    return [
        _allow_if("clone", first, excludes=Condition(caps=("CAP_SYS_ADMIN",), arches=s390)),
        _allow_if("clone", second, includes=Condition(arches=s390), excludes=admin),
        Rule(names=("clone3",), action="SCMP_ACT_ERRNO", errno_ret=_ENOSYS, excludes=admin),
    ]


def _allow(names: Iterable[str], includes: Condition | None = None) -> Rule:
    return Rule(names=tuple(names), action="SCMP_ACT_ALLOW", includes=includes)


def _allow_if(
    name: str, *args: SeccompArg, includes: Condition | None = None, excludes: Condition | None = None
) -> Rule:
    return Rule(names=(name,), action="SCMP_ACT_ALLOW", args=args, includes=includes, excludes=excludes)


def _family(architecture: str, *others: str) -> ArchitectureFamily:
    return ArchitectureFamily(
        architecture=f"SCMP_ARCH_{architecture}",
        sub_architectures=tuple(f"SCMP_ARCH_{other}" for other in others),
    )


def _applies(rule: Rule, capabilities: frozenset[str], architecture: str, kernel: tuple[int, int]) -> bool:
    if (wanted := rule.includes) is not None:
        if wanted.arches and architecture not in wanted.arches:
            return False
        if not capabilities.issuperset(wanted.caps or ()):
            return False
        if wanted.min_kernel and kernel < _release(wanted.min_kernel):
            return False
    if (unwanted := rule.excludes) is not None:
        if architecture in (unwanted.arches or ()) or not capabilities.isdisjoint(unwanted.caps or ()):
            return False
        if unwanted.min_kernel and kernel >= _release(unwanted.min_kernel):
            return False
    return True


def _architectures(profile: Profile, architecture: str) -> tuple[str, ...]:
    """The specification's list: as it stands, or the native architecture's family out of `archMap`."""
    if profile.architectures:
        return profile.architectures
    native = _NATIVE.get(architecture, f"SCMP_ARCH_{architecture.upper()}")
    for family in profile.arch_map or ():
        if family.architecture == native:
            return (native, *(family.sub_architectures or ()))
    return ()


def _release(text: str) -> tuple[int, int]:
    """(6, 18) of "6.18.44-generic"; InvalidArgument when it is no version."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise InvalidArgument(f"Opening seccomp profile failed: {text!r} is no kernel version")
    return int(found[1]), int(found[2])

"""The compiled filter decides what the profile says: judged by a small BPF interpreter."""

from __future__ import annotations

import platform
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cove.kernel import seccomp
from cove.oci import seccomp_profile
from cove.oci.spec import Seccomp, SeccompArg, SeccompRule

X86_64, I386, ARM, NOWHERE = 0xC000003E, 0x40000003, 0x40000028, 0xC0000016
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0, 0x50001, 0x50026

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers and audit values are x86_64's")


def run(program: bytes, audit: int, number: int, *args: int) -> int:
    """What the kernel would return for a call."""
    words = [number & 0xFFFFFFFF, audit, 0, 0]
    for value in (*args, *[0] * (6 - len(args))):
        words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        operation, true, false, operand = code[at]
        at += 1
        if operation == 0x20:
            accumulator = words[operand // 4]
        elif operation == 0x54:
            accumulator &= operand
        elif operation == 0x05:
            at += operand
        elif operation == 0x06:
            return operand
        else:
            holds = {
                0x15: accumulator == operand,
                0x25: accumulator > operand,
                0x35: accumulator >= operand,
            }[operation]
            at += true if holds else false


_COMPARE = {
    "SCMP_CMP_EQ": lambda a, v, w: a == v,
    "SCMP_CMP_NE": lambda a, v, w: a != v,
    "SCMP_CMP_LT": lambda a, v, w: a < v,
    "SCMP_CMP_LE": lambda a, v, w: a <= v,
    "SCMP_CMP_GT": lambda a, v, w: a > v,
    "SCMP_CMP_GE": lambda a, v, w: a >= v,
    "SCMP_CMP_MASKED_EQ": lambda a, v, w: a & v == w,
}

values = st.one_of(
    st.integers(0, 4),
    st.sampled_from([0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)
conditions = st.lists(
    st.builds(
        SeccompArg, index=st.integers(0, 5), value=values, value_two=values, op=st.sampled_from(list(_COMPARE))
    ),
    max_size=3,
    unique_by=lambda each: each.index,
).map(tuple)
NAMES = sorted(seccomp.numbers()["x86_64"])
rules = st.builds(
    SeccompRule,
    names=st.lists(st.sampled_from([*NAMES, "no_such_call"]), min_size=1, max_size=60).map(tuple),
    action=st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"]),
    errno_ret=st.sampled_from([None, 13]),
    args=conditions,
)
profiles = st.builds(
    Seccomp,
    default_action=st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_TRAP"]),
    architectures=st.sampled_from([(), ("SCMP_ARCH_X86",), ("SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM")]),
    syscalls=st.lists(rules, max_size=6).map(tuple),
)


def expected(profile: Seccomp, name: str, args: list[int]) -> int:
    """The profile's meaning, straight from its rules."""
    default = seccomp.verdict(profile.default_action, profile.default_errno_ret)
    mine = [rule for rule in profile.syscalls if name in rule.names]
    for rule in mine:
        if not rule.args:
            return seccomp.verdict(rule.action, rule.errno_ret)
    for rule in mine:
        ruling = seccomp.verdict(rule.action, rule.errno_ret)
        holds = all(_COMPARE[each.op](args[each.index], each.value, each.value_two) for each in rule.args)
        if holds and ruling != default:
            return ruling
    return default


@settings(max_examples=150, deadline=None)
@given(profile=profiles, name=st.sampled_from(NAMES), args=st.lists(values, min_size=6, max_size=6), at=st.data())
def test_every_call_gets_the_profiles_verdict(
    profile: Seccomp, name: str, args: list[int], at: st.DataObject
) -> None:
    named = [each for rule in profile.syscalls for each in rule.names if each in seccomp.numbers()["x86_64"]]
    name = at.draw(st.sampled_from(named)) if named else name
    program = b"".join(struct.pack("=HBBI", *step) for step in seccomp.assemble(profile))
    assert run(program, X86_64, seccomp.numbers()["x86_64"][name], *args) == expected(profile, name, args)
    if "SCMP_ARCH_X32" in profile.architectures and name in seccomp.numbers()["x32"]:
        assert run(program, X86_64, seccomp.numbers()["x32"][name] | 1 << 30, *args) == expected(profile, name, args)
    elif not profile.architectures:
        assert run(program, X86_64, seccomp.numbers()["x86_64"][name] | 1 << 30, *args) == KILL
        assert run(program, I386, 1) == KILL
    assert run(program, NOWHERE, 1) == KILL


def default_filter(*capabilities: str) -> bytes:
    profile = seccomp_profile.resolve(
        seccomp_profile.default(), capabilities=frozenset(capabilities), machine="x86_64", kernel="6.1"
    )
    return seccomp.compile(profile)


@pytest.mark.parametrize(("audit", "table"), [(X86_64, "x86_64"), (I386, "i386")])
def test_the_default_profile(audit: int, table: str) -> None:
    program, number = default_filter("CAP_CHOWN", "CAP_SYS_CHROOT"), seccomp.numbers()[table]
    for name in ("read", "openat", "execve", "exit_group", "ptrace", "chroot", "mmap"):
        assert run(program, audit, number[name]) == ALLOW, name
    for name in ("unshare", "setns", "mount", "keyctl", "bpf", "userfaultfd", "io_uring_setup", "add_key", "reboot"):
        assert run(program, audit, number[name]) == EPERM, name
    assert run(program, audit, number["clone3"]) == ENOSYS
    assert run(program, audit, number["clone"], 0x11) == ALLOW
    for flag in (0x00020000, 0x02000000, 0x10000000, 0x40000000):
        assert run(program, audit, number["clone"], flag | 0x11) == EPERM
    assert run(program, audit, number["socket"], 38) == EPERM, "AF_ALG"
    assert run(program, audit, number["socket"], 40) == EPERM, "AF_VSOCK"
    assert [run(program, audit, number["socket"], family) for family in (1, 2, 10, 16, 39, 44)] == [ALLOW] * 6
    assert run(program, audit, number["personality"], 0xFFFFFFFF) == ALLOW
    assert run(program, audit, number["personality"], 0x40000) == EPERM
    assert run(program, audit, 900) == ENOSYS, "a call newer than the profile"
    assert run(program, audit, 0xFFFFFFFF) == EPERM, "the number a tracer skips with"
    assert len(program) // 8 < seccomp.MAX_INSTRUCTIONS


def test_a_capability_opens_its_calls() -> None:
    program, number = default_filter("CAP_SYS_ADMIN"), seccomp.numbers()["x86_64"]
    assert run(program, X86_64, number["unshare"]) == ALLOW
    assert run(program, X86_64, number["clone3"]) == ALLOW
    assert run(program, X86_64, number["clone"], 0x10000000) == ALLOW


def test_nonsense_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="unknown action 'SCMP_ACT_JUMP'"):
        seccomp.compile(Seccomp(default_action="SCMP_ACT_JUMP"))

"""The default filter depends on the capabilities and on nothing else of a container."""

from __future__ import annotations

from cove.engine.isolation.seccomp import resolved
from cove.oci.spec import Seccomp, SeccompRule


def rules(profile: Seccomp, name: str) -> list[SeccompRule]:
    return [rule for rule in profile.syscalls if name in rule.names]


def test_without_sys_admin_no_namespace_is_made() -> None:
    profile = resolved(None, "x86_64", ["CAP_CHOWN"])
    assert [rule.args[0].op for rule in rules(profile, "clone")] == ["SCMP_CMP_MASKED_EQ"]
    assert [(rule.action, rule.errno_ret) for rule in rules(profile, "clone3")] == [("SCMP_ACT_ERRNO", 38)]
    for name in ("mount", "unshare", "setns", "bpf", "keyctl", "userfaultfd", "io_uring_setup", "kexec_load"):
        assert not rules(profile, name)
    assert profile.default_errno_ret == 1


def test_a_capability_unlocks_its_calls() -> None:
    profile = resolved(None, "x86_64", ["CAP_SYS_ADMIN"])
    assert not rules(profile, "clone")[0].args
    assert rules(profile, "mount")
    assert rules(resolved(None, "x86_64", ["CAP_SYS_TIME"]), "clock_settime")


def test_machines_have_calls_of_their_own() -> None:
    assert rules(resolved(None, "x86_64", ()), "arch_prctl")
    assert not rules(resolved(None, "aarch64", ()), "arch_prctl")
    assert rules(resolved(None, "s390x", ()), "clone")[0].args[0].index == 1

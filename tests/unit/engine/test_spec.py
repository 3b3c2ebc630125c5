"""From what was asked to the runtime's Spec: defaults, options, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from cove.engine.containers import merge, spec
from cove.engine.containers.records import Record
from cove.engine.host import HostFacts
from cove.engine.isolation import resources, security
from cove.errors import CoveError, InvalidArgument
from cove.oci.image import ContainerConfig as ImageDefaults
from cove.oci.spec import Spec
from cove.wire.containers import ContainerConfig, HostConfig, Ulimit

HOST = HostFacts(cpus=2, online_cpus="0-1", memory=1 << 34, ceilings={"RLIMIT_NOFILE": 1000})
AROUND = spec.Surroundings(cgroup="/cove/x", hostname="box")


def built(config: ContainerConfig | None = None, **host: Any) -> Spec:
    asked = HostConfig(network_mode="bridge", **host)
    config = config or ContainerConfig(cmd=("true",))
    spec.check(config, asked, HOST)
    record = Record(id="x" * 64, name="n", created_ns=1, image_id="i", image="i", config=config, host=asked)
    return spec.build(record, AROUND, HOST)


def test_defaults_isolate() -> None:
    made = built()
    assert made.linux and made.process and made.process.capabilities
    assert {each.type for each in made.linux.namespaces} == {"mount", "pid", "ipc", "uts", "network", "cgroup"}
    assert made.hostname == "box"
    assert set(made.process.capabilities.effective) == security.DEFAULT_CAPABILITIES
    assert not made.process.capabilities.inheritable and not made.process.capabilities.ambient
    assert "/proc/kcore" in made.linux.masked_paths and "/proc/sys" in made.linux.readonly_paths
    assert made.linux.seccomp is not None and made.linux.seccomp.default_action == "SCMP_ACT_ERRNO"
    assert made.linux.resources and made.linux.resources.devices[0].allow is False
    assert made.linux.sysctl["net.ipv4.ip_unprivileged_port_start"] == "0"


def test_privileged_lifts_everything() -> None:
    made = built(privileged=True)
    assert made.linux and made.process and made.process.capabilities
    assert made.linux.seccomp is None and not made.linux.masked_paths and not made.linux.readonly_paths
    assert "CAP_SYS_ADMIN" in made.process.capabilities.effective
    assert made.linux.resources and made.linux.resources.devices[0].allow


def test_host_namespaces_are_left_out() -> None:
    made = built(pid_mode="host", ipc_mode="host", uts_mode="host", cgroupns_mode="host")
    assert made.linux
    assert {each.type for each in made.linux.namespaces} == {"mount", "network"}
    assert made.hostname == ""


@pytest.mark.parametrize(
    ("add", "drop", "has", "lacks"),
    [
        (("net_admin",), None, "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
        (None, ("ALL",), None, "CAP_CHOWN"),
        (("CAP_CHOWN",), ("ALL",), "CAP_CHOWN", "CAP_KILL"),
        (("ALL",), ("MKNOD",), "CAP_SYS_ADMIN", "CAP_MKNOD"),
    ],
)
def test_capabilities(add: Any, drop: Any, has: str | None, lacks: str) -> None:
    made = built(cap_add=add, cap_drop=drop)
    assert made.process and made.process.capabilities
    kept = made.process.capabilities.bounding
    assert (has is None or has in kept) and lacks not in kept


def test_limits() -> None:
    made = built(memory=64 << 20, nano_cpus=500_000_000, pids_limit=10, cpu_shares=1)
    assert made.linux and made.linux.resources
    limits = made.linux.resources
    assert limits.memory and (limits.memory.limit, limits.memory.swap) == (64 << 20, 128 << 20)
    assert limits.cpu and (limits.cpu.quota, limits.cpu.period, limits.cpu.shares) == (50_000, 100_000, 2)
    assert limits.pids and limits.pids.limit == 10


def test_a_limit_this_host_cannot_raise_is_lowered_with_a_warning() -> None:
    values, warnings = security.rlimits([Ulimit(name="nofile", soft=500, hard=5000)], HOST)
    assert (values[0].soft, values[0].hard) == (500, 1000)
    assert "1000" in warnings[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": 1 << 20},
        {"memory": 64 << 20, "memory_swap": 1 << 20},
        {"memory_swap": 1 << 30},
        {"nano_cpus": 3 * 10**9},
        {"nano_cpus": 10**9, "cpu_quota": 5000},
        {"cpuset_cpus": "7"},
        {"cpuset_cpus": "x"},
        {"blkio_weight": 5},
        {"cap_add": ("NONSENSE",)},
        {"security_opt": ("nonsense",)},
        {"security_opt": ("seccomp={",)},
        {"sysctls": {"kernel.panic": "1"}},
        {"sysctls": {"net.ipv4.ip_forward": "1\nkernel.panic=1"}},
        {"ulimits": (Ulimit(name="nofile", soft=5, hard=1),)},
        {"ulimits": (Ulimit(name="nonsense", soft=1, hard=1),)},
        {"pid_mode": "nonsense"},
        {"oom_score_adj": 2000},
        {"runtime": "nonsense"},
        {"storage_opt": {"size": "ten"}},
        {"storage_opt": {"colour": "red"}},
        {"cgroup_parent": "../.."},
        {"device_cgroup_rules": ("x 1:3 r",)},
    ],
)
def test_what_cannot_be_honoured_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CoveError) as caught:
        built(**wrong)
    assert len(caught.value.message) > 10


def test_the_environment_has_defaults_and_the_last_word_wins() -> None:
    config = ContainerConfig(env=("A=1", "PATH=/x", "A=2", "TERM"), tty=True)
    assert merge.environment(config, "box", tty=False) == ("PATH=/x", "HOSTNAME=box", "A=2")


@pytest.mark.parametrize(
    ("asked", "image", "words"),
    [
        (ContainerConfig(), ImageDefaults(entrypoint=("e",), cmd=("c",)), ("e", "c")),
        (ContainerConfig(cmd=("x",)), ImageDefaults(entrypoint=("e",), cmd=("c",)), ("e", "x")),
        (ContainerConfig(entrypoint=("y",)), ImageDefaults(entrypoint=("e",), cmd=("c",)), ("y",)),
        (ContainerConfig(entrypoint=("",), cmd=("x",)), ImageDefaults(entrypoint=("e",), cmd=("c",)), ("x",)),
        (ContainerConfig(entrypoint=()), ImageDefaults(entrypoint=("e",), cmd=("c",)), ("c",)),
    ],
)
def test_entry_point_and_command(asked: ContainerConfig, image: ImageDefaults, words: tuple[str, ...]) -> None:
    assert merge.command(merge.merge(asked, image)) == words


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        merge.merge(ContainerConfig(), ImageDefaults())


def test_labels_ports_and_volumes_are_joined() -> None:
    image = ImageDefaults(cmd=("c",), labels={"a": "1", "b": "1"}, exposed_ports={"80/tcp": {}}, volumes={"/v": {}})
    made = merge.merge(ContainerConfig(labels={"a": "2"}, exposed_ports={"90/tcp": {}}), image)
    assert made.labels == {"a": "2", "b": "1"}
    assert set(made.exposed_ports) == {"80/tcp", "90/tcp"} and set(made.volumes or {}) == {"/v"}


def test_cpu_sets() -> None:
    assert resources.parse_set("0-2,5") == {0, 1, 2, 5}
    with pytest.raises(ValueError):
        resources.parse_set("3-1")


def test_tmpfs_is_safe_unless_told() -> None:
    assert spec.tmpfs("/t", "size=1m,exec").options == ("nosuid", "nodev", "size=1m", "exec")
    with pytest.raises(InvalidArgument):
        spec.tmpfs("/t", "lowerdir=/")

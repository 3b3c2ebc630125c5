"""process and the rest of linux in a configuration: what the program gets, and what is refused by name."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from cove.kernel import seccomp
from cove.oci.spec import Process, Rlimit
from cove.runtime import limits
from tests.conftest import BIN, PATIENCE
from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]


def without(members: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in members if each["type"] != kind]


def test_user_groups_umask_and_environment(bundle: Bundle) -> None:
    content = config("sh", "-c", "id -u; id -g; id -G; umask; pwd; echo $WORD")
    content["process"] |= {
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o027},
        "cwd": "/tmp",
        "env": ["PATH=/bin", "WORD=two words"],
    }
    assert bundle.out(content).splitlines() == ["1000", "1001", "1001 5 7", "0027", "/tmp", "two words"]


def test_scheduler(bundle: Bundle) -> None:
    content = config("sh", "-c", "cut -d' ' -f41,19 /proc/self/stat")
    content["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    assert bundle.out(content).split() == ["7", "3"]
    content["process"]["scheduler"] = {"policy": "SCHED_SOMEHOW"}
    assert "SCHED_SOMEHOW" in bundle.refusal(content)
    content["process"]["scheduler"] = {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_ODD"]}
    assert "SCHED_FLAG_ODD" in bundle.refusal(content)


def test_io_priority(bundle: Bundle) -> None:
    content = config("ionice", "-p", "1")
    content["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    assert bundle.out(content).strip() == "best-effort: prio 6"
    content["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE"}
    assert bundle.out(content).startswith("idle")
    content["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_NONE_SUCH"}
    assert "IOPRIO_CLASS_NONE_SUCH" in bundle.refusal(content)


def test_oom_score_and_limits(bundle: Bundle) -> None:
    content = config("sh", "-c", "cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn; ulimit -c")
    content["process"] |= {
        "oomScoreAdj": 400,
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
    }
    assert bundle.out(content).split() == ["400", "100", "200", "0"]
    content["process"]["rlimits"] = [{"type": "RLIMIT_NAMES", "soft": 1, "hard": 1}]
    assert "RLIMIT_NAMES" in bundle.refusal(content)
    content["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]
    assert "RLIMIT_NOFILE" in bundle.refusal(content)


def test_a_limit_beyond_the_hosts_is_lowered_and_told(bundle: Bundle) -> None:
    wanted = 1 << 40
    told = limits.warnings(Process(cwd="/", rlimits=(Rlimit(type="RLIMIT_MEMLOCK", soft=wanted, hard=wanted),)))
    content = config("sh", "-c", "ulimit -Hl")
    content["process"]["rlimits"] = [{"type": "RLIMIT_MEMLOCK", "soft": wanted, "hard": wanted}]
    shown = bundle.out(content).strip()
    assert (shown == str(wanted >> 10)) is (not told)
    assert all("RLIMIT_MEMLOCK is lowered" in each for each in told)


def test_a_limit_that_the_kernel_has_no_more_is_told(bundle: Bundle) -> None:
    content = config("true")
    content["linux"]["resources"]["memory"] = {"limit": 64 << 20, "kernel": 32 << 20}
    done = bundle.run(content)
    assert (done.returncode, done.stderr.count("linux.resources.memory.kernel has no effect")) == (0, 1)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("ociVersion", "2.0.0"),
        ("windows", {"layerFolders": ["C:"]}),
        ("vm", {"kernel": {"path": "/boot/vmlinuz"}}),
        ("solaris", {}),
        ("zos", {}),
        ("freebsd", {}),
        ("process.commandLine", "cmd /c dir"),
        ("linux.resources.memory.useHierarchy", False),
        ("linux.personality.flags", ["ADDR_NO_RANDOMIZE"]),
    ],
)
def test_a_member_that_cannot_be_honoured_is_refused_by_its_name(bundle: Bundle, member: str, value: object) -> None:
    content = config("true")
    *rooms, last = member.split(".")
    place = content
    for room in rooms:
        place = place.setdefault(room, {"domain": "LINUX"} if room == "personality" else {})
    place[last] = value
    told = bundle.refusal(content)
    assert member in told
    assert told.count("\n") == 1
    assert f"`{member}`" in (Path(__file__).parents[2] / "docs/conformance.md").read_text()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there a 32-bit personality has another name")
def test_personality(bundle: Bundle) -> None:
    content = config("uname", "-m")
    content["linux"]["personality"] = {"domain": "LINUX32"}
    assert bundle.out(content) == "i686\n"
    content["linux"]["personality"] = {"domain": "LINUX", "flags": ["ODD"]}
    assert "linux.personality.flags" in bundle.refusal(content)
    content["linux"]["personality"] = {"domain": "MINIX"}
    assert "MINIX" in bundle.refusal(content)


def test_memory_policy(bundle: Bundle) -> None:
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("this kernel is built without NUMA")
    content = config("sh", "-c", "cut -d' ' -f2 /proc/self/numa_maps | sort -u")
    content["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    assert bundle.out(content).splitlines() == ["bind=static:0"]
    with bundle.living(content | {"process": content["process"] | {"args": ["sleep", "60"]}}) as name:
        assert bundle.call("exec", name, "head", "-n1", "/proc/self/numa_maps").stdout.split()[1] == "bind=static:0"
    for policy, reason in (
        ({"mode": "MPOL_ODD"}, "MPOL_ODD"),
        ({"mode": "MPOL_BIND", "nodes": "0-"}, "linux.memoryPolicy.nodes"),
        ({"mode": "MPOL_LOCAL", "nodes": "0"}, "takes no nodes"),
        ({"mode": "MPOL_BIND", "nodes": "900"}, "linux.memoryPolicy"),
    ):
        content["linux"]["memoryPolicy"] = policy
        assert reason in bundle.refusal(content)


def test_affinity_of_an_exec(bundle: Bundle) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one processor")
    last = max(os.sched_getaffinity(0))
    content = config("sleep", "60")
    content["process"]["execCPUAffinity"] = {"initial": str(last), "final": str(last)}
    with bundle.living(content) as name:
        words = ("exec", name, "grep", "Cpus_allowed_list", "/proc/self/status")
        assert bundle.call(*words).stdout.split()[-1] == str(last)
        first = bundle.call("exec", name, "grep", "Cpus_allowed_list", "/proc/1/status").stdout.split()[-1]
        assert first != str(last)  # it is for further processes, not for the first
        process = bundle.path / "process.json"
        wanted = content["process"] | {"args": ["true"], "execCPUAffinity": {"final": "5000"}}
        process.write_text(json.dumps(wanted))
        assert "execCPUAffinity.final" in bundle.call("exec", "--process", str(process), name).stderr


def test_console_size(bundle: Bundle, tmp_path: Path) -> None:
    content = config("stty", "size")
    content["process"] |= {"terminal": True, "consoleSize": {"height": 33, "width": 111}}
    bundle.write(content)
    words = ["run", "--bundle", str(bundle.path), bundle.name()]
    command = " ".join([str(BIN / "cove-oci"), "--root", str(bundle.state), *words])
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, text=True, timeout=60 * PATIENCE
    )
    assert "33 111" in done.stdout


def test_devices(bundle: Bundle) -> None:
    script = "stat -c '%F %t:%T %a %u %g' /dev/mine /dev/queue /dev/sub/zero; head -c1 /dev/sub/zero | wc -c"
    content = config("sh", "-c", script)
    content["linux"]["devices"] = [
        {"type": "c", "path": "/dev/mine", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"type": "p", "path": "/dev/queue"},
        {"type": "c", "path": "/dev/sub/zero", "major": 1, "minor": 5},
    ]
    found = bundle.out(content).splitlines()
    assert found[0].endswith("1:3 640 3 4") and found[1].startswith("fifo") and "1:5" in found[2] and found[3] == "1"
    content["linux"]["devices"] = [{"type": "x", "path": "/dev/odd"}]
    assert "/dev/odd" in bundle.refusal(content)


def test_devices_in_a_user_namespace_are_as_asked_for(bundle: Bundle) -> None:
    """Made outside, as nobody inside may: with a mode, an owner of the container's, and none of the host's names."""
    content = config(
        "sh",
        "-c",
        "head -c2 /dev/renamed | wc -c; stat -c '%a %u:%g' /dev/renamed; grep -c /dev/renamed /proc/mounts",
    )
    content["linux"]["namespaces"].append({"type": "user"})
    content["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 1000}]
    content["linux"]["gidMappings"] = content["linux"]["uidMappings"]
    node = {"type": "c", "path": "/dev/renamed", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 10, "gid": 11}
    content["linux"]["devices"] = [node]
    assert bundle.out(content).split() == ["2", "640", "10:11", "1"]
    content["process"]["args"] = ["stat", "-c", "%t:%T", "/dev/renamed"]
    content["linux"]["devices"] = [{"type": "c", "path": "/dev/renamed", "major": 240, "minor": 77}]
    assert bundle.out(content) == "f0:4d\n"


def test_sysctls(bundle: Bundle) -> None:
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/kernel/domainname"
    content = config("sh", "-c", script)
    content["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000", "kernel.domainname": "lan"}
    assert bundle.out(content).split() == ["1", "9000", "lan"]
    for name in ("kernel.panic", "vm.swappiness", "net.ipv4.../../../kernel/panic", "kernel.hostname"):
        content["linux"]["sysctl"] = {name: "1"}
        assert name.split("/")[0] in bundle.refusal(content)
    content["linux"]["namespaces"] = without(content["linux"]["namespaces"], "network")
    content["mounts"] = without(content["mounts"], "sysfs")
    content["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert "network namespace" in bundle.refusal(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"process": {"apparmorProfile": "some-profile"}}, "process.apparmorProfile is some-profile"),
        ({"process": {"selinuxLabel": "a:b:c:d"}}, "process.selinuxLabel is a:b:c:d"),
        ({"linux": {"mountLabel": "a:b:c:d"}}, "linux.mountLabel is a:b:c:d"),
        ({"linux": {"intelRdt": {"closID": "x", "l3CacheSchema": "L3:0=f"}}}, "linux.intelRdt"),
        ({"linux": {"netDevices": {"no-such-link": {}}}}, "no-such-link"),
    ],
)
def test_what_this_host_lacks_is_refused_by_name(bundle: Bundle, change: dict[str, Any], reason: str) -> None:
    lacking = {
        "apparmor": "/sys/module/apparmor",
        "selinux": "/sys/fs/selinux/enforce",
        "rdt": "/sys/fs/resctrl/info",
    }
    for word, place in lacking.items():
        if word in str(change).lower() and Path(place).exists():
            pytest.skip(f"this host has {place}")
    content = config("true")
    for section, members in change.items():
        content[section] |= members
    told = bundle.refusal(content)
    assert reason in told and told.count("\n") == 1


def test_unconfined_needs_no_apparmor(bundle: Bundle) -> None:
    content = config("echo", "ok")
    content["process"]["apparmorProfile"] = "unconfined"
    assert bundle.out(content) == "ok\n"


def test_network_devices_move_with_their_addresses(bundle: Bundle) -> None:
    subprocess.run(["ip", "link", "add", "cnf0", "type", "veth", "peer", "name", "cnf1"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "198.51.100.7/24", "dev", "cnf0"], check=True)
        content = config("sh", "-c", "ip address show dev net7")
        content["linux"]["netDevices"] = {"cnf0": {"name": "net7"}}
        found = bundle.out(content)
        assert "198.51.100.7/24" in found and "UP" in found
        content["linux"]["namespaces"] = [
            each for each in content["linux"]["namespaces"] if each["type"] != "network"
        ]
        content["mounts"] = without(content["mounts"], "sysfs")
        content["linux"]["netDevices"] = {"lo": {}}
        assert "netDevices needs a network namespace" in bundle.refusal(content)
    finally:
        subprocess.run(["ip", "link", "delete", "cnf1"], capture_output=True)


def test_a_network_device_that_cannot_move_stays_up(bundle: Bundle) -> None:
    """Tried in a network namespace of the test's own."""
    content = config("true")
    content["linux"]["netDevices"] = {"lo": {}}
    bundle.write(content)
    run = [str(BIN / "cove-oci"), "--root", str(bundle.state), "run", "--bundle", str(bundle.path), bundle.name()]
    script = 'ip link set lo up && ! "$@" && ip link show lo'
    done = subprocess.run(["unshare", "-n", "sh", "-c", script, "sh", *run], capture_output=True, text=True)
    assert "linux.netDevices: lo cannot become lo in the container" in done.stderr
    assert "<LOOPBACK,UP" in done.stdout


# ── seccomp with a listener ───────────────────────────────────────────────────────────────────────

_NOTIF_RECV, _NOTIF_SEND = 0xC0502100, 0xC0182101


def answer(listener: socket.socket, heard: dict[str, Any]) -> None:
    """Be a listener: take the descriptor, and give the first mkdir the error number 42."""
    connection, _ = listener.accept()
    with connection:
        data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 1)
    heard["state"], heard["count"] = json.loads(data), len(fds)
    request = bytearray(80)
    fcntl.ioctl(fds[0], _NOTIF_RECV, request)
    identity, pid, _, number = struct.unpack_from("=QIIi", request)
    heard["pid"], heard["number"] = pid, number
    fcntl.ioctl(fds[0], _NOTIF_SEND, bytearray(struct.pack("=QqiI", identity, 0, -42, 0)))
    os.close(fds[0])


def notifying(path: Path, *args: str) -> dict[str, Any]:
    content = config(*args)
    content["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "of the test",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    }
    return content


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_a_listener_answers(bundle: Bundle, tmp_path: Path, no_new_privileges: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.listen(1)
        listener.settimeout(60 * PATIENCE)
        heard: dict[str, Any] = {}
        thread = threading.Thread(target=answer, args=(listener, heard), daemon=True)
        thread.start()
        content = notifying(tmp_path / "notify", "mkdir", "/tmp/never")
        content["process"]["noNewPrivileges"] = no_new_privileges
        content["annotations"] = {"of": "ours"}
        told = bundle.refusal(content)
        thread.join(60 * PATIENCE)
    assert os.strerror(42) in told and heard["count"] == 1
    state = heard["state"]
    assert state["fds"] == ["seccompFd"] and state["metadata"] == "of the test" and state["ociVersion"]
    assert state["state"]["status"] == "creating" and state["state"]["annotations"] == {"of": "ours"}
    assert state["pid"] == state["state"]["pid"] == heard["pid"] and state["state"]["bundle"] == str(bundle.path)
    assert heard["number"] in (seccomp.numbers()[platform.machine()].get(name) for name in ("mkdir", "mkdirat"))


def test_listeners_that_cannot_be(bundle: Bundle, tmp_path: Path) -> None:
    content = notifying(tmp_path / "nobody", "true")
    assert "nobody listens" in bundle.refusal(content)
    content["linux"]["seccomp"]["listenerPath"] = ""
    assert "needs a listenerPath" in bundle.refusal(content)
    content = notifying(tmp_path / "nobody", "true")
    content["linux"]["seccomp"]["syscalls"][0]["names"] = ["sendmsg"]
    assert "sendmsg" in bundle.refusal(content)
    content = notifying(tmp_path / "nobody", "true")
    content["linux"]["seccomp"]["flags"] = ["SECCOMP_FILTER_FLAG_ODD"]
    assert "SECCOMP_FILTER_FLAG_ODD" in bundle.refusal(content)


# ── hooks ─────────────────────────────────────────────────────────────────────────────────────────


def test_all_hooks_run_in_their_namespaces(bundle: Bundle) -> None:
    """Each stage notes its state, and whose mount namespace it saw."""
    log = bundle.path / "hooks.log"
    own = os.readlink("/proc/self/ns/mnt")

    def hook(stage: str, place: Path) -> list[dict[str, Any]]:
        script = f'read state; echo {stage} $(readlink /proc/self/ns/mnt) $WORD "$state" >> {place}'
        return [{"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin", f"WORD={stage}"]}]

    stages = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    outside = {stage: hook(stage, log) for stage in stages}
    content = config("cat", "/tmp/start.log")
    content["hooks"] = outside | {"startContainer": hook("startContainer", Path("/tmp/start.log"))}
    try:
        inside = bundle.out(content)
        lines = {line.split()[0]: line.split(None, 3) for line in log.read_text().splitlines() + inside.splitlines()}
        assert list(lines) == [*stages, "startContainer"]
        for stage, (_, namespace, word, state) in lines.items():
            assert word == stage and json.loads(state)["id"].startswith("conf-")
            assert (namespace == own) is (stage not in ("createContainer", "startContainer")), stage
    finally:
        (bundle.rootfs / "tmp/start.log").unlink(missing_ok=True)
        log.unlink(missing_ok=True)


def test_a_hook_that_fails_or_hangs_ends_the_start(bundle: Bundle) -> None:
    content = config("echo", "never")
    for hook, reason in (
        ({"path": "/bin/busybox", "args": ["sh", "-c", "echo why >&2; exit 3"]}, "why"),
        ({"path": "/bin/busybox", "args": ["sleep", "30"], "timeout": 1}, "1 second"),
        ({"path": "/no/such/hook"}, "/no/such/hook"),
    ):
        content["hooks"] = {"createRuntime": [hook]}
        done = bundle.run(content)
        assert done.returncode and reason in done.stderr and "never" not in done.stdout

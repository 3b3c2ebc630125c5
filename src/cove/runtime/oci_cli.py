"""`cove-oci`: one OCI bundle, run in the foreground by the same code that runs every container.

It is its own supervisor for the one container: it clones, admits, lets go, forwards signals, waits, and leaves
nothing behind. `spec` and `features` print what an OCI runtime prints. The verbs that outlive the command
(create, start, state, kill, delete, exec) need a process that holds the container; they are refused by name.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import msgspec

from cove import __version__, ids
from cove.errors import CoveError, InvalidArgument, StartFailed
from cove.ipc import channel
from cove.kernel import namespaces, privileges, process, seccomp
from cove.kernel.cgroups import Cgroups
from cove.oci.spec import OCI_VERSION, Capabilities, Linux, Mount, Namespace, Process, Root, Spec
from cove.runtime import init
from cove.runtime.child import ChildStdio, enter
from cove.runtime.messages import Failed, Go, Launch

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_LATER = ("create", "start", "state", "kill", "delete", "exec", "ps", "pause", "resume", "update", "events", "list")
_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")


def example() -> Spec:
    """A config.json that runs a shell, for people to edit."""
    sets = Capabilities(bounding=_CAPABILITIES, effective=_CAPABILITIES, permitted=_CAPABILITIES)
    return Spec(
        root=Root(path="rootfs", readonly=True),
        hostname="cove",
        process=Process(
            cwd="/",
            args=("sh",),
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"),
            capabilities=sets,
            no_new_privileges=True,
        ),
        mounts=(
            Mount(destination="/proc", type="proc", source="proc"),
            Mount(destination="/dev", type="tmpfs", source="tmpfs", options=("nosuid", "strictatime", "mode=755")),
            Mount(
                destination="/dev/pts",
                type="devpts",
                source="devpts",
                options=("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            ),
            Mount(
                destination="/dev/shm", type="tmpfs", source="shm", options=("nosuid", "noexec", "nodev", "mode=1777")
            ),
            Mount(destination="/sys", type="sysfs", source="sysfs", options=("nosuid", "noexec", "nodev", "ro")),
        ),
        linux=Linux(
            namespaces=tuple(Namespace(type=kind) for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")),
            masked_paths=("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"),
            readonly_paths=("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"),
        ),
    )


def features() -> dict[str, object]:
    """The `features` document of the runtime specification."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "linux": {
            "namespaces": sorted(namespaces.FLAGS),
            "capabilities": list(privileges.CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": False},
            "seccomp": {"enabled": True},
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
        },
    }


def load(bundle: Path) -> Spec:
    """The bundle's configuration, its root path made absolute. Raises InvalidArgument."""
    path = bundle / "config.json"
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=Spec)
    except FileNotFoundError:
        raise InvalidArgument(f"The bundle {bundle} has no config.json; `cove-oci spec` writes an example") from None
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"{path} is no valid configuration: {error}") from error
    if spec.process is None or spec.root is None or spec.linux is None:
        raise InvalidArgument(f"{path} needs the sections process, root and linux")
    if spec.process.terminal:
        raise InvalidArgument(f"{path} asks for a terminal, which `run` does not make; set process.terminal to false")
    root = msgspec.structs.replace(spec.root, path=str((bundle / spec.root.path).absolute()))
    return msgspec.structs.replace(spec, root=root)


def run(bundle: Path, identity: str) -> int:
    """Run the bundle to its end; the program's exit code. Raises StartFailed and other CoveErrors."""
    spec = load(bundle)
    assert spec.linux is not None
    group = f"/cove-oci/{ids.check_name('container', identity)}"
    spec = msgspec.structs.replace(spec, linux=msgspec.structs.replace(spec.linux, cgroups_path=group))
    cgroups = Cgroups.detect("cove-oci")
    with ExitStack() as undo:
        undo.callback(cgroups.remove_parent)
        cgroups.create(group, spec.linux.resources if spec.linux else None)
        undo.callback(cgroups.remove, group)
        undo.callback(cgroups.kill, group)
        pid, pidfd = _start(Launch(id=identity, spec=spec), cgroups, group)
        undo.callback(os.close, pidfd)
        for number in _FORWARDED:
            signal.signal(number, lambda received, _: process.send_signal(pidfd, received) and None)
        _, status = os.waitpid(pid, 0)
    return process.exit_code(status)


def _start(launch: Launch, cgroups: Cgroups, group: str) -> tuple[int, int]:
    sync, far_sync = channel.pair()
    gate, far_gate = channel.pair()
    bpf = seccomp.compile(launch.spec.linux.seccomp) if launch.spec.linux and launch.spec.linux.seccomp else b""
    with sync, gate:
        with far_sync, far_gate, cgroups.birthplace(group) as place:
            pid, pidfd = process.clone(init.flags_for(launch.spec), cgroup_fd=place.directory)
            if pid == 0:
                enter(place, far_sync.fileno())
                stdio = ChildStdio(os.dup(0), os.dup(1), os.dup(2))
                init.run(launch, sync_fd=far_sync.fileno(), gate_fd=far_gate.fileno(), stdio=stdio, seccomp=bpf)
        try:
            gate.send(b"go")
            sync.send(msgspec.json.encode(Go()))
        except BrokenPipeError:
            pass  # its reason lies on the socket
        answer = sync.recv(1 << 16)
    if answer:
        os.waitpid(pid, 0)
        failed = msgspec.json.decode(answer, type=Failed)
        raise StartFailed(failed.message, stage=failed.stage, errno=failed.errno, exit_code=failed.exit_code)
    return pid, pidfd


def main() -> NoReturn:
    """Entry point of `cove-oci`."""
    parser = argparse.ArgumentParser(prog="cove-oci", description="An OCI runtime: run a bundle in the foreground")
    parser.add_argument("--version", action="version", version=f"cove-oci {__version__}\nspec: {OCI_VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run | spec | features")
    running = verbs.add_parser("run", help="run a bundle and wait for it")
    running.add_argument("-b", "--bundle", type=Path, default=Path())
    running.add_argument("id")
    spec = verbs.add_parser("spec", help="write an example config.json")
    spec.add_argument("-b", "--bundle", type=Path, default=Path())
    verbs.add_parser("features", help="print what this runtime supports")
    if len(sys.argv) > 1 and sys.argv[1] in _LATER:
        sys.exit(f"cove-oci: {sys.argv[1]} is not supported; `cove-oci run` runs a bundle in the foreground")
    options = parser.parse_args()
    try:
        match options.verb:
            case "run":
                sys.exit(run(options.bundle, options.id))
            case "features":
                print(json.dumps(features(), indent=2))
            case "spec":
                with (options.bundle / "config.json").open("xb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(example()), indent=4) + b"\n")
    except StartFailed as error:
        print(f"cove-oci: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except CoveError as error:
        sys.exit(f"cove-oci: {error.message}")
    except OSError as error:
        sys.exit(f"cove-oci: {error}")
    sys.exit(0)


if __name__ == "__main__":
    main()

"""Every path on disk. No other module joins a data-root or run-root path by hand.

data root (0710, default /var/lib/cove)      run root (0700 but for the socket, default /run/cove)
├── cove.db  daemon.lock                     ├── cove.sock
├── image/  an OCI image layout              ├── daemon.lock
├── layers/<chain id, 64 hex>/  one a layer  ├── supervisor.lock
├── containers/<id>/                         ├── supervisor.sock  resolver.sock  forwarding.json
│   ├── upper/ work/ chain shown             └── containers/<id>/
│   ├── hostname hosts resolv.conf               ├── state.json  end
│   └── log/                                     └── stdin stdout stderr   FIFOs
├── volumes/<name>/_data/
├── build/<digest>/  a build's cache mounts
└── tmp/  emptied at daemon start
"""

from __future__ import annotations

from pathlib import Path

import msgspec

DEFAULT_DATA_ROOT = Path("/var/lib/cove")
DEFAULT_RUN_ROOT = Path("/run/cove")
DEFAULT_CONFIG = Path("/etc/cove/daemon.toml")


class ContainerData(msgspec.Struct, frozen=True):
    """A container's durable directory."""

    root: Path

    @property
    def upper(self) -> Path:
        return self.root / "upper"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def chain(self) -> Path:
        """Holds the chain id of the image layers below the writable one; empty for none."""
        return self.root / "chain"

    @property
    def shown(self) -> Path:
        """Holds the chain ids of the images that it mounts, one a line; absent for none."""
        return self.root / "shown"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def forwarded(self) -> Path:
        """How much of the log its log server has, where it has one."""
        return self.root / "forwarded"

    @property
    def hostname(self) -> Path:
        return self.root / "hostname"

    @property
    def hosts(self) -> Path:
        return self.root / "hosts"

    @property
    def resolv_conf(self) -> Path:
        return self.root / "resolv.conf"

    @property
    def bundle(self) -> Path:
        """For hooks, where there are any."""
        return self.root / "bundle"


class DataRoot(msgspec.Struct, frozen=True):
    """What outlives a reboot."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "cove.db"

    @property
    def daemon_lock(self) -> Path:
        return self.root / "daemon.lock"

    @property
    def image(self) -> Path:
        return self.root / "image"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    def layer(self, chain_id: str) -> Path:
        """The unpacked layer with that chain id; its facts lie beside it, in `<name>.json`."""
        return self.layers / chain_id.partition(":")[2]

    @property
    def mountpoints(self) -> Path:
        """The lowest layer of every container: the places on which something is always mounted."""
        return self.root / "mountpoints"

    @property
    def containers(self) -> Path:
        return self.root / "containers"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def build_mounts(self) -> Path:
        """What `RUN --mount=type=cache` keeps between builds."""
        return self.root / "build"

    @property
    def build_contexts(self) -> Path:
        """Copies of clients' directories, so that the next build is sent only what changed."""
        return self.root / "contexts"

    def container(self, identity: str) -> ContainerData:
        return ContainerData(self.containers / identity)


class ContainerRun(msgspec.Struct, frozen=True):
    """A container's directory for this boot."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def end(self) -> Path:
        """There when it ended without a supervisor."""
        return self.root / "end"

    @property
    def stdin(self) -> Path:
        return self.root / "stdin"

    @property
    def stdout(self) -> Path:
        return self.root / "stdout"

    @property
    def stderr(self) -> Path:
        return self.root / "stderr"

    @property
    def seccomp(self) -> Path:
        """The compiled filter, for processes that join later."""
        return self.root / "seccomp.bpf"


class RunRoot(msgspec.Struct, frozen=True):
    """What dies with the host's boot."""

    root: Path

    @property
    def socket(self) -> Path:
        return self.root / "cove.sock"

    @property
    def daemon_lock(self) -> Path:
        return self.root / "daemon.lock"

    @property
    def supervisor_lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def supervisor_socket(self) -> Path:
        return self.root / "supervisor.sock"

    @property
    def resolver_socket(self) -> Path:
        """Of the process that answers containers' DNS questions."""
        return self.root / "resolver.sock"

    @property
    def forwarding(self) -> Path:
        """What of the host forwards packets because the daemon said so."""
        return self.root / "forwarding.json"

    @property
    def containers(self) -> Path:
        return self.root / "containers"

    def container(self, identity: str) -> ContainerRun:
        return ContainerRun(self.containers / identity)


class Instance(msgspec.Struct, frozen=True):
    """The names one daemon uses for what it owns in the kernel, so that daemons live side by side.

    The daemon on the default run root has the plain names; any other one carries 8 hexadecimal
    digits of its run root's path.
    """

    id: str
    bridge: str
    nft_table: str
    cgroup_parent: str

    @classmethod
    def of(cls, run: RunRoot) -> Instance:
        if run.root == DEFAULT_RUN_ROOT:
            return cls(id="", bridge="cove0", nft_table="cove", cgroup_parent="cove")
        import hashlib  # brings OpenSSL, which the supervisor's children have no use for

        mark = hashlib.sha256(str(run.root.absolute()).encode()).hexdigest()[:8]
        return cls(id=mark, bridge=f"cove-{mark}", nft_table=f"cove-{mark}", cgroup_parent=f"cove-{mark}")

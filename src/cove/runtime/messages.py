"""What daemon and supervisor say to each other, and what daemon and init say.

Daemon and supervisor share one SEQPACKET connection (`cove.ipc`). A request carries a number;
its one reply carries the same number. Reports come unasked (number 0) to whoever is connected.

    daemon                          supervisor                         init (in the container)
      │── Create + [sync] ──────────────▶│── clone3(namespaces) ─────────────▶│ waits on sync
      │                                  │   puts it into its cgroup          │
      │◀─ Created + [pidfd, …stdio] ─────│                                    │
      │   (network: veth, ports)                                              │
      │── Go ────────────────────────────────────────────────────────────────▶│ mounts, pivots, drops
      │◀─ Failed(stage, errno, message), or end of file because execve closed it ─│
      │                                  │
      │◀─ Exited ────────────────────────│   whenever it ends (logs are complete by then)

`sync` is the far end of a SEQPACKET pair made by the daemon. End of file before Go makes init exit,
so a daemon that dies between Create and Go leaves nothing. Exec follows the same sequence; its Go is
sent at once.
"""

import msgspec

from cove.oci.spec import Mount, Process, Resources, Seccomp, Spec


class _Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True, kw_only=True):
    """Base of all messages: encoded as JSON with a "type" tag."""


# ── values ────────────────────────────────────────────────────────────────────────────────────────


class LogPolicy(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where and how much to log: `directory` holds at most `files` segments of `segment_bytes` each."""

    directory: str
    segment_bytes: int = 16 << 20
    files: int = 5


LENT = "lent"
"""The type of a mount in a Launch's spec that another container lends: its source is a mount namespace under /proc,
where memory (a tmpfs) lies at the same destination.
"""


class Launch(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All that makes a container's first process.

    `rootfs`: the mount (overlay or bind) that becomes "/"; None means spec.root.path is bound.
    `user`: Docker's user string ("", "name", "uid:gid", "name:group"), resolved by init in the image's
    own /etc/passwd and /etc/group; None means spec.process.user stands as it is.
    `group_add`: names or numbers of supplementary groups, resolved likewise.
    `stdin`: keep a stdin FIFO open; otherwise stdin is /dev/null. With spec.process.terminal a pty
    replaces all three FIFOs.
    `init`: run a minimal reaping init as process 1 that forwards signals (docker run --init).
    """

    id: str
    spec: Spec
    rootfs: Mount | None = None
    user: str | None = None
    group_add: tuple[str, ...] = ()
    stdin: bool = False
    log: LogPolicy | None = None
    init: bool = False


class ExecLaunch(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A further process in a running container; same `user` rule as Launch.

    `seccomp`: flags and listener of the container's filter; its rules come compiled. `chrooted`: the container's root
    is another one than its mount namespace's.
    """

    id: str
    container: str
    process: Process
    user: str | None = None
    group_add: tuple[str, ...] = ()
    seccomp: Seccomp | None = None
    chrooted: bool = False


class Exit(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How a process ended. `code` is 128+n for signal n; 255 with `reason` when nobody could see it.

    Of a container's first process also: whether something of it was killed for memory, the most memory it used.
    """

    code: int
    at: float
    oom: bool = False
    memory_peak: int = 0
    reason: str = ""


class Status(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is observed of a container; also the content of its state.json.

    `start_ticks` is field 22 of /proc/PID/stat, with `boot_id` it makes `pid` unmistakable.
    `phase`: "created" (waits at the barrier), "running", "paused", "exited".
    `idle`: what its control group becomes when the program runs.
    """

    id: str
    pid: int
    start_ticks: int
    boot_id: str
    cgroup: str
    started_at: float
    phase: str = "created"
    terminal: bool = False
    stdin: bool = False
    idle: int = 0
    log: LogPolicy | None = None
    exit: Exit | None = None


class Address(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An address with its prefix length, e.g. "10.88.0.2", 16."""

    address: str
    prefix: int


class Interface(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An interface that is already in the container's network namespace, for init to set up.

    `name` as the container shall see it; it was born with that name. `gateways`: default routes.
    `sysctls`: parameters below net, "ipv4/conf/eth0/log_martians" for one.
    """

    name: str
    addresses: tuple[Address, ...] = ()
    gateways: tuple[str, ...] = ()
    mtu: int = 0
    sysctls: dict[str, str] = {}


# ── daemon → supervisor ───────────────────────────────────────────────────────────────────────────


class Create(_Message, frozen=True, kw_only=True):
    """fds: [sync]. Reply: Created. OSError text becomes Refused."""

    launch: Launch


class Exec(_Message, frozen=True, kw_only=True):
    """fds: [sync, stdin, stdout, stderr], or [sync] with process.terminal. Reply: Created."""

    launch: ExecLaunch


class Signal(_Message, frozen=True, kw_only=True):
    """To the first process, to an exec's process, or (everyone) to the whole cgroup. Reply: Done."""

    id: str
    signal: int
    exec_id: str = ""
    everyone: bool = False


class Freeze(_Message, frozen=True, kw_only=True):
    """Pause (frozen) or resume. Reply: Done."""

    id: str
    frozen: bool


class Update(_Message, frozen=True, kw_only=True):
    """New limits for a running container. Reply: Done."""

    id: str
    resources: Resources


class Resize(_Message, frozen=True, kw_only=True):
    """New size of a terminal, in characters. Reply: Done."""

    id: str
    height: int
    width: int
    exec_id: str = ""


class CloseStdin(_Message, frozen=True, kw_only=True):
    """Let the container read end of file. The daemon closes its own write end itself. Reply: Done."""

    id: str


class Stdio(_Message, frozen=True, kw_only=True):
    """Duplicate descriptors for a (new) daemon. Reply: Created with the same fds as at Create."""

    id: str


class Adopt(_Message, frozen=True, kw_only=True):
    """fds: [stdin write end or pty master] that a living daemon hands back to a new supervisor. Reply: Done."""

    id: str


class Delete(_Message, frozen=True, kw_only=True):
    """Kill what is left, remove cgroup, FIFOs and state. Idempotent. Reply: Done.

    `cgroup`: where its processes are, for a supervisor that knows no such container (its files were lost).
    """

    id: str
    cgroup: str = ""


class List(_Message, frozen=True, kw_only=True):
    """Reply: Statuses."""


class Shutdown(_Message, frozen=True, kw_only=True):
    """The supervisor ends if it has no live container (else Refused). Reply: Done."""


Request = Create | Exec | Signal | Freeze | Update | Resize | CloseStdin | Stdio | Adopt | Delete | List | Shutdown

# ── supervisor → daemon ───────────────────────────────────────────────────────────────────────────


class Created(_Message, frozen=True, kw_only=True):
    """fds: [pidfd], then [stdin write end] if there is a stdin FIFO, or [pty master] with a terminal."""

    pid: int
    status: Status | None = None


class Done(_Message, frozen=True, kw_only=True):
    """The request was carried out."""


class Refused(_Message, frozen=True, kw_only=True):
    """`kind` names a class of cove.errors."""

    kind: str
    message: str
    stage: str = ""
    errno: int = 0


class Statuses(_Message, frozen=True, kw_only=True):
    statuses: tuple[Status, ...] = ()


class Exited(_Message, frozen=True, kw_only=True):
    """Report: the first process (exec_id "") or an exec's process ended."""

    id: str
    exit: Exit
    exec_id: str = ""


class OutOfMemory(_Message, frozen=True, kw_only=True):
    """Report: the kernel killed something of this container for its memory limit."""

    id: str


Reply = Created | Done | Refused | Statuses
Report = Exited | OutOfMemory

# ── daemon ↔ init, on the sync socket ─────────────────────────────────────────────────────────────


class Go(_Message, frozen=True, kw_only=True):
    """Past the barrier: the network is there."""

    interfaces: tuple[Interface, ...] = ()


class Ready(_Message, frozen=True, kw_only=True):
    """From init, when `child.Manner.hold` asks for it: all is made, it waits for its Go."""


class Failed(_Message, frozen=True, kw_only=True):
    """From init: it ends with this. `exit_code` is 126 or 127 when execve (or its look-up) failed."""

    stage: str
    errno: int
    message: str
    exit_code: int = 125


ROOT = b"root"
"""From init before it executes the program: a packet with a descriptor of its root (`cove.runtime.roots`)."""

"""What is written down of a container: the intent, and the facts last seen.

`Record` is what the user asked for, with the image's defaults merged in; only rename and update replace
it. `Facts` is what happened; each change has one owner (`lifecycle` the phase, `attachments` the
addresses). They lie in two tables, so that no write of one can touch the other.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cove.network.driver import Endpoint, Network, PortBinding
from cove.oci.spec import IDMapping
from cove.wire.containers import ContainerConfig, HostConfig
from cove.wire.networks import EndpointSettings

DEFAULT = "bridge"
PREDEFINED = (DEFAULT, "host", "none")
"""The networks that are always there."""
Phase = Literal["created", "running", "paused", "restarting", "exited", "dead"]


class MountRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mount of a container, resolved: nothing about it is decided again at start.

    `name` and `driver` are a volume's; an image's name is as it was asked for, its id the `source` and its
    uppermost layer the `chain`, so that it stays the same image. `source` of a bind is the host's path.
    `deep_readonly`: whether "ro" holds for the mounts below a bind too: "" where the kernel can, "must" or "no".
    `copy`: an empty volume is filled from the image on first use. `make`: the source directory of a bind
    is made when it is missing. `anonymous`: goes away with the container when asked to. `idmap`: in a user
    namespace, files belong inside to whom they belong on disk.
    """

    type: Literal["volume", "bind", "tmpfs", "image"]
    destination: str
    name: str = ""
    driver: str = ""
    source: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    options: tuple[str, ...] = ()
    subpath: str = ""
    recursive: bool = True
    deep_readonly: Literal["", "no", "must"] = ""
    chain: str = ""
    copy: bool = False
    make: bool = False
    anonymous: bool = False
    idmap: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A container as it was asked for. `endpoints` by network name, that of --network first.

    `uid_map`, `gid_map`: its ids on the host, empty for the host's own.
    """

    id: str
    name: str
    created_ns: int
    image_id: str
    image: str
    config: ContainerConfig
    host: HostConfig
    path: str = ""
    args: tuple[str, ...] = ()
    mounts: tuple[MountRecord, ...] = ()
    endpoints: dict[str, EndpointSettings] = {}
    uid_map: tuple[IDMapping, ...] = ()
    gid_map: tuple[IDMapping, ...] = ()

    @property
    def image_ids(self) -> frozenset[str]:
        """The images that it needs: its own, and those that it mounts."""
        return frozenset({self.image_id, *(mount.source for mount in self.mounts if mount.type == "image")})


class Attached(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a running container holds of the networks: by network id, and its published ports."""

    endpoints: dict[str, Endpoint] = {}
    ports: tuple[PortBinding, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was last seen of a container.

    `wanted`: the user's last word, "running" or "stopped"; a restart policy acts on it after a reboot.
    Times are nanoseconds of Unix time, 0 for never. `cgroup`: of its last run. `restarts` counts those of the policy.
    """

    phase: Phase = "created"
    wanted: Literal["running", "stopped"] = "stopped"
    pid: int = 0
    cgroup: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    memory_peak: int = 0
    restarts: int = 0
    attached: Attached = Attached()

    @property
    def running(self) -> bool:
        """Whether processes exist (a paused container's do)."""
        return self.phase in ("running", "paused")


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A network, completed by its driver. `wishes`: the administrator's that the default one was made by."""

    network: Network
    created_ns: int
    wishes: str = ""


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume, as it was asked for."""

    name: str
    driver: str = "local"
    created_ns: int
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    filled: bool = False
    """An image's content was copied in; known only of volumes that cannot be looked into from outside."""
    awaits: str = ""
    """The container that it is made for, or work under way: without that, when the daemon starts again, it goes."""
    was: str = ""
    """The name that its data has until a rename under way is done."""

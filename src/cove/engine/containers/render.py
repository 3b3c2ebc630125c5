"""A container as the API shows it: one line of a list, and the whole of an inspection.

Pure: values in, values out. A summary is made once per change; only its words about time are new each time.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

import msgspec

from cove.engine.containers.records import PREDEFINED, Facts, MountRecord, Record
from cove.engine.containers.registry import Container
from cove.engine.networks.naming import dns_names
from cove.engine.networks.ports import port_map, summary
from cove.engine.networks.service import NetworkStore
from cove.engine.networks.view import endpoint_id
from cove.network.driver import Endpoint
from cove.paths import DataRoot
from cove.wire import containers as wire
from cove.wire.descriptors import Descriptor
from cove.wire.mounts import MountPoint
from cove.wire.networks import EndpointSettings
from cove.wire.spans import duration
from cove.wire.times import ZERO, stamp


def status_text(container: Container, now_ns: int) -> str:
    """ "Up 3 minutes (healthy)" and its like."""
    facts = container.facts
    if container.removing:
        return "Removal In Progress"
    since = duration((now_ns - facts.finished_ns) / 1e9) if facts.finished_ns else ""
    if facts.phase == "created":
        return "Created"
    if facts.phase == "dead":
        return "Dead"
    if facts.phase == "restarting":
        return f"Restarting ({facts.exit_code}) {since} ago"
    if facts.phase == "exited":
        return f"Exited ({facts.exit_code}) {since} ago"
    up = f"Up {duration((now_ns - facts.started_ns) / 1e9)}"
    if facts.phase == "paused":
        return f"{up} (Paused)"
    if container.health is not None and container.health.status != "none":
        words = "health: starting" if container.health.status == "starting" else container.health.status
        return f"{up} ({words})"
    return up


# ── a line of a list ──────────────────────────────────────────────────────────────────────────────


def line(
    container: Container,
    image: str,
    networks: NetworkStore,
    manifest: Callable[[str], Descriptor | msgspec.UnsetType],
    now_ns: int,
) -> wire.ContainerSummary:
    """One container of a list; the unchanging part is kept with the container.

    `image`: how its image is called now. `manifest` knows images' by id.
    """
    known = container.summary
    if known is None:
        known = _summary(container, networks)
        known = msgspec.structs.replace(known, image_manifest_descriptor=manifest(container.record.image_id))
        container.summary = known
    return msgspec.structs.replace(known, image=image, status=status_text(container, now_ns))


def _summary(container: Container, networks: NetworkStore) -> wire.ContainerSummary:
    record, facts = container.record, container.facts
    health = container.health
    return wire.ContainerSummary(
        id=record.id,
        names=(f"/{record.name}",),
        image=record.image,
        image_id=record.image_id,
        command=shlex.join((record.path, *record.args)) if record.path else "",
        created=record.created_ns // 10**9,
        ports=summary(record.config.exposed_ports, facts.attached.ports) if facts.running else (),
        labels=record.config.labels,
        state=container.status,
        status="",
        host_config=wire.SummaryHostConfig(
            network_mode=record.host.network_mode, annotations=record.host.annotations or msgspec.UNSET
        ),
        network_settings=wire.SummaryNetworks(networks=endpoints(record, facts, networks)),
        mounts=_mount_points(record),
        health=wire.SummaryHealth(status=health.status, failing_streak=health.failing_streak)
        if health is not None
        else wire.SummaryHealth(),
    )


def _mount_points(record: Record) -> tuple[MountPoint, ...]:
    """All mounts but those that `HostConfig.Tmpfs` shows."""
    return tuple(
        mount_point(mount)
        for mount in record.mounts
        if mount.type != "tmpfs" or mount.destination not in record.host.tmpfs
    )


def mount_point(mount: MountRecord) -> MountPoint:
    """A mount as inspect shows it."""
    return MountPoint(
        type=mount.type,
        name=mount.name or msgspec.UNSET,
        source=mount.source,
        destination=mount.destination,
        driver=mount.driver or msgspec.UNSET,
        mode=mount.mode if mount.type != "tmpfs" else "",
        rw=mount.rw,
        propagation=mount.propagation if mount.type == "bind" else "",
    )


def endpoints(record: Record, facts: Facts, networks: NetworkStore) -> dict[str, EndpointSettings]:
    """The container's place in each of its networks, with addresses while it runs."""
    by_name: dict[str, Endpoint] = {}
    for identity, endpoint in facts.attached.endpoints.items():
        network = networks.get(identity)
        if network is not None:
            by_name[network.name] = endpoint
    shown = {name: _settings(record.id, asked, by_name.get(name)) for name, asked in record.endpoints.items()}
    for name in shown:
        identity = networks.identity(name)
        names = None if name in PREDEFINED else dns_names(record, record.endpoints[name])
        shown[name] = msgspec.structs.replace(shown[name], network_id=identity, dns_names=names)
    return shown


def _settings(container_id: str, asked: EndpointSettings, held: Endpoint | None) -> EndpointSettings:
    if held is None:
        return asked
    gateways = held.gateways
    return msgspec.structs.replace(
        asked,
        network_id=held.network_id,
        endpoint_id=endpoint_id(container_id, held.network_id),
        mac_address=held.mac,
        gateway=next((each for each in gateways if ":" not in each), ""),
        ip_address=held.ipv4.address if held.ipv4 else "",
        ip_prefix_len=held.ipv4.prefix if held.ipv4 else 0,
        ipv6_gateway=next((each for each in gateways if ":" in each), ""),
        global_ipv6_address=held.ipv6.address if held.ipv6 else "",
        global_ipv6_prefix_len=held.ipv6.prefix if held.ipv6 else 0,
    )


# ── an inspection ─────────────────────────────────────────────────────────────────────────────────


def inspection(container: Container, networks: NetworkStore, data: DataRoot) -> wire.ContainerInspect:
    """Everything about a container but its sizes."""
    record, facts = container.record, container.facts
    files = data.container(record.id)
    places = endpoints(record, facts, networks)
    return wire.ContainerInspect(
        id=record.id,
        created=stamp(record.created_ns),
        path=record.path,
        args=record.args,
        state=state(container),
        image=record.image_id,
        resolv_conf_path=str(files.resolv_conf) if facts.started_ns else "",
        hostname_path=str(files.hostname) if facts.started_ns else "",
        hosts_path=str(files.hosts) if facts.started_ns else "",
        log_path=str(files.log),
        name=f"/{record.name}",
        restart_count=facts.restarts,
        exec_ids=tuple(sorted(container.execs)) or None,
        host_config=record.host,
        mounts=_mount_points(record),
        config=record.config,
        network_settings=_network_settings(record, facts, places),
    )


def state(container: Container) -> wire.ContainerState:
    """What is true of it now."""
    facts = container.facts
    return wire.ContainerState(
        status=container.status,
        running=facts.running or facts.phase == "restarting",
        paused=facts.phase == "paused",
        restarting=facts.phase == "restarting",
        oom_killed=facts.oom_killed,
        dead=facts.phase == "dead",
        pid=facts.pid,
        exit_code=facts.exit_code,
        error=facts.error,
        memory_peak=facts.memory_peak or msgspec.UNSET,
        started_at=stamp(facts.started_ns),
        finished_at=stamp(facts.finished_ns) if facts.finished_ns else ZERO,
        health=container.health if container.health is not None else msgspec.UNSET,
    )


def _network_settings(record: Record, facts: Facts, places: dict[str, EndpointSettings]) -> wire.NetworkSettings:
    if not facts.running:
        return wire.NetworkSettings(networks=places)
    return wire.NetworkSettings(
        sandbox_id=record.id,
        sandbox_key=f"/proc/{facts.pid}/ns/net",
        ports=port_map(record.config.exposed_ports, facts.attached.ports),
        networks=places,
    )


def now_ns() -> int:
    """The clock of status texts."""
    return time.time_ns()

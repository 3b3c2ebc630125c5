"""What clients of older versions see: the engine's newest values, as a version of the API knows them.

    engine ── newest value ──▶ shape(value, request.version) ── the client's ──▶ JSON

Owns every difference between the versions' replies, as pure functions; what a version *asks* in its own way is
read by its route. Each number is the first version that has, or no longer has, the thing it is named after.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from cove import ids
from cove.wire.containers import ContainerInspect, ContainerSummary, NetworkSettings, OlderNetworkSettings
from cove.wire.events import EventMessage, OlderEventMessage
from cove.wire.images import ImageInspect, ImageSummary, OlderImageConfig, OldestImageConfig
from cove.wire.networks import EndpointSettings, Network
from cove.wire.system import Commit, DiskUsage, Info
from cove.wire.versions import Version

NAMELESS_LEFT_EMPTY = (1, 43)
WITHOUT_VIRTUAL_SIZE = (1, 44)
WITHOUT_CONTAINER = (1, 45)
OWN_NAMES = (1, 45)
IMAGE_CREATION_TOLD = (1, 46)
ANNOTATIONS = (1, 46)
DESCRIPTORS = (1, 48)
FIREWALL_TOLD = (1, 49)
WITHOUT_BRIDGE_FILTER = (1, 50)
IMAGES_WITHOUT_HOSTNAME = (1, 50)
CONTAINERS_COUNTED = (1, 51)
LEAN = (1, 52)
"""Health in lists, status of networks, usage by kind; gone are the first network's addresses beside the networks,
what an image does not say, and what events say twice."""

_replace = msgspec.structs.replace


# ── containers ────────────────────────────────────────────────────────────────────────────────────


def container_line(line: ContainerSummary, version: Version) -> ContainerSummary:
    """One container of a list."""
    if version >= LEAN:
        return line
    line = _replace(line, health=UNSET)
    if version < ANNOTATIONS:
        line = _replace(line, host_config=_replace(line.host_config, annotations=UNSET))
    return line if version >= DESCRIPTORS else _replace(line, image_manifest_descriptor=UNSET)


_UNSAID_OF_CONFIG = (
    "exposed_ports", "healthcheck", "args_escaped", "network_disabled", "mac_address", "on_build", "stop_signal",
    "shell",
)  # fmt: skip
_UNSAID_OF_HOST = ("annotations", "storage_opt", "tmpfs", "sysctls", "mounts", "expose_to", "egress", "net_rate")
"""What is left out where it is empty: clients ask whether it is there."""


def container(found: ContainerInspect, version: Version) -> ContainerInspect:
    """The whole of a container."""
    shown = _known_container(found, version)
    config, host = shown.config, shown.host_config
    return _replace(
        shown,
        config=_replace(
            config,
            **{name: UNSET for name in _UNSAID_OF_CONFIG if not getattr(config, name)},
            stop_timeout=UNSET if config.stop_timeout is None else config.stop_timeout,
        ),
        host_config=_replace(
            host,
            **{name: UNSET for name in _UNSAID_OF_HOST if not getattr(host, name)},
            init=UNSET if host.init is None else host.init,
        ),
    )


def _known_container(found: ContainerInspect, version: Version) -> ContainerInspect:
    if version >= LEAN:
        return found
    first = next(iter(found.network_settings.networks.values()), EndpointSettings())
    config = found.config if found.config.mac_address else _replace(found.config, mac_address=first.mac_address)
    if version < DESCRIPTORS:
        found = _replace(found, image_manifest_descriptor=UNSET)
    settings = found.network_settings
    if version < OWN_NAMES:
        settings = _with_own_names(settings, found.id)
    return _replace(found, config=config, network_settings=_with_first_place(settings, first))


def _with_first_place(settings: NetworkSettings, first: EndpointSettings) -> OlderNetworkSettings:
    place = settings.networks.get("bridge") or EndpointSettings()
    return OlderNetworkSettings(
        sandbox_id=settings.sandbox_id,
        sandbox_key=settings.sandbox_key,
        ports=settings.ports,
        networks=settings.networks,
        endpoint_id=place.endpoint_id,
        gateway=place.gateway,
        global_ipv6_address=place.global_ipv6_address,
        global_ipv6_prefix_len=place.global_ipv6_prefix_len,
        ip_address=place.ip_address,
        ip_prefix_len=place.ip_prefix_len,
        ipv6_gateway=place.ipv6_gateway,
        mac_address=place.mac_address or first.mac_address if settings.sandbox_id else "",
    )


def _with_own_names(settings: NetworkSettings, identity: str) -> NetworkSettings:
    """Older clients look for a container's short id among its aliases on users' networks."""
    networks = {
        name: _replace(place, aliases=tuple(dict.fromkeys((*(place.aliases or ()), ids.short(identity)))))
        if place.dns_names is not None
        else place
        for name, place in settings.networks.items()
    }
    return _replace(settings, networks=networks)


# ── images ────────────────────────────────────────────────────────────────────────────────────────


def image_line(line: ImageSummary, version: Version) -> ImageSummary:
    """One image of a list."""
    if version >= CONTAINERS_COUNTED:
        return line
    line = _replace(line, containers=-1)
    if version < DESCRIPTORS:
        line = _replace(line, descriptor=UNSET)
    if version < WITHOUT_VIRTUAL_SIZE:
        line = _replace(line, virtual_size=line.size)
    if version < NAMELESS_LEFT_EMPTY and not line.repo_tags and not line.repo_digests:
        line = _replace(line, repo_tags=("<none>:<none>",), repo_digests=("<none>@<none>",))
    return line


def image(found: ImageInspect, version: Version) -> ImageInspect:
    """The whole of an image."""
    if version >= LEAN:
        return found
    kind = OlderImageConfig if version >= IMAGES_WITHOUT_HOSTNAME else OldestImageConfig
    found = _replace(
        found,
        parent=found.parent or "",
        comment=found.comment or "",
        docker_version=found.docker_version or "",
        author=found.author or "",
        config=kind(**msgspec.structs.asdict(found.config)),
    )
    if version < DESCRIPTORS:
        found = _replace(found, descriptor=UNSET)
    if version < WITHOUT_CONTAINER:  # docker-compose 1.29 reads an image's volumes there
        found = _replace(found, container_config=found.config)
    return found if version >= WITHOUT_VIRTUAL_SIZE else _replace(found, virtual_size=found.size)


# ── networks, the engine, events ──────────────────────────────────────────────────────────────────


def network_line(line: Network, version: Version) -> Network:
    """One network of a list: without its containers, and older clients see that there are none."""
    return line if version >= LEAN else _replace(line, containers={})


def network(found: Network, version: Version) -> Network:
    """The whole of a network."""
    return found if version >= LEAN else _replace(found, status=UNSET)


def info(found: Info, version: Version) -> Info:
    """What the engine says of itself."""
    if version < WITHOUT_BRIDGE_FILTER:
        # Cove's rules see packets of bridges without the kernel's br_netfilter.
        found = _replace(found, bridge_nf_iptables=True, bridge_nf_ip6tables=True)
    if version >= FIREWALL_TOLD:
        return found
    commit = Commit(expected="")
    return _replace(found, firewall_backend=UNSET, containerd_commit=commit, runc_commit=commit, init_commit=commit)


def disk_usage(found: DiskUsage, version: Version, *, verbose: bool) -> DiskUsage:
    """What takes room: lists up to API 1.51, then usages; both to newer clients that don't ask for `verbose`."""
    if version < LEAN:
        return _replace(found, image_usage=UNSET, container_usage=UNSET, volume_usage=UNSET, build_cache_usage=UNSET)
    if not verbose:
        return found
    return _replace(found, layers_size=UNSET, images=UNSET, containers=UNSET, volumes=UNSET, build_cache=UNSET)


def event(message: EventMessage, version: Version) -> EventMessage | None:
    """One event; None for one that the version does not know."""
    if version >= LEAN:
        return message
    if version < IMAGE_CREATION_TOLD and (message.type, message.action) == ("image", "create"):
        return None
    if message.type not in ("container", "image"):
        return message
    return OlderEventMessage(
        status=message.action,
        id=message.actor.id,
        from_=message.actor.attributes.get("image", "") if message.type == "container" else UNSET,
        type=message.type,
        action=message.action,
        actor=message.actor,
        scope=message.scope,
        time=message.time,
        time_nano=message.time_nano,
    )

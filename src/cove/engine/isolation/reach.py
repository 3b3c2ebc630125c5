"""What of the host a container reaches beyond what every container does, in words.

For those to whom somebody else's wishes come as a file: a person reads a command before running it, but not a
backup before restoring it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cove.engine.containers.records import Record, VolumeRecord
from cove.wire.containers import HostConfig

_MODES = {"PID": "pid_mode", "IPC": "ipc_mode", "UTS": "uts_mode", "user": "userns_mode", "network": "network_mode"}
_SAFE = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true", "security=hardened")


def beyond(record: Record, volumes: Iterable[VolumeRecord]) -> tuple[str, ...]:
    """Each thing that takes more than the default isolation gives; empty when nothing does."""
    return (*_rights(record.host), *_namespaces(record.host), *_files(record, volumes))


def _rights(host: HostConfig) -> Iterator[str]:
    if host.privileged:
        yield "privileged"
    if host.cap_add:
        yield f"the capabilities {', '.join(host.cap_add)}"
    for option in host.security_opt or ():
        if option not in _SAFE:
            yield f"the security option {option}"
    if host.masked_paths is not None or host.readonly_paths is not None:
        yield "paths of /proc and /sys that are hidden or read-only otherwise"
    for device in host.devices:
        yield f"the device {device.path_on_host}"
    for rule in host.device_cgroup_rules or ():
        yield f"the device rule {rule}"
    if host.device_requests:
        yield "devices of the host's vendors"
    if host.cgroup_parent:
        yield f"the control group {host.cgroup_parent}"


def _namespaces(host: HostConfig) -> Iterator[str]:
    modes = {title: getattr(host, field) for title, field in _MODES.items()} | {"control group": host.cgroupns_mode}
    for title, mode in modes.items():
        if mode == "host":
            yield f"the host's {title} namespace"
        elif mode.startswith("container:"):
            yield f"the {title} namespace of another container"
    if host.volumes_from:
        yield f"the volumes of {', '.join(host.volumes_from)}"


def _files(record: Record, volumes: Iterable[VolumeRecord]) -> Iterator[str]:
    for mount in record.mounts:
        if mount.type == "bind":
            yield f"the host's {mount.source}"
    for volume in volumes:
        if device := volume.options.get("device"):
            yield f"{device}, as the volume {volume.name}"
        elif volume.driver != "local":
            yield f"the volume {volume.name} of the plugin {volume.driver}"

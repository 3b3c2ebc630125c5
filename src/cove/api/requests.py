"""What clients of each version ask for, as the newest engine takes it.

Owns the differences between the versions' requests of containers, as pure functions; `cove.api.shapes` has those of
their replies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from cove.errors import InvalidArgument
from cove.wire.base import decode
from cove.wire.containers import CreateRequest, HostConfig, UpdateRequest
from cove.wire.versions import Version

_PRIVATE_IPC_SINCE = (1, 40)
_PROCESSES_UPDATED_SINCE = (1, 40)
_PLACES_HAVE_MACS_SINCE = (1, 44)
_SEVERAL_NETWORKS_SINCE = (1, 44)
_DRIVER_WARNED_SINCE = (1, 48)
_EMPTY_PORTS_WARNED_SINCE = (1, 52)
_DEVICES_UPDATED_SINCE = (1, 55)

_DEVICE_LIMITS = {
    "BlkioWeightDevice": "blkio_weight_device",
    "BlkioDeviceReadBps": "blkio_device_read_bps",
    "BlkioDeviceWriteBps": "blkio_device_write_bps",
    "BlkioDeviceReadIOps": "blkio_device_read_iops",
    "BlkioDeviceWriteIOps": "blkio_device_write_iops",
}


def create(body: CreateRequest, version: Version) -> CreateRequest:
    """A container as asked for. Raises InvalidArgument."""
    if version < _PRIVATE_IPC_SINCE and not body.host_config.ipc_mode:
        shareable = msgspec.structs.replace(body.host_config, ipc_mode="shareable")
        body = msgspec.structs.replace(body, host_config=shareable)
    if version < _SEVERAL_NETWORKS_SINCE and len(body.networking_config.endpoints_config) > 1:
        raise InvalidArgument("Container cannot be created with multiple network endpoints before API 1.44")
    return body


def warnings(body: CreateRequest, version: Version) -> Iterator[str]:
    """What a client of this version should no longer ask for."""
    if version >= _DRIVER_WARNED_SINCE and _is_driver_passed_over(body.host_config):
        yield (
            "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. "
            "Use '--mount type=volume,volume-driver=...' instead"
        )
    if version >= _PLACES_HAVE_MACS_SINCE and body.mac_address:
        yield (
            "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig "
            "instead."
        )
    empty = [port for port, bindings in body.host_config.port_bindings.items() if not bindings]
    if version >= _EMPTY_PORTS_WARNED_SINCE and empty:
        yield (
            f"Following container port(s) have an empty list of port-bindings: {', '.join(empty)}. Such bindings "
            "will be discarded in a future version."
        )


def _is_driver_passed_over(host: HostConfig) -> bool:
    """Whether the driver for all volumes meets one that names none of its own."""
    own = [each.volume_options and each.volume_options.driver_config for each in host.mounts if each.type == "volume"]
    return bool(host.volume_driver) and not all(driver and driver.name for driver in own)


def update(body: bytes, version: Version) -> tuple[UpdateRequest, tuple[str, ...]]:
    """Other limits, and the lists of devices' limits that shall be empty: [] says so, null and nothing do not."""
    asked = decode(UpdateRequest, body)
    if version < _PROCESSES_UPDATED_SINCE:
        asked = msgspec.structs.replace(asked, pids_limit=None)
    if version < _DEVICES_UPDATED_SINCE:
        return msgspec.structs.replace(asked, **dict.fromkeys(_DEVICE_LIMITS.values(), ())), ()
    said: dict[str, Any] = decode(dict[str, Any], body)
    return asked, tuple(field for name, field in _DEVICE_LIMITS.items() if said.get(name) == [])

"""Volumes: what is asked for and what is told."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from cove.wire.base import Value


class VolumeCreateRequest(Value, frozen=True, kw_only=True):
    """An empty name asks for a random one; without a driver, what bears the name already, else a local volume."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}


class VolumeUsage(Value, frozen=True, kw_only=True):
    """Bytes and users; -1 where it was not measured."""

    size: int = -1
    ref_count: int = -1


class Volume(Value, frozen=True, kw_only=True):
    created_at: str
    driver: str = "local"
    labels: dict[str, str] | None = None
    mountpoint: str
    name: str
    options: dict[str, str] | None = None
    scope: str = "local"
    status: dict[str, Any] | UnsetType = UNSET
    usage_data: VolumeUsage | UnsetType = UNSET


class VolumeListResponse(Value, frozen=True, kw_only=True):
    volumes: tuple[Volume, ...] = ()
    warnings: tuple[str, ...] | None = None


class VolumePruneResponse(Value, frozen=True, kw_only=True):
    volumes_deleted: tuple[str, ...] = ()
    space_reclaimed: int = 0

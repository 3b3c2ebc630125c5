"""moby.buildkit.v1.Control."""

from __future__ import annotations

from typing import Annotated

from cove.buildkit.messages.common import (
    BuildkitVersion,
    CacheOptionsEntry,
    Definition,
    Range,
    SourceInfo,
    Timestamp,
    WorkerRecord,
)
from cove.grpc.protobuf import Message
from cove.grpc.status import Status

SERVICE = "moby.buildkit.v1.Control"


class Exporter(Message, frozen=True):
    """Where a result goes."""

    type: Annotated[str, 1] = ""
    attributes: Annotated[dict[str, str], 2] = {}


class CacheOptions(Message, frozen=True):
    """Caches of a build; the first three fields are older clients'."""

    export_ref: Annotated[str, 1] = ""
    import_refs: Annotated[tuple[str, ...], 2] = ()
    export_attributes: Annotated[dict[str, str], 3] = {}
    exports: Annotated[tuple[CacheOptionsEntry, ...], 4] = ()
    imports: Annotated[tuple[CacheOptionsEntry, ...], 5] = ()


class SolveRequest(Message, frozen=True):
    """One build."""

    ref: Annotated[str, 1] = ""
    definition: Annotated[Definition | None, 2] = None
    exporter: Annotated[str, 3] = ""
    exporter_attributes: Annotated[dict[str, str], 4] = {}
    session: Annotated[str, 5] = ""
    frontend: Annotated[str, 6] = ""
    frontend_attributes: Annotated[dict[str, str], 7] = {}
    cache: Annotated[CacheOptions | None, 8] = None
    entitlements: Annotated[tuple[str, ...], 9] = ()
    frontend_inputs: Annotated[dict[str, Definition], 10] = {}
    internal: Annotated[bool, 11] = False
    source_policy: Annotated[bytes, 12] = b""
    exporters: Annotated[tuple[Exporter, ...], 13] = ()
    enable_session_exporter: Annotated[bool, 14] = False
    source_policy_session: Annotated[str, 15] = ""


class SolveResponse(Message, frozen=True):
    """What the exporters tell."""

    exporter_response: Annotated[dict[str, str], 1] = {}


class StatusRequest(Message, frozen=True):
    """Whose progress."""

    ref: Annotated[str, 1] = ""


class Vertex(Message, frozen=True):
    """A step; sent again whenever something about it changes."""

    digest: Annotated[str, 1] = ""
    inputs: Annotated[tuple[str, ...], 2] = ()
    name: Annotated[str, 3] = ""
    cached: Annotated[bool, 4] = False
    started: Annotated[Timestamp | None, 5] = None
    completed: Annotated[Timestamp | None, 6] = None
    error: Annotated[str, 7] = ""


class VertexStatus(Message, frozen=True):
    """Progress within a step."""

    id: Annotated[str, 1] = ""
    vertex: Annotated[str, 2] = ""
    name: Annotated[str, 3] = ""
    current: Annotated[int, 4] = 0
    total: Annotated[int, 5] = 0
    timestamp: Annotated[Timestamp | None, 6] = None
    started: Annotated[Timestamp | None, 7] = None
    completed: Annotated[Timestamp | None, 8] = None


class VertexLog(Message, frozen=True):
    """Output of a step."""

    vertex: Annotated[str, 1] = ""
    timestamp: Annotated[Timestamp | None, 2] = None
    stream: Annotated[int, 3] = 0
    message: Annotated[bytes, 4] = b""


class VertexWarning(Message, frozen=True):
    """What the lint says."""

    vertex: Annotated[str, 1] = ""
    level: Annotated[int, 2] = 0
    short: Annotated[bytes, 3] = b""
    detail: Annotated[tuple[bytes, ...], 4] = ()
    url: Annotated[str, 5] = ""
    info: Annotated[SourceInfo | None, 6] = None
    ranges: Annotated[tuple[Range, ...], 7] = ()


class StatusResponse(Message, frozen=True):
    """News of a build."""

    vertexes: Annotated[tuple[Vertex, ...], 1] = ()
    statuses: Annotated[tuple[VertexStatus, ...], 2] = ()
    logs: Annotated[tuple[VertexLog, ...], 3] = ()
    warnings: Annotated[tuple[VertexWarning, ...], 4] = ()


class ListWorkersResponse(Message, frozen=True):
    record: Annotated[tuple[WorkerRecord, ...], 1] = ()


class InfoResponse(Message, frozen=True):
    version: Annotated[BuildkitVersion | None, 1] = None


class DiskUsageRequest(Message, frozen=True):
    filter: Annotated[tuple[str, ...], 1] = ()


class UsageRecord(Message, frozen=True):
    """One entry of the cache."""

    id: Annotated[str, 1] = ""
    mutable: Annotated[bool, 2] = False
    in_use: Annotated[bool, 3] = False
    size: Annotated[int, 4] = 0
    created_at: Annotated[Timestamp | None, 6] = None
    last_used_at: Annotated[Timestamp | None, 7] = None
    usage_count: Annotated[int, 8] = 0
    description: Annotated[str, 9] = ""
    record_type: Annotated[str, 10] = ""
    shared: Annotated[bool, 11] = False
    parents: Annotated[tuple[str, ...], 12] = ()


class DiskUsageResponse(Message, frozen=True):
    record: Annotated[tuple[UsageRecord, ...], 1] = ()


class BuildHistoryRequest(Message, frozen=True):
    """Which builds are asked about. `early_exit`: what there is now, and no news."""

    active_only: Annotated[bool, 1] = False
    ref: Annotated[str, 2] = ""
    early_exit: Annotated[bool, 3] = False
    filter: Annotated[tuple[str, ...], 4] = ()
    limit: Annotated[int, 5] = 0


class Descriptor(Message, frozen=True):
    """A blob."""

    media_type: Annotated[str, 1] = ""
    digest: Annotated[str, 2] = ""
    size: Annotated[int, 3] = 0
    annotations: Annotated[dict[str, str], 5] = {}


class BuildResultInfo(Message, frozen=True):
    """What came out, by the exporter's number, and what is stated about it."""

    attestations: Annotated[tuple[Descriptor, ...], 2] = ()
    results: Annotated[dict[int, Descriptor], 3] = {}


class BuildHistoryRecord(Message, frozen=True):
    """One build; without `completed_at` it runs."""

    ref: Annotated[str, 1] = ""
    frontend: Annotated[str, 2] = ""
    frontend_attributes: Annotated[dict[str, str], 3] = {}
    exporters: Annotated[tuple[Exporter, ...], 4] = ()
    error: Annotated[Status | None, 5] = None
    created_at: Annotated[Timestamp | None, 6] = None
    completed_at: Annotated[Timestamp | None, 7] = None
    exporter_response: Annotated[dict[str, str], 9] = {}
    result: Annotated[BuildResultInfo | None, 10] = None
    generation: Annotated[int, 12] = 0
    pinned: Annotated[bool, 14] = False
    cached_steps: Annotated[int, 15] = 0
    total_steps: Annotated[int, 16] = 0
    completed_steps: Annotated[int, 17] = 0
    external_error: Annotated[Descriptor | None, 18] = None
    warnings: Annotated[int, 19] = 0


class BuildHistoryEvent(Message, frozen=True):
    """A build began (0), ended (1), or was forgotten (2)."""

    type: Annotated[int, 1] = 0
    record: Annotated[BuildHistoryRecord | None, 2] = None


class UpdateBuildHistoryRequest(Message, frozen=True):
    """What is to be done with a record."""

    ref: Annotated[str, 1] = ""
    pinned: Annotated[bool, 2] = False
    delete: Annotated[bool, 3] = False
    finalize: Annotated[bool, 4] = False


class PruneRequest(Message, frozen=True):
    filter: Annotated[tuple[str, ...], 1] = ()
    all: Annotated[bool, 2] = False
    keep_duration: Annotated[int, 3] = 0
    reserved_space: Annotated[int, 4] = 0
    max_used_space: Annotated[int, 5] = 0
    min_free_space: Annotated[int, 6] = 0

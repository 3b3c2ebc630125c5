"""moby.buildkit.v1.frontend.LLBBridge: what a client that drives a frontend itself asks for."""

from __future__ import annotations

from typing import Annotated

from cove.buildkit.messages.common import CacheOptionsEntry, Definition, Platform, WorkerRecord
from cove.buildkit.messages.session import Stat
from cove.grpc.protobuf import Message
from cove.grpc.status import Status

SERVICE = "moby.buildkit.v1.frontend.LLBBridge"


class APICap(Message, frozen=True):
    """Something that the server can do."""

    id: Annotated[str, 1] = ""
    enabled: Annotated[bool, 2] = False


class PongResponse(Message, frozen=True):
    frontend_caps: Annotated[tuple[APICap, ...], 1] = ()
    llb_caps: Annotated[tuple[APICap, ...], 2] = ()
    workers: Annotated[tuple[WorkerRecord, ...], 3] = ()


class Ref(Message, frozen=True):
    """A result, by a name that the server gave it."""

    id: Annotated[str, 1] = ""
    definition: Annotated[Definition | None, 2] = None


class RefMap(Message, frozen=True):
    refs: Annotated[dict[str, Ref], 1] = {}


class RefMapDeprecated(Message, frozen=True):
    refs: Annotated[dict[str, str], 1] = {}


class Result(Message, frozen=True):
    """One result, or one for each platform."""

    ref_deprecated: Annotated[str, 1] = ""
    refs_deprecated: Annotated[RefMapDeprecated | None, 2] = None
    ref: Annotated[Ref | None, 3] = None
    refs: Annotated[RefMap | None, 4] = None
    metadata: Annotated[dict[str, bytes], 10] = {}


class SolveRequest(Message, frozen=True):
    definition: Annotated[Definition | None, 1] = None
    frontend: Annotated[str, 2] = ""
    options: Annotated[dict[str, str], 3] = {}
    allow_result_return: Annotated[bool, 5] = False
    allow_result_array_ref: Annotated[bool, 6] = False
    final: Annotated[bool, 10] = False
    cache_imports: Annotated[tuple[CacheOptionsEntry, ...], 12] = ()
    inputs: Annotated[dict[str, Definition], 13] = {}
    evaluate: Annotated[bool, 14] = False
    source_policies: Annotated[tuple[bytes, ...], 15] = ()


class SolveResponse(Message, frozen=True):
    ref: Annotated[str, 1] = ""
    result: Annotated[Result | None, 3] = None


class ReturnRequest(Message, frozen=True):
    result: Annotated[Result | None, 1] = None
    error: Annotated[Status | None, 2] = None


class ResolveImageConfigRequest(Message, frozen=True):
    ref: Annotated[str, 1] = ""
    platform: Annotated[Platform | None, 2] = None
    mode: Annotated[str, 3] = ""


class ResolveImageConfigResponse(Message, frozen=True):
    digest: Annotated[str, 1] = ""
    config: Annotated[bytes, 2] = b""
    ref: Annotated[str, 3] = ""


class FileRange(Message, frozen=True):
    offset: Annotated[int, 1] = 0
    length: Annotated[int, 2] = 0


class ReadFileRequest(Message, frozen=True):
    ref: Annotated[str, 1] = ""
    path: Annotated[str, 2] = ""
    range: Annotated[FileRange | None, 3] = None


class ReadFileResponse(Message, frozen=True):
    data: Annotated[bytes, 1] = b""


class ReadDirRequest(Message, frozen=True):
    ref: Annotated[str, 1] = ""
    path: Annotated[str, 2] = ""
    include: Annotated[str, 3] = ""


class ReadDirResponse(Message, frozen=True):
    entries: Annotated[tuple[Stat, ...], 1] = ()


class StatFileRequest(Message, frozen=True):
    ref: Annotated[str, 1] = ""
    path: Annotated[str, 2] = ""


class StatFileResponse(Message, frozen=True):
    stat: Annotated[Stat | None, 1] = None


class EvaluateRequest(Message, frozen=True):
    ref: Annotated[str, 1] = ""


class InputsResponse(Message, frozen=True):
    definitions: Annotated[dict[str, Definition], 1] = {}

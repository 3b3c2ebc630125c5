"""Messages that several services share."""

from __future__ import annotations

from typing import Annotated

from cove.grpc.protobuf import Message


class Empty(Message, frozen=True):
    """No field, or none that is looked at."""


class Timestamp(Message, frozen=True):
    """google.protobuf.Timestamp."""

    seconds: Annotated[int, 1] = 0
    nanos: Annotated[int, 2] = 0

    @classmethod
    def of(cls, moment: float) -> Timestamp:
        """From Unix time in seconds."""
        return cls.of_ns(int(moment * 1e9))

    @classmethod
    def of_ns(cls, moment: int) -> Timestamp:
        return cls(seconds=moment // 10**9, nanos=moment % 10**9)


class BytesMessage(Message, frozen=True):
    """Bytes of a stream."""

    data: Annotated[bytes, 1] = b""


class Platform(Message, frozen=True):
    """pb.Platform."""

    architecture: Annotated[str, 1] = ""
    os: Annotated[str, 2] = ""
    variant: Annotated[str, 3] = ""


class Definition(Message, frozen=True):
    """pb.Definition: a graph in BuildKit's low-level language, each operation marshalled, the last one on top."""

    operations: Annotated[tuple[bytes, ...], 1] = ()
    metadata: Annotated[dict[str, Empty], 2] = {}


class Input(Message, frozen=True):
    """pb.Input: an output of another operation, by the digest of its bytes."""

    digest: Annotated[str, 1] = ""
    index: Annotated[int, 2] = 0


class SourceOp(Message, frozen=True):
    """pb.SourceOp."""

    identifier: Annotated[str, 1] = ""
    attributes: Annotated[dict[str, str], 2] = {}


class Op(Message, frozen=True):
    """pb.Op: only what is needed to recognise a source."""

    inputs: Annotated[tuple[Input, ...], 1] = ()
    source: Annotated[SourceOp | None, 3] = None
    platform: Annotated[Platform | None, 10] = None


class SourceInfo(Message, frozen=True):
    """pb.SourceInfo: the text that an error or a warning is about."""

    filename: Annotated[str, 1] = ""
    data: Annotated[bytes, 2] = b""
    language: Annotated[str, 4] = ""


class Position(Message, frozen=True):
    """pb.Position; lines count from 1."""

    line: Annotated[int, 1] = 0
    character: Annotated[int, 2] = 0


class Range(Message, frozen=True):
    """pb.Range."""

    start: Annotated[Position | None, 1] = None
    end: Annotated[Position | None, 2] = None


class CacheOptionsEntry(Message, frozen=True):
    """A cache to take from or to put to."""

    type: Annotated[str, 1] = ""
    attributes: Annotated[dict[str, str], 2] = {}


class BuildkitVersion(Message, frozen=True):
    """Who serves."""

    package: Annotated[str, 1] = ""
    version: Annotated[str, 2] = ""
    revision: Annotated[str, 3] = ""


class GCPolicy(Message, frozen=True):
    """How the cache is kept small."""

    all: Annotated[bool, 1] = False
    keep_duration: Annotated[int, 2] = 0
    reserved_space: Annotated[int, 3] = 0


class WorkerRecord(Message, frozen=True):
    """One worker: Cove is one."""

    id: Annotated[str, 1] = ""
    labels: Annotated[dict[str, str], 2] = {}
    platforms: Annotated[tuple[Platform, ...], 3] = ()
    gc_policy: Annotated[tuple[GCPolicy, ...], 4] = ()
    version: Annotated[BuildkitVersion | None, 5] = None

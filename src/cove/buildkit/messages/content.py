"""containerd.services.content.v1.Content: blobs that a client has, in stores that it names."""

from __future__ import annotations

from typing import Annotated

from cove.grpc.protobuf import Message

READ = "/containerd.services.content.v1.Content/Read"
WRITE = "/containerd.services.content.v1.Content/Write"
INFO = "/containerd.services.content.v1.Content/Info"
STORE = "buildkit-attachable-store-id"
"""The metadata that says which store is meant."""

STAT, WRITE_DATA, COMMIT = range(3)
"""Actions of a write."""


class InfoRequest(Message, frozen=True):
    digest: Annotated[str, 1] = ""


class Info(Message, frozen=True):
    digest: Annotated[str, 1] = ""
    size: Annotated[int, 2] = 0


class InfoResponse(Message, frozen=True):
    info: Annotated[Info | None, 1] = None


class ReadRequest(Message, frozen=True):
    digest: Annotated[str, 1] = ""
    offset: Annotated[int, 2] = 0
    size: Annotated[int, 3] = 0


class ReadResponse(Message, frozen=True):
    offset: Annotated[int, 1] = 0
    data: Annotated[bytes, 2] = b""


class WriteRequest(Message, frozen=True):
    action: Annotated[int, 1] = 0
    ref: Annotated[str, 2] = ""
    total: Annotated[int, 3] = 0
    expected: Annotated[str, 4] = ""
    offset: Annotated[int, 5] = 0
    data: Annotated[bytes, 6] = b""


class WriteResponse(Message, frozen=True):
    action: Annotated[int, 1] = 0
    offset: Annotated[int, 4] = 0
    total: Annotated[int, 5] = 0
    digest: Annotated[str, 6] = ""

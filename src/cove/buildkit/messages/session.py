"""What the daemon asks of a client's session: files, secrets, agents, credentials."""

from __future__ import annotations

from typing import Annotated

from cove.grpc.protobuf import Message

DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
SEND = "/moby.filesync.v1.FileSend/DiffCopy"
PULL = "/moby.upload.v1.Upload/Pull"
CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
GET_SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
CHECK_AGENT = "/moby.sshforward.v1.SSH/CheckAgent"
FORWARD_AGENT = "/moby.sshforward.v1.SSH/ForwardAgent"

STAT, REQUEST, DATA, END, ERROR = range(5)
"""Types of packets."""


class Stat(Message, frozen=True):
    """fsutil.types.Stat: one file. `mode` has Go's bits (`os.FileMode`); a regular file with `linkname` is a link."""

    path: Annotated[str, 1] = ""
    mode: Annotated[int, 2] = 0
    uid: Annotated[int, 3] = 0
    gid: Annotated[int, 4] = 0
    size: Annotated[int, 5] = 0
    mtime_ns: Annotated[int, 6] = 0
    linkname: Annotated[str, 7] = ""
    devmajor: Annotated[int, 8] = 0
    devminor: Annotated[int, 9] = 0
    xattrs: Annotated[dict[str, bytes], 10] = {}


class Packet(Message, frozen=True):
    """fsutil.types.Packet."""

    type: Annotated[int, 1] = 0
    stat: Annotated[Stat | None, 2] = None
    id: Annotated[int, 3] = 0
    data: Annotated[bytes, 4] = b""


class CredentialsRequest(Message, frozen=True):
    host: Annotated[str, 1] = ""


class CredentialsResponse(Message, frozen=True):
    username: Annotated[str, 1] = ""
    secret: Annotated[str, 2] = ""


class GetSecretRequest(Message, frozen=True):
    id: Annotated[str, 1] = ""


class GetSecretResponse(Message, frozen=True):
    data: Annotated[bytes, 1] = b""


class CheckAgentRequest(Message, frozen=True):
    id: Annotated[str, 1] = ""

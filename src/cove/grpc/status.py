"""How a call ends: codes, errors, and what an error tells in detail.

    trailers: grpc-status 5 · grpc-message no%20such%20thing · grpc-status-details-bin base64(google.rpc.Status)

Source: the protocol's "Responses", google/rpc/status.proto.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated
from urllib.parse import quote, unquote

from cove.errors import (
    Conflict,
    CoveError,
    Forbidden,
    InvalidArgument,
    NotFound,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from cove.grpc.protobuf import Message, decode, encode

_DETAILS = "grpc-status-details-bin"
_MOST_DETAILS = 48 << 10
_SAFE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class Code(IntEnum):
    """The codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_CODES: tuple[tuple[type[CoveError], Code], ...] = (
    (InvalidArgument, Code.INVALID_ARGUMENT),
    (Unauthorized, Code.UNAUTHENTICATED),
    (Forbidden, Code.PERMISSION_DENIED),
    (NotFound, Code.NOT_FOUND),
    (Conflict, Code.FAILED_PRECONDITION),
    (Unsupported, Code.UNIMPLEMENTED),
    (Unavailable, Code.UNAVAILABLE),
)


class Any(Message, frozen=True):
    """google.protobuf.Any: a value and what it is."""

    type_url: Annotated[str, 1] = ""
    value: Annotated[bytes, 2] = b""


class Status(Message, frozen=True):
    """google.rpc.Status."""

    code: Annotated[int, 1] = 0
    message: Annotated[str, 2] = ""
    details: Annotated[tuple[Any, ...], 3] = ()


class RpcError(Exception):
    """A call that did not end well, on either side of it."""

    def __init__(self, code: int, message: str, details: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @property
    def status(self) -> Status:
        return Status(code=self.code, message=self.message, details=self.details)

    @classmethod
    def of(cls, error: BaseException, unexpected: str) -> RpcError:
        """What a call tells of an error; `unexpected` stands for whatever no user should see."""
        if isinstance(error, RpcError):
            return error
        if isinstance(error, CoveError):
            code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.UNKNOWN)
            return cls(code, error.message)
        return cls(Code.INTERNAL, unexpected)


def trailers(status: Status) -> list[tuple[str, str]]:
    """The end of an answer."""
    found = [("grpc-status", str(int(status.code)))]
    if status.message:
        found.append(("grpc-message", quote(status.message.encode("utf-8", "replace"), safe=_SAFE)))
    if status.details:
        whole = base64.b64encode(encode(status)).decode().rstrip("=")
        if len(whole) <= _MOST_DETAILS:
            found.append((_DETAILS, whole))
    return found


def ended(headers: Mapping[str, list[str]]) -> Status:
    """What the trailers of an answer say."""
    text = headers.get("grpc-status", ["2"])[0]
    code = int(text) if text.isdecimal() else int(Code.UNKNOWN)
    details: tuple[Any, ...] = ()
    if packed := headers.get(_DETAILS):
        try:
            details = decode(Status, base64.b64decode(packed[0] + "=" * (-len(packed[0]) % 4))).details
        except (binascii.Error, ValueError, InvalidArgument):
            details = ()  # the message alone tells what happened
    return Status(code=code, message=unquote(headers.get("grpc-message", [""])[0]), details=details)

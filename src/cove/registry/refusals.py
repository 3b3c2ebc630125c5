"""What the distribution API says when it does not do what was asked: a code, a sentence, a status.

Source: the OCI distribution-spec, "Error Codes". The one place where an error becomes a reply.
"""

from __future__ import annotations

import msgspec

from cove import errors
from cove.httpd.messages import Response

_UNEXPECTED = "the registry failed in a way that it did not foresee; the reason is in its log"

_BY_CLASS: tuple[tuple[type[errors.CoveError], str, int], ...] = (
    (errors.InvalidArgument, "UNSUPPORTED", 400),
    (errors.Unauthorized, "UNAUTHORIZED", 401),
    (errors.Forbidden, "DENIED", 403),
    (errors.NotFound, "NAME_UNKNOWN", 404),
    (errors.Conflict, "DENIED", 409),
    (errors.Unsupported, "UNSUPPORTED", 400),
    (errors.Unavailable, "UNAVAILABLE", 503),
)


class Refused(errors.CoveError):
    """A refusal with the code and the status that the distribution-spec gives it."""

    def __init__(self, status: int, code: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


def refusal(error: BaseException) -> Response:
    """The whole reply to a request that failed with `error`."""
    if isinstance(error, Refused):
        return _reply(error.status, error.code, error.message, error.headers)
    for kind, code, status in _BY_CLASS:
        if isinstance(error, kind):
            return _reply(status, code, error.message)
    if isinstance(error, errors.CoveError):
        return _reply(500, "UNKNOWN", error.message)
    return _reply(500, "UNKNOWN", _UNEXPECTED)


def _reply(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    body = msgspec.json.encode({"errors": [{"code": code, "message": message, "detail": None}]})
    return Response(status=status, body=body, headers=headers)


def name_invalid(name: str) -> Refused:
    return Refused(400, "NAME_INVALID", f"{name[:100]!r} is no name of a repository")


def name_unknown(name: str) -> Refused:
    return Refused(404, "NAME_UNKNOWN", f"there is no repository {name}")


def blob_unknown(name: str, digest: str) -> Refused:
    return Refused(404, "BLOB_UNKNOWN", f"the repository {name} has no blob {digest}")


def manifest_unknown(name: str, which: str) -> Refused:
    return Refused(404, "MANIFEST_UNKNOWN", f"the repository {name} has no manifest {which}")


def digest_invalid(message: str) -> Refused:
    return Refused(400, "DIGEST_INVALID", message)


def manifest_invalid(message: str) -> Refused:
    return Refused(400, "MANIFEST_INVALID", message)


def upload_unknown(identity: str) -> Refused:
    return Refused(404, "BLOB_UPLOAD_UNKNOWN", f"there is no upload {identity[:64]} in this repository")


def range_refused(message: str, *headers: tuple[str, str]) -> Refused:
    return Refused(416, "BLOB_UPLOAD_INVALID", message, *headers)


def read_only(what: str) -> Refused:
    return Refused(405, "UNSUPPORTED", f"{what}, which takes no pushes and no deletions")


def quota_exceeded(limit: int, what: str) -> Refused:
    return Refused(403, "DENIED", f"{what} may hold {limit} bytes and this would be more: delete something first")

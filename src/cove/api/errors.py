"""The one place where an error becomes an HTTP status.

class of cove.errors ──▶ status, {"message": …}
a host in trouble    ──▶ 500, and what the kernel says
anything else        ──▶ 500 and one sentence; the traceback is in the daemon's log
"""

from __future__ import annotations

from cove import errors
from cove.api.http import Response
from cove.wire import base

_STATUS: tuple[tuple[type[errors.CoveError], int], ...] = (
    (errors.InvalidArgument, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.NotModified, 304),
    (errors.Unsupported, 501),
    (errors.Unavailable, 503),
    (errors.StartFailed, 400),
    (errors.Internal, 500),
)

_UNEXPECTED = "Cove failed in a way that it did not foresee; the reason is in the daemon's log"


def status_of(error: BaseException) -> int:
    """The HTTP status that says what `error` says."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 500


def message_of(error: BaseException) -> str:
    """The sentence to show for `error`."""
    return error.message if isinstance(error, errors.CoveError) else errors.trouble(error) or _UNEXPECTED


def error_reply(error: BaseException) -> Response:
    """The whole reply to a request that failed with `error`."""
    status = status_of(error)
    body = b"" if status == 304 else base.encode({"message": message_of(error)})
    return Response(status=status, body=body)


def progress_error(error: BaseException) -> dict[str, object]:
    """The last message of a progress stream whose status is already sent."""
    message = message_of(error)
    # Without a code: docker takes one for the exit code of a program, and ends with it.
    return {"errorDetail": {"message": message}, "error": message}

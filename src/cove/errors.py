"""The closed set of errors that Cove raises on purpose.

Every error carries one sentence for a user: what failed, on what, why, and what to try.
They become HTTP statuses in one place (`cove.api.errors`) and exit codes in one place
(`cove.cli.main`). Nothing else may be shown to a user.

    CoveError
    ├── InvalidArgument    the request can never work as it stands          (400)
    ├── Unauthorized       credentials are missing or wrong                 (401)
    ├── Forbidden          policy refuses it                                (403)
    ├── NotFound           no such object                                   (404)
    ├── Conflict           the object's state or a name's owner refuses it  (409)
    ├── NotModified        it is already so                                 (304)
    ├── Unsupported        this host or this version cannot do it           (501)
    ├── Unavailable        something it needs does not answer; try again    (503)
    ├── StartFailed        a process could not be started in a container    (400)
    │   └── StartLost      it was ended before its program ran, by something else
    └── Internal           Cove's own fault, or the host's (disk, kernel)   (500)
"""

from __future__ import annotations

import errno
import os


class CoveError(Exception):
    """Base of all errors; `message` is one sentence, without a trailing full stop."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(CoveError):
    """The request can never work as it stands."""


class Unauthorized(CoveError):
    """Credentials are missing or wrong."""


class Forbidden(CoveError):
    """A policy refuses the request."""


class NotFound(CoveError):
    """The object named does not exist."""


class Conflict(CoveError):
    """The object's state, or the present owner of a name or port, refuses the request."""


class NotModified(CoveError):
    """The object already is as the request wants it."""


class Unsupported(CoveError):
    """This host, or this version of Cove, cannot do what was asked."""


class Unavailable(CoveError):
    """Something outside does not answer now; the same request may work later."""


class Internal(CoveError):
    """Cove or the host failed: disk, kernel, a damaged file."""


class StartFailed(CoveError):
    """A process could not be started inside a container.

    `stage` names the step of `cove.runtime.child.init` that failed, `errno` its error number
    (0 when there is none). `exit_code` follows the shells' convention: 127 when the program
    was not found, 126 when it could not be executed, 125 otherwise.
    """

    def __init__(self, message: str, *, stage: str, errno: int, exit_code: int = 125) -> None:
        super().__init__(message)
        self.stage = stage
        self.errno = errno
        self.exit_code = exit_code


class StartLost(StartFailed):
    """A process, or who worked for it, was killed before its program ran: another attempt may go well."""

    def __init__(self) -> None:
        super().__init__(
            "the process, or the one that prepares it, was killed before its program ran; try again",
            stage="setup",
            errno=0,
        )


_HOSTS_TROUBLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


def trouble(error: BaseException) -> str:
    """The sentence for what a host refuses to anybody (a full disk, too few descriptors); "" for others."""
    if isinstance(error, OSError) and error.errno in _HOSTS_TROUBLE:
        return f"The host has trouble: {describe(error)}; mend that and try again"
    return ""


def describe(error: OSError) -> str:
    """The kernel's reason in words, with the path when there is one."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{error.filename}: {reason}" if error.filename else reason

"""What can go wrong between the command line and a daemon."""

from __future__ import annotations

from cove.errors import CoveError, Unavailable


class ApiError(CoveError):
    """The daemon answered with an error: its HTTP status and its sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoDaemon(Unavailable):
    """Nobody answers at the daemon's address."""


class ProtocolError(CoveError):
    """The answer was not HTTP as this client knows it, or ended too early."""

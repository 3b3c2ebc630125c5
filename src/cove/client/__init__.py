"""A synchronous client of the Engine API, one file per resource.

`connect()` finds the daemon (and starts the default one when it may) and gives a Client.
It speaks plain dictionaries of the API's JSON and imports next to nothing: a command's
whole start-up is counted in milliseconds.
"""

from __future__ import annotations

from cove.client.address import resolve
from cove.client.client import Client
from cove.client.errors import ApiError, NoDaemon

__all__ = ["ApiError", "Client", "NoDaemon", "connect"]


def connect(host: str = "") -> Client:
    """A client of the daemon at `host`, COVE_HOST, DOCKER_HOST, or the default one.

    Raises NoDaemon when a daemon that was named does not answer, or the default one neither
    answers nor can be started.
    """
    address = resolve(host)
    client = Client(address)
    try:
        client.open()
    except NoDaemon:
        if address.chosen:
            raise
        from cove.client.start import start_default

        start_default(address)
    return client

"""The client: requests to one daemon, over connections that are used again.

    Client.call(...)    one request, its answer decoded from JSON
    Client.stream(...)  an answer that goes on: a Response to read piece by piece
    Client.hijack(...)  a request that turns its connection into a raw stream
    Client.containers, .execs, .images, .networks, .volumes, .system
                        the API's nouns, each imported at its first use

Whatever status says "error" is raised as ApiError with the daemon's own sentence. A
connection that the daemon closed while it was idle is replaced once, silently.
"""

from __future__ import annotations

import os

from cove.client.address import Address
from cove.client.codec import decode, encode, values
from cove.client.errors import ApiError, ProtocolError
from cove.client.http import Connection, Hijacked, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from cove.client.builds import Builds
    from cove.client.containers import Containers
    from cove.client.execs import Execs
    from cove.client.images import Images
    from cove.client.networks import Networks
    from cove.client.system import System
    from cove.client.volumes import Volumes

    Query = Mapping[str, object]

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:@,")


def quote(text: str) -> str:
    """Percent-encode for a path or a query value."""
    return "".join(
        chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape")
    )


def query_string(query: Query) -> str:
    """`?a=1&b=x`; None and "" are left out, True is 1, False is 0, a list repeats its name."""
    pairs = []
    for name, value in query.items():
        if value is None or value == "":
            continue
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, dict):
                one = encode(one).decode()
            pairs.append(f"{name}={quote(str(int(one) if isinstance(one, bool) else one))}")
    return "?" + "&".join(pairs) if pairs else ""


class Client:
    """Everything a daemon can be asked. Not for use by two threads at once: see `twin`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[Connection] = []
        version = os.environ.get("DOCKER_API_VERSION", "")
        self._prefix = f"/v{version.removeprefix('v')}" if version else ""

    def twin(self) -> Client:
        """A second client of the same daemon, for another thread."""
        return Client(self.address)

    def open(self) -> None:
        """Connect now, so that a missing daemon shows before anything is asked."""
        self._idle.append(Connection(self.address.connect()))

    @property
    def containers(self) -> Containers:
        from cove.client.containers import Containers

        return Containers(self)

    @property
    def execs(self) -> Execs:
        from cove.client.execs import Execs

        return Execs(self)

    @property
    def builds(self) -> Builds:
        from cove.client.builds import Builds

        return Builds(self)

    @property
    def images(self) -> Images:
        from cove.client.images import Images

        return Images(self)

    @property
    def networks(self) -> Networks:
        from cove.client.networks import Networks

        return Networks(self)

    @property
    def volumes(self) -> Volumes:
        from cove.client.volumes import Volumes

        return Volumes(self)

    @property
    def system(self) -> System:
        from cove.client.system import System

        return System(self)

    def call(self, method: str, path: str, query: Query | None = None, body: object = None) -> Any:
        """One request with a JSON body; the answer's JSON, or None when it has none."""
        response = self._send(method, path, query or {}, *_payload(body))
        data = response.read()
        self._give_back(response)
        return decode(data) if data.strip() else None

    def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: object = None,
        *,
        upload: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """A request whose answer is read piece by piece; `upload` is sent as it is, chunked when iterable."""
        payload, extra = _payload(body) if upload is None else (upload, {"Content-Type": "application/x-tar"})
        return self._send(method, path, query or {}, payload, {**extra, **(headers or {})})

    def messages(self, response: Response) -> Iterator[Any]:
        """The JSON messages of a streamed answer, each when it arrives."""
        yield from values(response.chunks())
        self._give_back(response)

    def finish(self, response: Response) -> None:
        """Read what is left of a streamed answer and free its connection."""
        response.read()
        self._give_back(response)

    def hijack(self, path: str, query: Query | None = None, body: object = None) -> Hijacked:
        """A request that is answered by a raw stream."""
        payload, headers = _payload(body)
        headers |= {"Connection": "Upgrade", "Upgrade": "tcp"}
        return self._send("POST", path, query or {}, payload, headers).hijack()

    def _send(
        self, method: str, path: str, query: Query, body: bytes | Iterable[bytes] | None, headers: dict[str, str]
    ) -> Response:
        target = self._prefix + quote(path) + query_string(query)
        replayable = body is None or isinstance(body, bytes)
        while self._idle and replayable:
            connection = self._idle.pop()
            try:
                response = connection.send(method, target, headers, body)
                break
            except (OSError, ProtocolError):
                connection.close()
        else:
            connection = Connection(self.address.connect())
            try:
                response = connection.send(method, target, headers, body)
            except OSError as error:
                raise ProtocolError(f"the daemon closed the connection: {error.strerror or error}") from error
        if response.status >= 400:
            raise self._error(response)
        return response

    def _give_back(self, response: Response) -> None:
        connection = response.connection
        if response.done and connection.reusable and connection.fresh:
            self._idle.append(connection)
        else:
            connection.close()

    def _error(self, response: Response) -> ApiError:
        data = response.read()
        self._give_back(response)
        try:
            message = decode(data)["message"]
        except (ProtocolError, KeyError, TypeError):
            message = data.decode("utf-8", "replace").strip() or f"the daemon answered with status {response.status}"
        return ApiError(response.status, str(message))


def _payload(body: object) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    return encode(body), {"Content-Type": "application/json"}

"""The daemon itself: what it is, what it uses, what happens in it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from cove.client.client import Client


class System:
    def __init__(self, client: Client) -> None:
        self._client = client

    def ping(self) -> None:
        self._client.finish(self._client.stream("GET", "/_ping"))

    def version(self) -> dict[str, Any]:
        return dict(self._client.call("GET", "/version"))

    def info(self) -> dict[str, Any]:
        return dict(self._client.call("GET", "/info"))

    def usage(self) -> dict[str, Any]:
        return dict(self._client.call("GET", "/system/df"))

    def events(self, query: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        return self._client.messages(self._client.stream("GET", "/events", query))

    def login(self, credentials: dict[str, str]) -> dict[str, Any]:
        return self._client.call("POST", "/auth", body=credentials) or {}

    def prune_builds(self) -> dict[str, Any]:
        return self._client.call("POST", "/build/prune") or {}

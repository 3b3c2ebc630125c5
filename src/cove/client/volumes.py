"""The API's volumes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from cove.client.client import Client
    from cove.client.http import Response

    Filters = Mapping[str, list[str]]


class Volumes:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, filters: Filters | None = None, *, size: bool = False) -> dict[str, Any]:
        """Volumes, and Warnings of plugins that do not answer. `size`, Cove's own: what each takes on disk."""
        return dict(self._client.call("GET", "/volumes", {"filters": filters or None, "size": size or None}))

    def inspect(self, name: str) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/volumes/{name}"))

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._client.call("POST", "/volumes/create", body=body))

    def remove(self, name: str, *, force: bool) -> None:
        self._client.call("DELETE", f"/volumes/{name}", {"force": force or None})

    def export(self, name: str) -> Response:
        return self._client.stream("GET", f"/volumes/{name}/archive")

    def import_(self, name: str, archive: Iterable[bytes]) -> None:
        for _ in self._client.stream("PUT", f"/volumes/{name}/archive", upload=archive).chunks():
            pass

    def move(self, verb: str, name: str, to: str) -> dict[str, Any]:
        """`verb`: clone, snapshot or rename."""
        return dict(self._client.call("POST", f"/volumes/{name}/{verb}", {"to": to or None}))

    def prune(self, filters: Filters) -> dict[str, Any]:
        return dict(self._client.call("POST", "/volumes/prune", {"filters": filters or None}))

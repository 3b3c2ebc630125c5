"""The API's networks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from cove.client.client import Client

    Filters = Mapping[str, list[str]]


class Networks:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, filters: Filters | None = None) -> list[dict[str, Any]]:
        return list(self._client.call("GET", "/networks", {"filters": filters or None}) or [])

    def inspect(self, ref: str, *, verbose: bool = False) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/networks/{ref}", {"verbose": verbose or None}))

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._client.call("POST", "/networks/create", body=body))

    def update(self, ref: str, body: dict[str, Any]) -> None:
        self._client.call("POST", f"/networks/{ref}/update", body=body)

    def remove(self, ref: str) -> None:
        self._client.call("DELETE", f"/networks/{ref}")

    def connect(self, ref: str, container: str, settings: dict[str, Any]) -> None:
        body = {"Container": container, "EndpointConfig": settings}
        self._client.call("POST", f"/networks/{ref}/connect", body=body)

    def disconnect(self, ref: str, container: str, *, force: bool) -> None:
        self._client.call("POST", f"/networks/{ref}/disconnect", body={"Container": container, "Force": force})

    def trace(self, target: str) -> Sequence[dict[str, Any]]:
        """Cove's own: the way of a packet, one for each port."""
        found: Sequence[dict[str, Any]] = self._client.call("GET", "/net/trace", {"to": target}) or ()
        return found

    def prune(self, filters: Filters) -> dict[str, Any]:
        return dict(self._client.call("POST", "/networks/prune", {"filters": filters or None}))

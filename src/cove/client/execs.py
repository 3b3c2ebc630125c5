"""The API's exec instances: one more process in a running container."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cove.client.client import Client
    from cove.client.http import Hijacked


class Execs:
    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, container: str, body: dict[str, Any]) -> str:
        return str(self._client.call("POST", f"/containers/{container}/exec", body=body)["Id"])

    def start(self, exec_id: str, *, tty: bool, size: tuple[int, int] | None) -> Hijacked:
        """Start it attached; `size` is (rows, columns)."""
        body: dict[str, Any] = {"Detach": False, "Tty": tty}
        if size:
            body["ConsoleSize"] = list(size)
        return self._client.hijack(f"/exec/{exec_id}/start", body=body)

    def start_detached(self, exec_id: str, *, tty: bool) -> None:
        self._client.call("POST", f"/exec/{exec_id}/start", body={"Detach": True, "Tty": tty})

    def resize(self, exec_id: str, *, height: int, width: int) -> None:
        self._client.call("POST", f"/exec/{exec_id}/resize", {"h": height, "w": width})

    def inspect(self, exec_id: str) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/exec/{exec_id}/json"))

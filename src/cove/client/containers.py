"""The API's containers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from cove.client.client import Client
    from cove.client.http import Hijacked, Response

    Filters = Mapping[str, list[str]]


class Containers:
    """Every `ref` is a name, an id, or the unique beginning of an id."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, body: dict[str, Any], *, name: str = "", platform: str = "") -> dict[str, Any]:
        query = {"name": name, "platform": platform}
        return dict(self._client.call("POST", "/containers/create", query, body))

    def list(
        self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters | None = None
    ) -> list[dict[str, Any]]:
        query = {"all": all, "limit": limit or None, "size": size or None, "filters": filters or None}
        return list(self._client.call("GET", "/containers/json", query))

    def inspect(self, ref: str, *, size: bool = False) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/containers/{ref}/json", {"size": size or None}))

    def explain(self, ref: str) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/containers/{ref}/explain"))

    def explain_plan(self, body: dict[str, Any], *, name: str = "", platform: str = "") -> dict[str, Any]:
        query = {"name": name, "platform": platform}
        return dict(self._client.call("POST", "/containers/explain", query, body))

    def start(self, ref: str, *, detach_keys: str = "") -> None:
        self._client.call("POST", f"/containers/{ref}/start", {"detachKeys": detach_keys})

    def act(self, ref: str, verb: str, **query: object) -> None:
        """stop, restart, kill, pause, unpause, rename: a POST that answers nothing."""
        self._client.call("POST", f"/containers/{ref}/{verb}", query)

    def resize(self, ref: str, *, height: int, width: int) -> None:
        self._client.call("POST", f"/containers/{ref}/resize", {"h": height, "w": width})

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        self._client.call("DELETE", f"/containers/{ref}", {"force": force, "v": volumes, "link": link or None})

    def update(self, ref: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._client.call("POST", f"/containers/{ref}/update", body=body) or {}

    def wait(self, ref: str, condition: str = "") -> Response:
        """The wait has begun when this returns; read the answer for the code."""
        return self._client.stream("POST", f"/containers/{ref}/wait", {"condition": condition})

    def attach(self, ref: str, **query: object) -> Hijacked:
        return self._client.hijack(f"/containers/{ref}/attach", query)

    def logs(self, ref: str, **query: object) -> Response:
        return self._client.stream("GET", f"/containers/{ref}/logs", query)

    def top(self, ref: str, ps_args: str) -> dict[str, Any]:
        return dict(self._client.call("GET", f"/containers/{ref}/top", {"ps_args": ps_args}))

    def stats(self, ref: str, *, stream: bool) -> Iterator[dict[str, Any]]:
        response = self._client.stream("GET", f"/containers/{ref}/stats", {"stream": stream})
        return self._client.messages(response)

    def changes(self, ref: str) -> Iterable[dict[str, Any]]:
        return self._client.call("GET", f"/containers/{ref}/changes") or []

    def export(self, ref: str) -> Response:
        return self._client.stream("GET", f"/containers/{ref}/export")

    def backup(self, ref: str, query: Mapping[str, object]) -> Response:
        """Cove's own: the container with all it has, as an archive."""
        return self._client.stream("GET", f"/containers/{ref}/backup", query)

    def push_backup(
        self, ref: str, target: str, query: Mapping[str, object], *, auth: str
    ) -> Iterable[dict[str, Any]]:
        """Cove's own: the same to a registry."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        response = self._client.stream("POST", f"/containers/{ref}/backup", {"to": target, **query}, headers=headers)
        return self._client.messages(response)

    def restore(
        self, query: Mapping[str, object], *, upload: Iterable[bytes] | None = None, auth: str = ""
    ) -> dict[str, Any]:
        """Cove's own: a container out of an archive, or out of what "from" names at a registry."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        response = self._client.stream("POST", "/containers/restore", query, upload=upload, headers=headers)
        (made,) = self._client.messages(response)
        return dict(made)

    def stat_path(self, ref: str, path: str) -> dict[str, Any]:
        """What lies at a path: name, size, mode (Go's bits), mtime, linkTarget."""
        response = self._client.stream("HEAD", f"/containers/{ref}/archive", {"path": path})
        stat = path_stat(response)
        self._client.finish(response)
        return stat

    def read_archive(self, ref: str, path: str, *, sparse: bool = False) -> Response:
        """`sparse`, Cove's own: holes of files stay holes."""
        query = {"path": path, "sparse": sparse or None}
        return self._client.stream("GET", f"/containers/{ref}/archive", query)

    def write_archive(self, ref: str, path: str, tar: Iterable[bytes], *, copy_ids: bool = False) -> None:
        query = {"path": path, "noOverwriteDirNonDir": True, "copyUIDGID": copy_ids or None}
        self._client.finish(self._client.stream("PUT", f"/containers/{ref}/archive", query, upload=tar))

    def prune(self, filters: Filters) -> dict[str, Any]:
        return dict(self._client.call("POST", "/containers/prune", {"filters": filters or None}))


def path_stat(response: Response) -> dict[str, Any]:
    """The X-Docker-Container-Path-Stat header, decoded."""
    from binascii import a2b_base64

    from cove.client.codec import decode

    header = response.headers.get("x-docker-container-path-stat", "")
    return dict(decode(a2b_base64(header))) if header else {}

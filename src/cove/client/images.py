"""The API's images. What takes long answers with a stream of progress messages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from cove.client.client import Client
    from cove.client.http import Response

    Messages = Iterator[dict[str, Any]]
    Filters = Mapping[str, list[str]]


class Images:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(
        self, *, all: bool = False, digests: bool = False, manifests: bool = False, filters: Filters | None = None
    ) -> list[dict[str, Any]]:
        query = {"all": all, "digests": digests or None, "manifests": manifests or None, "filters": filters or None}
        return list(self._client.call("GET", "/images/json", query))

    def inspect(self, name: str, *, platform: str = "", manifests: bool = False) -> dict[str, Any]:
        query = {"platform": platform or None, "manifests": manifests or None}
        return dict(self._client.call("GET", f"/images/{name}/json", query))

    def at_registry(self, name: str, *, auth: str = "") -> dict[str, Any]:
        """What a name stands for at its registry now."""
        response = self._client.stream(
            "GET", f"/distribution/{name}/json", headers={"X-Registry-Auth": auth} if auth else {}
        )
        return dict(next(iter(self._client.messages(response))))

    def search(self, term: str, limit: int, *, auth: str = "") -> Iterable[dict[str, Any]]:
        headers = {"X-Registry-Auth": auth} if auth else {}
        response = self._client.stream("GET", "/images/search", {"term": term, "limit": limit}, headers=headers)
        return list(next(iter(self._client.messages(response))))

    def history(self, name: str, *, platform: str = "") -> Iterable[dict[str, Any]]:
        return self._client.call("GET", f"/images/{name}/history", {"platform": platform or None}) or []

    def tag(self, source: str, repository: str, tag: str) -> None:
        self._client.call("POST", f"/images/{source}/tag", {"repo": repository, "tag": tag})

    def remove(
        self, name: str, *, force: bool, keep_parents: bool, platforms: Sequence[str] = ()
    ) -> Iterable[dict[str, Any]]:
        query = {"force": force or None, "noprune": keep_parents or None, "platforms": list(platforms) or None}
        return self._client.call("DELETE", f"/images/{name}", query) or []

    def prune(self, filters: Filters) -> dict[str, Any]:
        return dict(self._client.call("POST", "/images/prune", {"filters": filters or None}))

    def verify(self, name: str, keys: Sequence[str], *, auth: str = "") -> Sequence[dict[str, Any]]:
        """Cove's own: the signatures that hold."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        path = f"/cove/images/{name}/verify"
        response = self._client.stream("POST", path, body={"Keys": [*keys]}, headers=headers)
        (found,) = self._client.messages(response)
        return [*found]

    def attachments(self, name: str) -> Sequence[dict[str, Any]]:
        """Cove's own: what is attached to an image here."""
        return [*(self._client.call("GET", f"/cove/images/{name}/attachments") or ())]

    def make_list(self, name: str, body: dict[str, Any]) -> str:
        """Cove's own: several images under one name; the index's digest."""
        return str(self._client.call("POST", f"/cove/manifests/{name}", body=body)["Id"])

    def annotate_list(self, name: str, body: dict[str, Any]) -> str:
        return str(self._client.call("POST", f"/cove/manifests/{name}/annotate", body=body)["Id"])

    def document(self, name: str, *, auth: str = "") -> bytes:
        """Cove's own: the manifest or index of a name, byte for byte."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        return b"".join(self._client.stream("GET", f"/cove/manifests/{name}", headers=headers).chunks())

    def pull(self, repository: str, tag: str, *, platform: str = "", every: bool = False, auth: str = "") -> Messages:
        """`every`: all platforms of the image, which is Cove's own."""
        query = {"fromImage": repository, "tag": tag, "platform": platform, "allPlatforms": every or None}
        return self._progress("/images/create", query, auth=auth)

    def push(self, repository: str, tag: str, *, platform: str = "", auth: str = "") -> Messages:
        query = {"tag": tag, "platform": platform or None}
        return self._progress(f"/images/{repository}/push", query, auth=auth or "e30=")

    def load(self, tar: Iterable[bytes], *, quiet: bool, platform: str = "") -> Messages:
        return self._progress("/images/load", {"quiet": quiet or None, "platform": platform or None}, upload=tar)

    def import_(self, tar: Iterable[bytes], query: Mapping[str, object]) -> Messages:
        return self._progress("/images/create", {"fromSrc": "-", **query}, upload=tar)

    def save(self, names: Iterable[str], *, platform: str = "") -> Response:
        return self._client.stream("GET", "/images/get", {"names": [*names], "platform": platform or None})

    def bootstrap(self, body: dict[str, Any]) -> Messages:
        """Cove's own: make an image out of Debian's packages."""
        return self._client.messages(self._client.stream("POST", "/cove/images/bootstrap", body=body))

    def commit(self, container: str, query: Mapping[str, object]) -> str:
        return str(self._client.call("POST", "/commit", {"container": container, **query}, {})["Id"])

    def _progress(
        self, path: str, query: Mapping[str, object], *, auth: str = "", upload: Iterable[bytes] | None = None
    ) -> Messages:
        headers = {"X-Registry-Auth": auth} if auth else {}
        response = self._client.stream("POST", path, query, upload=upload, headers=headers)
        return self._client.messages(response)

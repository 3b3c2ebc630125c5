"""The API's builds: a context goes up, events come down."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Protocol

    from cove.client.client import Client
    from cove.client.http import Response

    class Listed(Protocol):
        """A directory that can tell what it has."""

        @property
        def key(self) -> str: ...

        def listing(self) -> bytes: ...

        def archive(self, known: Iterable[int]) -> Iterator[bytes]: ...


class Builds:
    def __init__(self, client: Client) -> None:
        self._client = client

    def build(
        self, query: Mapping[str, Any], context: Iterable[bytes] | None, *, registries: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Build; Cove's own events as they happen. `registries`: the header X-Registry-Config."""
        headers = {"X-Registry-Config": registries} if registries else {}
        upload = b"" if context is None else context
        response = self._client.stream("POST", "/cove/build", dict(query), upload=upload, headers=headers)
        return self._client.messages(response)

    def give(self, secrets: Mapping[str, bytes], agents: Mapping[str, str]) -> str:
        """Hand over secrets for the next build; the name that it calls them by."""
        import base64

        encoded = {name: base64.b64encode(value).decode() for name, value in secrets.items()}
        answer = self._client.call("POST", "/cove/build/secrets", None, {"Secrets": encoded, "Ssh": dict(agents)})
        return str(answer["Id"])

    def send(self, context: Iterable[bytes]) -> str:
        """Send a directory for the next build; what that calls it."""
        response = self._client.stream("POST", "/cove/build/context", upload=context)
        (answer,) = self._client.messages(response)
        return f"sent:{answer['Id']}"

    def sync(self, directory: Listed) -> str:
        """Send what the daemon does not have of a directory, for the next build; what that calls it."""
        query = {"key": directory.key}
        response = self._client.stream("POST", "/cove/build/listing", query, upload=[directory.listing()])
        (told,) = self._client.messages(response)
        upload = directory.archive(told.get("Known") or ())
        response = self._client.stream("POST", "/cove/build/context", {"listing": told["Id"]}, upload=upload)
        (answer,) = self._client.messages(response)
        return f"sent:{answer['Id']}"

    def send_cache(self, layout: Iterable[bytes]) -> str:
        """Send a directory's cache for the next build; what that calls it."""
        response = self._client.stream("POST", "/cove/build/caches", upload=layout)
        (answer,) = self._client.messages(response)
        return f"sent:{answer['Id']}"

    def fetch_cache(self, identity: str) -> Response:
        """A build's cache for a directory, as an archive."""
        return self._client.stream("GET", f"/cove/build/caches/{identity}")

    def rootfs(self, image: str, epoch: int | None = None) -> Response:
        """An image's files as an archive, all of the time `epoch` if that is given."""
        return self._client.stream("GET", f"/cove/images/{image}/rootfs", {"epoch": epoch})

    def mounts(self) -> list[dict[str, Any]]:
        """The directories of cache mounts."""
        return list(self._client.call("GET", "/cove/build/mounts"))

    def export_mount(self, name: str) -> Response:
        """One of them as an archive, by the mount's id or its own."""
        return self._client.stream("GET", "/cove/build/mounts/archive", {"id": name})

    def import_mount(self, archive: Iterable[bytes], query: Mapping[str, Any]) -> dict[str, Any]:
        """An archive as one of them; `query`: id, owner and mode, where the archive does not tell them."""
        response = self._client.stream("PUT", "/cove/build/mounts/archive", dict(query), upload=archive)
        (made,) = self._client.messages(response)
        return dict(made)

    def prune(self, *, all: bool = False, filters: Mapping[str, list[str]] | None = None, **bounds: int) -> Any:
        """`bounds`, in bytes: reserved_space, max_used_space, min_free_space; 0 is none."""
        query: dict[str, Any] = {"all": all, "filters": filters or None}
        query |= {name.replace("_", "-"): value or None for name, value in bounds.items()}
        return self._client.call("POST", "/build/prune", query)

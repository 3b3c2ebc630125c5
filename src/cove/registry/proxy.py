"""What other registries have, kept for a while: a cache that pulls go through.

    manifest by tag     younger than `ttl`: ours · else HEAD at the upstream: the same digest, ours · else GET, kept
                        upstream silent: ours, however old
    manifest by digest  ours, or GET, kept
    blob                ours, or one download that is stored and read by everybody who asks meanwhile
    what nobody asked for in `keep` seconds goes

Only blobs that a kept manifest names are fetched, so that this is no open way to an upstream's storage. A
download's last byte is held back until its digest was right: a client never has a complete wrong blob.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

from cove.errors import CoveError, InvalidArgument, NotFound, Unauthorized, Unavailable, describe
from cove.httpd.messages import Disconnected
from cove.image.distribution.credentials import Credentials
from cove.image.distribution.registries import Host, Place, RegistriesFile, host_name
from cove.image.distribution.registry import Repository
from cove.image.distribution.transport import Policy, Transport
from cove.oci.image import Descriptor
from cove.oci.reference import DEFAULT_DOMAIN, Reference
from cove.registry import clock, refusals
from cove.registry.catalogue import Entry
from cove.registry.metrics import Metrics
from cove.registry.settings import Settings
from cove.registry.storage import Storage

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ANY = "*"
_PIECE = 256 << 10
_THREADS = 16
_COUNTED = "cove_registry_proxy_requests_total"


@dataclass(frozen=True, slots=True)
class Upstream:
    """A registry behind this one: repositories below `prefix` ("" is all) are its own."""

    prefix: str
    domain: str


def parse(text: str) -> tuple[Upstream, Host | None]:
    """One --proxy: "[PREFIX=]URL", or "*". Raises InvalidArgument."""
    prefix, equals, address = text.rpartition("=")
    if text == _ANY:
        return Upstream(_ANY, ""), None
    parts = urlsplit(address if "://" in address else f"https://{address}")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or "@" in parts.netloc:
        raise InvalidArgument(
            f"{text!r} is no registry to be a cache of: write [PREFIX=]HOST[:PORT], http://HOST[:PORT] or *"
        )
    if equals and not prefix:
        raise InvalidArgument(f"{text!r} has an empty prefix; leave the = out for a cache of all")
    domain = DEFAULT_DOMAIN if parts.netloc in {"registry-1.docker.io", "index.docker.io"} else parts.netloc
    return Upstream(prefix.strip("/"), domain), Host(plain_http=True) if parts.scheme == "http" else None


class Download:
    """One blob on its way from upstream to `place`; readers follow the file as it grows."""

    def __init__(self, size: int, place: Path) -> None:
        self.size = size
        self.place = place
        self.repositories: set[str] = set()
        self.path: Path | None = None
        self.offset = 0
        self.complete = False
        self.failure: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()

    def advance(self, offset: int, path: Path) -> None:
        """Said by the downloading thread."""
        self._loop.call_soon_threadsafe(self._advance, offset, path)

    def _advance(self, offset: int, path: Path) -> None:
        self.offset, self.path = offset, path
        self._wake()

    def end(self, failure: BaseException | None) -> None:
        """Said on the loop."""
        self.failure, self.complete = failure, failure is None
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def read(self) -> AsyncIterator[bytes]:
        """All its bytes, as they come. Raises Disconnected when they don't."""
        while self.path is None and self.failure is None:
            await self._moved.wait()
        with self._opened() as file:
            done = 0
            while done < self.size:
                until = self.offset if self.complete else min(self.offset, self.size - 1)
                if done < until:
                    data = file.read(min(_PIECE, until - done))
                    done += len(data)
                    yield data
                    continue
                if self.failure is not None:
                    raise Disconnected
                await self._moved.wait()

    def _opened(self) -> BinaryIO:
        """The file while it grows, or in its place: it may have been moved there since the loop was told of it."""
        for path in (self.path, self.place):
            if path is not None and self.failure is None:
                with suppress(OSError):
                    return path.open("rb")
        raise Disconnected


class Proxies:
    """Every upstream of one registry."""

    def __init__(self, settings: Settings, storage: Storage, metrics: Metrics) -> None:
        parsed = [parse(text) for text in settings.proxies]
        self._upstreams = sorted((upstream for upstream, _ in parsed), key=lambda each: -len(each.prefix))
        self._hosts = {upstream.domain: host for upstream, host in parsed if host is not None}
        self._settings = settings
        self._storage = storage
        self._metrics = metrics
        self._file = RegistriesFile(Path(settings.registries) if settings.registries else None)
        self._transport = Transport(Policy(), self._host)
        self._cancel = threading.Event()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="proxy")
        self._downloads: dict[str, Download] = {}
        self._received = 0
        self._asking: dict[tuple[str, str], asyncio.Future[Entry]] = {}

    def close(self) -> None:
        self._cancel.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def any(self) -> bool:
        """Whether a request may name its upstream itself."""
        return any(each.prefix == _ANY for each in self._upstreams)

    def upstream(self, repository: str) -> Place | None:
        """Where a repository really is; None for one of our own."""
        for each in self._upstreams:
            if each.prefix == _ANY:
                domain, slash, path = repository.partition("/")
                if slash and ("." in domain or domain == "localhost"):
                    return _place(domain, path)
            elif not each.prefix:
                return _place(each.domain, repository)
            elif repository.startswith(f"{each.prefix}/"):
                return _place(each.domain, repository[len(each.prefix) + 1 :])
        return None

    def expire(self) -> None:
        """Forget manifests that nobody asked for lately; the collector takes what only they needed."""
        prefixes = [each.prefix for each in self._upstreams]
        if not prefixes:
            return
        found = self._storage.catalogue.unused(
            ["" if prefix == _ANY else prefix for prefix in prefixes], clock.now() - self._settings.proxy_keep
        )
        old = [(repository, digest) for repository, digest in found if self.upstream(repository) is not None]
        self._storage.forget(old)

    # ── manifests ─────────────────────────────────────────────────────────────────────────────────

    async def manifest(self, repository: str, which: str) -> Entry:
        """The manifest at a tag or digest, fetched when ours is missing or may be out of date. Raises Refused."""
        key = (repository, which)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self._manifest(repository, which))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _manifest(self, repository: str, which: str) -> Entry:
        catalogue = self._storage.catalogue
        tag = None if ":" in which else catalogue.tag(repository, which)
        known = tag.digest if tag else which if ":" in which else ""
        entry = catalogue.manifest(repository, known) if known else None
        fresh = tag is None or 0 <= clock.now() - tag.checked < self._settings.proxy_ttl
        if entry is not None and fresh:
            self._metrics.count(_COUNTED, kind="manifest", found="here")
            return self._storage.manifest(repository, entry.digest)
        try:
            return await self._run(self._fetch, repository, which, entry)
        except NotFound as error:
            if tag is not None:
                await self._run(catalogue.remove_tag, repository, which)
            raise refusals.manifest_unknown(repository, which) from error
        except (Unavailable, Unauthorized) as error:
            if entry is None:
                raise refusals.Refused(503, "UNAVAILABLE", error.message) from error
            _log.warning("%s: serving what was kept of %s:%s", error.message, repository, which)
            self._metrics.count(_COUNTED, kind="manifest", found="stale")
            return self._storage.manifest(repository, entry.digest)

    def _fetch(self, repository: str, which: str, entry: Entry | None) -> Entry:
        """In a thread: what the upstream has now."""
        source = self._repository(repository)
        if entry is not None and source.digest_of(which) == entry.digest:
            self._storage.catalogue.set_tag(repository, which, entry.digest)
            return entry
        found = source.manifest(which)
        tags = () if ":" in which else (which,)
        return self._storage.keep_manifest(repository, found.raw, found.media_type, found.digest, tags)

    async def tags(self, repository: str) -> list[str]:
        """What the upstream lists, or what was kept when it is silent."""
        try:
            return sorted(await self._run(lambda: self._repository(repository).tags()))
        except NotFound as error:
            raise refusals.name_unknown(repository) from error
        except CoveError:
            kept = [tag.name for tag in self._storage.catalogue.tags(repository)]
            if not kept:
                raise
            return kept

    async def referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        """What is attached to a manifest at the upstream."""
        return await self._run(lambda: self._repository(repository).referrers(digest))

    # ── blobs ─────────────────────────────────────────────────────────────────────────────────────

    def announced(self, repository: str, digest: str) -> int:
        """The size of a blob that may be fetched. Raises Refused for one that no kept manifest names."""
        size = self._storage.catalogue.announced(repository, digest)
        if size is None:
            raise refusals.blob_unknown(repository, digest)
        return size

    def blob(self, repository: str, digest: str) -> AsyncIterator[bytes]:
        """The bytes of a blob that is not here yet; it is kept if there is room. Raises Refused."""
        size = self.announced(repository, digest)
        download = self._downloads.get(digest)
        if download is not None:
            self._metrics.count(_COUNTED, kind="blob", found="under way")
            download.repositories.add(repository)
            return download.read()
        self._metrics.count(_COUNTED, kind="blob", found="upstream")
        try:
            self._storage.room.take(size)
        except refusals.Refused as error:
            _log.warning("%s of %s is passed through and not kept: %s", digest, repository, error.message)
            return self._through(repository, digest, size)
        download = self._downloads[digest] = Download(size, self._storage.content.path(digest))
        download.repositories.add(repository)
        task = asyncio.ensure_future(self._run(self._download, repository, digest, download))
        task.add_done_callback(lambda done: self._ended(digest, done))
        return download.read()

    async def _through(self, repository: str, digest: str, size: int) -> AsyncIterator[bytes]:
        pieces = self._repository(repository).blob(Descriptor(media_type="", digest=digest, size=size))
        while (piece := await self._run(next, pieces, None)) is not None:
            yield piece

    def _ended(self, digest: str, done: asyncio.Future[None]) -> None:
        download = self._downloads.pop(digest)
        failure = asyncio.CancelledError() if done.cancelled() else done.exception()
        if failure is not None:
            self._storage.room.give(download.size)
            _log.warning("the blob %s could not be fetched: %s", digest, failure)
        download.end(failure)

    def _download(self, repository: str, digest: str, download: Download) -> None:
        """In a thread: from the upstream into the store."""
        content, size = self._storage.content, download.size
        with content.stable:
            if content.path(digest).is_file():  # another repository has it
                self._storage.room.give(size)
                self._have(digest, download)
                return download.advance(size, content.path(digest))
        with content.arrival(digest, size) as arrival:
            for _ in arrival.kept():
                download.advance(arrival.offset, arrival.path)
            blob = Descriptor(media_type="", digest=digest, size=size)
            for piece in self._repository(repository).blob(blob, arrival.offset) if arrival.offset < size else ():
                arrival.write(piece)
                download.advance(arrival.offset, arrival.path)
                self._received += len(piece)
            with content.stable:
                arrival.commit()
                self._have(digest, download)
        return None

    def _have(self, digest: str, download: Download) -> None:
        for name in download.repositories:
            self._storage.catalogue.add_blob(name, digest, download.size)

    @property
    def received(self) -> int:
        """Bytes of blobs that came from upstreams so far."""
        return self._received

    # ── the way there ─────────────────────────────────────────────────────────────────────────────

    def _repository(self, repository: str) -> Repository:
        place = self.upstream(repository)
        assert place is not None
        reference = Reference(place.domain, place.path)
        return Repository(self._transport, reference, place, self._credentials(place), self._cancel)

    def _host(self, name: str) -> Host:
        return self._hosts.get(name) or self._file.current().host.get(name) or Host()

    def _credentials(self, place: Place) -> Credentials:
        """The administrator's, for this host; those of the command line are for a single upstream."""
        host = self._host(place.host)
        user, file = host.username, host.password_file
        if not user:
            user, file = self._settings.proxy_username, self._settings.proxy_password_file
        if not user:
            return Credentials()
        try:
            password = Path(file).read_text().rstrip("\r\n") if file else ""
        except OSError as error:
            raise InvalidArgument(f"the password file for {place.host} cannot be read: {describe(error)}") from error
        return Credentials(username=user, password=password)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args))


def _place(domain: str, path: str) -> Place:
    official = domain == DEFAULT_DOMAIN and "/" not in path
    return Place(host_name(domain), f"library/{path}" if official else path, domain)

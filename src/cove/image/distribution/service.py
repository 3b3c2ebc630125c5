"""Distribution: the one object through which images are pulled, pushed and log-ins are checked.

Everything here is synchronous and thread-safe; the engine calls it in threads.
"""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from cove.errors import InvalidArgument, Unavailable
from cove.image.distribution import artifacts, attached, catalogue
from cove.image.distribution.credentials import Credentials
from cove.image.distribution.progress import Progress, Sink
from cove.image.distribution.pull import Flights, Pull
from cove.image.distribution.push import Push
from cove.image.distribution.registries import Host, Place, RegistriesFile, host_name
from cove.image.distribution.registry import Repository
from cove.image.distribution.seams import Admission, Attachments, Content, Images, StoredImage, Unpacker
from cove.image.distribution.sources import Sources
from cove.image.distribution.transport import Policy, Transport
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor, Index
from cove.oci.platform import Platform
from cove.oci.reference import DEFAULT_DOMAIN, Reference

_HUB_ADDRESSES = frozenset({"", "index.docker.io", "registry-1.docker.io", "hub.docker.com", "docker.com"})


class Described(msgspec.Struct, frozen=True):
    """What a name stands for: its manifest's or index's descriptor, the platforms, the document itself."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]
    raw: bytes


class Distribution:
    """Ways between this host's images and registries."""

    def __init__(
        self,
        content: Content,
        images: Images,
        unpacker: Unpacker,
        policy: Policy | None = None,
        *,
        attachments: Attachments | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._attachments: Attachments = attachments or attached.NothingAttached()
        self._admission = admission
        self._policy = policy or Policy()
        self._content = content
        self._images = images
        self._unpacker = unpacker
        self._registries = RegistriesFile(self._policy.registries)
        self._transport = Transport(self._policy, self._host)
        self._flights = Flights()

    def pull(
        self,
        reference: Reference,
        *,
        platform: Platform | None = None,
        every: bool = False,
        credentials: Credentials | None = None,
        progress: Sink,
        cancel: threading.Event | None = None,
    ) -> StoredImage:
        """Pull `reference` for `platform` (None: this host's), or `every` variant.

        Setting `cancel` ends it soon; a failure sets it too, for its own threads.
        """
        ending = cancel or threading.Event()
        pull = Pull(
            self._sources(reference.or_latest(), credentials, ending),
            content=self._content,
            images=self._images,
            unpacker=self._unpacker,
            attachments=self._attachments,
            admission=self._admission,
            flights=self._flights,
            progress=Progress(progress),
            parallel=self._policy.parallel_downloads,
            cancel=ending,
        )
        return pull.run(platform, every=every)

    def pull_all(
        self,
        reference: Reference,
        *,
        platform: Platform | None = None,
        every: bool = False,
        credentials: Credentials | None = None,
        progress: Sink,
        cancel: threading.Event | None = None,
    ) -> None:
        """Pull every tag that the repository has."""
        ending = cancel or threading.Event()
        for tag in self._sources(reference, credentials, ending).tags():
            self.pull(
                reference.with_tag(tag),
                platform=platform,
                every=every,
                credentials=credentials,
                progress=progress,
                cancel=ending,
            )

    def push(
        self,
        reference: Reference,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        progress: Sink,
        cancel: threading.Event | None = None,
    ) -> str:
        """Push what `reference` names here, or its variant for `platform`; the digest of what the tag means then."""
        return self._push(reference, credentials, progress, cancel).run(platform)

    def push_by_digest(
        self,
        reference: Reference,
        *,
        credentials: Credentials | None = None,
        progress: Sink,
        cancel: threading.Event | None = None,
    ) -> str:
        """Push the image of the digest that `reference` has to its repository, without a tag; what was pushed."""
        bare = Reference(domain=reference.domain, path=reference.path)
        return self._push(bare, credentials, progress, cancel, by_digest=reference.digest).run()

    def push_artifact(
        self,
        reference: Reference,
        artifact: Descriptor,
        *,
        credentials: Credentials | None = None,
        progress: Sink,
        cancel: threading.Event | None = None,
    ) -> str:
        """Push a stored manifest that is no image's, with its blobs, and have `reference` name it; its digest."""
        return self._push(reference, credentials, progress, cancel).artifact(artifact)

    def remote(self, reference: Reference, credentials: Credentials | None = None) -> artifacts.Remote:
        """What a name at its registry stands for, whose blobs come one by one as they are asked for."""
        return artifacts.Remote(self._sources(reference.or_latest(), credentials, threading.Event()), self._content)

    def _push(
        self,
        reference: Reference,
        credentials: Credentials | None,
        progress: Sink,
        cancel: threading.Event | None,
        by_digest: str = "",
    ) -> Push:
        if reference.digest:
            raise InvalidArgument(f"cannot push {reference.familiar}: a digest is not a tag to push to")
        ending = cancel or threading.Event()
        return Push(
            self._origin(reference if by_digest else reference.or_latest(), credentials, ending),
            content=self._content,
            images=self._images,
            attachments=self._attachments,
            progress=Progress(progress),
            parallel=self._policy.parallel_uploads,
            attempts=self._policy.attempts,
            pause=lambda attempt: self._transport.pause(attempt, ending),
            cancel=ending,
            by_digest=by_digest,
        )

    def login(self, credentials: Credentials) -> str:
        """Docker's word if the credentials' server accepts them, else Unauthorized or Unavailable."""
        reference = Reference(registry_of(credentials.server_address), "")
        place = Place(host_name(reference.domain), "", reference.domain)
        Repository(self._transport, reference, place, credentials, threading.Event()).login()
        return "Login Succeeded"

    def describe(self, reference: Reference, credentials: Credentials | None = None) -> Described:
        """What a name at its registry stands for now."""
        named = reference.or_latest()
        sources = self._sources(named, credentials, threading.Event())
        found = sources.manifest(named.digest or named.tag)
        document = image.decode_manifest(found.raw, found.media_type)
        descriptor = Descriptor(media_type=image.media_type_of(document), digest=found.digest, size=len(found.raw))
        if isinstance(document, Index):
            platforms = tuple(entry.platform for entry in document.manifests if entry.platform is not None)
            return Described(descriptor, platforms, found.raw)
        if document.config.media_type not in image.CONFIGS or document.config.size > image.MAX_CONFIG:
            return Described(descriptor, (), found.raw)
        raw = b"".join(sources.blob(document.config))
        if not digests.matches(raw, document.config.digest):
            raise Unavailable(f"the registry {reference.domain} sent something else than {document.config.digest}")
        return Described(descriptor, (image.decode_config(raw).platform,), found.raw)

    def fetch_attachments(self, reference: Reference, digest: str, credentials: Credentials | None = None) -> None:
        """Have here what is attached to `digest` at the registry of `reference`, signatures included."""
        sources = self._sources(reference, credentials, threading.Event())
        self._attachments.add(digest, attached.fetch(sources, self._content, digest, signatures=True))

    def tags(self, reference: Reference, credentials: Credentials | None = None) -> tuple[str, ...]:
        """All tags that the repository of `reference` has at its registry."""
        return self._sources(reference, credentials, threading.Event()).tags()

    def search(self, domain: str, word: str, most: int, credentials: Credentials | None = None) -> list[str]:
        """Names of repositories at a registry that have `word` in them; Unsupported where it shows no catalogue."""
        return catalogue.search(self._origin(Reference(domain, ""), credentials, threading.Event()), word, most)

    def _host(self, host: str) -> Host:
        return self._registries.current().host.get(host) or Host()

    def _sources(self, reference: Reference, credentials: Credentials | None, cancel: threading.Event) -> Sources:
        """All the places to read `reference` from."""
        places = self._registries.current().places(reference)
        return Sources([self._repository(reference, place, credentials, cancel) for place in places], cancel)

    def _origin(self, reference: Reference, credentials: Credentials | None, cancel: threading.Event) -> Repository:
        """The one place to write `reference` to."""
        return self._repository(reference, self._registries.current().origin(reference), credentials, cancel)

    def _repository(
        self, reference: Reference, place: Place, credentials: Credentials | None, cancel: threading.Event
    ) -> Repository:
        """A user's credentials are for the registry in the name; another host gets the administrator's, or none."""
        theirs = credentials if credentials and place.host == host_name(reference.domain) else None
        return Repository(
            self._transport, reference, place, theirs or _administrators(self._host(place.host), place.host), cancel
        )


def _administrators(host: Host, name: str) -> Credentials:
    """The credentials that registries.toml gives for a host."""
    if not host.username:
        return Credentials()
    try:
        password = Path(host.password_file).read_text().rstrip("\r\n") if host.password_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the password file for the registry {name} cannot be read: {error}") from error
    return Credentials(username=host.username, password=password)


def registry_of(server_address: str) -> str:
    """The domain meant by what people and old configuration files call a registry."""
    text = server_address.strip()
    host = urlsplit(text if "://" in text else f"//{text}").netloc.rpartition("@")[2]
    return DEFAULT_DOMAIN if host in _HUB_ADDRESSES else host

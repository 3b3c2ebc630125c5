"""One repository of one registry, over the distribution API: manifests, blobs, uploads.

Source: the OCI distribution-spec. Every digest in an address was checked when it was parsed; what is
fetched here is verified by whoever stores it, and manifests here.

    connect   GET /v2/                          which scheme, which challenge
    pull      GET manifests/<tag|digest>, GET blobs/<digest> (again with Range after an interruption)
    push      HEAD blobs/<digest>, POST blobs/uploads/ (perhaps ?mount=), PATCH, PUT, PUT manifests/<tag>
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from io import RawIOBase
from urllib.parse import urlencode, urljoin

import msgspec
from urllib3.exceptions import HTTPError

from cove.errors import CoveError, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable
from cove.image.distribution import transport as http
from cove.image.distribution.auth import Authenticator, challenges
from cove.image.distribution.credentials import Credentials
from cove.image.distribution.pace import Pace
from cove.image.distribution.registries import Place
from cove.image.distribution.transport import Body, Call, Response, Transport
from cove.oci import digest as digests
from cove.oci import image
from cove.oci.image import Descriptor
from cove.oci.reference import Reference

_ACCEPT = ", ".join([*sorted(image.MANIFESTS), *sorted(image.INDEXES), image.SCHEMA1_SIGNED])
_CHUNK = 1 << 20
_MAX_PAGES = 1000
# Only the query of a page's address is believed: the repository stays the one that was asked about.
_NEXT = re.compile(r'<[^>]*\?([^>]*)>\s*;\s*rel="?next')
# An interruption after this much progress counts as the first one again.
_PROGRESS = 4 << 20
_PAGES = ("text/html", "application/xhtml+xml")


class Fetched(msgspec.Struct, frozen=True):
    """A manifest's bytes, verified against `digest`."""

    raw: bytes
    media_type: str
    digest: str


class Upload(msgspec.Struct, frozen=True):
    """Where the bytes of a begun upload go."""

    location: str


class _Tags(msgspec.Struct, frozen=True):
    tags: tuple[str, ...] | None = None


class _Complaint(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Complaints(msgspec.Struct, frozen=True):
    errors: tuple[_Complaint, ...] | None = None
    details: str | None = None


class Repository:
    """What `reference` names, at `place`, seen with `credentials`."""

    def __init__(
        self,
        transport: Transport,
        reference: Reference,
        place: Place,
        credentials: Credentials,
        cancel: threading.Event | None,
    ) -> None:
        self.reference = reference
        self.place = place
        self._transport = transport
        self._cancel = cancel
        self._credentials = credentials
        self._base = ""
        self._auth: Authenticator | None = None

    @property
    def anonymous(self) -> bool:
        """Whether it is seen without credentials."""
        return not self._credentials

    # ── pull ──────────────────────────────────────────────────────────────────────────────────────

    def manifest(self, which: str) -> Fetched:
        """The manifest or index at a tag or digest; NotFound in Docker's words."""
        response = self._send("GET", f"manifests/{which}", headers={"Accept": _ACCEPT})
        if response.status == 404:
            _complaint(response)
            raise NotFound(f"manifest for {self.reference.familiar} not found: manifest unknown")
        self._expect(response, 200)
        raw = self._read(response)
        if len(raw) > image.MAX_MANIFEST:
            raise Unavailable(
                f"the registry {self.place.domain} sent a manifest for {self.reference.familiar} of more than "
                f"{image.MAX_MANIFEST >> 20} MiB; nothing of it was kept"
            )
        told = response.headers.get("Docker-Content-Digest", "")
        expected = which if ":" in which else told if digests.is_digest(told) else digests.of(raw)
        if not digests.matches(raw, expected):
            raise Unavailable(
                f"the registry {self.place.domain} sent a manifest for {self.reference.familiar} that is not "
                f"{expected}; nothing of it was kept"
            )
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind in _PAGES or not raw.lstrip().startswith(b"{"):
            raise Unavailable(
                f"the registry {self.place.domain} answers with something else than a manifest for "
                f"{self.reference.familiar} ({kind or 'of no type'}); it may be a web server, or want a login first"
            )
        return Fetched(raw, kind, expected)

    def digest_of(self, which: str) -> str:
        """The digest of the manifest at a tag, "" when the registry does not say; NotFound."""
        response = self._send("HEAD", f"manifests/{which}", headers={"Accept": _ACCEPT})
        response.release_conn()
        if response.status == 404:
            raise NotFound(f"manifest for {self.reference.familiar} not found: manifest unknown")
        told = response.headers.get("Docker-Content-Digest", "")
        return told if response.status == 200 and digests.is_digest(told) else ""

    def tags(self) -> tuple[str, ...]:
        """All tags of the repository, page after page, within reason."""
        found: list[str] = []
        tail = "tags/list"
        for _ in range(_MAX_PAGES):
            response = self._send("GET", tail)
            if response.status == 404:
                _complaint(response)
                raise NotFound(f"repository {self.reference.familiar_name} not found: name unknown")
            self._expect(response, 200)
            raw = self._read(response)
            try:
                found += msgspec.json.decode(raw, type=_Tags).tags or ()
            except msgspec.DecodeError as error:
                raise Unavailable(f"the registry {self.place.domain} sent something else than tags") from error
            onward = _NEXT.search(response.headers.get("Link", ""))
            if onward is None:
                break
            tail = f"tags/list?{onward[1]}"
        return tuple(dict.fromkeys(found))

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """The descriptors of the manifests whose subject is `digest` (distribution-spec, "Listing Referrers").

        A registry without that interface has them as an index under the tag `<algorithm>-<hex>`.
        """
        response = self._send("GET", f"referrers/{digest}", headers={"Accept": image.OCI_INDEX})
        if response.status == 200 and response.headers.get("Content-Type", "").startswith(image.OCI_INDEX):
            raw = self._read(response)
        else:
            http.error_body(response)
            try:
                raw = self.manifest(digest.replace(":", "-")).raw
            except NotFound:
                return ()
        try:
            return image.decode_index(raw).manifests
        except InvalidArgument as error:
            raise Unavailable(
                f"the registry {self.place.domain} sent something else than a list of attachments: {error.message}"
            ) from error

    def blob(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `start` on, continued where a connection broke off.

        They are not verified yet, but never too many.
        """
        done = mark = start
        failures = 0
        while done < blob.size:
            reason = "the registry closed the connection"
            try:
                for chunk in self._blob_from(blob, done):
                    done += len(chunk)
                    if done > blob.size:
                        raise Unavailable(
                            f"the registry {self.place.domain} sent more than {blob.size} bytes of {blob.digest}"
                        )
                    yield chunk
                    http.check(self._cancel)
            except http.INTERRUPTIONS as error:
                reason = http.unreachable(self._base, error).message
            if done >= blob.size:
                return
            failures, mark = (0, done) if done - mark >= _PROGRESS else (failures + 1, mark)
            if failures >= self._transport.policy.attempts:
                raise Unavailable(
                    f"the download of {blob.digest} from {self.place.domain} broke off after {done} of "
                    f"{blob.size} bytes: {reason}; try again"
                )
            self._transport.pause(failures, self._cancel)

    def _blob_from(self, blob: Descriptor, start: int) -> Iterator[bytes]:
        """The bytes from `start` on, whether or not the server knows ranges."""
        response = self._send("GET", f"blobs/{blob.digest}", headers={"Range": f"bytes={start}-"} if start else {})
        try:
            if response.status == 404:
                raise NotFound(f"the registry {self.place.domain} does not have {blob.digest}: blob unknown")
            self._expect(response, 200, 206)
            resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-"
            )
            skip = 0 if resumed else start
            told = response.headers.get("Content-Length", "")
            if told.isdecimal() and int(told) > blob.size - (start - skip):
                raise Unavailable(
                    f"the registry {self.place.domain} announces {told[:20]} bytes for {blob.digest}, which has "
                    f"{blob.size}; nothing of it was kept"
                )
            pace = Pace(self._transport.policy.stall_timeout)
            while chunk := response.read1(_CHUNK, decode_content=False):
                pace.moved(len(chunk))
                if skip >= len(chunk):
                    skip -= len(chunk)
                    http.check(self._cancel)
                    continue
                yield chunk[skip:] if skip else chunk
                skip = 0
            response.release_conn()
        finally:
            if not response.closed:
                response.close()

    def _read(self, response: Response) -> bytes:
        """The bounded body of a response."""
        try:
            return http.body(response, image.MAX_MANIFEST, self._transport.policy, self._cancel)
        except HTTPError as error:
            raise http.unreachable(self._base, error) from error

    def ask(self, tail: str, scope: str) -> Response:
        """The answer to a question about the whole registry, below /v2/; the caller reads and releases it."""
        if not self._base:
            self.connect()
        return self._authorised(f"{self._base}/v2/{tail}", "GET", {}, None, scope, idempotent=True)

    # ── push ──────────────────────────────────────────────────────────────────────────────────────

    def has_blob(self, digest: str) -> bool:
        response = self._send("HEAD", f"blobs/{digest}", actions="pull,push")
        if response.status != 404:
            self._expect(response, 200)
        response.release_conn()
        return response.status == 200

    def has_manifest(self, digest: str) -> bool:
        response = self._send("HEAD", f"manifests/{digest}", actions="pull,push", headers={"Accept": _ACCEPT})
        if response.status != 404:
            self._expect(response, 200)
        response.release_conn()
        return response.status == 200

    def begin(self, digest: str, *, mount_from: str = "") -> Upload | None:
        """Begin an upload; None when the registry took the blob over from its repository `mount_from`."""
        query = "?" + urlencode({"mount": digest, "from": mount_from}) if mount_from else ""
        scopes = (mount_from,) if mount_from else ()
        response = self._send("POST", f"blobs/uploads/{query}", actions="pull,push", also=scopes, body=b"")
        self._expect(response, 201, 202)
        response.release_conn()
        return None if response.status == 201 else self._moved(response, f"{self._base}/v2/")

    def append(self, upload: Upload, data: RawIOBase, start: int, size: int) -> Upload:
        """Send `size` bytes from `data`, which are the blob's from `start` on."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        if start:
            headers["Content-Range"] = f"{start}-{start + size - 1}"
        response = self._send_to(upload.location, "PATCH", headers, data, idempotent=False)
        self._transport.respite(response, self._cancel)
        self._expect(response, 202, 204)
        response.release_conn()
        return self._moved(response, upload.location)

    def received(self, upload: Upload) -> int:
        """How many bytes of a broken upload have arrived."""
        response = self._send_to(upload.location, "GET", {}, None)
        self._expect(response, 204)
        response.release_conn()
        last = response.headers.get("Range", "0-0").rpartition("-")[2]
        return int(last) + 1 if last.isdecimal() and last != "0" else 0

    def finish(self, upload: Upload, digest: str) -> None:
        """Name what was sent; the registry verifies it."""
        url = upload.location + ("&" if "?" in upload.location else "?") + urlencode({"digest": digest})
        response = self._send_to(url, "PUT", {"Content-Length": "0"}, b"")
        self._expect(response, 201, 204)
        response.release_conn()

    def put_manifest(self, which: str, raw: bytes, media_type: str) -> bool:
        """Store a manifest; whether the registry lists it under its subject by itself."""
        response = self._send(
            "PUT", f"manifests/{which}", actions="pull,push", headers={"Content-Type": media_type}, body=raw
        )
        self._expect(response, 201)
        response.release_conn()
        return "OCI-Subject" in response.headers

    # ── the connection ────────────────────────────────────────────────────────────────────────────

    def connect(self) -> str:
        """Find out how the registry is spoken to; its base address."""
        failure: CoveError | None = None
        for scheme in self._transport.schemes(self.place.host):
            base = f"{scheme}://{self.place.host}"
            call = Call("GET", f"{base}/v2/")
            try:
                response = self._transport.send(call, cancel=self._cancel)
            except Unavailable as error:
                http.check(self._cancel)
                failure = error
                continue
            self._base, self._auth = base, Authenticator(self._transport, base, self._credentials)
            if response.status == 401:
                self._auth.challenged(challenges(response))
            http.error_body(response)
            return base
        assert failure is not None
        raise failure

    def login(self) -> None:
        """Raise Unauthorized unless the registry accepts the credentials."""
        self.connect()
        assert self._auth is not None
        header = self._auth.header("", self._cancel)
        headers = {"Authorization": header} if header else {}
        response = self._transport.send(Call("GET", f"{self._base}/v2/", headers), cancel=self._cancel)
        status, complaint = response.status, _complaint(response)
        if status in {401, 403}:
            raise Unauthorized(
                f"login attempt to {self._base}/v2/ failed: {complaint or 'incorrect username or password'}"
            )
        if status != 200:
            raise Unavailable(f"login attempt to {self._base}/v2/ failed with status {status}; is it a registry?")

    def _send(
        self,
        method: str,
        tail: str,
        *,
        actions: str = "pull",
        also: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Body = None,
    ) -> Response:
        """A request about this repository, authorised, once more with a fresh token if refused."""
        if not self._base:
            self.connect()
        url = f"{self._base}/v2/{self.place.path}/{tail}"
        scope = " ".join([f"repository:{self.place.path}:{actions}", *(f"repository:{name}:pull" for name in also)])
        return self._authorised(url, method, headers or {}, body, scope, idempotent=True)

    def _send_to(
        self, url: str, method: str, headers: Mapping[str, str], body: Body, *, idempotent: bool = True
    ) -> Response:
        """A request to an upload's location; authorised only if that is the registry's own."""
        scope = f"repository:{self.place.path}:pull,push"
        return self._authorised(url, method, headers, body, scope, idempotent=idempotent)

    def _authorised(
        self, url: str, method: str, headers: Mapping[str, str], body: Body, scope: str, *, idempotent: bool
    ) -> Response:
        assert self._auth is not None
        own = http.origin(url) == http.origin(self._base)
        for again in (False, True):
            token = self._auth.header(scope, self._cancel) if own else ""
            sent = {**headers, "Authorization": token} if token else headers
            response = self._transport.send(Call(method, url, sent, body, idempotent), cancel=self._cancel)
            if response.status != 401 or not own or again or not idempotent:
                return response
            found = challenges(response)
            if not found:
                return response
            http.error_body(response)
            self._auth.challenged(found)
            self._auth.forget(scope)
        raise AssertionError("the second answer is returned")

    def _moved(self, response: Response, url: str) -> Upload:
        """The upload's next location, which the registry gives with every answer."""
        location = response.headers.get("Location")
        if not location:
            raise Unavailable(f"the registry {self.place.domain} does not say where to upload to")
        target = urljoin(url, location)
        if http.host_of(target) == http.host_of(self._base):
            # Behind a proxy that ends TLS, registries often believe that they are spoken to in plain HTTP.
            target = self._base.partition(":")[0] + ":" + target.partition(":")[2]
        http.refuse_downgrade(url, target)
        return Upload(target)

    def _expect(self, response: Response, *statuses: int) -> None:
        """Raise the sentence for any other status."""
        if response.status in statuses:
            return
        complaint = _complaint(response)
        because = f": {complaint}" if complaint else ""
        registry = self.place.domain
        if response.status in {401, 403}:
            raise Forbidden(f"access to {self.reference.familiar_name} at {registry} is denied{because}")
        if response.status == 404:
            raise NotFound(f"the registry {registry} does not know {self.reference.familiar_name}{because}")
        if response.status == 429:
            raise Unavailable(f"the registry {registry} allows no more requests for now{_limits(response)}{because}")
        if response.status >= 500:
            raise Unavailable(
                f"the registry {registry} failed with status {response.status}{because}; try again later"
            )
        raise InvalidArgument(f"the registry {registry} refuses with status {response.status}{because}")


def _limits(response: Response) -> str:
    """What a rate-limited answer says of the limit and of its end, in words."""
    said = []
    count, _, window = response.headers.get("RateLimit-Limit", "").partition(";w=")
    if count.isdecimal() and len(count) < 12:
        per = f" in {_duration(int(window))}" if window.isdecimal() and len(window) < 9 else ""
        said.append(f"its limit is {count}{per}")
    wait = http.retry_after(response)
    said.append(f"try again in {_duration(int(wait) + 1)}" if wait is not None else "try again later")
    return f" ({'; '.join(said)}, or log in if you have not)"


def _duration(seconds: int) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{seconds} seconds"


def _complaint(response: Response) -> str:
    """What the registry says is wrong, as "code: message", shortened and without control characters."""
    raw = http.error_body(response)
    try:
        found = msgspec.json.decode(raw, type=_Complaints)
    except msgspec.DecodeError:
        return ""
    if found.errors:
        first = found.errors[0]
        text = ": ".join(filter(None, (first.code.lower().replace("_", " "), first.message)))
    else:
        text = found.details or ""
    return "".join(character for character in text if character.isprintable())[:300]

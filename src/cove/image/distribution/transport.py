"""HTTP to registries: pools, TLS, proxies, time-outs, redirects, retries, and failures in words.

It knows nothing of images or credentials. What it guarantees to its callers:

* a header that names a secret (`Authorization`) is never carried to another origin by a redirect, and
  once dropped it is not picked up again (CVE-2020-15157 and kin);
* an https address is never followed to an http one;
* every wait is bounded, every retry is counted, and a set `cancel` event ends it all;
* what goes wrong below HTTP becomes one sentence that names the registry.
"""

from __future__ import annotations

import ipaddress
import random
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from io import RawIOBase
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InsecureRequestWarning,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import ProxyError as UnreachableProxy

from cove import __version__
from cove.errors import CoveError, InvalidArgument, Unavailable
from cove.image.distribution.hangup import POOLS, on_behalf
from cove.image.distribution.pace import Pace
from cove.image.distribution.registries import Host

Body = bytes | IO[bytes] | RawIOBase | None
Response = urllib3.BaseHTTPResponse
_Key = tuple[str, Host, tuple[tuple[Path, int], ...]]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_MAX_REDIRECTS = 5
_ERROR_BODY, _ERROR_SECONDS = 64 << 10, 10.0
INTERRUPTIONS = (ProtocolError, ReadTimeoutError)
"""What a broken connection looks like while a body is read."""


class Policy(msgspec.Struct, frozen=True):
    """How registries are spoken to. Times are seconds.

    `insecure`: "host", "host:port" or CIDR networks for which an unverified certificate or plain HTTP
    is accepted; loopback addresses always are. Each of `certificates` may have a directory
    `<host[:port]>` with `*.crt` (further authorities) and `*.cert` with its `*.key` (who we are).
    `registries` is the file that `cove.image.distribution.registries` describes.
    """

    insecure: tuple[str, ...] = ()
    certificates: tuple[Path, ...] = (Path("/etc/cove/certs.d"), Path("/etc/docker/certs.d"))
    registries: Path | None = None
    connect_timeout: float = 15.0
    read_timeout: float = 30.0
    attempts: int = 5
    backoff: float = 0.3
    longest_wait: float = 30.0
    stall_timeout: float = 60.0
    parallel_downloads: int = 4
    parallel_uploads: int = 5

    def accepts_insecure(self, host: str) -> bool:
        """Whether the registry at `host` ("name[:port]") may be spoken to without verified TLS."""
        name = urlsplit(f"//{host}").hostname or host
        if host in self.insecure or name in self.insecure or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or any(_within(address, network) for network in self.insecure)


class Call(msgspec.Struct, frozen=True):
    """One request. A file as `body` is sent from where it stands and only once: not `idempotent`."""

    method: str
    url: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: Body = None
    idempotent: bool = True


# The user has listed the registries whose certificates are not verified: no need to be told of each request.
urllib3.disable_warnings(InsecureRequestWarning)


class Transport:
    """Shared by all transfers of one engine; safe to use from several threads."""

    def __init__(self, policy: Policy, host: Callable[[str], Host] = lambda _: Host()) -> None:
        """`host` tells what the administrator says of a "name[:port]"."""
        self.policy = policy
        self._host = host
        self._pools: dict[_Key, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def schemes(self, host: str) -> tuple[str, ...]:
        """The ways to try at `host`, the best first."""
        said = self._host(host)
        if said.plain_http:
            return ("http",)
        return ("https", "http") if said.insecure or self.policy.accepts_insecure(host) else ("https",)

    def send(self, call: Call, *, cancel: threading.Event | None = None) -> Response:
        """The response to `call`, whatever its status, its body yet unread; the caller releases it.

        Retries what may pass by itself, follows redirects. Raises Unavailable when no answer came.
        """
        attempts = self.policy.attempts if call.idempotent else 1
        for attempt in range(attempts):
            check(cancel)
            last = attempt == attempts - 1
            try:
                with on_behalf(cancel):
                    response = self._follow(call)
            except HTTPError as error:
                check(cancel)
                if last or not _passing(error):
                    raise unreachable(call.url, error) from error
                self.pause(attempt, cancel)
                continue
            delay = retry_after(response)
            if response.status not in _RETRIED or last or (delay or 0) > self.policy.longest_wait:
                return response
            error_body(response)
            self.pause(attempt, cancel, delay)
        raise AssertionError("the last attempt returns or raises")

    def pause(self, attempt: int, cancel: threading.Event | None, delay: float | None = None) -> None:
        """Wait before the next attempt: as long as the server asks, or twice as long each time."""
        if delay is None:
            delay = self.policy.backoff * 2**attempt * random.uniform(0.75, 1.25)
        delay = min(delay, self.policy.longest_wait)
        (cancel or threading.Event()).wait(delay)
        check(cancel)

    def respite(self, response: Response, cancel: threading.Event | None) -> None:
        """Wait as long as a server asks that refuses for now, unless that is too long."""
        delay = retry_after(response) if response.status in _RETRIED else None
        if delay is not None and delay <= self.policy.longest_wait:
            self.pause(0, cancel, delay)

    def _follow(self, call: Call) -> Response:
        """Send once, then follow redirects of reads; those of writes are the caller's business."""
        url, headers = call.url, dict(call.headers)
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._once(call.method, url, headers, call.body)
            location = response.headers.get("Location")
            if call.method not in {"GET", "HEAD"} or response.status not in _REDIRECTS or not location:
                if origin(url) != origin(call.url):
                    response.headers.discard("WWW-Authenticate")  # a stranger's challenge is never answered
                return response
            error_body(response)
            target = urljoin(url, location)
            refuse_downgrade(url, target)
            if origin(target) != origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise Unavailable(f"the registry {host_of(call.url)} redirects in circles; ask its operator")

    def _once(self, method: str, url: str, headers: Mapping[str, str], body: Body) -> Response:
        sent = {"User-Agent": f"cove/{__version__}", "Accept-Encoding": "identity", **headers}
        return self._pool(url).urlopen(
            method, url, body=body, headers=sent, redirect=False, retries=False, preload_content=False
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The pool for the origin of `url`; each origin has its own trust, which may change meanwhile."""
        host = host_of(url)
        said = self._host(host)
        directories = tuple(self._directories(host)) if url.startswith("https:") else ()
        key = (origin(url), said, directories)
        with self._lock:
            if key not in self._pools:
                for old in [known for known in self._pools if known[0] == key[0]]:
                    del self._pools[old]
                self._pools[key] = self._new_pool(url, host, said)
            return self._pools[key]

    def _directories(self, host: str) -> Iterator[tuple[Path, int]]:
        """The directories with certificates for `host`, and when they changed last."""
        for base in self.policy.certificates:
            directory = base / host
            try:
                yield directory, directory.stat().st_mtime_ns
            except (OSError, ValueError):
                continue

    def _new_pool(self, url: str, host: str, said: Host) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "maxsize": 16,
            "timeout": urllib3.Timeout(connect=self.policy.connect_timeout, read=self.policy.read_timeout),
        }
        if url.startswith("https:"):
            options["ssl_context"] = self._trust(host, said)
        proxy = _proxy_for(url)
        manager = urllib3.PoolManager(**options) if proxy is None else urllib3.ProxyManager(proxy, **options)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def _trust(self, host: str, said: Host) -> ssl.SSLContext:
        """Whom to believe when `host` shows a certificate, and how to introduce ourselves."""
        context = ssl.create_default_context()
        if said.insecure or self.policy.accepts_insecure(host):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            for directory, _ in self._directories(host):
                for authority in sorted(directory.glob("*.crt")):
                    context.load_verify_locations(authority)
                for certificate in sorted(directory.glob("*.cert")):
                    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            if said.ca:
                context.load_verify_locations(said.ca)
            if said.client_certificate:
                context.load_cert_chain(said.client_certificate, said.client_key)
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgument(
                f"the certificates for the registry {host} cannot be used: {_innermost(error)}; look into "
                f"{' and '.join(str(base / host) for base in self.policy.certificates)} and registries.toml"
            ) from error
        return context


def check(cancel: threading.Event | None) -> None:
    """Raise if the transfer was cancelled."""
    if cancel is not None and cancel.is_set():
        raise Unavailable("the transfer was cancelled before it was complete")


def origin(url: str) -> str:
    """Scheme, host and port: what must be equal for a secret to be shared."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def host_of(url: str) -> str:
    """The "name[:port]" of an address."""
    return urlsplit(url).netloc.rpartition("@")[2]


def refuse_downgrade(url: str, target: str) -> None:
    """Raise unless `target` may be visited on the word of `url`."""
    scheme = urlsplit(target).scheme
    if scheme not in {"http", "https"} or (url.startswith("https:") and scheme != "https"):
        raise Unavailable(
            f"the registry {host_of(url)} sends on to {target[:200]}, which is not encrypted; this is refused"
        )


def body(response: Response, most: int, policy: Policy, cancel: threading.Event | None) -> bytes:
    """What a response says, and the connection given back; never more than a piece beyond `most`.

    Raises HTTPError for one that breaks off or trickles.
    """
    pace, found = Pace(policy.stall_timeout), bytearray()
    try:
        while len(found) <= most and (piece := response.read1(most, decode_content=False)):
            found += piece
            pace.moved(len(piece))
            check(cancel)
        response.release_conn()
        return bytes(found)
    finally:
        if not response.closed:
            response.close()


def error_body(response: Response) -> bytes:
    """What a response says that is not what was asked for, bounded in bytes and time; the connection given back."""
    pace, found = Pace(_ERROR_SECONDS), bytearray()
    try:
        while piece := response.read1(_ERROR_BODY, decode_content=False):
            found += piece
            pace.moved(len(piece))
            if len(found) >= _ERROR_BODY:
                response.close()
                break
    except HTTPError:
        response.close()
    response.release_conn()
    return bytes(found)


def unreachable(url: str, error: HTTPError) -> CoveError:
    """The sentence for a failure below HTTP."""
    host = host_of(url)
    if isinstance(error, NameResolutionError):
        return Unavailable(f"cannot find the registry {host}: its name does not resolve; check the name and the DNS")
    if isinstance(error, SSLError) and _speaks_no_tls(error):
        return Unavailable(
            f"cannot trust the registry {host}: it does not speak TLS; if that is meant, list it under insecure "
            f"registries"
        )
    if isinstance(error, SSLError):
        return Unavailable(
            f"cannot trust the registry {host}: {_innermost(error)}; if it is yours, install its authority's "
            f"certificate or list it under insecure registries"
        )
    if isinstance(error, UnreachableProxy):
        return Unavailable(f"cannot reach the registry {host} through the proxy: {_innermost(error)}")
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        return Unavailable(f"cannot reach the registry {host}: it did not accept a connection in time")
    if isinstance(error, ReadTimeoutError):
        return Unavailable(f"the registry {host} does not answer: it sent nothing for too long")
    if isinstance(error, NewConnectionError):
        return Unavailable(
            f"cannot reach the registry {host}: {_innermost(error)}; check its address and that it runs"
        )
    return Unavailable(f"the connection to the registry {host} broke: {_innermost(error)}")


def _root(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _speaks_no_tls(error: BaseException) -> bool:
    """Whether what answered was no TLS server at all."""
    root = _root(error)
    return isinstance(root, ssl.SSLError) and root.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}


def _innermost(error: BaseException) -> str:
    """The operating system's or the TLS library's own reason."""
    error = _root(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


def _passing(error: HTTPError) -> bool:
    """Whether the same request may succeed a moment later."""
    return not isinstance(error, NewConnectionError | SSLError | UnreachableProxy)


def retry_after(response: Response) -> float | None:
    """The seconds that the server asks to wait (RFC 9110: a number, or a date)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal() and len(value) < 9:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time()) if value else None
    except (ValueError, OverflowError):
        return None


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for `url`; never one for this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if Policy().accepts_insecure(host) or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False

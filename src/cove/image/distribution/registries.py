"""What the administrator says of registries: /etc/cove/registries.toml, read again whenever it changes.

    # Where names lead. The longest prefix that fits counts; "*" fits every name.
    [[registry]]
    prefix   = "docker.io"
    mirrors  = ["mirror.lan:5000/hub"]        # asked in this order, then the registry itself

    [[registry]]
    prefix   = "old.example/team"             # rewritten: old.example/team/app is new.example/our/app
    location = "new.example/our"

    [[registry]]
    prefix   = "*"                            # {registry} is the registry that the name names
    mirrors  = ["cache.lan/{registry}"]
    mirrors_only = true

    [[registry]]
    prefix   = "evil.example"
    blocked  = "the security team forbids it"

    # How a host is spoken to, be it a registry or a mirror.
    [host."mirror.lan:5000"]
    plain_http = true                         # or insecure = true: TLS, but its certificate is not verified
    ca = "/etc/cove/mirror-ca.pem"
    client_certificate = "/etc/cove/client.pem"
    client_key = "/etc/cove/client.key"
    username = "puller"
    password_file = "/etc/cove/mirror.password"

A user's own credentials go to the registry that the image's name names and nowhere else; a mirror or a
rewritten place gets those of its [host] table, or none. This module opens no connection.
"""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import msgspec

from cove.errors import Forbidden, InvalidArgument, describe
from cove.oci.reference import DEFAULT_DOMAIN, Reference

_HUB = "registry-1.docker.io"
_ANY = "*"


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class Rule(_Table, frozen=True, kw_only=True):
    """Where names with a prefix lead; `blocked` is the reason why nowhere."""

    prefix: str
    location: str = ""
    mirrors: tuple[str, ...] = ()
    mirrors_only: bool = False
    blocked: str = ""


class Host(_Table, frozen=True, kw_only=True):
    """How one host is spoken to."""

    insecure: bool = False
    plain_http: bool = False
    ca: str = ""
    client_certificate: str = ""
    client_key: str = ""
    username: str = ""
    password_file: str = ""


class Registries(_Table, frozen=True, kw_only=True):
    """The whole file."""

    registry: tuple[Rule, ...] = ()
    host: dict[str, Host] = {}

    def places(self, reference: Reference) -> tuple[Place, ...]:
        """Where to ask for `reference`, in order; Forbidden when it is blocked."""
        own = Place(host_name(reference.domain), reference.path, reference.domain)
        rule = self._rule(reference.name)
        if rule is None:
            return (own,)
        if rule.blocked:
            raise Forbidden(f"{reference.familiar} may not be pulled or pushed here: {rule.blocked}")
        mirrors = tuple(_rewritten(rule.prefix, to, reference) for to in rule.mirrors)
        origin = _rewritten(rule.prefix, rule.location, reference) if rule.location else own
        return mirrors if rule.mirrors_only and mirrors else (*mirrors, origin)

    def origin(self, reference: Reference) -> Place:
        """Where `reference` is pushed to: never a mirror."""
        rule = self._rule(reference.name)
        alone = Registries(registry=(msgspec.structs.replace(rule, mirrors=()),)) if rule else Registries()
        return alone.places(reference)[-1]

    def _rule(self, name: str) -> Rule | None:
        fitting = [rule for rule in self.registry if _fits(rule.prefix, name)]
        return max(fitting, key=lambda rule: len(rule.prefix) * (rule.prefix != _ANY), default=None)


class Place(msgspec.Struct, frozen=True):
    """A repository at a host ("name[:port]"); `domain` is what people call that host."""

    host: str
    path: str
    domain: str


class RegistriesFile:
    """The file's content as it is now; safe to use from several threads."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._read = Registries()

    def current(self) -> Registries:
        """Raises InvalidArgument for a file that makes no sense; no file says nothing."""
        if self._path is None:
            return self._read
        with self._lock:
            try:
                found = self._path.stat()
                stamp = (found.st_mtime_ns, found.st_ino)
                if stamp != self._stamp:
                    self._read = parse(self._path.read_bytes(), str(self._path))
                    self._stamp = stamp
            except FileNotFoundError:
                self._read, self._stamp = Registries(), None
            except OSError as error:
                raise InvalidArgument(f"the file of registries cannot be read: {describe(error)}") from error
            return self._read


def parse(raw: bytes, name: str) -> Registries:
    """The content of a registries.toml; InvalidArgument names what is wrong."""
    try:
        read = msgspec.convert(tomllib.loads(raw.decode()), Registries)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(f"the file of registries {name} is refused: {error}") from error
    for rule in read.registry:
        if not rule.prefix:
            raise InvalidArgument(f'the file of registries {name} has a rule without a prefix; "*" means every name')
        for location in (*rule.mirrors, *filter(None, [rule.location])):
            if "://" in location or location.startswith("/"):
                raise InvalidArgument(
                    f"the file of registries {name} names the place {location!r}: write HOST[:PORT][/PATH], and "
                    f"what to speak with the host in its [host] table"
                )
    for host, table in read.host.items():
        if bool(table.client_certificate) != bool(table.client_key):
            raise InvalidArgument(
                f"the file of registries {name} gives {host} a client certificate without its key, or a key alone"
            )
    return read


def host_name(domain: str) -> str:
    """The host behind what people call a registry."""
    return _HUB if domain == DEFAULT_DOMAIN else domain


def _fits(prefix: str, name: str) -> bool:
    if prefix == _ANY:
        return True
    if prefix.startswith("*."):
        domain, _, _ = name.partition("/")
        return domain.endswith(prefix[1:])
    return name == prefix or name.startswith(prefix.rstrip("/") + "/")


def _rewritten(prefix: str, location: str, reference: Reference) -> Place:
    """`reference` with its prefix replaced by `location`."""
    rest = reference.path if prefix.startswith(_ANY) else reference.name[len(prefix.rstrip("/")) :]
    target = location.replace("{registry}", reference.domain).rstrip("/")
    host, _, path = f"{target}/{rest.strip('/')}".partition("/")
    return Place(host_name(host), path.strip("/"), host)

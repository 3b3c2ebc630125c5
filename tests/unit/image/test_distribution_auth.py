"""Credentials and challenges: what clients and registries really send, and what is not answered."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import urllib3

from cove.errors import InvalidArgument, Unauthorized, Unavailable
from cove.image.distribution.auth import Authenticator, Challenge, challenges
from cove.image.distribution.credentials import Credentials
from cove.image.distribution.progress import bar
from cove.image.distribution.service import registry_of
from cove.image.distribution.transport import Policy, Transport


def header(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def answer(*values: str) -> urllib3.HTTPResponse:
    found = urllib3.HTTPHeaderDict()
    for value in values:
        found.add("WWW-Authenticate", value)
    return urllib3.HTTPResponse(headers=found)


def test_credentials_from_a_header() -> None:
    full = header({"username": "me", "password": "ü?>", "serveraddress": "x", "email": None})
    for spelling in (full, full.rstrip("="), full.replace("-", "+").replace("_", "/")):
        assert Credentials.from_header(spelling).password == "ü?>"
    old = header({"auth": base64.b64encode(b"me:a:b").decode()})
    assert (Credentials.from_header(old).username, Credentials.from_header(old).password) == ("me", "a:b")
    for empty in ("", header({}), header(None)):
        assert not Credentials.from_header(empty)
    for bad in ("%", header([1]), header({"username": 1}), "aGVsbG8"):
        with pytest.raises(InvalidArgument) as caught:
            Credentials.from_header(bad)
        assert bad not in caught.value.message
    assert "secret" not in repr(Credentials(username="me", password="secret"))


def test_challenges_of_all_shapes() -> None:
    assert challenges(answer('Bearer realm="https://a/t",service="s,x",scope="a b"')) == (
        Challenge("bearer", {"realm": "https://a/t", "service": "s,x", "scope": "a b"}),
    )
    assert [c.scheme for c in challenges(answer('Basic realm="a \\"b\\"", Bearer realm=x'))] == ["basic", "bearer"]
    assert [c.scheme for c in challenges(answer("Negotiate", 'basic realm="r"'))] == ["negotiate", "basic"]
    assert challenges(answer()) == ()


@pytest.mark.parametrize(
    ("registry", "realm", "error"),
    [
        ("https://r.example", "http://r.example/token", Unauthorized),
        ("https://r.example", "", Unavailable),
        ("https://r.example", "file:///etc/passwd", Unavailable),
        ("https://r.example", "https://user@evil.example/", Unavailable),
    ],
)
def test_realms_that_are_not_answered(registry: str, realm: str, error: type[Exception]) -> None:
    authenticator = Authenticator(Transport(Policy()), registry, Credentials(username="me", password="secret"))
    authenticator.challenged((Challenge("bearer", {"realm": realm}),))
    with pytest.raises(error):
        authenticator.header("repository:x:pull")


def test_basic_only_when_asked_for() -> None:
    authenticator = Authenticator(Transport(Policy()), "https://r.example", Credentials(username="me", password="pw"))
    assert authenticator.header("") == ""
    authenticator.challenged((Challenge("basic", {}),))
    assert authenticator.header("") == "Basic " + base64.b64encode(b"me:pw").decode()


def test_which_registries_may_be_insecure() -> None:
    policy = Policy(insecure=("registry.lan:5000", "10.1.0.0/16"))
    for host in ("localhost:5000", "127.0.0.2", "[::1]:5000", "registry.lan:5000", "10.1.2.3:80"):
        assert policy.accepts_insecure(host)
    for host in ("registry.lan", "10.2.0.1", "localhost.example", "127.0.0.1.example:5000"):
        assert not policy.accepts_insecure(host)


def test_addresses_of_registries() -> None:
    for address in ("", "https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"):
        assert registry_of(address) == "docker.io"
    assert registry_of("http://localhost:5000/v2/") == registry_of("localhost:5000") == "localhost:5000"


def test_bars() -> None:
    assert bar(0, 1000).startswith("[>   ")
    assert bar(500_000, 1_000_000) == "[" + "=" * 25 + ">" + " " * 24 + "]    500kB/1MB"
    assert bar(10, 10).startswith("[" + "=" * 50 + "]")
    assert bar(1234, 0) == " 1.234kB"

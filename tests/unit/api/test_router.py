"""Versions, templates and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cove import errors
from cove.api.errors import error_reply, progress_error, status_of
from cove.api.http import Query, Reply, Request, Response
from cove.api.router import Route, Router
from cove.errors import CoveError, InvalidArgument, NotFound


async def _no_body() -> AsyncIterator[bytes]:
    return
    yield b""


async def _show(_: None, request: Request) -> Reply:
    return Response(body=repr((request.version, dict(request.params))).encode())


ROUTER: Router[None] = Router(
    None,
    [
        Route("GET", "/images/json", _show),
        Route("GET", "/images/{name:path}/json", _show),
        Route("GET", "/images/{name:path}/get", _show),
        Route("DELETE", "/images/{name:path}", _show),
        Route("POST", "/images/load", _show, oldest=(1, 22)),
        Route("GET", "/containers/{id}/json", _show),
    ],
)


def ask(method: str, target: str) -> str:
    request = Request(method=method, target=target, headers={}, body=_no_body())
    reply = asyncio.run(ROUTER(request))
    assert isinstance(reply, Response)
    return reply.body.decode()


def test_names_of_images_hold_slashes() -> None:
    assert "'name': 'localhost:5000/a/b:c'" in ask("GET", "/v1.47/images/localhost:5000/a/b:c/json")
    assert "'name': 'a/b'" in ask("DELETE", "/v1.24/images/a%2Fb?force=1")


def test_a_path_without_version_speaks_the_newest() -> None:
    assert ask("GET", "/containers/web/json").startswith("((1, 56)")
    assert ask("HEAD", "/v1.30/containers/web/json").startswith("((1, 30)")


@pytest.mark.parametrize("target", ["/", "/containers/a/b/json", "/v1.40", "/nothing", "*", "//containers"])
def test_what_is_nobodys_is_not_found(target: str) -> None:
    with pytest.raises(NotFound, match="page not found"):
        ask("GET", target)


def test_versions_out_of_range_are_refused_in_the_words_clients_know() -> None:
    with pytest.raises(InvalidArgument, match=r"client version 1\.99 is too new\. Maximum supported API version is"):
        ask("GET", "/v1.99/images/json")
    with pytest.raises(InvalidArgument, match=r"client version 1\.12 is too old\. Minimum supported API version is"):
        ask("GET", "/v1.12/images/json")


def test_one_route_may_be_older_than_the_others() -> None:
    assert ask("POST", "/v1.22/images/load").startswith("((1, 22)")
    for method, target in (("POST", "/v1.21/images/load"), ("GET", "/v1.22/images/json"), ("GET", "/v1.22/nothing")):
        with pytest.raises(InvalidArgument, match="too old"):
            ask(method, target)


def test_every_class_of_error_has_a_status() -> None:
    for kind in (each for each in CoveError.__subclasses__() if each.__module__ == errors.__name__):
        error = kind("x", stage="exec", errno=2) if kind is errors.StartFailed else kind("x")
        assert status_of(error) in (304, 400, 401, 403, 404, 409, 500, 501, 503)
    assert error_reply(errors.NotModified("x")).body == b""
    assert b"ValueError" not in error_reply(ValueError("secret")).body
    assert progress_error(NotFound("no such image"))["error"] == "no such image"


def test_parameters_are_read_as_docker_reads_them() -> None:
    query = Query.parse("all=1&force=&size=False&tail=50&x=a&x=b&filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D")
    assert query.flag("all")
    assert not query.flag("force")
    assert not query.flag("size")
    assert query.flag("stream", default=True)
    assert query.number("tail") == 50
    assert query.texts("x") == ["a", "b"]
    assert query.filters().labels({"a": "b"})
    with pytest.raises(InvalidArgument):
        query.number("x")
    with pytest.raises(InvalidArgument, match="invalid filter 'label'"):
        query.filters(["status"])

"""What every endpoint is given, and what all of their replies have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from cove.httpd.messages import JSON, Reply, Request, Response
from cove.registry import names, refusals
from cove.registry.service import Registry

OCTETS = "application/octet-stream"
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Call:
    """A request to one endpoint of one registry; `params` are named by the endpoint's pattern."""

    registry: Registry
    request: Request

    @property
    def repository(self) -> str:
        """The repository's name, below its upstream's if the request names one (`ns`). Raises Refused."""
        name = self.request.params["name"]
        if self.namespace:
            name = f"{self.namespace}/{name}"
        return names.repository(name)

    @property
    def namespace(self) -> str:
        """The upstream that the client means, where this registry is a cache of any."""
        return self.request.query.text("ns") if self.registry.proxies.any else ""

    @property
    def digest(self) -> str:
        return names.digest(self.request.params["digest"])

    @property
    def which(self) -> str:
        return names.tag_or_digest(self.request.params["reference"])

    @property
    def head(self) -> bool:
        return self.request.method == "HEAD"

    def page(self) -> tuple[int, str]:
        """How many of a list are wanted at most, and after which; the most is ours if nobody says. Raises Refused."""
        text = self.request.query.text("n")
        if text and not (text.isdecimal() and len(text) < 10):
            raise refusals.Refused(400, "PAGINATION_NUMBER_INVALID", f"n={text[:40]!r} is no number of entries")
        most = int(text) if text else _MOST
        return min(most, _MOST), self.request.query.text("last")


Endpoint = Callable[[Call], Awaitable[Reply]]


def json_response(value: object, *headers: tuple[str, str], content_type: str = JSON) -> Response:
    return Response(body=msgspec.json.encode(value), content_type=content_type, headers=headers)


def next_page(path: str, count: int, last: str) -> tuple[str, str]:
    """The header that tells where a list goes on (RFC 8288)."""
    return "Link", f'<{path}?n={count}&last={last}>; rel="next"'

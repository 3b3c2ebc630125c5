"""From a method and a path to the function that answers.

    /v1.47/containers/web/json ─▶ version (1, 47) · GET · "/containers/{id}/json" · id="web"

Owns versions and path templates. A `{name}` is one segment of a path; a `{name:path}` may hold
slashes, as image names do. Paths without a version speak the newest one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote

from cove.api.http import Reply, Request
from cove.errors import InvalidArgument, NotFound
from cove.wire.versions import CURRENT, MINIMUM, Version, dotted

E = TypeVar("E")
Handler = Callable[[E, Request], Awaitable[Reply]]

_VERSIONED = re.compile(r"/v(\d{1,4})\.(\d{1,4})(/.*)")
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Route(Generic[E]):
    """One line of a route table. `oldest` is the first version that may ask for it."""

    method: str
    template: str
    handler: Handler[E]
    oldest: Version = MINIMUM


def split_version(path: str) -> tuple[Version, str]:
    """The version that a path speaks and the rest of it. Raises InvalidArgument for one that is yet to come."""
    found = _VERSIONED.fullmatch(path)
    if found is None:
        return CURRENT, path
    version = (int(found[1]), int(found[2]))
    if version > CURRENT:
        raise InvalidArgument(
            f"client version {dotted(version)} is too new. Maximum supported API version is {dotted(CURRENT)}"
        )
    return version, found[3]


def _compile(template: str) -> re.Pattern[str]:
    pattern, last = "", 0
    for parameter in _PARAMETER.finditer(template):
        pattern += re.escape(template[last : parameter.start()])
        pattern += f"(?P<{parameter[1]}>.+)" if parameter[2] else f"(?P<{parameter[1]}>[^/]+)"
        last = parameter.end()
    return re.compile(pattern + re.escape(template[last:]))


class Router(Generic[E]):
    """All routes over one engine. Of several templates that fit, the one named first is taken."""

    def __init__(self, engine: E, routes: Iterable[Route[E]]) -> None:
        self._engine = engine
        self._fixed: dict[tuple[str, str], Route[E]] = {}
        self._open: dict[tuple[str, str], list[tuple[re.Pattern[str], Route[E]]]] = {}
        for route in routes:
            if "{" in route.template:
                family = (route.method, route.template.split("/", 2)[1])
                self._open.setdefault(family, []).append((_compile(route.template), route))
            else:
                self._fixed[route.method, route.template] = route

    async def __call__(self, request: Request) -> Reply:
        """Answer `request`. Raises cove.errors, NotFound for a path that is nobody's."""
        path, _, request.query_text = request.target.partition("?")
        request.version, request.path = split_version(path)
        route = self._find(request, request.method)
        if route is None and request.method == "HEAD":
            route = self._find(request, "GET")
        oldest = MINIMUM if route is None else route.oldest
        if request.version < oldest:
            raise InvalidArgument(
                f"client version {dotted(request.version)} is too old. Minimum supported API version is "
                f"{dotted(oldest)}, please upgrade your client to a newer version"
            )
        if route is None:
            raise NotFound("page not found")
        return await route.handler(self._engine, request)

    def _find(self, request: Request, method: str) -> Route[E] | None:
        fixed = self._fixed.get((method, request.path))
        if fixed is not None:
            return fixed
        family = request.path.split("/", 2)[1] if request.path.startswith("/") else ""
        for pattern, route in self._open.get((method, family), ()):
            found = pattern.fullmatch(request.path)
            if found is not None:
                request.params = {name: unquote(value) for name, value in found.groupdict().items()}
                return route
        return None

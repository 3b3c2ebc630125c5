"""What a request's line and headers must be, beyond what the parser of HTTP insists on."""

from __future__ import annotations

import re

import h11

MAX_HEADER = 256 << 10
"""Bytes of a request's line and headers together."""

_VERSIONS = (b"1.0", b"1.1")
_LENGTHS = {b"content-length", b"transfer-encoding"}
"""Whoever stands between (a proxy that authorises) may believe the one of them that we do not (RFC 9112, 6.1)."""
_MOST = (1 << 63) - 1
_QUOTED = re.compile(r"bytearray\(b(?P<quote>['\"])(?P<text>.*?)(?P=quote)\)")
_SHOWN = 80


def objection(request: h11.Request) -> h11.RemoteProtocolError | None:
    """Why a request cannot be answered, with its status; None for one that can."""
    headers = dict(request.headers)
    size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
    if size > MAX_HEADER:
        return _why(f"its line and headers are longer than {MAX_HEADER} bytes", 431)
    if request.http_version not in _VERSIONS:
        return _why(f"HTTP {request.http_version.decode()} is not spoken here", 505)
    if headers.keys() >= _LENGTHS:
        return _why("a Content-Length and a Transfer-Encoding say two things about the body's length", 400)
    if int(headers.get(b"content-length", b"0")) > _MOST:
        return _why("bad Content-Length", 400)
    return None


def origin_form(target: str) -> str:
    """A target as most clients write it: "/info" of "http://host/info", which a server has to take too."""
    if target.startswith("/") or "://" not in target:
        return target
    _, slash, path = target.partition("://")[2].partition("/")
    return f"{slash}{path}" or "/"


def said(error: Exception) -> str:
    """The parser's complaint, with what it complains of as text."""

    def plain(found: re.Match[str]) -> str:
        text = found["text"]
        return f"'{text[:_SHOWN]}…'" if len(text) > _SHOWN else f"'{text}'"

    return _QUOTED.sub(plain, str(error))


def _why(text: str, status: int) -> h11.RemoteProtocolError:
    return h11.RemoteProtocolError(text, error_status_hint=status)

"""JSON, without the price of the `json` package.

`import json` compiles regular expressions, which takes half as long as the interpreter's own
start; its C accelerator alone does all the work here. Where an interpreter lacks the
accelerator, the package is used instead.

`decode` takes text or bytes; `encode` gives compact ASCII bytes; `values` cuts a stream of
JSON values (one after another, with any white space between) out of chunks of bytes.
"""

from __future__ import annotations

from cove.client.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

_BLANK = " \t\r\n"


class _Scanning:
    """The settings that the accelerator reads off its context."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _codec() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[Any], str]]:
    try:
        import _json

        scan = _json.make_scanner(_Scanning())  # type: ignore[arg-type]
        quote = _json.encode_basestring_ascii
        pieces = _json.make_encoder(None, _refuse, quote, None, ":", ",", False, False, False)
        return scan, lambda value: "".join(pieces(value, 0))
    except (ImportError, AttributeError, TypeError):
        import json

        return json.JSONDecoder(strict=False).raw_decode, lambda value: json.dumps(value, separators=(",", ":"))


_scan, _dump = _codec()


def decode(data: bytes | str) -> Any:
    """The one value in `data`; raises ProtocolError when it is not JSON."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    try:
        value, end = _scan(text, _skip(text, 0))
    except (ValueError, StopIteration) as error:
        raise ProtocolError(f"the daemon sent what is not JSON: {text[:200]!r}") from error
    if _skip(text, end) != len(text):
        raise ProtocolError(f"the daemon sent something after its JSON: {text[end : end + 200]!r}")
    return value


def encode(value: object) -> bytes:
    return _dump(value).encode("ascii")


def values(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Each JSON object of a stream as soon as it is complete.

    The Engine API ends every message of a stream with a newline, so lines are the units; a
    line that is no whole value yet (pretty-printed JSON) waits for the next one.
    """
    pending = b""
    for chunk in chunks:
        pending += chunk
        *lines, pending = pending.split(b"\n")
        whole = b""
        for line in lines:
            whole += line
            text = whole.decode("utf-8", "replace")
            if not text.strip():
                whole = b""
                continue
            found, complete = _all(text)
            if complete:
                yield from found
                whole = b""
        pending = whole + pending
    if pending.strip():
        yield from _all(pending.decode("utf-8", "replace"))[0]


def _all(text: str) -> tuple[list[Any], bool]:
    """The values in `text`, and whether nothing incomplete is left of it."""
    found: list[Any] = []
    at = _skip(text, 0)
    while at < len(text):
        try:
            value, at = _scan(text, at)
        except (ValueError, StopIteration):
            return found, False
        found.append(value)
        at = _skip(text, at)
    return found, True


def _skip(text: str, at: int) -> int:
    end = len(text)
    while at < end and text[at] in _BLANK:
        at += 1
    return at

"""`cove inspect`, and `inspect` of each kind of object: everything the API says, as JSON."""

from __future__ import annotations

import sys

from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.client import ApiError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cove.client import Client

_FORMAT = Flag("format", "json or TEMPLATE", short="f", hint="format")
_SIZE = Flag("size", "Show a container's sizes", "bool", short="s")
_KINDS = ("container", "image", "network", "volume")


def _getters(client: Client, *, size: bool, verbose: bool) -> dict[str, Callable[[str], dict[str, Any]]]:
    return {
        "container": lambda name: client.containers.inspect(name, size=size),
        "image": client.images.inspect,
        "network": lambda name: client.networks.inspect(name, verbose=verbose),
        "volume": client.volumes.inspect,
    }


def _inspect(call: Call, kinds: tuple[str, ...], *, size: bool = False, verbose: bool = False) -> int:
    return _show(call, kinds, _getters(connect(call.host), size=size, verbose=verbose))


def _show(call: Call, kinds: tuple[str, ...], getters: dict[str, Callable[[str], dict[str, Any]]]) -> int:
    found, code = [], 0
    for name in call.arguments:
        try:
            found.append(_first(name, kinds, getters))
        except ApiError as error:
            print(f"cove: {error.message}", file=sys.stderr)
            code = 1
    _print(found, call.text("format"))
    return code


def _first(name: str, kinds: tuple[str, ...], getters: dict[str, Callable[[str], dict[str, Any]]]) -> dict[str, Any]:
    """The object of the first kind that has one of that name."""
    for kind in kinds:
        try:
            return getters[kind](name)
        except ApiError as error:
            if error.status != 404 or len(kinds) == 1:
                raise
    raise ApiError(404, f"there is no {', '.join(kinds[:-1])} or {kinds[-1]} of the name {name!r}")


def _print(found: list[dict[str, Any]], form: str) -> None:
    if form and form != "json":
        from cove.cli.output import renderer

        write = renderer(form)
        for one in found:
            print(write(one))
        return
    import json

    if form == "json":
        print(json.dumps(found, separators=(",", ":"), ensure_ascii=False))
    else:
        print(json.dumps(found, indent=4, ensure_ascii=False))


def inspect(call: Call) -> int:
    kind = call.text("type")
    if kind and kind not in _KINDS:
        raise UsageError(f"the value {kind!r} of --type is not {', '.join(_KINDS[:-1])} or {_KINDS[-1]}")
    return _inspect(call, (kind,) if kind else _KINDS, size=call.flag("size"))


def container(call: Call) -> int:
    return _inspect(call, ("container",), size=call.flag("size"))


def image(call: Call) -> int:
    if call.flag("platforms"):
        from cove.cli.commands.platforms import platforms

        return platforms(call)
    client = connect(call.host)
    platform = call.text("platform")
    return _show(call, ("image",), {"image": lambda name: client.images.inspect(name, platform=platform)})


def network(call: Call) -> int:
    return _inspect(call, ("network",), verbose=call.flag("verbose"))


def _only(kind: str) -> Callable[[Call], int]:
    return lambda call: _inspect(call, (kind,))


INSPECT = Verb(
    inspect,
    "Show everything about objects of any kind.",
    "NAME|ID [NAME|ID...]",
    (_FORMAT, _SIZE, Flag("type", "Only objects of this kind: container, image, network, volume", hint="kind")),
    least=1,
    most=None,
)
CONTAINER = Verb(
    container,
    "Show everything about containers.",
    "CONTAINER [CONTAINER...]",
    (_FORMAT, _SIZE),
    least=1,
    most=None,
)
IMAGE = Verb(
    image,
    "Show everything about images, or the platforms that they have.",
    "IMAGE [IMAGE...]",
    (
        _FORMAT,
        Flag("platform", "The variant for this platform: linux/arm64"),
        Flag("platforms", "List the platforms, here and at the registry", "bool"),
    ),
    least=1,
    most=None,
)
VOLUME = Verb(_only("volume"), "Show everything about volumes.", "VOLUME [VOLUME...]", (_FORMAT,), least=1, most=None)
NETWORK = Verb(
    network,
    "Show everything about networks.",
    "NETWORK [NETWORK...]",
    (_FORMAT, Flag("verbose", "Show more, for diagnosis", "bool", short="v")),
    least=1,
    most=None,
)

"""`prune` of containers, images, volumes, networks, and of all of them together."""

from __future__ import annotations

import sys

from cove.cli import humanize, output
from cove.cli.flags import Call, Flag, Verb
from cove.cli.options.values import size
from cove.cli.terminal import is_terminal
from cove.client import Client, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Filters = dict[str, list[str]]
    Prune = Callable[[Client, Filters], int]

_FORCE = Flag("force", "Do not ask", "bool", short="f")
_FILTER = Flag("filter", "Only those that fit: NAME=VALUE", "list", hint="filter")


def _agreed(call: Call, what: str) -> bool:
    """Whether the user wants it; without a terminal to ask on, only --force says yes."""
    if call.flag("force"):
        return True
    print(f"This removes {what}.")
    if not is_terminal(0):
        print("cove: there is no terminal to ask on; use --force", file=sys.stderr)
        return False
    return input("Go on? [y/N] ").strip().lower() in {"y", "yes"}


def _told(title: str, names: list[str]) -> None:
    if names:
        print(f"{title}:")
        print("\n".join(names), end="\n\n")


def _containers(client: Client, filters: Filters) -> int:
    answer = client.containers.prune(filters)
    _told("Deleted containers", answer.get("ContainersDeleted") or [])
    return int(answer.get("SpaceReclaimed") or 0)


def _networks(client: Client, filters: Filters) -> int:
    _told("Deleted networks", client.networks.prune(filters).get("NetworksDeleted") or [])
    return 0


def _volumes(client: Client, filters: Filters) -> int:
    answer = client.volumes.prune(filters)
    _told("Deleted volumes", answer.get("VolumesDeleted") or [])
    return int(answer.get("SpaceReclaimed") or 0)


def _images(client: Client, filters: Filters) -> int:
    answer = client.images.prune(filters)
    deleted: list[dict[str, Any]] = answer.get("ImagesDeleted") or []
    lines = [f"{what.lower()}: {which}" for entry in deleted for what, which in entry.items() if which]
    _told("Deleted images", lines)
    return int(answer.get("SpaceReclaimed") or 0)


def _pruner(
    what: str, prune: Callable[[Client, Filters], int], extra: Callable[[Call], Filters]
) -> Callable[[Call], int]:
    def run(call: Call) -> int:
        if not _agreed(call, what):
            return 1
        freed = prune(connect(call.host), {**output.filters(call.list("filter")), **extra(call)})
        print(f"Total reclaimed space: {humanize.size(freed)}")
        return 0

    return run


def _no_extra(call: Call) -> Filters:
    return {}


def _all_images(call: Call) -> Filters:
    kept = (
        {"keep-storage": [str(size(call.text("keep-storage"), "keep-storage"))]} if call.given("keep-storage") else {}
    )
    unused = {"unused-for": [call.text("unused-for")]} if call.given("unused-for") else {}
    return {"dangling": ["false" if call.flag("all") else "true"], **kept, **unused}


def _all_volumes(call: Call) -> Filters:
    return {"all": ["true"]} if call.flag("all") else {}


def system(call: Call) -> int:
    volumes = " and all anonymous volumes that no container uses" if call.flag("volumes") else ""
    images = "all images without a container" if call.flag("all") else "all images without a name"
    if not _agreed(call, f"all stopped containers, all unused networks, {images}{volumes}"):
        return 1
    client, filters = connect(call.host), output.filters(call.list("filter"))
    freed = _containers(client, filters)
    _networks(client, filters)
    if call.flag("volumes"):
        freed += _volumes(client, {key: value for key, value in filters.items() if key != "until"})
    freed += _images(client, {**filters, **_all_images(call)})
    freed += int(client.system.prune_builds().get("SpaceReclaimed") or 0)
    print(f"Total reclaimed space: {humanize.size(freed)}")
    return 0


_ALL = Flag("all", "Remove all that no container uses, not only those without a name", "bool", short="a")
_KEEP = (
    Flag("keep-storage", "Only the longest unused, until images take no more than this: 20g", hint="size"),
    Flag("unused-for", "Only images that no container was made of for so long: 720h", hint="duration"),
)
CONTAINERS = Verb(
    _pruner("all stopped containers", _containers, _no_extra),
    "Remove all stopped containers.",
    "",
    (_FILTER, _FORCE),
)
IMAGES = Verb(
    _pruner("images that no container uses", _images, _all_images),
    "Remove unused images.",
    "",
    (_ALL, _FILTER, _FORCE, *_KEEP),
)
VOLUMES = Verb(
    _pruner("volumes that no container uses", _volumes, _all_volumes),
    "Remove unused volumes.",
    "",
    (_ALL, _FILTER, _FORCE),
)
NETWORKS = Verb(
    _pruner("networks that no container uses", _networks, _no_extra),
    "Remove unused networks.",
    "",
    (_FILTER, _FORCE),
)
SYSTEM = Verb(
    system,
    "Remove everything unused.",
    "",
    (_ALL, _FILTER, _FORCE, *_KEEP, Flag("volumes", "Remove anonymous volumes too", "bool")),
)

"""Which containers a list's filters want: every name must hold, of several terms of one name any."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cove.engine.containers.registry import Container, Registry
from cove.engine.networks.service import NetworkStore
from cove.errors import CoveError, InvalidArgument, NotFound
from cove.image.images import Image, Images
from cove.wire.filters import Filters

_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTH = ("none", "starting", "healthy", "unhealthy")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_REPEATED = re.compile(r"(?<!\\)[*+{]")
_NESTED = re.compile(r"[*+}|].*\)[*+{]")
_MOST_REPEATED = 3
_NOTHING = re.compile(r"(?!)")


class Selection:
    """Reads the filters once, then judges containers; raises InvalidArgument for a bad term."""

    def __init__(self, filters: Filters, registry: Registry, images: Images, networks: NetworkStore) -> None:
        self._filters = filters
        self._networks = networks
        for state in filters.get("status"):
            if state not in _STATES:
                raise InvalidArgument(f"invalid filter 'status={state}': use one of {', '.join(_STATES)}")
        try:
            self._exited = {int(code) for code in filters.get("exited")}
        except ValueError:
            raise InvalidArgument(f"invalid filter 'exited={filters.get('exited')[0]}': it is not a number") from None
        self._before = [registry.find(ref).record.created_ns for ref in filters.get("before")]
        self._since = [registry.find(ref).record.created_ns for ref in filters.get("since")]
        self._ancestors = _ancestors(filters, images)
        for text in filters.get("health"):
            if text not in _HEALTH:
                raise InvalidArgument(
                    f"unrecognized filter value for health: {text}; use one of {', '.join(_HEALTH)}"
                )
        self._published = {port for text in filters.get("publish") for port in _ports("publish", text)}
        self._exposed = {port for text in filters.get("expose") for port in _ports("expose", text)}
        self._names = [_pattern(text) for text in filters.get("name")]

    def wants(self, container: Container) -> bool:
        """Whether the container is listed."""
        filters = self._filters
        if not filters:
            return True
        record, facts = container.record, container.facts
        return (
            self._named(container)
            and filters.exact("status", container.status)
            and ("exited" not in filters or (facts.phase == "exited" and facts.exit_code in self._exited))
            and filters.labels(record.config.labels)
            and not ("label!" in filters and filters.labels(record.config.labels, "label!"))
            and all(record.created_ns < moment for moment in self._before)
            and all(record.created_ns > moment for moment in self._since)
            and ("ancestor" not in filters or bool(self._ancestors & {record.image_id, record.image}))
            and filters.exact("health", container.health.status if container.health else "none")
            and self._on_network(container)
            and self._has_volume(container)
            and self._has_port(container)
            and not filters.flag("is-task")
            and filters.exact("isolation", "default")
        )

    def _named(self, container: Container) -> bool:
        ids = self._filters.get("id")
        name = f"/{container.name}"
        return (not ids or any(container.id.startswith(part) for part in ids)) and (
            not self._names or any(each.search(name) or each.search(container.name) for each in self._names)
        )

    def _on_network(self, container: Container) -> bool:
        wanted = self._filters.get("network")
        if not wanted:
            return True
        names = set()
        for ref in wanted:
            try:
                names.add(self._networks.find(ref).network.name)
            except NotFound:
                continue
        return bool(names & set(container.record.endpoints))

    def _has_volume(self, container: Container) -> bool:
        wanted = set(self._filters.get("volume"))
        mounts = container.record.mounts
        return not wanted or any(wanted & {mount.name, mount.source, mount.destination} for mount in mounts)

    def _has_port(self, container: Container) -> bool:
        """Published are ports of the host, exposed those of the container; one of either is enough."""
        if not self._published and not self._exposed:
            return True
        held = container.facts.attached.ports
        exposed = {_port(key) for key in container.record.config.exposed_ports}
        exposed |= {f"{each.container_port}/{each.proto}" for each in held}
        published = {f"{each.host_port}/{each.proto}" for each in held}
        return bool(self._published & published or self._exposed & exposed)


def _pattern(text: str) -> re.Pattern[str]:
    """A name's filter is a regular expression that fits anywhere; InvalidArgument for one that could take ages."""
    if _NESTED.search(text) or len(_REPEATED.findall(text)) > _MOST_REPEATED:
        raise InvalidArgument(
            f"invalid filter 'name={text}': at most {_MOST_REPEATED} parts may repeat, and none within another one"
        )
    try:
        return re.compile(text)
    except re.error:
        return _NOTHING


def _ancestors(filters: Filters, images: Images) -> set[str]:
    """The images that were named, and those that were made out of them."""
    found: set[str] = set()
    for name in filters.get("ancestor"):
        try:
            ancestor = images.get(name)
        except CoveError:
            found.add(name)
            continue
        found.add(ancestor.id)
        found.update(image.id for image in images.list() if _descends(image, ancestor))
    return found


def _descends(image: Image, ancestor: Image) -> bool:
    """Whether an image's history goes on where the other one's ends."""
    before, layers = ancestor.config.history, ancestor.chain_ids
    own = image.config.history
    return len(own) > len(before) > 0 and own[: len(before)] == before and image.chain_ids[: len(layers)] == layers


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


def _ports(name: str, text: str) -> Iterator[str]:
    """Every port of "80", "80/udp" or "8000-8010"; raises InvalidArgument."""
    found = _PORTS.fullmatch(text)
    if found is None or not int(found[1]) <= int(found[2] or found[1]) <= 65535:
        raise InvalidArgument(f"invalid filter '{name}={text}': a port or a range of ports is needed, like 80/tcp")
    for number in range(int(found[1]), int(found[2] or found[1]) + 1):
        yield f"{number}/{found[3] or 'tcp'}"

"""Which containers a list's filters want: every name must hold, of several terms of one name any."""

from __future__ import annotations

from cove.engine.containers.registry import Container, Registry
from cove.engine.networks.service import NetworkStore
from cove.errors import CoveError, InvalidArgument, NotFound
from cove.image.images import Image, Images
from cove.wire.filters import Filters

_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


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
        self._ports = {_port(text) for name in ("publish", "expose") for text in filters.get(name)}

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
        ids, names = self._filters.get("id"), self._filters.get("name")
        name = f"/{container.name}"
        return (not ids or any(container.id.startswith(part) for part in ids)) and (
            not names or any(_matches(part, name) for part in names)
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
        if not self._ports:
            return True
        published = {f"{each.container_port}/{each.proto}" for each in container.facts.attached.ports}
        published |= {f"{each.host_port}/{each.proto}" for each in container.facts.attached.ports}
        exposed = published | {_port(key) for key in container.record.config.exposed_ports}
        return bool(self._ports & (published if "publish" in self._filters else exposed))


def _matches(pattern: str, name: str) -> bool:
    """Docker takes the term for a regular expression that matches anywhere; anchors and plain text do here."""
    text = pattern.removeprefix("^").removesuffix("$")
    start, end = pattern.startswith("^"), pattern.endswith("$")
    bare = name.removeprefix("/")
    for candidate in (name, bare):
        if start and end:
            if candidate == text:
                return True
        elif start:
            if candidate.startswith(text):
                return True
        elif end:
            if candidate.endswith(text):
                return True
        elif text in candidate:
            return True
    return False


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

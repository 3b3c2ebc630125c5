"""Containers: made, shown, renamed, changed, removed.

A create is: everything checked, then the writable layer, then one small transaction; whatever fails before
that leaves nothing. It starts nothing (`lifecycle` does).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec

from cove import ids
from cove.engine import graph_driver
from cove.engine.containers import foreign, merge, render, signals, spec
from cove.engine.containers.health import check_config as check_health
from cove.engine.containers.lifecycle import Lifecycle
from cove.engine.containers.records import DEFAULT, Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.containers.removal import Removal
from cove.engine.containers.selection import Selection
from cove.engine.context import Context, Settings
from cove.engine.images import trust
from cove.engine.images.view import descriptor
from cove.engine.isolation import cdi, resources, security
from cove.engine.isolation.userns import Maps, Users
from cove.engine.logs.options import check_log
from cove.engine.networks import links, naming, publishing
from cove.engine.networks.attachments import Attachments
from cove.engine.networks.places import places, unpublished
from cove.engine.networks.ports import parse_port, requested
from cove.engine.networks.service import NetworkStore
from cove.engine.telling import tell
from cove.engine.volumes.mounts import Mounts
from cove.errors import Conflict, CoveError, InvalidArgument, NotFound, Unsupported
from cove.image.images import Image
from cove.network import egress, rates, resolv
from cove.oci.platform import Platform
from cove.volume import sized
from cove.wire import containers as wire
from cove.wire.descriptors import Descriptor
from cove.wire.filters import Filters


class Containers:
    """The use cases of containers that do not change whether they run."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        networks: NetworkStore,
        mounts: Mounts,
        lifecycle: Lifecycle,
        removal: Removal,
        users: Users,
        attachments: Attachments,
    ) -> None:
        self._context = context
        self._registry = registry
        self._users = users
        self._networks = networks
        self._mounts = mounts
        self._lifecycle = lifecycle
        self._removal = removal
        self._attachments = attachments
        self.fill_volumes: Callable[[Record], Awaitable[None]] | None = None
        self.renamed: Callable[[Container], Awaitable[None]] | None = None

    # ── create ────────────────────────────────────────────────────────────────────────────────────

    async def create(self, body: wire.CreateRequest, *, name: str = "", platform: str = "") -> wire.CreateResponse:
        """Make a container; NotFound for its image, Conflict for its name, InvalidArgument for its options."""
        identity = ids.new_id()
        name = self._name(name)
        body = msgspec.structs.replace(body, host_config=security.hardened(body.host_config))
        with self._registry.claim(name, identity), self._users.claim(body.host_config) as maps:
            container, warnings = await self._make(identity, name, body, platform, maps)
        tell(self._context.events, container, "create")
        return wire.CreateResponse(id=identity, warnings=warnings)

    async def _make(
        self, identity: str, name: str, body: wire.CreateRequest, platform: str, maps: Maps
    ) -> tuple[Container, tuple[str, ...]]:
        """Everything checked, then the volumes and the writable layer, then the row."""
        draft, warnings, image = self.draft(identity, name, body, platform, maps)
        async with AsyncExitStack() as undo:
            mounts = await self._mounts.resolve(draft.config, draft.host)
            undo.push_async_callback(self._mounts.undo, mounts)
            record = msgspec.structs.replace(draft, mounts=mounts)
            await self.unpacked(image)
            self.layer(record, image, undo)
            await self._fill(record)
            container = self._registry.add(record)
            undo.pop_all()
        return container, warnings

    def layer(self, record: Record, image: Image, undo: AsyncExitStack) -> None:
        """The container's writable layer, of the size that it was asked to have; taken back by `undo`."""
        shown = [mount.chain for mount in record.mounts if mount.type == "image"]
        undo.callback(_remove_empty, self._context.data.container(record.id).root)
        self._context.snapshots.prepare(record.id, image.top, shown)
        undo.callback(self._context.snapshots.remove, record.id)
        self._context.store.layers.settled(image.chain_ids)  # the container holds them from now on
        if record.host.storage_opt:
            files, size = self._context.data.container(record.id), sized.parse(record.host.storage_opt["size"])
            undo.callback(self._context.projects.release, files.upper)
            self._context.projects.limit((files.upper, files.work), size)

    async def unpacked(self, image: Image) -> None:
        """A variant that was pulled among others is unpacked when it is needed first."""
        layers = self._context.store.layers
        if not all(layers.is_unpacked(chain) for chain in image.chain_ids):
            await self._context.executors.bulk(layers.ensure_unpacked, image)

    def draft(
        self, identity: str, name: str, body: wire.CreateRequest, platform: str, maps: Maps
    ) -> tuple[Record, tuple[str, ...], Image]:
        """The record of a container as far as it can be written without making anything: all but its mounts."""
        image = self._image(body.image, platform)
        spec.check_shared_network(body.config(), body.host_config)
        if name and spec.lender(body.host_config.network_mode) == name:
            raise InvalidArgument("cannot join own network")
        config = merge.merge(body.config(), image.config.config)
        usual = DEFAULT if self._context.settings.default_network.there else "none"
        asked = self.with_lenders(_normal(body.host_config, usual, self._context.settings))
        warnings = self.check(config, asked) + foreign.warnings(image.config.platform, asked=bool(platform))
        words = merge.command(config)
        record = Record(
            id=identity,
            name=name,
            created_ns=time.time_ns(),
            image_id=image.id,
            image=body.image,
            config=_with_hostname(config, asked, identity),
            host=asked,
            path=words[0],
            args=words[1:],
            endpoints=places(self._networks, asked, body.networking_config),
            uid_map=maps.uids,
            gid_map=maps.gids,
        )
        requested(record, self._context.settings)
        links.check(self._registry, record)
        return record, warnings + unpublished(self._networks, record), image

    def _name(self, asked: str) -> str:
        if asked:
            return ids.check_name("container", asked.removeprefix("/"))
        attempt = 0
        while self._registry.name_taken(found := ids.new_name(attempt)):
            attempt += 1
        return found

    def _image(self, name: str, platform: str) -> Image:
        if not name:
            raise InvalidArgument(
                "config cannot be empty in order to create a container: no image was named: say what it is made of"
            )
        image = self._context.images.get(name, Platform.parse(platform) if platform else None)
        foreign.refuse_other_system(name, image.config.platform)
        trust.admit(self._context.trust, name, image)
        self._context.store.content.note_use(image.target.digest)
        return image

    def check(self, config: wire.ContainerConfig, asked: wire.HostConfig) -> tuple[str, ...]:
        """Refuse what this host cannot honour; warnings of what it honours in part."""
        check_log(asked.log_config)
        for text in asked.extra_hosts or ():
            resolv.parse_extra(text, ("0.0.0.0",))
        resolv.resolv_conf(
            "",
            nameservers=asked.dns or (),
            search=asked.dns_search or (),
            options=asked.dns_options or (),
        )
        for key in config.exposed_ports:
            parse_port(key)
        check_health(config.healthcheck)
        if config.stop_signal:
            signals.parse(config.stop_signal)
        if any(not key.strip() for key in asked.annotations):
            raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key")
        cdi.edits(asked.device_requests, self._context.settings.cdi_directories)
        warnings = spec.check(config, asked, self._context.host)
        if asked.storage_opt and not self._context.projects.hold(self._context.data.containers):
            raise Unsupported(
                "--storage-opt size needs project quotas, which the file system of "
                f"{self._context.data.containers} does not hold: XFS does, or ext4 made with the features quota and "
                "project, if mounted with prjquota"
            )
        if asked.network_mode == "host" and (asked.port_bindings or asked.publish_all_ports):
            warnings += ("Published ports are discarded when using host network mode",)
        return warnings

    def with_lenders(self, asked: wire.HostConfig) -> wire.HostConfig:
        """Modes like "container:NAME" with the identity in the name's place, which a rename does not change."""
        fields = {"pid": "pid_mode", "ipc": "ipc_mode", "network": "network_mode"}
        changes = {}
        for kind, name in spec.lenders(asked).items():
            try:
                changes[fields[kind]] = f"container:{self._registry.find(name).id}"
            except NotFound as error:  # 404 at creation means to clients that the image is missing
                raise InvalidArgument(f"cannot join the {kind} namespace: {error.message}") from None
        return msgspec.structs.replace(asked, **changes)

    async def _fill(self, record: Record) -> None:
        """Copy what the image has where an empty volume will be mounted."""
        if record.mounts and self.fill_volumes is not None:
            await self.fill_volumes(record)

    # ── show ──────────────────────────────────────────────────────────────────────────────────────

    def identity(self, ref: str) -> str:
        """The id of the container that `ref` means. Raises NotFound."""
        return self._registry.find(ref).id

    async def inspect(self, ref: str, *, size: bool = False) -> wire.ContainerInspect:
        """All about one container."""
        container = links.find(self._registry, ref)
        shown = render.inspection(container, self._networks, self._context.data)
        host = spec.with_paths(shown.host_config, self._context.host)
        shown = msgspec.structs.replace(
            shown,
            host_config=msgspec.structs.replace(host, links=links.shown(self._registry, container.record)),
            image_manifest_descriptor=self._manifest(container.record.image_id),
            graph_driver=self._graph_driver(container),
        )
        if size:
            used, total = await self._sizes(container)
            shown = msgspec.structs.replace(shown, size_rw=used, size_root_fs=total)
        return shown

    def _graph_driver(self, container: Container) -> wire.GraphDriver:
        try:
            mount = self._context.snapshots.mount(container.id)
        except CoveError:  # a layer below it was taken away: it is shown all the same
            return wire.GraphDriver()
        return graph_driver.of_container(mount, container.facts.pid)

    def _manifest(self, image_id: str) -> Descriptor | msgspec.UnsetType:
        """The manifest that its image was unpacked from; nothing when the image was removed by force."""
        try:
            image = self._context.images.get(image_id)
        except CoveError:
            return msgspec.UNSET
        return msgspec.structs.replace(descriptor(image.manifest), platform=image.config.platform)

    async def list(
        self,
        *,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: Filters = Filters(),  # noqa: B008 - frozen
    ) -> list[wire.ContainerSummary]:
        """Containers, the newest first; only those that run unless `all`, a limit or a status says otherwise."""
        everything = all or limit > 0 or "status" in filters
        selection = Selection(filters, self._registry, self._context.images, self._networks)
        found = sorted(self._registry, key=lambda container: container.record.created_ns, reverse=True)
        found = [
            container
            for container in found
            if (everything or container.facts.running or container.facts.phase == "restarting")
            and selection.wants(container)
        ]
        now = time.time_ns()
        called = functools.cache(self._image_name)
        lines = [
            render.line(each, called(each.record.image, each.record.image_id), self._networks, self._manifest, now)
            for each in found[: limit or len(found)]
        ]
        aliases = links.names(self._registry)
        if aliases:
            lines = [msgspec.structs.replace(each, names=(*each.names, *aliases.get(each.id, ()))) for each in lines]
        if size:
            for position, container in enumerate(found[: limit or len(found)]):
                used, total = await self._sizes(container)
                lines[position] = msgspec.structs.replace(lines[position], size_rw=used, size_root_fs=total)
        return lines

    def _image_name(self, name: str, image_id: str) -> str:
        """The name that a container was made with, or its image's identity if another one is called so now."""
        images = self._context.images
        try:
            now = images.get(name)
            same = now.id == image_id or now.target.digest == images.get(image_id).target.digest
        except CoveError:
            same = False
        return name if same else image_id

    async def _sizes(self, container: Container) -> tuple[int, int]:
        used = await self._context.executors.disk(self._context.snapshots.usage, container.id)
        try:
            image = self._context.images.get(container.record.image_id).size
        except NotFound:
            image = 0
        return used, used + image

    # ── change ────────────────────────────────────────────────────────────────────────────────────

    async def rename(self, ref: str, name: str) -> None:
        """Give it another name."""
        container = self._registry.find(ref)
        name = ids.check_name("container", name.removeprefix("/"))
        async with container.lock:
            old = container.name
            if name == old:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            with self._registry.claim(name, container.id):
                self._registry.rewrite(container, name=name)
            if container.facts.running and self.renamed is not None:
                await self.renamed(container)
        tell(self._context.events, container, "rename", oldName=f"/{old}")

    async def update(
        self, ref: str, body: wire.UpdateRequest, *, cleared: Collection[str] = ()
    ) -> wire.UpdateResponse:
        """Other limits or another restart policy, at once if it runs.

        `cleared`: the lists of devices' limits that are empty from now on.
        """
        container = self._registry.find(ref)
        async with container.lock:
            changes = {
                name: value
                for name in wire.Resources.__struct_fields__
                if (value := getattr(body, name)) not in (None, 0, "", (), {})
            }
            changes |= dict.fromkeys(cleared, ())
            asked = container.record.host
            for name, called in (("cpu_period", "CPU Period"), ("cpu_quota", "CPU Quota")):
                if name in changes and asked.nano_cpus and "nano_cpus" not in changes:
                    raise Conflict(
                        f"Conflicting options: {called} cannot be updated as NanoCPUs has already been set"
                    )
            if "memory_swap" not in changes and 0 < asked.memory_swap < body.memory:
                raise InvalidArgument(
                    "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the "
                    "same time"
                )
            if body.pids_limit is not None:
                changes["pids_limit"] = max(body.pids_limit, 0)
            if "nano_cpus" in changes:
                for name, called in (("cpu_period", "CPU Period"), ("cpu_quota", "CPU Quota")):
                    if name in changes:
                        raise InvalidArgument(f"Conflicting options: Nano CPUs and {called} cannot both be set")
                changes |= {"cpu_period": 0, "cpu_quota": 0}
            if body.net_rate:
                changes["net_rate"] = str(rates.parse(body.net_rate, rates.parse(asked.net_rate)))
            updated = msgspec.structs.replace(asked, **changes)
            if body.restart_policy is not None and body.restart_policy.name:
                if asked.auto_remove and body.restart_policy.name != "no":
                    raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
                updated = msgspec.structs.replace(updated, restart_policy=body.restart_policy)
            warnings = spec.check(container.record.config, updated, self._context.host)
            if container.facts.running and changes:
                lifted = resources.lifting(asked, updated)
                if "pids_limit" in changes:
                    lifted = msgspec.structs.replace(lifted, pids_limit=updated.pids_limit or -1)
                limits = resources.limits(lifted, self._context.host)
                await self._context.runtime.update(container.id, limits)
                if updated.net_rate != asked.net_rate:
                    self._attachments.limit(container, rates.parse(updated.net_rate))
            if body.publish_add or body.publish_rm:
                ports = publishing.change(self._attachments, container, body).host.port_bindings
                updated = msgspec.structs.replace(updated, port_bindings=ports)
            self._registry.rewrite(container, host=updated)
        tell(self._context.events, container, "update")
        return wire.UpdateResponse(warnings=warnings)

    # ── remove ────────────────────────────────────────────────────────────────────────────────────

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Remove it, killing it first if `force`; Conflict when it runs."""
        if link:
            self._remove_link(ref)
            return
        container = self._registry.find(ref)
        if container.removing:
            raise Conflict(f"removal of container {ref} is already in progress")
        if force:
            await self._lifecycle.halt(container)
        elif container.facts.running or container.facts.phase == "restarting":
            raise Conflict(f'cannot remove container "/{container.name}": {_why_not(container)}')
        async with container.lock:
            if self._registry.get(container.id) is not container:
                return  # --rm was quicker
            if container.facts.running:
                raise Conflict(f'cannot remove container "/{container.name}": {_why_not(container)}')
            await self._removal.remove(container, volumes=volumes)

    def _remove_link(self, path: str) -> None:
        """Forget a link, called CONTAINER/ALIAS, from the container's next start on."""
        owner, slash, alias = path.strip("/").partition("/")
        if not slash:
            raise InvalidArgument(f"Cannot get parent / for name /{owner}: a link is called CONTAINER/ALIAS")
        container = self._registry.find(owner)
        kept = tuple(each for each in container.record.host.links or () if naming.link(each)[0] != alias)
        if len(kept) == len(container.record.host.links or ()):
            raise NotFound(f"No such link: /{owner}/{alias}")
        self._registry.rewrite(container, host=msgspec.structs.replace(container.record.host, links=kept or None))


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


def _listed(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _why_not(container: Container) -> str:
    if container.facts.phase == "paused":
        return "container is paused and must be unpaused first"
    return f"container is {container.facts.phase}: stop the container before removing or force remove"


def _normal(asked: wire.HostConfig, network: str, settings: Settings) -> wire.HostConfig:
    """The same wishes with the defaults spelt out, as inspect shall show them. `network`: that of who names none."""
    policy = asked.restart_policy
    driver = asked.log_config.type or settings.log_driver
    log_options = settings.log_options if driver == settings.log_driver else {}
    return msgspec.structs.replace(
        asked,
        network_mode=asked.network_mode if asked.network_mode not in ("", "default") else network,
        ipc_mode=asked.ipc_mode or "private",
        cgroupns_mode=asked.cgroupns_mode or "private",
        shm_size=asked.shm_size or spec.DEFAULT_SHM,
        memory_swap=resources.effective_swap(asked),
        pids_limit=asked.pids_limit or None,
        runtime=asked.runtime or "cove",
        egress=asked.egress or _listed(asked.annotations.get(egress.OPTION, "")),
        expose_to=asked.expose_to or asked.annotations.get("cove.expose-to", ""),
        net_rate=str(rates.parse(asked.net_rate or asked.annotations.get(rates.OPTION, ""))),
        log_config=wire.LogConfig(type=driver, config={**log_options, **asked.log_config.config}),
        restart_policy=policy if policy.name else msgspec.structs.replace(policy, name="no"),
    )


def _with_hostname(config: wire.ContainerConfig, asked: wire.HostConfig, identity: str) -> wire.ContainerConfig:
    """A container with a UTS namespace of its own is named after its identity unless the user named it."""
    if config.hostname or asked.network_mode == "host" or asked.uts_mode == "host" or spec.lender(asked.network_mode):
        return config
    return msgspec.structs.replace(config, hostname=ids.short(identity))

"""The two questions: how is this container isolated, and how would one be that is asked for like this?

Both give the same value, built from the same specification that a start would carry out; the first also asks the
kernel what holds now. Neither changes anything: a plan makes no volume, no snapshot, no name and no row.
"""

from __future__ import annotations

import asyncio

import msgspec

from cove import ids
from cove.engine.containers import spec
from cove.engine.containers.launch import cgroup_of, hostname_of, new_cgroup
from cove.engine.containers.records import Attached, Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.containers.service import Containers
from cove.engine.context import Context
from cove.engine.explain import limits, mounts, namespaces, network
from cove.engine.explain import security as rights
from cove.engine.isolation import cdi, security
from cove.engine.isolation.userns import Users
from cove.engine.networks.ports import requested
from cove.engine.networks.service import NetworkStore
from cove.engine.volumes.mounts import Mounts
from cove.errors import Conflict, NotFound
from cove.oci.spec import Hooks, Mount, Resources
from cove.oci.spec import Spec as OciSpec
from cove.wire import explain as wire
from cove.wire.containers import CreateRequest
from cove.wire.times import stamp

_MOMENT = 0.2
"""Seconds between the two samples that rates come from."""


class Explanations:
    """Both use cases."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        networks: NetworkStore,
        containers: Containers,
        mounts_: Mounts,
        users: Users,
    ) -> None:
        self._context = context
        self._registry = registry
        self._networks = networks
        self._containers = containers
        self._mounts = mounts_
        self._users = users

    async def container(self, ref: str) -> wire.Explanation:
        """A container as it is now; NotFound."""
        container = self._registry.find(ref)
        live = await self._measure(container)
        return self._explain(
            container.record,
            state=container.status,
            pid=container.facts.pid if container.facts.running else 0,
            attached=container.facts.attached,
            live=live,
            started_ns=container.facts.started_ns,
        )

    async def plan(self, body: CreateRequest, *, name: str = "", platform: str = "") -> wire.Explanation:
        """What a create would make; it raises what the create would raise, and makes nothing."""
        identity = ids.new_id()
        if name:
            self._check_name(name.removeprefix("/"))
        body = msgspec.structs.replace(body, host_config=security.hardened(body.host_config))
        with self._users.claim(body.host_config) as maps:
            record, warnings, _ = self._containers.draft(identity, name or "(no name yet)", body, platform, maps)
        record = self._mounts.foreseen(record)
        return self._explain(record, state="planned", warnings=warnings)

    def _check_name(self, name: str) -> None:
        ids.check_name("container", name)
        if self._registry.name_taken(name):
            raise Conflict(f'Conflict. The container name "/{name}" is already in use; choose another one')

    async def _measure(self, container: Container) -> limits.Live | None:
        if not container.facts.running:
            return None
        cgroup, pid = cgroup_of(container, self._context), container.facts.pid
        cgroups = self._context.cgroups
        before = limits.sample(cgroups, cgroup, pid)
        await asyncio.sleep(_MOMENT)
        queues = []
        for identity, endpoint in container.facts.attached.endpoints.items():
            on = self._networks.get(identity)
            if on is not None:
                queues.append(self._networks.driver(on).queues(on, endpoint))
        return limits.Live(before, limits.sample(cgroups, cgroup, pid), cgroups.directories(cgroup), queues)

    def _explain(
        self,
        record: Record,
        *,
        state: str,
        pid: int = 0,
        attached: Attached = Attached(),  # noqa: B008 - frozen
        live: limits.Live | None = None,
        started_ns: int = 0,
        warnings: tuple[str, ...] = (),
    ) -> wire.Explanation:
        context = self._context
        lenders = self._lenders(record)
        built = self._spec(record)
        assert built.process is not None and built.linux is not None
        shown = rights.explain(built, record.host, record.config.user, context.host.architecture, pid)
        own_network = record.host.network_mode not in ("host", "none") and "network" not in lenders
        return wire.Explanation(
            id="" if state == "planned" else record.id,
            name=record.name,
            image=record.image,
            command=(record.path, *record.args),
            state=state,
            pid=pid,
            started_at=stamp(started_ns) if pid else "",
            cgroup=self._cgroup(record),
            cgroup_version=context.host.cgroup_version,
            namespaces=namespaces.explain(built, pid, lenders),
            limits=limits.explain(
                record.host,
                built.linux.resources or Resources(),
                built.process,
                context.host,
                live,
                own_network=own_network,
            ),
            security=shown,
            mounts=mounts.explain(
                built, record, self._layers(record), str(context.data.container(record.id).upper), pid
            ),
            network=self._network(record, attached, pid, lenders.get("network", "")),
            warnings=(
                *warnings,
                *rights.weak_spots(shown, record.host, mounts.binds(record.mounts)),
            ),
        )

    def _spec(self, record: Record) -> OciSpec:
        """The specification of a start, without what a start would write or make."""
        edits = cdi.edits(record.host.device_requests, self._context.settings.cdi_directories)
        lenders = spec.lenders(record.host)
        files = self._context.data.container(record.id)
        named = (
            ("/etc/hostname", files.hostname),
            ("/etc/hosts", files.hosts),
            ("/etc/resolv.conf", files.resolv_conf),
        )
        taken = {mount.destination for mount in record.mounts}
        around = spec.Surroundings(
            cgroup=self._cgroup(record),
            hostname=hostname_of(record),
            mounts=tuple(
                Mount(destination=destination, source=str(source), type="bind", options=("bind", "rw"))
                for destination, source in named
                if destination not in taken
            ),
            edits=edits,
            joined={kind: f"/proc/{name}" for kind, name in lenders.items()},
        )
        built = spec.build(record, around, self._context.host)
        return msgspec.structs.replace(built, hooks=Hooks(create_container=edits.hooks)) if edits.hooks else built

    def _cgroup(self, record: Record) -> str:
        container = self._registry.get(record.id)
        return cgroup_of(container, self._context) if container else new_cgroup(record, self._context)

    def _lenders(self, record: Record) -> dict[str, str]:
        """The names of the containers whose namespaces it shares."""
        found = {}
        for kind, identity in spec.lenders(record.host).items():
            lender = self._registry.get(identity)
            found[kind] = lender.name if lender else identity
        return found

    def _layers(self, record: Record) -> int:
        try:
            return len(self._context.images.get(record.image_id).chain_ids)
        except NotFound:
            return 0  # the image was removed by force; its layers live on with the container

    def _network(self, record: Record, attached: Attached, pid: int, lender: str) -> wire.Network:
        places = []
        for name in record.endpoints:
            try:
                found = self._networks.find(name).network
            except NotFound:
                continue
            places.append(network.Place(found, attached.endpoints.get(found.id)))
        published = attached.ports if pid else requested(record, self._context.settings)
        around = network.Surroundings(
            places=places,
            bindings=published,
            pid=pid,
            pids=self._context.cgroups.procs(self._cgroup(record)) if pid else (),
            table=self._context.instance.nft_table,
            resolv_conf=self._context.data.container(record.id).resolv_conf if pid else None,
        )
        return network.explain(record, around, lender)

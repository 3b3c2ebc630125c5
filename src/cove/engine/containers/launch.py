"""From a record to a Launch: the files a container gets about names, its mounts, and its runtime spec.

Owns containers/<id>/{hostname,hosts,resolv.conf}. They are written at each start from values; a container
may change its own copies, and nothing reads them back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cove import ids
from cove.engine.containers import spec
from cove.engine.containers.records import Attached, Record
from cove.engine.containers.registry import Container, Registry
from cove.engine.context import Context
from cove.engine.isolation import cdi, hook_bundle
from cove.engine.logs.options import log_bounds
from cove.engine.networks import links
from cove.engine.networks.naming import named
from cove.engine.volumes.mounts import Mounts
from cove.errors import Conflict, Internal, InvalidArgument
from cove.network import resolv
from cove.network.dns.messages import ADDRESS
from cove.network.driver import Endpoint
from cove.oci.spec import Mount
from cove.paths import ContainerData
from cove.runtime.messages import Launch, LogPolicy

if TYPE_CHECKING:
    from cove.engine.networks.service import NetworkStore

_RESOLV = "/etc/resolv.conf"
_TRUE_RESOLV = "/run/systemd/resolve/resolv.conf"
_HOST_NAME = "host.docker.internal"
_NAMESPACE_FILES = {"network": "net", "pid": "pid", "ipc": "ipc"}


class Launcher:
    """Makes Launches; knows no state of its own."""

    def __init__(self, context: Context, registry: Registry, networks: NetworkStore, mounts: Mounts) -> None:
        self._context = context
        self._registry = registry
        self._networks = networks
        self._mounts = mounts

    def launch(self, record: Record, attached: Attached) -> Launch:
        """All that makes the first process; raises CoveError for what cannot be had now."""
        lenders = {kind: self._running(name, kind) for kind, name in spec.lenders(record.host).items()}
        named = lenders.get("network")
        hostname = hostname_of(self._first(named).record if named is not None else record)
        edits = cdi.edits(record.host.device_requests, self._context.settings.cdi_directories)
        around = spec.Surroundings(
            edits=edits,
            cgroup=new_cgroup(record, self._context),
            hostname=hostname,
            mounts=(
                *self._mounts.perform(record.mounts, uids=record.uid_map, gids=record.gid_map),
                *self._files(record, attached, hostname, lenders.get("network")),
            ),
            within_project=bool(record.host.storage_opt) or self._mounts.within_project(record.mounts),
            joined={kind: _namespace(lender, _NAMESPACE_FILES[kind]) for kind, lender in lenders.items()},
            memory=_memory(lenders.get("ipc")),
        )
        linked = links.variables(record.name, links.resolved(self._registry, record))
        config = msgspec.structs.replace(record.config, env=(*linked, *record.config.env))
        built = spec.build(msgspec.structs.replace(record, config=config), around, self._context.host)
        return Launch(
            id=record.id,
            spec=hook_bundle.prepare(built, edits.hooks, self._context.data.container(record.id).bundle),
            rootfs=self._rootfs(record),
            user=record.config.user,
            group_add=(*(record.host.group_add or ()), *edits.groups),
            stdin=record.config.open_stdin and not record.config.tty,
            log=self.log_policy(record),
            init=bool(record.host.init),
        )

    def _rootfs(self, record: Record) -> Mount:
        mount = self._context.snapshots.mount(record.id, readonly=record.host.readonly_rootfs)
        if not record.uid_map:
            return mount
        return msgspec.structs.replace(mount, uid_mappings=record.uid_map, gid_mappings=record.gid_map)

    def log_policy(self, record: Record) -> LogPolicy:
        """Where a container logs, and how much at most."""
        size, files = log_bounds(record.host.log_config)
        settings = self._context.settings
        return LogPolicy(
            directory=str(self._context.data.container(record.id).log),
            segment_bytes=size or settings.log_segment_bytes,
            files=files or settings.log_files,
        )

    def _running(self, name: str, kind: str) -> Container:
        lender = self._registry.find(name)
        if not lender.facts.running:
            if kind == "network":
                raise Conflict(f"cannot join network namespace of a non running container: {lender.id}")
            raise Internal(f"failed to join {kind.upper()} namespace: container {lender.id} is not running")
        return lender

    # ── managed files ─────────────────────────────────────────────────────────────────────────────

    def _files(
        self, record: Record, attached: Attached, hostname: str, lender: Container | None
    ) -> tuple[Mount, ...]:
        """Bind mounts of the three files; those of the lender of a network namespace are shared."""
        if lender is not None:
            files = self._context.data.container(self._first(lender).id)
        else:
            files = self._context.data.container(record.id)
            self._write(files, record, attached, hostname)
        return managed(record, files)

    def _first(self, lender: Container) -> Container:
        """Whose network it is that `lender` lends: perhaps it joined another one's itself."""
        while name := spec.lender(lender.record.host.network_mode):
            lender = self._registry.find(name)
        return lender

    def _write(self, files: ContainerData, record: Record, attached: Attached, hostname: str) -> None:
        linked = links.resolved(self._registry, record)
        hosts, names = self._texts(record, attached, hostname, linked)
        for path, content in ((files.hostname, f"{hostname}\n"), (files.hosts, hosts), (files.resolv_conf, names)):
            _write_file(path, content)

    def rewrite(self, before: tuple[Record, Attached], after: tuple[Record, Attached]) -> None:
        """A running container's networks are others: hosts and resolv.conf follow, its own changes to them stay."""
        record = after[0]
        files, hostname = self._context.data.container(record.id), hostname_of(record)
        linked = links.present(self._registry, record)
        old, new = self._texts(*before, hostname, linked), self._texts(*after, hostname, linked)
        for path, was, becomes in zip((files.hosts, files.resolv_conf), old, new, strict=True):
            if was != becomes:
                _write_file(path, resolv.updated(_read(str(path)), was, becomes))

    def relink(self, target: Container) -> None:
        """A container runs again, perhaps at another address: who is linked to it finds it there."""
        for container, each in links.to(self._registry, target):
            path = self._context.data.container(container.id).hosts
            current = _read(str(path))
            becomes = resolv.moved(current, links.hosts([each]))
            if becomes != current:
                _write_file(path, becomes)

    def _texts(
        self, record: Record, attached: Attached, hostname: str, linked: list[links.Linked]
    ) -> tuple[str, str]:
        """What stands in /etc/hosts and /etc/resolv.conf."""
        asked, settings = record.host, self._context.settings
        on_host = asked.network_mode == "host"
        endpoints = attached.endpoints.values()
        addresses = [address.address for endpoint in endpoints for address in endpoint.addresses]
        extra = (*(asked.extra_hosts or ()), *links.hosts(linked))
        if any(at.host and at.gateways for at in endpoints) and not any(
            each.startswith(_HOST_NAME) for each in extra
        ):
            extra = (*extra, f"{_HOST_NAME}:{resolv.HOST_GATEWAY}")
        if on_host:
            own = _read("/etc/hosts")
            added = [pair for each in extra for pair in resolv.parse_extra(each, ("127.0.0.1",))]
            hosts = own + "".join("\t".join(pair) + "\n" for pair in added)
        else:
            hosts = resolv.hosts(
                hostname=hostname,
                domainname=record.config.domainname,
                addresses=addresses,
                extra=extra,
                gateways=_host_of(endpoints) or self._networks.host_gateways,
            )
        names = resolv.resolv_conf(
            _host_resolv(),
            nameservers=asked.dns or settings.dns,
            search=asked.dns_search or settings.dns_search,
            options=asked.dns_options or settings.dns_options,
            own_namespace=not on_host,
            ipv6=on_host or any(endpoint.ipv6 for endpoint in endpoints),
            resolver=ADDRESS if named(record) else "",
        )
        return hosts, names


def _host_of(endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
    """The host's addresses on a container's networks, IPv4's first and IPv6's; at best where the way out is."""
    found: dict[bool, str] = {}
    ordered = sorted(endpoints, key=lambda each: (not each.default_routes, not each.gateways))
    for address in (each for endpoint in ordered for each in endpoint.host):
        found.setdefault(":" in address, address)
    return tuple(found[family] for family in sorted(found))


def _namespace(lender: Container, file: str) -> str:
    return f"/proc/{lender.facts.pid}/ns/{file}"


def _memory(lender: Container | None) -> str:
    """The mount namespace whose /dev/shm goes with the IPC that is joined; InvalidArgument if that is private."""
    if lender is None:
        return ""
    mode = lender.record.host.ipc_mode
    if mode in ("", "private", "none"):
        raise InvalidArgument(
            f"failed to join IPC namespace: container {lender.id}: non-shareable IPC (hint: use IpcMode:shareable "
            f"for the donor container, which has {mode or 'private'})"
        )
    return _namespace(lender, "mnt")


def managed(record: Record, files: ContainerData) -> tuple[Mount, ...]:
    """The mounts of the three files, as far as nothing of the user's stands in their places."""
    taken = {mount.destination for mount in record.mounts}
    access = "ro" if record.host.readonly_rootfs else "rw"
    options = ("bind", access, "rprivate", *(["idmap"] if record.uid_map else []))
    return tuple(
        Mount(destination=destination, source=str(source), type="bind", options=options)
        for destination, source in (
            ("/etc/hostname", files.hostname),
            ("/etc/hosts", files.hosts),
            (_RESOLV, files.resolv_conf),
        )
        if destination not in taken
    )


def new_cgroup(record: Record, context: Context) -> str:
    """What the control group of a run is called: a path, or SLICE:PREFIX:NAME for systemd."""
    asked, own = record.host.cgroup_parent, context.instance.cgroup_parent
    if context.host.cgroup_driver == "systemd":
        return f"{asked}:{own}:{record.id}"
    return f"/{asked.strip('/') or own}/{record.id}"


def cgroup_of(container: Container, context: Context) -> str:
    """The control group of a container that runs; it may have been started with another driver."""
    return container.facts.cgroup or new_cgroup(container.record, context)


def hostname_of(record: Record) -> str:
    """The host name of a container that has a network of its own, or the host's."""
    if record.config.hostname:
        return record.config.hostname
    if "host" in (record.host.network_mode, record.host.uts_mode):
        return socket.gethostname()
    return ids.short(record.id)


def _write_file(path: Path, content: str) -> None:
    """Replaced as a whole, without fsync: it is made again at each start. 0644: the container's users read it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.write(descriptor, content.encode())
        os.fchmod(descriptor, 0o644)
    finally:
        os.close(descriptor)


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""


def _host_resolv() -> str:
    text = _read(_RESOLV)
    return _read(_TRUE_RESOLV) or text if resolv.resolved_stub(text) else text

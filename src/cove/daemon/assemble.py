"""The only place where the daemon's parts are made and joined.

Built-in drivers are the dictionaries below; nothing registers itself. What is acquired here is
given back here, in the opposite order, whatever fails on the way.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cove.build.cache import BuildCache
from cove.daemon.config import Config
from cove.engine.context import Choice, Context, Reports, Settings
from cove.engine.engine import Engine
from cove.engine.executors import Executors
from cove.engine.host import read_facts
from cove.engine.volumes.projects import Projects
from cove.errors import Conflict, Internal, InvalidArgument, describe
from cove.image.store import ImageStore
from cove.image.trust.policy import Trust
from cove.kernel import systemd
from cove.kernel.cgroups import Cgroups
from cove.network.bridge import BridgeDriver
from cove.network.dns.client import Resolver
from cove.network.driver import Driver
from cove.network.firewall import Firewall
from cove.network.forwarding import Forwarding
from cove.network.macvlan import ParentedDriver
from cove.network.pools import Pools
from cove.network.ports import Ports
from cove.network.relay import Relays
from cove.network.unmanaged import UnmanagedDriver
from cove.network.watching import watched
from cove.paths import DataRoot, Instance, RunRoot
from cove.runtime.client import Runtime
from cove.runtime.spawning import Early
from cove.store.database import Database, is_begun
from cove.volume.local import LocalDriver
from cove.volume.plugin import Plugins

if TYPE_CHECKING:
    from cove.image.distribution import Distribution

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PRIVATE = 0o700


@asynccontextmanager
async def assembled(config: Config, early: Early) -> AsyncIterator[Engine]:
    """A working engine, recovered from what was there; closed afterwards, containers running on.

    `early`: the supervisor that was begun while all of this was imported.
    """
    async with AsyncExitStack() as stack:
        _prepare(config.data, config.run)
        loop = asyncio.get_running_loop()
        instance = Instance.of(config.run)
        _check_cgroup_driver(config)
        _check_complete(config.data)
        database = Database(config.data.database)
        stack.callback(database.close)
        executors = Executors()
        stack.callback(executors.close)
        projects = Projects(database)
        volumes = LocalDriver(config.data, projects)
        projects.sweep(chain(config.data.volumes.glob("*/_data"), config.data.containers.glob("*/upper")))
        reports = Reports()
        runtime = await Runtime.connect(config.run, on_report=reports, on_reconnect=reports.reconnected, early=early)
        stack.push_async_callback(runtime.close)
        firewall = Firewall(instance.nft_table, Forwarding(config.run.forwarding))
        pools = Pools(instance.id, config.file.network.address_pools)
        bridges = BridgeDriver(instance, firewall, pools)
        drivers: dict[str, Driver] = {
            "bridge": bridges,
            "macvlan": ParentedDriver("macvlan", instance, pools),
            "ipvlan": ParentedDriver("ipvlan", instance, pools),
            "host": UnmanagedDriver("host"),
            "none": UnmanagedDriver("null"),
        }
        stack.push_async_callback(_leave, runtime, drivers.values(), firewall)
        ports = Ports(firewall, Relays(loop))
        stack.callback(ports.close)
        resolver = Resolver(config.run)
        stack.callback(resolver.close)
        store = ImageStore.open(config.data, BuildCache(database).chains, config.image_limit)
        trust = Trust(Path(config.file.policy), store.content, store.images.attachments)
        context = Context(
            instance=instance,
            data=config.data,
            run=config.run,
            database=database,
            store=store,
            runtime=runtime,
            reports=reports,
            network_drivers=drivers,
            ports=ports,
            resolver=resolver,
            projects=projects,
            volume_drivers={"local": volumes},
            volume_plugins=Plugins(config.file.plugin_directories),
            host=read_facts(config.file.cgroup_driver),
            cgroups=Cgroups.detect(instance.cgroup_parent, "systemd"),
            firewall=firewall,
            trust=trust,
            connect=_once(lambda: _distribution(config, store, trust)),
            executors=executors,
            choice=Choice(settings_of(config)),
        )
        engine = Engine(context)
        stack.push_async_callback(engine.close)
        await engine.start()
        stack.enter_context(watched(loop, firewall, bridges))
        for warning in firewall.warnings():
            _log.warning("%s", warning)
        yield engine


def _check_complete(data: DataRoot) -> None:
    """Nothing is taken for a leftover because the database that knows it is gone. Raises Conflict.

    An empty file is to SQLite the same as none, and so is one whose log was lost before any of it was moved in.
    """
    orphans = [str(directory) for directory in (data.containers, data.volumes) if any(directory.iterdir())]
    if orphans and not is_begun(data.database):
        raise Conflict(
            f"The database {data.database} is missing or empty, while {' and '.join(orphans)} still hold what it "
            "knew; restore it from a backup, or move them aside to begin anew"
        )


async def _leave(runtime: Runtime, drivers: Iterable[Driver], firewall: Firewall) -> None:
    """A clean end leaves of Cove on the host what running containers need, and no more."""
    idle = await runtime.shutdown()
    for driver in drivers:
        driver.close()
    if idle:
        firewall.remove()


def _check_cgroup_driver(config: Config) -> None:
    if config.file.cgroup_driver == "systemd" and not systemd.is_running():
        raise InvalidArgument("systemd is not this host's init, so it can make no control groups; choose cgroupfs")


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """`make`, called by whoever comes first, in whatever thread."""
    lock = threading.Lock()
    made: list[T] = []

    def get() -> T:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _distribution(config: Config, store: ImageStore, trust: Trust) -> Distribution:
    """Loads HTTP and TLS, which a daemon has no use for before it speaks with a registry."""
    from cove.image.distribution import Distribution, Policy

    file = config.file
    policy = Policy(
        insecure=file.insecure_registries,
        certificates=tuple(Path(directory) for directory in file.certificates),
        registries=Path(file.registries),
    )
    content, images, layers = store.content, store.images, store.layers
    return Distribution(content, images, layers, policy, attachments=images.attachments, admission=trust)


def settings_of(config: Config) -> Settings:
    """What the engine follows of a configuration."""
    file = config.file
    return Settings(
        log_segment_bytes=file.log.segment_bytes,
        log_files=file.log.files,
        log_driver=file.log.driver,
        log_options=file.log.options,
        dns=file.network.dns,
        dns_search=file.network.dns_search,
        dns_options=file.network.dns_options,
        userns_remap=file.userns_remap,
        publish_address=file.network.publish_address,
        expose_to=file.network.expose_to,
        stop_timeout=file.stop_timeout,
        labels=file.labels,
        default_network=config.default_network,
        network_options=file.network.default_options,
        cdi_directories=file.cdi_directories,
        insecure_registries=file.insecure_registries,
        registries=Path(file.registries),
    )


def _prepare(data: DataRoot, run: RunRoot) -> None:
    """Every directory with its mode, and tmp/ empty. Raises Internal."""
    try:
        shutil.rmtree(data.tmp, ignore_errors=True)
        for directory in (
            data.image,
            data.layers,
            data.containers,
            data.volumes,
            data.build_mounts,
            data.build_contexts,
            data.tmp,
            run.containers,
        ):
            directory.mkdir(mode=_PRIVATE, exist_ok=True)
    except OSError as error:
        raise Internal(f"Cannot prepare {data.root} and {run.root}: {describe(error)}") from error

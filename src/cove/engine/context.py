"""What every use case of the engine works with: one frozen bundle, filled in by the daemon's assembly.

Nothing here decides anything. `Reports` is the letter box between the runtime, which must be connected
before the engine exists, and the engine, which empties it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cove.engine.events import Events
from cove.engine.executors import Executors
from cove.engine.host import HostFacts
from cove.engine.networks.default_network import USUAL, DefaultNetwork
from cove.engine.volumes.projects import Projects
from cove.image.images import Images
from cove.image.snapshots import Snapshots
from cove.image.store import ImageStore
from cove.image.trust.policy import Trust
from cove.kernel.cgroups import Cgroups
from cove.network.dns.client import Resolver
from cove.network.driver import Driver as NetworkDriver
from cove.network.firewall import Firewall
from cove.network.ports import Ports
from cove.paths import DataRoot, Instance, RunRoot
from cove.runtime.client import Runtime
from cove.runtime.messages import Report
from cove.store.database import Database
from cove.volume.driver import Driver as VolumeDriver
from cove.volume.plugin import Plugins

if TYPE_CHECKING:
    from cove.image.distribution import Distribution


class Reports:
    """Keeps the supervisor's reports until somebody listens; afterwards passes them on at once."""

    def __init__(self) -> None:
        self._kept: list[Report] = []
        self._listener: Callable[[Report], None] | None = None
        self._on_reconnect: Callable[[], None] | None = None

    def __call__(self, report: Report) -> None:
        if self._listener is None:
            self._kept.append(report)
        else:
            self._listener(report)

    def reconnected(self) -> None:
        """A new supervisor took over; what the old one did not report must be asked for."""
        if self._on_reconnect is not None:
            self._on_reconnect()

    def listen(self, listener: Callable[[Report], None], on_reconnect: Callable[[], None]) -> None:
        """Hear every report from the first one on, and of every new supervisor."""
        self._listener, self._on_reconnect = listener, on_reconnect
        kept, self._kept = self._kept, []
        for report in kept:
            listener(report)


class Settings(msgspec.Struct, frozen=True):
    """The administrator's choices that the engine follows.

    `log_segment_bytes` and `log_files` bound each container's log; `log_driver` and `log_options` are those of a
    container that names no driver. `dns` replaces the host's name servers.
    `stop_timeout` is in seconds. `network_options`: by driver, of new networks that do not say otherwise.
    `registries`: the administrator's file of them.
    """

    log_segment_bytes: int = 16 << 20
    log_files: int = 5
    log_driver: str = "json-file"
    log_options: Mapping[str, str] = msgspec.field(default_factory=dict)
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    stop_timeout: int = 10
    hostname: str = ""
    insecure_registries: tuple[str, ...] = ()
    registries: Path | None = None
    labels: tuple[str, ...] = ()
    userns_remap: str = ""
    publish_address: str = "0.0.0.0"
    expose_to: str = "public"
    default_network: DefaultNetwork = USUAL
    network_options: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict)
    cdi_directories: tuple[str, ...] = ("/etc/cdi", "/run/cdi")


class Choice(msgspec.Struct):
    """The settings that count now: a daemon that runs may be told others."""

    settings: Settings = Settings()


class Context(msgspec.Struct, frozen=True):
    """The parts that the engine joins."""

    instance: Instance
    data: DataRoot
    run: RunRoot
    database: Database
    store: ImageStore
    runtime: Runtime
    reports: Reports
    network_drivers: Mapping[str, NetworkDriver]
    ports: Ports
    resolver: Resolver
    projects: Projects
    volume_drivers: Mapping[str, VolumeDriver]
    volume_plugins: Plugins
    host: HostFacts
    cgroups: Cgroups
    firewall: Firewall
    connect: Callable[[], Distribution]
    trust: Trust
    events: Events = msgspec.field(default_factory=Events)
    executors: Executors = msgspec.field(default_factory=Executors)
    choice: Choice = msgspec.field(default_factory=Choice)

    @property
    def settings(self) -> Settings:
        """The administrator's choices as they are now."""
        return self.choice.settings

    @property
    def images(self) -> Images:
        """The images and their names."""
        return self.store.images

    @property
    def distribution(self) -> Distribution:
        """The ways to registries. To be asked for in a thread: with the first use HTTP and TLS are loaded."""
        return self.connect()

    @property
    def snapshots(self) -> Snapshots:
        """The containers' root file systems."""
        return self.store.snapshots

"""The engine about itself: version, info, log-in."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from cove import __version__
from cove.engine import registries
from cove.engine.containers.registry import Registry
from cove.engine.context import Context
from cove.engine.isolation.userns import Users
from cove.engine.logs.options import KNOWN as LOG_DRIVERS
from cove.engine.networks.view import names_of_drivers
from cove.errors import InvalidArgument
from cove.image.distribution import Credentials
from cove.image.distribution.registries import Registries, RegistriesFile
from cove.kernel.syscalls import filesystem_magic
from cove.oci.platform import host_platform
from cove.wire import system as wire
from cove.wire.images import RegistryAuth
from cove.wire.times import stamp
from cove.wire.versions import CURRENT, MINIMUM, dotted

_FILE_SYSTEMS = {
    0xEF53: "extfs", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0x2FC12FC1: "zfs",
    0x794C7630: "overlayfs", 0xF2F52010: "f2fs", 0x6969: "nfs", 0xCA451A4E: "bcachefs",
}  # fmt: skip
"""By their magic numbers (statfs(2)), under the names that dockerd has for them."""


class System:
    """The use cases about the engine as a whole."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        users: Users,
    ) -> None:
        self._context = context
        self._registry = registry
        self._users = users
        self._registries = RegistriesFile(context.settings.registries)

    async def version(self) -> wire.Version:
        """Who answers."""
        host = self._context.host
        architecture = host_platform().architecture
        return wire.Version(
            platform=wire.VersionPlatform(name="Cove"),
            components=(
                wire.Component(
                    name="Engine",
                    version=__version__,
                    details={
                        "ApiVersion": dotted(CURRENT),
                        "MinAPIVersion": dotted(MINIMUM),
                        "Arch": architecture,
                        "Os": "linux",
                        "KernelVersion": host.kernel,
                        "Experimental": "false",
                    },
                ),
            ),
            version=__version__,
            api_version=dotted(CURRENT),
            min_api_version=dotted(MINIMUM),
            arch=architecture,
            kernel_version=host.kernel,
        )

    async def info(self) -> wire.Info:
        """What `docker info` prints."""
        context, host = self._context, self._context.host
        phases = [container.facts.phase for container in self._registry]
        running, paused = phases.count("running") + phases.count("restarting"), phases.count("paused")
        images = await context.executors.disk(context.images.list)
        registry_config, warnings = self._registry_config()
        return wire.Info(
            id=context.instance.id or "default",
            containers=len(phases),
            containers_running=running,
            containers_paused=paused,
            containers_stopped=len(phases) - running - paused,
            images=len(images),
            driver_status=(("Backing Filesystem", _file_system(context.data.root)), ("Supports d_type", "true")),
            docker_root_dir=str(context.data.root),
            swap_limit=host.swap_limit,
            oom_kill_disable=host.cgroup_version == 1,
            ipv4_forwarding=True,  # for containers, whatever the host does for others
            debug=logging.getLogger("cove").isEnabledFor(logging.DEBUG),
            n_fd=len(os.listdir("/proc/self/fd")),
            n_goroutines=len(asyncio.all_tasks()),
            system_time=stamp(time.time_ns()),
            logging_driver=context.settings.log_driver,
            cgroup_driver=host.cgroup_driver,
            cgroup_version=str(host.cgroup_version),
            n_events_listener=context.events.listeners,
            kernel_version=host.kernel,
            operating_system=_os_release("PRETTY_NAME", "Linux"),
            os_version=_os_release("VERSION_ID", ""),
            architecture=host.architecture,
            ncpu=host.cpus,
            mem_total=host.memory,
            name=context.settings.hostname or socket.gethostname(),
            labels=context.settings.labels,
            cdi_spec_dirs=context.settings.cdi_directories,
            security_options=self._security(),
            server_version=__version__,
            runtimes={"cove": wire.Runtime(path="cove")},
            plugins=wire.Plugins(
                volume=("local", *context.volume_plugins.names()),
                network=tuple(sorted(names_of_drivers(context.network_drivers))),
                log=LOG_DRIVERS,
            ),
            registry_config=registry_config,
            warnings=(*context.firewall.warnings(), *warnings) or None,
        )

    def _registry_config(self) -> tuple[wire.RegistryConfig, tuple[str, ...]]:
        """And a warning when the administrator's file makes no sense."""
        insecure = self._context.settings.insecure_registries
        try:
            return registries.shown(insecure, self._registries.current()), ()
        except InvalidArgument as error:
            return registries.shown(insecure, Registries()), (error.message,)

    def _security(self) -> tuple[str, ...]:
        """What protects containers unless they say otherwise."""
        host = self._context.host
        return (
            *(["name=apparmor"] if host.apparmor else []),
            "name=seccomp,profile=builtin",
            *(["name=selinux"] if host.selinux else []),
            *(["name=userns"] if self._users.remapped else []),
            "name=cgroupns",
        )

    async def auth(self, body: RegistryAuth) -> wire.AuthResponse:
        """Try credentials at their registry."""
        credentials = Credentials(username=body.username, password=body.password, server_address=body.serveraddress)
        status = await self._context.executors.bulk(lambda: self._context.distribution.login(credentials))
        return wire.AuthResponse(status=status)


def _os_release(key: str, default: str) -> str:
    """A value of os-release(5)."""
    with suppress(OSError):
        for line in Path("/etc/os-release").read_text().splitlines():
            name, _, value = line.partition("=")
            if name == key:
                return value.strip('"')
    return default


def _file_system(path: Path) -> str:
    """What kind of file system a directory lies on; its magic number where it has no name here."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        magic = filesystem_magic(descriptor)
    finally:
        os.close(descriptor)
    return _FILE_SYSTEMS.get(magic, f"{magic:#x}")

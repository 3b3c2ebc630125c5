"""`cove info`, `cove version`: the daemon, its host, and this command."""

from __future__ import annotations

import sys

from cove import __version__
from cove.cli import humanize
from cove.cli.flags import Call, Flag, Verb
from cove.client import NoDaemon, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_FLAGS = (Flag("format", "json or TEMPLATE", short="f", hint="format"),)


def info(call: Call) -> int:
    found = connect(call.host).system.info()
    if _formatted(found, call.text("format")):
        return 0
    for line in _report(found):
        print(line)
    for warning in found.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    return 0


def _formatted(value: dict[str, Any], form: str) -> bool:
    """Print as --format says; False when it says nothing."""
    if form == "json":
        from cove.cli.template.functions import json

        print(json(value))
    elif form:
        from cove.cli.output import renderer

        print(renderer(form)(value))
    return bool(form)


def _report(found: dict[str, Any]) -> Iterable[str]:
    yield f"Containers: {found.get('Containers', 0)}"
    for key, title in (
        ("ContainersRunning", "Running"),
        ("ContainersPaused", "Paused"),
        ("ContainersStopped", "Stopped"),
    ):
        yield f" {title}: {found.get(key, 0)}"
    yield f"Images: {found.get('Images', 0)}"
    for key, title in (
        ("ServerVersion", "Server Version"),
        ("Driver", "Storage Driver"),
        ("LoggingDriver", "Logging Driver"),
        ("CgroupDriver", "Cgroup Driver"),
        ("CgroupVersion", "Cgroup Version"),
    ):
        if found.get(key):
            yield f"{title}: {found[key]}"
    plugins = found.get("Plugins") or {}
    for key in ("Volume", "Network", "Log"):
        if plugins.get(key):
            yield f"{key} Drivers: {' '.join(plugins[key])}"
    runtimes = found.get("Runtimes") or {}
    if runtimes:
        yield f"Runtimes: {' '.join(runtimes)} (default {found.get('DefaultRuntime')})"
    if found.get("SecurityOptions"):
        yield "Security Options:"
        yield from (f" {option.removeprefix('name=')}" for option in found["SecurityOptions"])
    for key, title in (
        ("KernelVersion", "Kernel Version"),
        ("OperatingSystem", "Operating System"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("NCPU", "CPUs"),
    ):
        yield f"{title}: {found.get(key, '')}"
    yield f"Total Memory: {humanize.binary_size(found.get('MemTotal') or 0)}"
    for key, title in (("Name", "Name"), ("ID", "ID"), ("DockerRootDir", "Data Root")):
        yield f"{title}: {found.get(key, '')}"


def version(call: Call) -> int:
    client = {"Version": __version__, "Os": sys.platform, "Arch": _machine(), "Python": sys.version.split()[0]}
    try:
        server: dict[str, Any] | None = connect(call.host).system.version()
    except NoDaemon as error:
        server, problem = None, error.message
    shown = server and {**server, "APIVersion": lambda: server["ApiVersion"]}  # what docker's templates call it
    if not _formatted({"Client": client, "Server": shown}, call.text("format")):
        print("Client: Cove")
        for key, value in client.items():
            print(f" {key + ':':<15}{value}")
        if server:
            print(f"\nServer: {(server.get('Platform') or {}).get('Name') or 'Cove'}")
            for key in ("Version", "ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion", "BuildTime"):
                if server.get(key):
                    print(f" {key + ':':<15}{server[key]}")
    if server is None:
        sys.stdout.flush()
        print(f"cove: {problem}", file=sys.stderr)
        return 1
    return 0


def _machine() -> str:
    import os

    return os.uname().machine


INFO = Verb(info, "Show the state of the daemon and the host.", "", _FLAGS)
VERSION = Verb(version, "Show the versions of client and daemon.", "", _FLAGS)

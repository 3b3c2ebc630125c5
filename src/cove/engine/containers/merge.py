"""How an image's defaults and a user's words become one configuration.

Pure. The rules are those of the Engine API's users: a user's entry point forgets the image's command;
variables, labels, ports and volumes are joined with the user's winning; everything else is the user's
if it was said, else the image's.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

import msgspec

from cove.errors import InvalidArgument
from cove.oci.image import ContainerConfig as ImageDefaults
from cove.oci.image import Healthcheck
from cove.wire.containers import ContainerConfig, HealthConfig

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def merge(asked: ContainerConfig, image: ImageDefaults) -> ContainerConfig:
    """One configuration; raises InvalidArgument when it names no command."""
    entrypoint, cmd = _command(asked, image)
    if not entrypoint and not cmd:
        raise InvalidArgument("no command specified")
    for entry in asked.env:
        if not entry or entry.startswith("=") or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry}")
    if asked.working_dir and not asked.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{asked.working_dir}' is invalid, it needs to be an absolute path"
        )
    return msgspec.structs.replace(
        asked,
        entrypoint=entrypoint,
        cmd=cmd,
        env=asked.env + _missing(image.env, asked.env),
        labels={**image.labels, **asked.labels},
        exposed_ports={key: {} for key in image.exposed_ports} | asked.exposed_ports,
        volumes=({key: {} for key in image.volumes} | (asked.volumes or {})) or None,
        working_dir=posixpath.normpath(asked.working_dir) if asked.working_dir else image.working_dir,
        user=asked.user or image.user,
        stop_signal=asked.stop_signal or image.stop_signal,
        stop_timeout=image.stop_timeout if asked.stop_timeout is None else asked.stop_timeout,
        shell=asked.shell or image.shell or None,
        healthcheck=_health(asked.healthcheck, image.healthcheck),
    )


def _command(asked: ContainerConfig, image: ImageDefaults) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """An empty entrypoint ([]) takes the image's away and keeps its command; [""] takes both away, as Docker does."""
    entrypoint, cmd = asked.entrypoint, asked.cmd
    if not entrypoint:
        if not cmd:
            cmd = image.cmd or None
        if entrypoint is None:
            entrypoint = image.entrypoint or None
    return (None if entrypoint == ("",) else entrypoint), cmd


def _missing(defaults: Iterable[str], present: Iterable[str]) -> tuple[str, ...]:
    """Those of `defaults` whose variable is not in `present`."""
    known = {entry.partition("=")[0] for entry in present}
    return tuple(entry for entry in defaults if entry.partition("=")[0] not in known)


def _health(asked: HealthConfig | None, image: Healthcheck | None) -> HealthConfig | None:
    if image is None or not image.test:
        return asked
    base = HealthConfig(**{name: getattr(image, name) for name in HealthConfig.__struct_fields__})
    if asked is None:
        return base
    said = {name: value for name in HealthConfig.__struct_fields__ if (value := getattr(asked, name))}
    return msgspec.structs.replace(base, **said)


def command(config: ContainerConfig) -> tuple[str, ...]:
    """The words that are executed: the entry point, then the command."""
    return (config.entrypoint or ()) + (config.cmd or ())


def environment(config: ContainerConfig, hostname: str, *, tty: bool) -> tuple[str, ...]:
    """The process's variables: the defaults, then the configuration's; "NAME" alone removes one.

    A later entry of the same name replaces an earlier one at the earlier one's place.
    """
    defaults = (PATH, f"HOSTNAME={hostname}", *(("TERM=xterm",) if tty else ()))
    variables: dict[str, str] = {}
    for entry in (*defaults, *config.env):
        name, equals, value = entry.partition("=")
        if equals:
            variables[name] = value
        else:
            variables.pop(name, None)
    return tuple(f"{name}={value}" for name, value in variables.items())

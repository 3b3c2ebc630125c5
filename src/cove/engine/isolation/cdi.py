"""Devices that containers ask for by a vendor's name, and GPUs by number: what they change in a container.

    DeviceRequests ──wanted──▶ names like "vendor.com/class=name" ──resolve──▶ Edits

Pure but for looking at device nodes of the host. Files and their meaning: `cdi_files`, and the CDI
specification (SPEC.md).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

import msgspec

from cove.engine.isolation.cdi_files import (
    Catalogue,
    ContainerEdits,
    DeviceMount,
    DeviceNode,
    Spec,
    check_program,
    is_name,
    load,
)
from cove.engine.isolation.cdi_files import Hook as DeviceHook
from cove.errors import InvalidArgument, Unsupported
from cove.oci.spec import Device, DeviceRule, Hook, Mount
from cove.wire.containers import DeviceRequest


class Edits(msgspec.Struct, frozen=True):
    """What all wanted devices together change, in the terms of the runtime."""

    env: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    rules: tuple[DeviceRule, ...] = ()
    mounts: tuple[Mount, ...] = ()
    groups: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()


NO_EDITS = Edits()

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE = 60
"""Seconds for a hook of a file that gives none."""


def edits(requests: Sequence[DeviceRequest] | None, directories: Iterable[str]) -> Edits:
    """What the wanted devices change, by the files as they are now; raises InvalidArgument or Unsupported."""
    if not requests:
        return NO_EDITS
    catalogue = load(directories)
    return resolve([name for request in requests for name in wanted(request, catalogue)], catalogue)


def wanted(request: DeviceRequest, catalogue: Catalogue) -> tuple[str, ...]:
    """The full names of the devices that one request means."""
    if request.driver == "cdi":
        for name in request.device_ids:
            if not is_name(name):
                raise InvalidArgument(f"{name!r} is no name of a CDI device, such as vendor.com/class=name")
        return request.device_ids
    if any("gpu" in group for group in request.capabilities):
        return gpus(request, catalogue)
    raise _no_driver(request, "")


def _no_driver(request: DeviceRequest, reason: str) -> Unsupported:
    capabilities = "[" + " ".join(f"[{' '.join(group)}]" for group in request.capabilities) + "]"
    return Unsupported(f'could not select device driver "{request.driver}" with capabilities: {capabilities}{reason}')


def resolve(names: Sequence[str], catalogue: Catalogue) -> Edits:
    """What these devices change; InvalidArgument for a device that is not there, Unsupported for what we can't do."""
    parts: list[tuple[str, ContainerEdits]] = []
    files: list[Spec] = []
    for name in dict.fromkeys(names):
        if name in catalogue.ambiguous:
            where = " and ".join(catalogue.ambiguous[name])
            raise InvalidArgument(f"the CDI device {name} is described by {where}; remove one of the two")
        if name not in catalogue.devices:
            reasons = "".join(f"; {reason}" for reason in catalogue.broken)
            raise InvalidArgument(f"unresolvable CDI devices {name}: no CDI file of this host describes it{reasons}")
        spec, device = catalogue.devices[name]
        if spec not in files:
            files.append(spec)
            parts.append((name, spec.container_edits))
        parts.append((name, device.container_edits))
    nodes: list[Device] = []
    rules: list[DeviceRule] = []
    for name, edits in parts:
        _check(name, edits)
        for node in edits.device_nodes:
            made = _node(name, node)
            nodes.append(made)
            if made.type != "p":
                rules.append(
                    DeviceRule(
                        allow=True,
                        type=made.type,
                        major=made.major,
                        minor=made.minor,
                        access=node.permissions or "rwm",
                    )
                )
    return Edits(
        env=tuple(each for _, edits in parts for each in edits.env),
        devices=tuple({node.path: node for node in nodes}.values()),
        rules=tuple(dict.fromkeys(rules)),
        mounts=tuple(dict.fromkeys(_mount(mount) for _, edits in parts for mount in edits.mounts)),
        hooks=tuple(dict.fromkeys(_hook(hook) for _, edits in parts for hook in edits.hooks)),
        groups=tuple(dict.fromkeys(str(gid) for _, edits in parts for gid in edits.additional_gids if gid > 0)),
    )


def _check(name: str, edits: ContainerEdits) -> None:
    for hook in edits.hooks:
        if hook.hook_name != "createContainer":
            raise Unsupported(
                f"the CDI device {name} needs {hook.path} to run as a {hook.hook_name} hook, and Cove's daemon runs "
                "createContainer hooks alone; run it in a bundle with cove-oci"
            )
        check_program(hook.path)
    if edits.intel_rdt or edits.net_devices:
        what = "Intel RDT settings" if edits.intel_rdt else "network interfaces of the host"
        raise Unsupported(f"the CDI device {name} needs {what}, which Cove gives no container")


def _node(name: str, node: DeviceNode) -> Device:
    """The node to make; what the file leaves out is as it is on the host."""
    kind, major, minor = node.type, node.major, node.minor
    mode = node.file_mode
    if not kind or (kind != "p" and not major):
        source = node.host_path or node.path
        try:
            found = os.stat(source)
        except OSError as error:
            raise InvalidArgument(f"the CDI device {name} needs {source}: {error.strerror}") from None
        own = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
        if not own or (kind and kind.replace("u", "c") != own):
            raise InvalidArgument(f"the CDI device {name} needs {source}, which is no such device node")
        kind, major, minor = own, os.major(found.st_rdev), os.minor(found.st_rdev)
        mode = stat.S_IMODE(found.st_mode) if mode is None else mode
    return Device(
        type=kind.replace("u", "c"),
        path=node.path,
        major=major,
        minor=minor,
        file_mode=mode,
        uid=node.uid,
        gid=node.gid,
    )


def _hook(hook: DeviceHook) -> Hook:
    """It gets no environment of the daemon's, and no more time than a start may take."""
    return Hook(path=hook.path, args=hook.args, env=(_PATH, *hook.env), timeout=hook.timeout or _PATIENCE)


def _mount(mount: DeviceMount) -> Mount:
    options = mount.options
    if mount.type in ("", "bind") and not {"bind", "rbind"} & set(options):
        options = ("rbind", *options)
    return Mount(destination=mount.container_path, source=mount.host_path, type=mount.type or "bind", options=options)


def gpus(request: DeviceRequest, catalogue: Catalogue) -> tuple[str, ...]:
    """The names of the GPUs that are meant: those named, or so many (-1 is all); of one vendor or of any."""
    kinds = [kind for kind in catalogue.kinds("gpu") if not request.driver or kind.startswith(f"{request.driver}.")]
    if not kinds:
        raise _no_driver(request, "; no CDI file in the CDI directories of this host describes a GPU")
    if request.device_ids:
        return tuple(f"{kinds[0]}={name}" for name in request.device_ids)
    if request.count < 0:
        return tuple(name for kind in kinds for name in _all(kind, catalogue))
    single = [name for kind in kinds for name in _singles(kind, catalogue)]
    if request.count > len(single):
        raise InvalidArgument(
            f"{request.count} GPUs were asked for and the CDI files of this host name {len(single)}"
        )
    return tuple(single[: request.count])


def _all(kind: str, catalogue: Catalogue) -> list[str]:
    return [f"{kind}=all"] if f"{kind}=all" in catalogue.devices else _singles(kind, catalogue)


def _singles(kind: str, catalogue: Catalogue) -> list[str]:
    """One name a device: by number where there are numbers, for a GPU's UUID is a second name of it."""
    names = [name.partition("=")[2] for name in catalogue.devices if name.startswith(f"{kind}=")]
    numbers = sorted((name for name in names if name.isdecimal()), key=int)
    return [f"{kind}={name}" for name in numbers or sorted(set(names) - {"all"})]

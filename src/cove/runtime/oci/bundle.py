"""A bundle's config.json as a Spec: decoded, checked, and completed with what the command line and the host add."""

from __future__ import annotations

import os

import msgspec

from cove.errors import InvalidArgument
from cove.kernel import privileges
from cove.oci.spec import DeviceRule, Mount, Process, Resources, Spec
from cove.runtime.oci.log import Log
from cove.runtime.oci.store import CGROUP_PARENT

_decode = msgspec.json.Decoder(Spec).decode

# What every container may use besides what its configuration allows: to make any node, and to open these.
_EVERYWHERE = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(DeviceRule(allow=True, type="c", major=1, minor=minor, access="rwm") for minor in (3, 5, 7, 8, 9)),
    DeviceRule(allow=True, type="c", major=5, minor=0, access="rwm"),
    DeviceRule(allow=True, type="c", major=5, minor=2, access="rwm"),
    DeviceRule(allow=True, type="c", major=136, access="rwm"),
)


def load(bundle: str, config: str = "config.json") -> tuple[Spec, bytes]:
    """The configuration in the directory `bundle`, with its bytes. Raises InvalidArgument."""
    if not os.path.isdir(bundle):
        raise InvalidArgument(
            f"the bundle {bundle} is no directory: give one with a config.json and a root file system"
        )
    path = os.path.join(bundle, config)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise InvalidArgument(f"the bundle {bundle} has no {config}; `cove-oci spec` writes an example") from None
    return decode(content, path), content


def decode(content: bytes, path: str) -> Spec:
    """The value of a config.json; `path` is for the message. Raises InvalidArgument that names the member."""
    if b"\\u0000" in content:
        raise InvalidArgument(f"{path} is no valid configuration: it has a NUL character in it")
    try:
        return _decode(content)
    except msgspec.MsgspecError as error:
        try:
            return msgspec.convert(_without_nulls(msgspec.json.decode(content)), Spec)
        except msgspec.MsgspecError:
            raise InvalidArgument(f"{path} is no valid configuration: {error}") from None


def decode_process(content: bytes, path: str) -> Process:
    """The value of a process.json, as exec takes it."""
    try:
        return msgspec.convert(_without_nulls(msgspec.json.decode(content)), Process)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"{path} is no valid process: {error}") from None


def with_known_capabilities(process: Process, log: Log) -> Process:
    """`process` without capabilities that this kernel does not have: a newer caller's, told as a warning."""
    given = process.capabilities
    if given is None:
        return process
    sets = msgspec.structs.asdict(given)
    unknown = sorted({name for names in sets.values() for name in names}.difference(privileges.CAPABILITIES))
    if not unknown:
        return process
    log.warning(f"ignoring unknown capabilities: {', '.join(unknown)}")
    kept = {each: tuple(name for name in names if name not in unknown) for each, names in sets.items()}
    return msgspec.structs.replace(process, capabilities=msgspec.structs.replace(given, **kept))


def _with_known_access(rule: DeviceRule, log: Log) -> DeviceRule:
    """`rule` with those letters of its access that the kernel knows; the others are told as a warning."""
    known = "".join(letter for letter in "rwm" if letter in rule.access)
    if set(known) == set(rule.access):
        return rule
    if not known:
        raise InvalidArgument(
            f"linux.resources.devices has a rule with the access {rule.access!r}: it is of r, w and m"
        )
    log.warning(f"ignoring unknown letters in the device access {rule.access!r}: it means {known}")
    return msgspec.structs.replace(rule, access=known)


def _within(root: str, mount: Mount) -> Mount:
    """`mount` with its destination in the container, though it may be written as the host's path of that."""
    destination = os.path.normpath(mount.destination)
    if root == "/" or not destination.startswith(f"{root}/"):
        return mount
    return msgspec.structs.replace(mount, destination=destination[len(root) :])


def _without_nulls(value: object) -> object:
    """`value` without members that are null: some generators write an absent list so."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def complete(spec: Spec, bundle: str, identity: str, log: Log) -> Spec:
    """`spec` with its root's absolute path, a control group and the device rules that hold for everyone."""
    if spec.root is None:
        raise InvalidArgument("config.json has no root: it names the directory with the container's file system")
    if spec.linux is None:
        raise InvalidArgument("config.json has no linux section")
    root = os.path.normpath(os.path.join(bundle, spec.root.path))
    if not os.path.isdir(root):
        raise InvalidArgument(f"the root file system {root} (root.path) is no directory")
    given = spec.linux.resources or Resources()
    devices = (_with_known_access(rule, log) for rule in given.devices)
    rules = (DeviceRule(allow=False), *devices, *_EVERYWHERE)
    linux = msgspec.structs.replace(
        spec.linux,
        cgroups_path=spec.linux.cgroups_path or f"/{CGROUP_PARENT}/{identity}",
        resources=msgspec.structs.replace(given, devices=rules),
    )
    process = with_known_capabilities(spec.process, log) if spec.process is not None else None
    root_ = msgspec.structs.replace(spec.root, path=root)
    mounts = tuple(_within(root, mount) for mount in spec.mounts)
    return msgspec.structs.replace(spec, root=root_, mounts=mounts, linux=linux, process=process)

"""How a system call filter is installed: with its flags, and with somebody who answers for calls (SCMP_ACT_NOTIFY).

    init                                                     listener (linux.seccomp.listenerPath)
      │── connects, while the host's paths are in reach ──────▶│
      │   …its root, its rights…                               │
      │── seccomp(2): a descriptor of the calls to answer      │
      │── ContainerProcessState, [that descriptor] ───────────▶│ answers from now on

The descriptor is sent by the filtered process itself. So its filter must let sendmsg(2) through unasked.
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache

import msgspec

from cove.errors import InvalidArgument
from cove.kernel import seccomp, syscalls
from cove.oci.spec import OCI_VERSION, Seccomp
from cove.runtime.child.common import Failure
from cove.runtime.child.hooks import State
from cove.runtime.numbers import known

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0x01,
    "SECCOMP_FILTER_FLAG_LOG": 0x02,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 0x04,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0x20,
}
_TSYNC, _NEW_LISTENER = 0x01, 0x08
_NOTIFY = "SCMP_ACT_NOTIFY"


class ContainerProcessState(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """What a listener is told with its descriptor (config-linux.md, "The Container Process State")."""

    oci_version: str = msgspec.field(name="ociVersion")
    fds: tuple[str, ...]
    pid: int
    metadata: str = ""
    state: State


_encode = msgspec.json.Encoder().encode


class Filter(msgspec.Struct, frozen=True):
    """A compiled filter; with `listener`, a connected socket, `told` goes there with the descriptor."""

    program: bytes = b""
    flags: int = 0
    listener: int | None = None
    told: bytes = b""

    def install(self) -> None:
        """Filter this process' calls from here on."""
        if not self.program:
            return
        fd = syscalls.seccomp_set_filter(self.program, self.flags)
        if self.listener is not None:
            with socket.socket(fileno=self.listener) as listener:
                try:
                    socket.send_fds(listener, [self.told], [fd])
                except PermissionError:
                    raise Failure("a filter with a listener must allow sendmsg, by which that hears of it") from None
            os.close(fd)


@lru_cache(maxsize=64)
def compiled(profile: Seccomp) -> bytes:
    """The program of `profile`; InvalidArgument when it could not be installed, or would ask nobody."""
    try:
        for flag in profile.flags:
            known(FLAGS, flag, "linux.seccomp flag")
    except Failure as failure:
        raise InvalidArgument(failure.message) from None
    asked = {name for rule in profile.syscalls if rule.action == _NOTIFY for name in rule.names}
    if (asked or profile.default_action == _NOTIFY) and not profile.listener_path:
        raise InvalidArgument(f"linux.seccomp uses {_NOTIFY} and needs a listenerPath")
    if profile.default_action == _NOTIFY or "sendmsg" in asked:
        raise InvalidArgument(
            f"linux.seccomp must not use {_NOTIFY} for sendmsg, by which the listener gets to know of it"
        )
    try:
        return seccomp.compile(profile)
    except ValueError as error:
        raise InvalidArgument(f"linux.seccomp is refused: {error}") from None


def flags_of(profile: Seccomp) -> int:
    """What seccomp(2) is told besides the program."""
    flags = 0
    for flag in profile.flags:
        flags |= FLAGS[flag]
    # One thread has nothing to synchronise, and the kernel takes TSYNC and a listener together only from 5.7 on.
    return flags & ~_TSYNC | (_NEW_LISTENER if profile.listener_path else 0)


def prepare(
    program: bytes, profile: Seccomp | None, identity: str, annotations: dict[str, str], status: str
) -> Filter:
    """The filter, connected to its listener. To be called while the host's paths are in reach."""
    if profile is None or not (profile.flags or profile.listener_path):
        return Filter(program)
    flags = flags_of(profile)
    if not profile.listener_path:
        return Filter(program, flags)
    pid = int(os.readlink("/proc/self"))
    state = State(id=identity, status=status, pid=pid, bundle=os.getcwd(), annotations=annotations)
    told = _encode(
        ContainerProcessState(
            oci_version=OCI_VERSION, fds=("seccompFd",), pid=pid, metadata=profile.listener_metadata, state=state
        )
    )
    return Filter(program, flags, _connect(profile.listener_path), told)


def _connect(path: str) -> int:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.connect(path)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno or 0).lower()
        raise Failure(
            f"failed to connect with seccomp agent: nobody listens at linux.seccomp.listenerPath {path}: {reason}",
            number=error.errno or 0,
        ) from None
    return listener.detach()

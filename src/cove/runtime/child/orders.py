"""What a newborn process is told on its gate: who it becomes, and by which descriptors.

    supervisor ── Orders, [descriptors] ──▶ child       until then it is nobody: it has its namespaces, and waits

A child may wait ready-made (`cove.runtime.forker`), so nothing of a container can be inherited by fork: all of
it comes in this one packet. End of file instead of it means that nobody needs the child any more.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import msgspec

from cove.ipc import channel
from cove.kernel import operations, syscalls
from cove.kernel.cgroups import Birthplace
from cove.runtime.child import affinity, init, outfitter, outside
from cove.runtime.child import execs as exec_child
from cove.runtime.child.common import ORDINARY, ChildStdio, Manner, enter, hide, no_entry
from cove.runtime.child.stub import Stub
from cove.runtime.messages import ExecLaunch, Launch


class Orders(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`launch` for a container's first process, `execute` for a further one.

    `roles` names the descriptors of the packet in their order: "sync", "target" (a pidfd), "stdin", "stdout",
    "stderr", "link" (of `cove.runtime.child.outside`), and "door" for each control group to enter.
    `helps`: be the helper of the first process of `launch`, whose pid this is. `outfits`: be an outfitter, who gets
    further orders; each has the pid of the `stub` it is about, and descriptors "stub" (a pidfd), "cord", "gate".
    """

    roles: tuple[str, ...]
    launch: Launch | None = None
    execute: ExecLaunch | None = None
    seccomp: bytes = b""
    console: bool = False
    helps: int = 0
    outfits: bool = False
    stub: int = 0


class Stubling(NamedTuple):
    """A stub with the socket that it gets its operations from, and the far end of its gate."""

    pid: int
    pidfd: int
    cord: int
    gate: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Orders).decode
_STREAMS = ("stdin", "stdout", "stderr")


def send(
    gate: socket.socket,
    order: Launch | ExecLaunch,
    *,
    sync_fd: int,
    stdio: ChildStdio,
    doors: Sequence[int] = (),
    target: int | None = None,
    link: int | None = None,
    seccomp: bytes = b"",
    helps: int = 0,
    stub: Stubling | None = None,
) -> None:
    """Give a child its orders, or an outfitter those for a `stub`. Raises OSError (BrokenPipeError: it is gone)."""
    named = [("sync", sync_fd), *(("door", door) for door in doors)]
    if stub is not None:
        named += [("stub", stub.pidfd), ("cord", stub.cord), ("gate", stub.gate)]
    if link is not None:
        named.append(("link", link))
    if target is not None:
        named.append(("target", target))
    named += [(name, fd) for name in _STREAMS if (fd := getattr(stdio, name)) is not None]
    orders = Orders(
        roles=tuple(name for name, _ in named),
        launch=order if isinstance(order, Launch) else None,
        execute=order if isinstance(order, ExecLaunch) else None,
        seccomp=seccomp,
        console=stdio.console,
        helps=helps,
        stub=stub.pid if stub is not None else 0,
    )
    channel.send(gate, 0, _encode(orders), [fd for _, fd in named])


def make_outfitter(gate: socket.socket) -> None:
    """Have a child be an outfitter, which gets its orders on `gate`."""
    channel.send(gate, 0, _encode(Orders(roles=(), outfits=True)))


def obey(gate_fd: int) -> NoReturn:
    """In the child right after clone3: wait for the orders and carry them out. Never returns."""
    hide()
    syscalls.close_range(3, gate_fd - 1)
    syscalls.close_range(gate_fd + 1)
    gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, gate_fd)
    packet = channel.receive(gate)
    gate.detach()
    if packet is None:
        os._exit(0)
    orders = _decode(packet.body)
    if orders.outfits:
        outfitter.run(gate_fd, _read)
    named = dict(zip(orders.roles, packet.fds, strict=True))
    doors = tuple(fd for role, fd in zip(orders.roles, packet.fds, strict=True) if role == "door")
    if orders.execute is not None and orders.execute.process.exec_cpu_affinity is not None:
        affinity.before(orders.execute.process)
    enter(Birthplace(doors=doors), named["sync"])
    stdin, stdout, stderr = (named.get(name) for name in _STREAMS)
    stdio = ChildStdio(stdin, stdout, stderr, console=orders.console)
    if orders.launch is not None and orders.helps:
        outside.serve(orders.launch, orders.helps, sync_fd=named["sync"], link=named["link"])
    if orders.launch is not None:
        link = named.get("link")
        manner = ORDINARY if link is None else Manner(link=link)
        init.run(
            orders.launch,
            sync_fd=named["sync"],
            gate_fd=gate_fd,
            stdio=stdio,
            seccomp=orders.seccomp,
            manner=manner,
        )
    assert orders.execute is not None
    exec_child.run(
        orders.execute,
        target_pidfd=named["target"],
        sync_fd=named["sync"],
        gate_fd=gate_fd,
        stdio=stdio,
        seccomp=orders.seccomp,
    )


def _read(packet: channel.Packet, proc: int) -> tuple[outfitter.Work, Stub]:
    """What an outfitter is told."""
    orders = _decode(packet.body)
    named = dict(zip(orders.roles, packet.fds, strict=True))
    stub = Stub(orders.stub, named["stub"], named["cord"], named["sync"], named["gate"], proc)
    with stub.stage("cgroup"):
        for role, fd in zip(orders.roles, packet.fds, strict=True):
            if role == "door":
                stub.act(operations.write(fd, b"0"), no_entry)
    stdin, stdout, stderr = (named.get(name) for name in _STREAMS)
    stdio = ChildStdio(stdin, stdout, stderr, console=orders.console)
    if orders.launch is not None:
        return init.Init(stub, orders.launch, stdio, orders.seccomp), stub
    assert orders.execute is not None
    return exec_child.Exec(stub, orders.execute, named["target"], stdio, orders.seccomp), stub

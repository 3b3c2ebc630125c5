"""What the daemon tells the resolver, on a SEQPACKET connection (`cove.ipc`); each request is answered by Told.

    daemon                                    resolver
      │── Know(network) ────────────────────────▶│
      │── Join(network, member) ────────────────▶│ its names exist from now on
      │── Serve(view) + [pidfd] ────────────────▶│ sockets inside that process's network namespace
      │◀─ Told ───────────────────────────────────│
      │── Leave(network, container) ────────────▶│
      │── Forget(container) ────────────────────▶│ its sockets are closed (they also are when its process ends)

A new daemon says all of it again and ends with `Keep`, which makes the resolver forget what was not said.
"""

from __future__ import annotations

import msgspec

ADDRESS = "127.0.0.11"
"""Where a container asks: an address of its own loopback interface."""


class _Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True, kw_only=True):
    """Base of all messages: encoded as JSON with a "type" tag."""


class Upstream(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A server to ask for names that are not ours: from inside the container's namespace, or from the host's."""

    address: str
    inside: bool = False


class Member(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A container on a network: its names there, the first one for reverse look-ups, and its addresses."""

    container: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


class View(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one container may know.

    `networks`: identities, in the order in which they are asked. `links`: for a network's identity, names that this
    container alone uses for others on that network. `upstreams` empty and `outside`: the host's own servers.
    Neither: nothing is asked elsewhere. `host`: the addresses under which it reaches its host.
    `followed`: names ("*.example.org" too) whose addresses go into sets of the nftables table `table`, before the
    container hears of them: its egress rules allow or deny them.
    """

    container: str
    networks: tuple[str, ...] = ()
    links: dict[str, dict[str, str]] = {}
    upstreams: tuple[Upstream, ...] = ()
    outside: bool = False
    host: tuple[str, ...] = ()
    table: str = ""
    followed: tuple[str, ...] = ()


class Know(_Message, frozen=True, kw_only=True):
    """A network: its name, and the subnets for whose addresses nobody else is asked."""

    network: str
    name: str
    subnets: tuple[str, ...] = ()


class Join(_Message, frozen=True, kw_only=True):
    """A container came, or is called otherwise from now on."""

    network: str
    member: Member


class Leave(_Message, frozen=True, kw_only=True):
    network: str
    container: str


class Serve(_Message, frozen=True, kw_only=True):
    """fds: [pidfd]. Again for a container that is served: only its view changes."""

    view: View


class Forget(_Message, frozen=True, kw_only=True):
    container: str


class Keep(_Message, frozen=True, kw_only=True):
    """Everything was said: these networks and containers, and no others."""

    networks: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()


Request = Know | Join | Leave | Serve | Forget | Keep


class Told(_Message, frozen=True, kw_only=True):
    """The answer to each request; `failure` says in a sentence why it was not carried out."""

    failure: str = ""

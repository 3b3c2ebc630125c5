"""The resolver's sockets inside a container's network namespace, and the rules that lead 127.0.0.11:53 to them.

The sockets are bound to ports that the kernel picks, and port numbers are rewritten on their way over the
loopback interface, both ways and without connection tracking: port 53 stays free for the container's own use,
on every address, and the container's network pays for no tracking.

A socket keeps its namespace alive, so all are closed as soon as the container's first process has ended.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

from cove.kernel import interfaces
from cove.kernel.namespaces import in_network
from cove.kernel.nftables import Nftables, Seats
from cove.network.dns.messages import ADDRESS

_TABLE = "cove-dns"
_RULES = f"""table ip {_TABLE}
delete table ip {_TABLE}
table ip {_TABLE} {{
  chain output {{
    type filter hook output priority raw; policy accept;
    ip daddr {ADDRESS} udp dport 53 notrack udp dport set %(udp)d
    ip saddr {ADDRESS} udp sport %(udp)d notrack udp sport set 53
    ip daddr {ADDRESS} tcp dport 53 notrack tcp dport set %(tcp)d
    ip saddr {ADDRESS} tcp sport %(tcp)d notrack tcp sport set 53
  }}
}}
"""
_BACKLOG = 64
_RECEIVE_BUFFER = 1 << 20


class Sandbox:
    """A container's namespace while it lives. OSError when its process has ended."""

    def __init__(self, pidfd: int, seats: Seats) -> None:
        """Takes the pidfd over, also when it fails."""
        self.pidfd = pidfd
        with ExitStack() as undo:
            undo.callback(os.close, pidfd)
            with in_network(pidfd):
                interfaces.configure(())  # its init may not have come to that yet, and there is no 127/8 before
                self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                undo.callback(self.udp.close)
                self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
                self.udp.bind((ADDRESS, 0))
                self.tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                undo.callback(self.tcp.close)
                self.tcp.bind((ADDRESS, 0))
                self.tcp.listen(_BACKLOG)
                with seats.lent():
                    self._redirect()
            undo.pop_all()

    def _redirect(self) -> None:
        rules = Nftables()
        try:
            rules.run(_RULES % {"udp": self.udp.getsockname()[1], "tcp": self.tcp.getsockname()[1]})
        finally:
            rules.close()

    def open(self, family: int, kind: int) -> socket.socket:
        """A socket in the container's namespace."""
        with in_network(self.pidfd):
            return socket.socket(family, kind)

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()
        os.close(self.pidfd)

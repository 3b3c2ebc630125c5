"""What others do to the host's network is noticed, and undone where it is Cove's.

nftables   what is deleted from Cove's table                       Firewall.restore
links      a bridge, or an address of one, taken away              BridgeDriver.mend
           a link that comes, forwarding switched on or off        Firewall.reroute
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

from cove.errors import CoveError, describe
from cove.kernel import netlink
from cove.network.bridge import HOST_END, BridgeDriver
from cove.network.firewall import Firewall

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def watched(loop: asyncio.AbstractEventLoop, firewall: Firewall, bridges: BridgeDriver) -> Iterator[None]:
    """Within, the loop looks after what the daemon has in the host's network."""
    firewall.watch(loop)
    try:
        with netlink.Watch() as watch:
            loop.add_reader(watch.fileno(), _look, watch, firewall, bridges)
            try:
                yield
            finally:
                loop.remove_reader(watch.fileno())
    finally:
        firewall.unwatch(loop)


def _look(watch: netlink.Watch, firewall: Firewall, bridges: BridgeDriver) -> None:
    heard = watch.heard()
    try:
        if heard.gone or heard.everything:
            bridges.mend(None if heard.everything else heard.gone)
        if heard.everything or any(map(_routed, heard.came)):
            firewall.reroute()
    except CoveError as error:
        _log.warning("%s", error.message)
    except OSError as error:
        _log.warning("the host's links could not be read: %s", describe(error))


def _routed(index: int) -> bool:
    """Whether a link may have its part in the host's routing: every container's start makes one that has none."""
    if index <= 0:
        return True
    try:
        return HOST_END.fullmatch(socket.if_indextoname(index)) is None
    except OSError:
        return False  # it has gone again

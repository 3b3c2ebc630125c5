"""Forgets connections that the kernel tracks (ctnetlink), for UDP ports that lead elsewhere from now on.

UDP has no end of connection: a client that keeps sending keeps its entry alive, and with it the translation
to a container that may be gone. An entry for a port whose meaning changes is therefore deleted.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

from cove.kernel import nlwire
from cove.kernel.nlwire import Message, Request

_NETLINK_NETFILTER = 12
_CTNETLINK = 1 << 8
_GET, _DELETE = _CTNETLINK | 1, _CTNETLINK | 2
_TUPLE_ORIGINAL, _TUPLE_PROTOCOL = 1, 2
_PROTOCOL_NUMBER, _PROTOCOL_DESTINATION = 1, 3
_GENERIC = 4
"""Bytes of struct nfgenmsg: family, version, resource."""


def forget_udp(ports: Collection[int]) -> int:
    """Delete every tracked UDP flow to one of `ports`; how many there were. OSError when the kernel refuses."""
    with nlwire.Socket(_NETLINK_NETFILTER) as netlink:
        requests = []
        for family in (socket.AF_INET, socket.AF_INET6):
            head = bytes([family, 0, 0, 0])
            for message in netlink.dump(Request(_GET, 0, head, "IPCTNL_MSG_CT_GET")):
                original = _udp_to(message, ports)
                if original is not None:
                    body = head + nlwire.nest(_TUPLE_ORIGINAL, original)
                    requests.append(Request(_DELETE, 0, body, "IPCTNL_MSG_CT_DELETE"))
        for request in requests:
            try:
                netlink.commit([request])
            except OSError as error:
                if error.errno != errno.ENOENT:  # it may have ended by itself meanwhile
                    raise
    return len(requests)


def _udp_to(message: Message, ports: Collection[int]) -> bytes | None:
    """The original tuple of a UDP flow to one of `ports`."""
    original = dict(nlwire.attributes(message.body[_GENERIC:])).get(_TUPLE_ORIGINAL, b"")
    protocol = dict(nlwire.attributes(dict(nlwire.attributes(original)).get(_TUPLE_PROTOCOL, b"")))
    if protocol.get(_PROTOCOL_NUMBER) != bytes([socket.IPPROTO_UDP]):
        return None
    return original if int.from_bytes(protocol.get(_PROTOCOL_DESTINATION, b""), "big") in ports else None

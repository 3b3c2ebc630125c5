"""What the kernel's lists of sockets say."""

from __future__ import annotations

import os
import socket

from cove.kernel import sockets
from cove.kernel.sockets import Listener


def test_who_listens_and_who_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = [each for each in sockets.listening(os.getpid()) if (each.protocol, each.port) == ("tcp", port)]
        assert found.address == "127.0.0.1" and found.inode == os.fstat(server.fileno()).st_ino
        holder = sockets.holder("tcp", port, "127.0.0.1")
        assert holder is not None and holder[0] == os.getpid()
        assert sockets.holder("tcp", port, "127.0.0.2") is None, "another address is not held"


def test_a_socket_takes_what_is_sent_to_its_address() -> None:
    def takes(own: str, to: str) -> bool:
        return Listener("tcp", own, 80, 1).takes(to)

    assert takes("0.0.0.0", "192.0.2.1") and takes("::", "192.0.2.1") and takes("::", "2001:db8::1")
    assert takes("192.0.2.1", "192.0.2.1") and takes("192.0.2.1", "")
    assert not takes("0.0.0.0", "::1") and not takes("192.0.2.1", "192.0.2.2")


def test_sctp_endpoints() -> None:
    """As net/sctp/proc.c prints them."""
    text = (
        " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n"
        "       0        0 2   10  29   36412     0 18713 0.0.0.0 \n"
        "       0        0 2   7   30   36413     0 18714 127.0.0.1 \n"
    )
    assert sockets._parse_sctp(text) == [Listener("sctp", "0.0.0.0", 36412, 18713)]

"""hosts and resolv.conf of a container, from the host's and the user's words."""

from __future__ import annotations

import pytest

from cove.errors import InvalidArgument
from cove.network import resolv

HOST = """# made by someone
nameserver 127.0.0.53
nameserver 192.0.2.53 ; ours
search a.example b.example
options ndots:2
"""


def test_the_hosts_own_loopback_servers_are_left_out() -> None:
    assert resolv.resolv_conf(HOST) == "nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:2\n"
    assert "127.0.0.53" in resolv.resolv_conf(HOST, own_namespace=False)
    assert resolv.resolv_conf("nameserver 127.0.0.1\n").startswith("nameserver 8.8.8.8\n")
    assert (
        resolv.resolv_conf("nameserver 2001:db8::1\nnameserver 192.0.2.1\n", ipv6=False) == "nameserver 192.0.2.1\n"
    )


def test_what_the_user_names_takes_its_place() -> None:
    text = resolv.resolv_conf(HOST, nameservers=["127.0.0.1"], search=["."], options=["timeout:1"])
    assert text == "nameserver 127.0.0.1\noptions timeout:1\n"
    with pytest.raises(InvalidArgument, match="Invalid DNS server"):
        resolv.resolv_conf(HOST, nameservers=["dns.example"])


def test_hosts() -> None:
    text = resolv.hosts(
        hostname="web",
        domainname="example",
        addresses=["10.88.0.2"],
        extra=["db:10.0.0.9", "me=host-gateway", "six:[2001:db8::1]"],
        gateways=["10.88.0.1", "fd00::1"],
    )
    lines = text.splitlines()
    assert "10.88.0.2\tweb.example web" in lines
    assert {"10.0.0.9\tdb", "10.88.0.1\tme", "fd00::1\tme", "2001:db8::1\tsix"} <= set(lines)
    for bad in ("db", "db:", ":1.2.3.4", "db:nowhere", "a b:1.2.3.4"):
        with pytest.raises(InvalidArgument, match="Invalid extra host"):
            resolv.hosts(hostname="x", extra=[bad])

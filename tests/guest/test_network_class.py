"""Network class and priority, which control groups of version 1 know: packets of a container bear them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.inside import only_inside, run
from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]

pytestmark = [
    pytest.mark.root,
    only_inside,
    pytest.mark.skipif(
        Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        reason="version 2 has neither class nor priority: `make test-guest` begins a guest with version 1 for this",
    ),
]

_CLASS, _PRIORITY = 0x100007, 5
_COUNTERS = f"""
table netdev cove_test {{
    counter classed {{ }}
    counter prior {{ }}
    chain out {{
        type filter hook egress device lo priority 0;
        udp dport 4711 meta cgroup {_CLASS} counter name classed
        udp dport 4711 meta priority 0:{_PRIORITY} counter name prior
    }}
}}
"""


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[None]:
    """Packets to one port are counted by their class and their priority."""
    (tmp_path / "rules").write_text(_COUNTERS)
    run("ip", "link", "set", "lo", "up")
    run("nft", "-f", str(tmp_path / "rules"))
    yield
    run("nft", "delete", "table", "netdev", "cove_test")


def counted() -> dict[str, int]:
    listed = json.loads(run("nft", "-j", "list", "counters").stdout)["nftables"]
    return {each["counter"]["name"]: each["counter"]["packets"] for each in listed if "counter" in each}


def sends(network: dict[str, Any]) -> dict[str, Any]:
    """A container in the host's network that sends one packet."""
    content = config("sh", "-c", "echo one | nc -u -w 1 127.0.0.1 4711; true")
    linux = content["linux"]
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "network"]
    linux["resources"] |= {"network": network}
    return content


def test_packets_bear_what_the_configuration_says(bundle: Bundle, counters: None) -> None:
    bundle.out(sends({}))
    assert counted() == {"classed": 0, "prior": 0}
    bundle.out(sends({"classID": _CLASS}))
    assert counted() == {"classed": 1, "prior": 0}
    bundle.out(sends({"priorities": [{"name": "lo", "priority": _PRIORITY}]}))
    assert counted() == {"classed": 1, "prior": 1}

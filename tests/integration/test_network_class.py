"""Network class and priority, controllers of version 1: packets of a container carry what its configuration says.

The host need not have them mounted: they are for these tests, in a mount namespace of their own. The kernel knows
interfaces' priorities in the host's network namespace alone, and a packet's class where its socket was made; so the
container shares the host's network, and a table of the tests' own counts what it sends.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN
from tests.integration.bundles import Bundle, bundle, config

__all__ = ["bundle"]

CLASS, PRIORITY = 0x100001, 5
TABLE = f"cove-test-{os.getpid()}"
COUNTERS = f"""
table netdev {TABLE} {{
    counter classified {{ }}
    counter preferred {{ }}
    chain out {{
        type filter hook egress device lo priority 0
        meta cgroup {CLASS} counter name classified
        meta cgroup {CLASS} meta priority 0:{PRIORITY} counter name preferred
    }}
}}
"""
WITHIN = """
    mount --make-rprivate / && mount -t cgroup -o net_cls,net_prio none "$0" && mkdir "$0/try" && rmdir "$0/try" ||
        exit 77
    "$@"; code=$?
    find "$0" -mindepth 1 -type d >&2
    exit $code
"""


@pytest.fixture(scope="module", autouse=True)
def counters() -> Iterator[None]:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("network class and priority exist only with cgroup v1")
    made = subprocess.run(["nft", "-f", "-"], input=COUNTERS, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"nftables cannot count what goes out by its class here: {made.stderr.strip()}")
    yield
    subprocess.run(["nft", "delete", "table", "netdev", TABLE], check=True)


def counted() -> dict[str, int]:
    """How many packets each counter has seen so far."""
    told = subprocess.run(["nft", "-j", "list", "table", "netdev", TABLE], capture_output=True, check=True).stdout
    found = [each["counter"] for each in json.loads(told)["nftables"] if "counter" in each]
    return {each["name"]: each["packets"] for each in found}


def run(bundle: Bundle, place: Path, network: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A container with these limits, which asks itself for an echo once; groups that are left are told as errors."""
    content = config("ping", "-c", "1", "127.0.0.1")
    kinds = content["linux"]["namespaces"]
    content["linux"]["namespaces"] = [each for each in kinds if each["type"] != "network"]
    content["mounts"] = [each for each in content["mounts"] if each["type"] != "sysfs"]
    for names in content["process"]["capabilities"].values():
        names.append("CAP_NET_RAW")
    content["linux"]["resources"]["network"] = network
    bundle.write(content)
    runtime = [str(BIN / "cove-oci"), "--root", str(bundle.state), "run", "--bundle", str(bundle.path), bundle.name()]
    done = subprocess.run(["unshare", "-m", "sh", "-c", WITHIN, place, *runtime], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(f"net_cls and net_prio cannot be mounted, or written to, here: {done.stderr.strip()}")
    return done


def sent(bundle: Bundle, place: Path, network: dict[str, Any]) -> dict[str, int]:
    """What the counters see of it."""
    before = counted()
    done = run(bundle, place, network)
    assert (done.returncode, done.stderr) == (0, "")
    return {name: packets - before[name] for name, packets in counted().items()}


def test_a_packet_has_the_class_and_the_priority_of_its_container(bundle: Bundle, tmp_path: Path) -> None:
    preferred = {"classID": CLASS, "priorities": [{"name": "lo", "priority": PRIORITY}]}
    assert sent(bundle, tmp_path, preferred) == {"classified": 1, "preferred": 1}
    assert sent(bundle, tmp_path, {"classID": CLASS}) == {"classified": 1, "preferred": 0}
    assert sent(bundle, tmp_path, {"classID": CLASS + 1}) == {"classified": 0, "preferred": 0}


def test_an_interface_that_the_host_does_not_have_is_named(bundle: Bundle, tmp_path: Path) -> None:
    done = run(bundle, tmp_path, {"priorities": [{"name": "none0", "priority": PRIORITY}]})
    assert done.returncode == 1
    assert "none0 5 as an interface's priority (in net_prio.ifpriomap)" in done.stderr
    assert done.stderr.count("\n") == 1, "no group is left either"

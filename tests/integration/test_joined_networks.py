"""Containers on another's network, or tied to one by a link: whose names they see, and what they cannot have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Daemon
from tests.integration.api_client import Api

pytestmark = pytest.mark.root


@pytest.fixture
def first(daemon: Daemon) -> Iterator[str]:
    daemon.cove("run", "-d", "--name", "first", "-h", "one.example.com", "busybox", "sleep", "300")
    try:
        yield "first"
    finally:
        daemon.cove("rm", "-f", "-v", "first", "second", "third", check=False)


def test_a_network_is_lent_on(daemon: Daemon, first: str) -> None:
    """The second joined the first's network, the third the second's: it is the first's, with its names."""
    daemon.cove("run", "-d", "--name", "second", "--network", f"container:{first}", "busybox", "sleep", "300")
    shown = daemon.docker(
        "run", "--rm", "--network", "container:second", "busybox", "cat", "/etc/hosts", "/etc/hostname"
    )
    assert shown.stdout == daemon.cove("exec", first, "cat", "/etc/hosts", "/etc/hostname").stdout
    assert "\tone.example.com one\n" in shown.stdout and shown.stdout.endswith("one.example.com\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--dns", "1.2.3.4"), "dns and the network mode"),
        (("--add-host", "a:1.2.3.4"), "custom host-to-IP mapping and the network mode"),
        (("-p", "80"), "port publishing and the container type network mode"),
        (("--expose", "80"), "port exposing and the container type network mode"),
        (("--link", "first"), "container type network can't be used with links"),
    ],
)
def test_what_a_joined_network_excludes(daemon: Daemon, first: str, words: tuple[str, ...], sentence: str) -> None:
    run = ("run", "--rm", "--network", f"container:{first}", *words, "busybox", "true")
    for command in (daemon.docker, daemon.cove):
        done = command(*run, check=False)
        assert done.returncode == 125 and f"conflicting options: {sentence}" in done.stderr


def test_a_container_cannot_join_itself(daemon: Daemon) -> None:
    done = daemon.docker("run", "--name", "me", "--network", "container:me", "busybox", "true", check=False)
    assert done.returncode == 125 and "cannot join own network" in done.stderr


def test_links_as_clients_read_them(daemon: Daemon, first: str) -> None:
    daemon.docker("run", "-d", "--name", "second", "--link", "first:uno", "busybox", "sleep", "300")
    shown = daemon.docker("inspect", "-f", "{{json .HostConfig.Links}}", "second").stdout
    assert shown == '["/first:/second/uno"]\n'
    found = daemon.docker("exec", "second", "grep", "-c", "one.example.com", "/etc/hosts").stdout
    assert found == "1\n"
    daemon.docker("run", "-d", "--name", "third", "--network", "host", "busybox", "sleep", "300")
    done = daemon.docker("run", "--rm", "--link", "third", "busybox", "true", check=False)
    assert "host type networking can't be used with links" in done.stderr


def test_old_clients_find_the_short_id_among_the_aliases(daemon: Daemon) -> None:
    daemon.docker("network", "create", "aliased")
    try:
        made = daemon.docker("run", "-d", "--name", "second", "--network", "aliased", "busybox", "sleep", "300")
        for version, expected in (("1.44", [made.stdout[:12]]), ("1.45", None)):
            _, shown = Api(daemon, version).call("GET", "/containers/second/json")
            assert shown["NetworkSettings"]["Networks"]["aliased"]["Aliases"] == expected
    finally:
        daemon.docker("rm", "-f", "second", check=False)
        daemon.docker("network", "rm", "aliased")


def test_a_fixed_port_is_not_taken_by_one_that_may_be_any(daemon: Daemon) -> None:
    """Any free port comes after the one before: the next container asks for that very one beside it."""
    try:
        daemon.cove("run", "-d", "--name", "second", "-p", "80", "busybox", "sleep", "300")
        last = int(daemon.cove("port", "second", "80").stdout.splitlines()[0].rpartition(":")[2])
        wish = ("-p", "80", "-p", f"{last + 1}:81")
        daemon.docker("run", "-d", "--name", "third", *wish, "busybox", "sleep", "300")
        assert f":{last + 1}\n" in daemon.docker("port", "third", "81").stdout
    finally:
        daemon.cove("rm", "-f", "second", "third", check=False)


def test_an_anonymous_volume_goes_with_the_last_who_has_it(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "second", "-v", "/data", "busybox", "true")
    name = daemon.docker("inspect", "-f", "{{(index .Mounts 0).Name}}", "second").stdout.strip()
    daemon.docker("create", "--name", "third", "--volumes-from", "second", "busybox", "true")
    daemon.docker("rm", "-v", "third")
    assert name in daemon.docker("volume", "ls", "-q").stdout
    daemon.docker("create", "--name", "third", "--volumes-from", "second", "busybox", "true")
    daemon.docker("rm", "second")
    daemon.docker("rm", "-v", "third")
    assert name not in daemon.docker("volume", "ls", "-q").stdout

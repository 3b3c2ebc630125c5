"""Volumes as programs in containers and the docker command see them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Daemon

pytestmark = [pytest.mark.root]


@pytest.fixture
def owned(daemon: Daemon) -> Iterator[str]:
    """An image with a directory that belongs to a user."""
    script = "mkdir -p /srv/d/sub; echo here > /srv/d/f; chown -R 100:102 /srv/d; chmod 2750 /srv/d"
    daemon.docker("run", "--name", "maker", "busybox", "sh", "-c", script)
    daemon.docker("commit", "maker", "owned")
    daemon.docker("rm", "maker")
    yield "owned"
    daemon.docker("rmi", "owned")


def test_an_empty_volume_becomes_what_the_image_has_there(daemon: Daemon, owned: str) -> None:
    look = ["sh", "-c", "stat -c '%u:%g %a' /srv/d /srv/d/sub; cat /srv/d/f"]
    for volume, expected in (
        ("filled:/srv/d", "100:102 2750\n100:102 755\nhere\n"),
        ("bare:/srv/d:nocopy", "0:0 755\n"),
    ):
        shown = daemon.docker("run", "--rm", "-v", volume, owned, *look, check=False).stdout
        assert shown.startswith(expected), volume
    daemon.docker("volume", "rm", "filled", "bare")

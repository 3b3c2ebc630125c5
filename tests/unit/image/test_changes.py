"""Dockerfile instructions that change an image's configuration."""

from __future__ import annotations

import pytest

from cove.errors import InvalidArgument
from cove.image.changes import apply
from cove.oci.image import ContainerConfig


def test_each_instruction_has_dockers_meaning() -> None:
    config = apply(
        ContainerConfig(env=("A=1", "B=2"), working_dir="/srv"),
        [
            'CMD ["nginx", "-g"]',
            "ENTRYPOINT exec $0",
            'ENV B=3 C="x y"',
            "EXPOSE 80 53/udp",
            "LABEL a=b",
            "WORKDIR www",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD true",
        ],
    )
    assert config.cmd == ("nginx", "-g")
    assert config.entrypoint == ("/bin/sh", "-c", "exec $0")
    assert config.env == ("A=1", "B=3", "C=x y")
    assert set(config.exposed_ports) == {"80/tcp", "53/udp"}
    assert config.working_dir == "/srv/www"
    assert config.healthcheck is not None
    assert (config.healthcheck.test, config.healthcheck.interval) == (("CMD-SHELL", "true"), 90_000_000_000)


@pytest.mark.parametrize("change", ["RUN true", "EXPOSE 99999", "ENV", "ENV A", "LABEL 'a=b", "HEALTHCHECK maybe"])
def test_what_makes_no_sense_is_refused(change: str) -> None:
    with pytest.raises(InvalidArgument):
        apply(ContainerConfig(), [change])

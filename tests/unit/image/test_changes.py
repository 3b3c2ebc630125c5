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


def test_variables_are_those_of_the_image() -> None:
    before = ContainerConfig(env=("DIR=/opt/a b",))
    after = apply(before, ["ENV A=$DIR B=${NO:-none} C='$DIR' D=\"x $DIR\" E=\\$DIR", "ENV OLD $DIR", "USER ${NO}u"])
    assert dict(each.split("=", 1) for each in after.env) == {
        "DIR": "/opt/a b", "A": "/opt/a b", "B": "none", "C": "$DIR",
        "D": "x /opt/a b", "E": "$DIR", "OLD": "/opt/a b",
    }  # fmt: skip
    assert after.user == "u"


def test_a_change_may_have_several_lines() -> None:
    after = apply(ContainerConfig(), ['EXPOSE 80\nCMD ["a"]\n'])
    assert (set(after.exposed_ports), after.cmd) == ({"80/tcp"}, ("a",))

"""What rules say of sources: allowed, refused, converted."""

from __future__ import annotations

import asyncio

import pytest

from cove.buildkit.messages import policy as wire
from cove.buildkit.policies import Policies
from cove.errors import CoveError, Forbidden, InvalidArgument, Unsupported
from cove.grpc.protobuf import encode

BUSYBOX = "docker-image://docker.io/library/busybox:latest"


def rule(action: int, identifier: str, to: str = "", match: int = wire.WILDCARD, **attributes: str) -> wire.Rule:
    constraints = tuple(wire.Constraint(key=key, value=value) for key, value in attributes.items())
    selector = wire.Selector(identifier=identifier, match_type=match, constraints=constraints)
    return wire.Rule(action=action, selector=selector, updates=wire.Update(identifier=to) if to else None)


def judge(*rules: wire.Rule, of: str = BUSYBOX, **attributes: str) -> str:
    policies = Policies([encode(wire.Policy(version=1, rules=rules))])
    return asyncio.run(policies.judge(of, attributes))


def test_without_rules_everything_is_allowed() -> None:
    assert judge() == BUSYBOX


def test_the_last_rule_that_matches_decides() -> None:
    every = "docker-image://*"
    with pytest.raises(Forbidden, match="denied by policy"):
        judge(rule(wire.ALLOW, BUSYBOX), rule(wire.DENY, every))
    assert judge(rule(wire.DENY, every), rule(wire.ALLOW, BUSYBOX)) == BUSYBOX
    assert judge(rule(wire.DENY, "https://*")) == BUSYBOX
    assert judge(rule(wire.DENY, every, match=wire.EXACT)) == BUSYBOX


def test_images_are_converted_until_no_rule_does() -> None:
    one = rule(wire.CONVERT, "docker-image://docker.io/*", "docker-image://mirror.lan/${1}")
    two = rule(wire.CONVERT, r"^(.*)busybox:latest$", "${1}busybox:1", match=wire.REGEX)
    assert judge(one, two) == "docker-image://mirror.lan/library/busybox:1"
    with pytest.raises(Forbidden):
        judge(one, rule(wire.DENY, "docker-image://mirror.lan/*"))
    with pytest.raises(InvalidArgument, match="again and again"):
        judge(rule(wire.CONVERT, "docker-image://*", "docker-image://a/${1}"))


def test_attributes_are_compared() -> None:
    of, wanted = "https://h.example/f", {"http.checksum": "sha256:1"}
    refused = rule(wire.DENY, of, **{"http.checksum": "sha256:1"})
    with pytest.raises(Forbidden):
        judge(refused, of=of, **wanted)
    assert judge(refused, of=of) == of


@pytest.mark.parametrize(
    ("wrong", "of", "kind"),
    [
        (rule(wire.CONVERT, "https://h.example/*", "https://mirror/${1}"), "https://h.example/f", Unsupported),
        (rule(wire.CONVERT, BUSYBOX), BUSYBOX, InvalidArgument),
        (rule(7, BUSYBOX), BUSYBOX, InvalidArgument),
        (rule(wire.DENY, "(", match=wire.REGEX), BUSYBOX, InvalidArgument),
        (rule(wire.DENY, "x", match=9), BUSYBOX, InvalidArgument),
    ],
)
def test_what_cannot_be_followed_is_refused(wrong: wire.Rule, of: str, kind: type[CoveError]) -> None:
    with pytest.raises(kind):
        judge(wrong, of=of)

"""Egress rules: what is read from text, and what nft is told."""

from __future__ import annotations

import pytest

from cove.errors import InvalidArgument
from cove.network import egress
from cove.network.egress import Confined, Rule


def test_rules_are_read() -> None:
    texts = ["allow:example.org:443,deny:10.0.0.0/8", "allow:192.0.2.7:5432-5440/udp", "deny:[2001:db8::]/32", "deny"]
    texts.append("allow:*.x.y")
    assert egress.parse(texts) == (
        Rule(allow=True, name="example.org", low=443, high=443),
        Rule(allow=False, subnet="10.0.0.0/8"),
        Rule(allow=True, subnet="192.0.2.7/32", proto="udp", low=5432, high=5440),
        Rule(allow=False, subnet="2001:db8::/32"),
        Rule(allow=False),
        Rule(allow=True, name="*.x.y"),
    )
    assert egress.parse(["allow:*:53", "allow:[2001:db8::1]:80/tcp"]) == (
        Rule(allow=True, low=53, high=53),
        Rule(allow=True, subnet="2001:db8::1/128", proto="tcp", low=80, high=80),
    )


WRONG = "permit:x allow: allow:a;b allow:x:0 allow:x:9-3 allow:x:70000 deny:-x allow:x/tcp allow:1.2.3.4/77"


@pytest.mark.parametrize("text", WRONG.split())
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="egress rule"):
        egress.parse([text])


def test_what_nft_is_told() -> None:
    rules = egress.parse(["allow:example.org:443"])
    confined = Confined(owner="c" * 64, addresses=("10.1.0.2", "fd00::2"), rules=rules)
    commands = egress.add("t", confined)
    name = egress.name_set(confined.owner, "example.org", 4)
    assert f"ip daddr @{name} meta l4proto {{ tcp, udp, sctp }} th dport 443 return" in commands
    assert commands.splitlines()[-3].endswith("reject with icmpx admin-prohibited")
    assert "egress6 { fd00::2 : jump egress-cccccccccccc }" in commands
    denials = egress.add("t", Confined(owner="d" * 64, addresses=(), rules=egress.parse(["deny:10.0.0.0/8"])))
    assert denials.count("reject") == 1, "what no denial fits may pass"

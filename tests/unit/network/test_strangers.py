"""What others' chains do with a packet, as far as it can be told."""

from __future__ import annotations

import pytest

from cove.network.strangers import Chain, Verdict, forwarding, rules, verdict

LISTING = """table ip nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
table inet fw {
	chain helper {
	}
	chain fwd {
		type filter hook forward priority filter + 10; policy drop;
	}
	chain other {
		type filter hook forward priority filter; policy accept;
	}
}
"""


def test_chains_on_the_forward_hook_are_found() -> None:
    assert forwarding(LISTING) == [Chain("inet fw", "fwd", True), Chain("inet fw", "other", False)]
    one = (
        "table inet fw {\n\tchain fwd {\n\t\ttype filter hook forward priority 0; policy drop;\n\t\taccept\n\t}\n}\n"
    )
    assert rules(one) == ["accept"]


@pytest.mark.parametrize(
    ("found", "drops", "expected"),
    [
        ((), False, "passes"),
        ((), True, "is refused"),
        (("accept",), True, "passes"),
        (("counter packets 3 bytes 9 drop",), False, "is refused"),
        (("reject with icmpx admin-prohibited",), False, "is refused"),
        (("ct state established accept",), True, "may be refused"),
        (("ip saddr 192.0.2.1 drop",), False, "may be refused"),
        (("ip saddr 192.0.2.1 accept", "drop"), False, "may be refused"),
        (("jump helper",), False, "may be refused"),
        (("counter packets 3 bytes 9",), False, "passes"),
        (("return",), True, "is refused"),
    ],
)
def test_a_verdict_is_certain_only_where_nothing_is_conditional(
    found: tuple[str, ...], drops: bool, expected: Verdict
) -> None:
    assert verdict(found, drops=drops) == expected

"""What is decided about control groups without touching any: weights and device filters."""

from __future__ import annotations

from cove.kernel.cgroups_v2 import weight_of
from cove.kernel.device_filter import Exemption, assemble, decide
from cove.oci.spec import DeviceRule


def test_shares_become_weights() -> None:
    assert [weight_of(shares) for shares in (0, 2, 1024, 262144, 1 << 20)] == [1, 1, 100, 10000, 10000]
    weights = [weight_of(shares) for shares in range(2, 262144, 997)]
    assert weights == sorted(weights)


def test_device_rules_add_up() -> None:
    deny_all = DeviceRule(allow=False)
    null = DeviceRule(allow=True, type="c", major=1, minor=3)
    read = DeviceRule(allow=True, type="b", major=8, access="r")
    no_write = DeviceRule(allow=False, type="c", major=1, minor=3, access="w")
    assert decide([]) == (True, ())
    assert decide([null, deny_all]) == (False, ())
    assert decide([deny_all, null, read]) == (False, (Exemption(2, 1, 3, 7), Exemption(1, 8, None, 2)))
    assert decide([deny_all, null, no_write]) == (False, (Exemption(2, 1, 3, 3),))
    assert decide([deny_all, DeviceRule(allow=True)]) == (True, ())


def test_a_filter_is_whole_instructions_and_ends() -> None:
    code = assemble(*decide([DeviceRule(allow=False), DeviceRule(allow=True, type="c", major=1, minor=3)]))
    assert len(code) % 8 == 0
    assert code[-8] == 0x95

"""D-Bus values and messages as bytes, and what systemd is told in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import InvalidArgument
from cove.kernel.cgroups_systemd import directory_of, scope_of
from cove.kernel.dbus import CALL, Variant, decode, encode, marshal, types
from cove.kernel.systemd_limits import limits
from cove.oci.spec import CPULimits, DeviceRule, MemoryLimits, PidsLimit, Resources

_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
_VALUES = {
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "u": st.integers(0, (1 << 32) - 1),
    "t": st.integers(0, (1 << 64) - 1),
    "x": st.integers(-(1 << 63), (1 << 63) - 1),
    "s": _TEXT,
}


def _of(signature: str) -> st.SearchStrategy[object]:
    if signature[0] == "a":
        return st.lists(_of(signature[1:]), max_size=4)
    if signature[0] == "(":
        return st.tuples(*map(_of, types(signature[1:-1]))).map(list)
    if signature == "v":
        return st.sampled_from(["s", "as", "t", "a(ys)"]).flatmap(
            lambda kind: _of(kind).map(lambda value: Variant(kind, value))
        )
    return _VALUES[signature]


_SIGNATURES = st.recursive(
    st.sampled_from([*_VALUES, "v"]),
    lambda inner: inner.map(lambda kind: f"a{kind}") | st.lists(inner, min_size=1, max_size=3).map(
        lambda kinds: f"({''.join(kinds)})"
    ),
    max_leaves=4,
)  # fmt: skip


@given(_SIGNATURES.flatmap(lambda kind: st.tuples(st.just(kind), _of(kind))))
def test_what_is_written_is_read(pair: tuple[str, object]) -> None:
    signature, value = pair
    message = decode(encode(7, CALL, {1: Variant("o", "/"), 3: Variant("s", "Do")}, signature, [value]))
    assert (message.type, message.serial, message.member, message.body) == (CALL, 7, "Do", [value])


def test_bytes_are_as_the_specification_aligns_them() -> None:
    assert marshal("yu", [1, 2]) == b"\x01\0\0\0\x02\0\0\0"
    assert marshal("s", ["ab"]) == b"\x02\0\0\0ab\0"
    assert marshal("at", [[5]]) == b"\x08\0\0\0\0\0\0\0" + b"\x05" + bytes(7)
    assert marshal("v", [Variant("u", 3)]) == b"\x01u\0\0\x03\0\0\0"


def test_types_of_a_signature() -> None:
    assert list(types("ssa(sv)a(sa(sv))")) == ["s", "s", "a(sv)", "a(sa(sv))"]
    for broken in ("a", "(s", "a(s"):
        with pytest.raises(ValueError, match="signature"):
            list(types(broken))


def test_scopes_lie_in_the_slices_that_their_names_tell() -> None:
    assert scope_of(":cove:abc") == ("system.slice", "cove-abc.scope")
    assert directory_of("user-1000.slice:cove:abc") == "/user.slice/user-1000.slice/cove-abc.scope"
    assert directory_of("-.slice:cove:abc") == "/cove-abc.scope"
    for broken in ("system.slice", "a:b", "bare:cove:x", "a--b.slice:cove:x", "/a:b:c", "a.slice:b:../c"):
        with pytest.raises(InvalidArgument):
            directory_of(broken)


def test_limits_in_systemds_words() -> None:
    asked = Resources(
        memory=MemoryLimits(limit=64 << 20, swap=128 << 20, reservation=32 << 20),
        cpu=CPULimits(shares=1024, quota=50_000, period=100_000, cpus="0,9"),
        pids=PidsLimit(limit=-1),
        devices=(DeviceRule(allow=False), DeviceRule(allow=True, type="c", major=1, minor=3)),
    )
    second = {name: variant.value for name, variant in limits(asked, 2)}
    assert second == {
        "MemoryMax": 64 << 20,
        "MemoryLow": 32 << 20,
        "MemorySwapMax": 64 << 20,
        "CPUWeight": 100,
        "CPUQuotaPerSecUSec": 500_000,
        "CPUQuotaPeriodUSec": 100_000,
        "AllowedCPUs": b"\x01\x02",
        "TasksMax": (1 << 64) - 1,
    }
    files = Resources(unified={"memory.high": "4096", "pids.max": "max", "io.max": "8:0 rbps=1"})
    assert dict(limits(files, 2)) == {
        "MemoryHigh": Variant("t", 4096),
        "TasksMax": Variant("t", (1 << 64) - 1),
    }
    first = {name: variant.value for name, variant in limits(asked, 1)}
    assert first["CPUShares"] == 1024
    assert first["DeviceAllow"] == [("/dev/char/1:3", "rwm")]
    assert "AllowedCPUs" not in first

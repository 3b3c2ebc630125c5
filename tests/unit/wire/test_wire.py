"""How requests are read and responses written, seen from the JSON."""

from __future__ import annotations

import json

import pytest

from cove.errors import InvalidArgument
from cove.wire.base import decode, encode
from cove.wire.containers import ContainerState, CreateRequest, HostConfig, go_mode
from cove.wire.execs import ExecCreateRequest
from cove.wire.filters import Filters
from cove.wire.networks import NetworkCreateRequest
from cove.wire.times import ZERO, moment, stamp


def test_a_create_request_is_read_as_clients_write_it() -> None:
    body = {
        "Image": "x",
        "Cmd": "echo",
        "Entrypoint": [],
        "Env": None,
        "Tty": 1,
        "Unknown": {"a": 1},
        "Volumes": {"/data": {}},
        "HostConfig": {
            "NanoCpus": 1.5e9,
            "Memory": "1024",
            "Binds": None,
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "81/tcp": None},
        },
        "NetworkingConfig": {"EndpointsConfig": {"front": None}},
    }
    request = decode(CreateRequest, json.dumps(body).encode())
    assert (request.cmd, request.entrypoint, request.env, request.tty) == (("echo",), (), (), True)
    assert (request.host_config.nano_cpus, request.host_config.memory) == (1_500_000_000, 1024)
    assert set(request.host_config.port_bindings) == {"80/tcp", "81/tcp"}
    assert request.networking_config.endpoints_config == {"front": None}
    assert b"HostConfig" not in encode(request.config())


def test_nulls_mean_absent_in_nested_values() -> None:
    text = b'{"Name":"n","Options":null,"IPAM":{"Config":[{"Subnet":"10.0.0.0/8","Gateway":null}],"Options":null}}'
    request = decode(NetworkCreateRequest, text)
    assert request.ipam is not None
    assert request.ipam.config[0].subnet == "10.0.0.0/8"
    assert request.options == {}
    assert decode(ExecCreateRequest, b"").cmd == ()


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"HostConfig":{"Memory":"lots"}}', b"\xff"])
def test_a_bad_body_is_the_clients_mistake(text: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode(CreateRequest, text)


def test_names_are_those_of_the_api() -> None:
    written = encode(HostConfig())
    for name in ("BlkioDeviceReadIOps", "IOMaximumIOps", "UTSMode", "ContainerIDFile", "CpusetCpus", "NanoCpus"):
        assert f'"{name}":'.encode() in written
    assert b'"Health"' not in encode(ContainerState(status="created"))


def test_filters_of_both_forms() -> None:
    for text in ('{"label":["a=1","b"]}', '{"label":{"a=1":true,"b":true,"c":false}}'):
        filters = Filters.parse(text, ["label"])
        assert filters.labels({"a": "1", "b": ""})
        assert not filters.labels({"a": "2", "b": ""})
    assert Filters.parse('{"dangling":["true"]}').flag("dangling") is True
    with pytest.raises(InvalidArgument):
        Filters.parse("{")


def test_times() -> None:
    assert stamp(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
    assert stamp(0) == ZERO
    now = 10**18
    assert moment("1700000000.5", now_ns=now) == 1_700_000_000_500_000_000
    assert moment("2023-11-14T23:13:20.1+01:00", now_ns=now) == 1_700_000_000_100_000_000
    assert moment("1h30m", now_ns=now) == now - 5400 * 10**9
    with pytest.raises(InvalidArgument):
        moment("yesterday", now_ns=now)


def test_modes_are_gos() -> None:
    assert go_mode(0o040755) == 0x800001ED
    assert go_mode(0o104755) == 0o755 | 1 << 23
    assert go_mode(0o020666) == 0o666 | 1 << 26 | 1 << 21

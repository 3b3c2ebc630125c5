"""Sizes, ages, ports and tables as people know them."""

from __future__ import annotations

import pytest

from cove.cli import humanize, output
from cove.cli.commands.ps import ports
from cove.client.frames import Frames


def test_sizes() -> None:
    assert [humanize.size(count) for count in (0, 999, 1000, 187_654_321)] == ["0B", "999B", "1kB", "188MB"]
    assert humanize.binary_size(1536) == "1.5KiB"


def test_times() -> None:
    assert humanize.unix("2026-01-02T03:04:05.5Z") == humanize.unix("2026-01-02T05:04:05.500000000+02:00")
    assert humanize.unix("0001-01-01T00:00:00Z") == 0


def test_neighbouring_ports_become_a_range() -> None:
    listed = [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 81, "PublicPort": 8081, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ]
    assert ports(listed) == "0.0.0.0:8080-8081->80-81/tcp, [::]:8080->80/tcp, 443/tcp"


def test_a_table_and_a_table_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"ID": "1", "Names": "web"}, {"ID": "222", "Names": "db"}]
    columns = (("ID", "CONTAINER ID"), ("Names", "NAMES"))
    output.show(rows, columns)
    assert capsys.readouterr().out == "CONTAINER ID   NAMES\n1              web\n222            db\n"
    output.show(rows, columns, r"table {{.Names}}\t{{.ID}}")
    assert capsys.readouterr().out == "NAMES   CONTAINER ID\nweb     1\ndb      222\n"
    output.show(rows, columns, "json")
    assert capsys.readouterr().out.splitlines()[0] == '{"ID":"1","Names":"web"}'


def test_frames_torn_anywhere() -> None:
    stream = b"\x01\0\0\0\0\0\0\x03abc" + b"\x02\0\0\0\0\0\0\x02de" + b"\x01\0\0\0\0\0\0\0"
    frames = Frames()
    found = [piece for byte in stream for piece in frames.feed(bytes([byte]))]
    assert b"".join(data for name, data in found if name == 1) == b"abc"
    assert b"".join(data for name, data in found if name == 2) == b"de"

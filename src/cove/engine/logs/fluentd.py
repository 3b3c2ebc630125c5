"""The driver `fluentd`: lines as events of Fluentd's forward protocol, MessagePack over TCP, TLS or a unix socket.

    [tag, time, {"container_id", "container_name", "source", "log", …}]        one event
    [tag, time, record, {"chunk": id}]  ──▶  {"ack": id}                        with fluentd-request-ack

Source: Fluentd, "Forward Protocol Specification v1".
"""

from __future__ import annotations

import base64
import errno
import os
import ssl
import struct
from collections.abc import Mapping, Sequence

import msgspec

from cove.engine.logs.entries import STDERR, Entry, Source
from cove.engine.logs.transport import Address, Connection, parse
from cove.errors import InvalidArgument

OPTIONS = frozenset({"fluentd-address", "fluentd-async", "fluentd-sub-second-precision", "fluentd-request-ack"})
_PORT = 24224
_EVENT_TIME = 0
_FLAGS = ("fluentd-async", "fluentd-sub-second-precision", "fluentd-request-ack")


def check(options: Mapping[str, str]) -> None:
    """Raise InvalidArgument for options that mean nothing."""
    _address(options)
    for name in _FLAGS:
        if options.get(name, "") not in ("", "true", "false"):
            raise InvalidArgument(f"invalid log opt {name} '{options[name]}': say true or false")


class Fluentd:
    """See `cove.engine.logs.entries.Sink`."""

    def __init__(self, source: Source, options: Mapping[str, str]) -> None:
        self._connection = Connection(_address(options), ssl.create_default_context)
        self._tag = source.tag
        self._precise = options.get("fluentd-sub-second-precision") == "true"
        self._acknowledged = options.get("fluentd-request-ack") == "true"
        self._common = {"container_id": source.id, "container_name": f"/{source.name}"} | source.attributes

    async def open(self) -> None:
        await self._connection.open()

    async def send(self, entries: Sequence[Entry]) -> None:
        if not self._acknowledged:
            await self._connection.send(b"".join(msgspec.msgpack.encode(self._event(entry)) for entry in entries))
            return
        for entry in entries:
            chunk = base64.b64encode(os.urandom(16)).decode()
            await self._connection.send(msgspec.msgpack.encode((*self._event(entry), {"chunk": chunk})))
            await self._acknowledge(chunk)

    async def _acknowledge(self, chunk: str) -> None:
        answer = b""
        while True:
            answer += await self._connection.receive(4096)
            try:
                said = msgspec.msgpack.decode(answer, type=dict[str, str])
            except msgspec.DecodeError:
                if len(answer) < 4096:
                    continue
                raise ConnectionError(errno.EPROTO, "the fluentd server answers with no acknowledgement") from None
            if said.get("ack") == chunk:
                return
            raise ConnectionError(errno.EPROTO, "the fluentd server acknowledges something else")

    def close(self) -> None:
        self._connection.close()

    def _event(self, entry: Entry) -> tuple[str, object, dict[str, str]]:
        seconds, rest = divmod(entry.time_ns, 10**9)
        at = msgspec.msgpack.Ext(_EVENT_TIME, struct.pack(">II", seconds, rest)) if self._precise else seconds
        record = {
            **self._common,
            "source": "stderr" if entry.stream == STDERR else "stdout",
            "log": entry.data.decode(errors="replace"),
        }
        if entry.partial:
            record["partial_message"] = "true"
        return self._tag, at, record


SINK = Fluentd


def _address(options: Mapping[str, str]) -> Address:
    text = options.get("fluentd-address", "") or "127.0.0.1"
    return parse("fluentd-address", text, ("tcp", "tls", "unix"), _PORT)

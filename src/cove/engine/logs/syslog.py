"""The driver `syslog`: lines as syslog messages, to a server or to this host's own.

Forms (option `syslog-format`):

    none              <PRI>Jan _2 15:04:05 TAG[PID]: LINE                       what a local syslog reads
    rfc3164           <PRI>Jan _2 15:04:05 HOST TAG[PID]: LINE
    rfc5424           <PRI>1 2026-01-02T15:04:05Z HOST TAG PID TAG - LINE       rfc5424micro: with microseconds

Standard output has the severity info, standard error err. Over tcp+tls a form of RFC 5424 is preceded by its length
(RFC 5425, section 4.3); everything else ends with a newline.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from cove.engine.logs.entries import STDERR, Entry, Source
from cove.engine.logs.transport import Address, Connection, parse
from cove.errors import InvalidArgument

OPTIONS = frozenset(
    {
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    }
)
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")
_SCHEMES = ("udp", "tcp", "tcp+tls", "unix", "unixgram")
_PORT = 514
_ERROR, _INFO = 3, 6
_NAMES = "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp".split()
_FACILITIES = {name: number for number, name in enumerate(_NAMES)} | {f"local{n}": 16 + n for n in range(8)}
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_FORMS = ("", "rfc3164", "rfc5424", "rfc5424micro")

Form = Callable[[int, int, bytes], bytes]
"""(priority, time in ns, line) to a message."""


def check(options: Mapping[str, str]) -> None:
    """Raise InvalidArgument for options that mean nothing."""
    _address(options)
    _facility(options)
    form = options.get("syslog-format", "")
    if form not in _FORMS:
        raise InvalidArgument(f"Invalid syslog format '{form}': there are {', '.join(_FORMS[1:])}")


class Syslog:
    """See `cove.engine.logs.entries.Sink`."""

    def __init__(self, source: Source, options: Mapping[str, str]) -> None:
        self._options = options
        self._address = _address(options)
        self._facility = _facility(options) << 3
        name = options.get("syslog-format", "")
        self._form = _form(name, source.tag)
        self._counted = name.startswith("rfc5424") and self._address is not None and self._address.scheme == "tcp+tls"
        self._connection: Connection | None = None

    async def open(self) -> None:
        self.close()
        if self._address is None:
            self._connection = await _local()
            return
        connection = Connection(self._address, partial(_tls, self._options))
        await connection.open()
        self._connection = connection

    async def send(self, entries: Sequence[Entry]) -> None:
        assert self._connection is not None
        messages = [self._message(entry) for entry in entries]
        if self._connection.stream:
            await self._connection.send(b"".join(messages))
            return
        for message in messages:
            await self._connection.send(message)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _message(self, entry: Entry) -> bytes:
        priority = self._facility | (_ERROR if entry.stream == STDERR else _INFO)
        message = self._form(priority, entry.time_ns, entry.data) + b"\n"
        return b"%d %s" % (len(message), message) if self._counted else message


SINK = Syslog


async def _local() -> Connection:
    """This host's own syslog, by datagrams or as a stream. Raises OSError."""
    for path in _LOCAL:
        for scheme in ("unixgram", "unix"):
            connection = Connection(Address(scheme, path))
            try:
                await connection.open()
            except OSError:
                continue
            return connection
    raise FileNotFoundError(2, "this host has no syslog of its own, as /dev/log; give --log-opt syslog-address")


def _address(options: Mapping[str, str]) -> Address | None:
    text = options.get("syslog-address", "")
    return parse("syslog-address", text, _SCHEMES, _PORT) if text else None


def _facility(options: Mapping[str, str]) -> int:
    text = options.get("syslog-facility", "") or "daemon"
    if text.isdecimal() and int(text) <= 23:
        return int(text)
    if text not in _FACILITIES:
        raise InvalidArgument(f"invalid syslog facility '{text}': say one of {', '.join(_FACILITIES)}")
    return _FACILITIES[text]


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    """Raises OSError that names a file which cannot be read or used."""
    authority = options.get("syslog-tls-ca-cert", "")
    own, key = options.get("syslog-tls-cert", ""), options.get("syslog-tls-key", "")
    with _named(authority):
        context = ssl.create_default_context(cafile=authority or None)
    if options.get("syslog-tls-skip-verify", "") not in ("", "false", "0"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if own:
        with _named(f"{own}, {key}" if key else own):
            context.load_cert_chain(own, key or None)
    return context


def _form(name: str, tag: str) -> Form:
    host, pid = socket.gethostname(), os.getpid()
    if name in ("", "rfc3164"):
        middle = f"{host} {tag}[{pid}]: " if name else f"{tag}[{pid}]: "
        return lambda priority, at, line: f"<{priority}>{_stamp(at)} {middle}".encode() + line
    micro = name == "rfc5424micro"
    rest = f"{host} {tag} {pid} {tag} - "
    return lambda priority, at, line: f"<{priority}>1 {_iso(at, micro)} {rest}".encode() + line


def _stamp(time_ns: int) -> str:
    at = time.localtime(time_ns // 10**9)
    return f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2d} {at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}"


def _iso(time_ns: int, micro: bool) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{rest // 1000:06d}Z" if micro else f"{text}Z"


@contextmanager
def _named(path: str) -> Iterator[None]:
    """The ssl module does not say which file it could not use."""
    try:
        yield
    except ssl.SSLError as error:
        words = (error.reason or "nothing in it can be used").replace("_", " ").lower()
        raise OSError(errno.EINVAL, f"it holds no certificate with its key: {words}", path) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None

"""Containers' output sent to log servers: what arrives, in which form, and what a server that is away costs."""

from __future__ import annotations

import gzip
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from tests.conftest import PATIENCE, Daemon, eventually, has_ended, stocked


class Datagrams:
    """A server of datagrams, on a port of the loopback's or at a path."""

    def __init__(self, at: Path | None = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX if at else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(str(at) if at else ("127.0.0.1", 0))
        self.socket.settimeout(60 * PATIENCE)

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def take(self, count: int) -> list[bytes]:
        return [self.socket.recv(1 << 20) for _ in range(count)]

    def close(self) -> None:
        self.socket.close()


class Stream:
    """A server of one connection after the other, whose bytes it keeps."""

    def __init__(
        self,
        port: int = 0,
        answer: Callable[[bytes], bytes] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self.socket.getsockname()[1]
        self.content = b""
        self._answer = answer
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            while data := connection.recv(65536):
                self.content += data
                if self._answer is not None:
                    connection.sendall(self._answer(data))
        except OSError:
            return

    def wait(self, words: bytes) -> bytes:
        assert eventually(lambda: words in self.content), self.content
        return self.content

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for connection in self._open:
            with suppress(OSError):  # as long as a thread reads from it, closing alone tells the peer nothing
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


Server = TypeVar("Server", Datagrams, Stream)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    try:
        yield server
    finally:
        server.close()


def test_syslog_lines_have_their_stream_their_tag_and_their_form(daemon: Daemon) -> None:
    with serving(Datagrams()) as server:
        options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=udp://127.0.0.1:{server.port}")
        daemon.docker("run", "--rm", *options, "--name", "said", "busybox", "sh", "-c", "echo out; echo err >&2")
        found = server.take(2)
        assert any(
            re.fullmatch(rb"<30>\w{3} [ \d]\d \d\d:\d\d:\d\d [0-9a-f]{12}\[\d+\]: out\n", each) for each in found
        )
        assert any(re.fullmatch(rb"<27>.*: err\n", each) for each in found)
        more = ("--log-opt", "syslog-format=rfc5424micro", "--log-opt", "syslog-facility=local3")
        tag = ("--log-opt", "tag={{.ImageName}}/{{.Name}}")
        daemon.docker("run", "--rm", *options, *more, *tag, "--name", "said", "busybox", "printf", "no newline")
        host = re.escape(socket.gethostname().encode())
        form = rb"<158>1 [\d-]{10}T[\d:]{8}\.\d{6}Z " + host + rb" busybox/said \d+ busybox/said - no newline\n"
        assert re.fullmatch(form, server.take(1)[0])


def test_what_is_sent_away_can_be_read_here_too_unless_that_is_not_wanted(daemon: Daemon) -> None:
    with serving(Stream()) as server:
        options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{server.port}")
        daemon.docker("run", "--name", "kept", *options, "busybox", "echo", "twice")
        server.wait(b": twice\n")
        assert daemon.docker("logs", "kept").stdout == "twice\n"
        daemon.docker("rm", "kept")
        daemon.docker(
            "run", "--name", "kept", *options, "--log-opt", "cache-disabled=true", "busybox", "echo", "once"
        )
        server.wait(b": once\n")
        refused = daemon.docker("logs", "kept", check=False)
        assert refused.returncode == 1 and "does not support reading" in refused.stderr
        daemon.docker("rm", "kept")


def test_a_server_that_comes_back_gets_what_was_written_meanwhile(daemon: Daemon) -> None:
    first = Stream()
    options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=tcp://127.0.0.1:{first.port}")
    daemon.docker(
        "run", "-d", "--name", "patient", "-i", *options, "busybox", "sh", "-c", "echo before; cat; sleep 60"
    )
    try:
        first.wait(b": before\n")
        first.close()
        daemon.cove(
            "exec", "patient", "sh", "-c", "for n in 1 2 3 4 5; do echo away $n >/proc/1/fd/1; sleep 0.1; done"
        )
        with serving(Stream(first.port)) as second:
            content = second.wait(b": away 5\n")
            assert b": away 3\n" in content and b": away 4\n" in content
    finally:
        daemon.docker("rm", "-f", "patient")


def test_a_new_daemon_goes_on_where_the_old_one_stopped(own_daemon: Daemon, tmp_path: Path) -> None:
    with serving(Datagrams()) as server:
        options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=udp://127.0.0.1:{server.port}")
        script = "echo one; until [ -e /w/go ]; do usleep 10000; done; echo two"
        words = ("--name", "steady", "-v", f"{tmp_path}:/w", *options, "busybox", "sh", "-c", script)
        own_daemon.docker("run", "-d", *words)
        pid = int(own_daemon.docker("inspect", "-f", "{{.State.Pid}}", "steady").stdout)
        assert b": one\n" in server.take(1)[0]
        own_daemon.stop()
        assert own_daemon.process is not None and own_daemon.process.poll() is not None
        (tmp_path / "go").touch()
        assert eventually(lambda: has_ended(pid))
        own_daemon.start()
        assert b": two\n" in server.take(1)[0]
        own_daemon.docker("rm", "-f", "steady")


def test_the_daemons_default_counts_for_who_names_no_driver(archive: Path) -> None:
    with serving(Datagrams()) as server:
        address = f"syslog-address=udp://127.0.0.1:{server.port}"
        with stocked(archive, "--log-driver", "syslog", "--log-opt", address) as daemon:
            daemon.docker("run", "--rm", "--log-opt", "tag=plain", "busybox", "echo", "mine")
            assert re.search(rb" plain\[\d+\]: mine\n", server.take(1)[0])
            assert daemon.docker("info", "-f", "{{.LoggingDriver}}").stdout == "syslog\n"
            daemon.docker("run", "--rm", "--log-driver", "json-file", "busybox", "echo", "here")
            daemon.docker("run", "--rm", "busybox", "echo", "after")
            assert b": after\n" in server.take(1)[0]


def test_a_start_whose_server_is_not_there_is_refused_with_its_name(daemon: Daemon) -> None:
    with serving(Stream()) as server:
        port = server.port
    address = f"tcp://127.0.0.1:{port}"
    options = ("--log-driver", "syslog", "--log-opt", f"syslog-address={address}")
    refused = daemon.docker("run", "--rm", *options, "busybox", "true", check=False)
    assert refused.returncode == 125
    assert f"failed to initialize logging driver: syslog: {address}: Connection refused" in refused.stderr
    waits = ("--log-driver", "fluentd", "--log-opt", f"fluentd-address=127.0.0.1:{port}")
    assert daemon.docker("run", "--rm", *waits, "busybox", "true", check=False).returncode == 125
    assert daemon.docker("run", "--rm", *waits, "--log-opt", "fluentd-async=true", "busybox", "true").returncode == 0


class Certificates:
    """An authority, and a server's and a client's certificates of its making; `other` is another authority."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("authority", "other"):
            self._openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=a", name)
        for name in ("server", "client"):
            self._openssl(f"req -newkey rsa:2048 -nodes -subj /CN={name}", name, "csr")
            (directory / "names").write_text("subjectAltName=IP:127.0.0.1")
            words = f"x509 -req -in {name}.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2"
            self._openssl(f"{words} -extfile names", name, keyless=True)

    def _openssl(self, words: str, name: str, kind: str = "crt", *, keyless: bool = False) -> None:
        made = ["-out", f"{name}.{kind}", *([] if keyless else ["-keyout", f"{name}.key"])]
        subprocess.run(["openssl", *words.split(), *made], cwd=self._directory, check=True, capture_output=True)

    def __getitem__(self, name: str) -> str:
        return str(self._directory / name)

    def server(self, *, asks: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self["server.crt"], self["server.key"])
        if asks:
            context.load_verify_locations(self["authority.crt"])
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def _by_tls(daemon: Daemon, port: int, **options: str) -> subprocess.CompletedProcess[str]:
    given = {"syslog-address": f"tcp+tls://127.0.0.1:{port}", "syslog-format": "rfc5424", "tag": "t"}
    given |= {f"syslog-tls-{name.replace('_', '-')}": value for name, value in options.items()}
    words = [word for name, value in given.items() for word in ("--log-opt", f"{name}={value}")]
    return daemon.docker("run", "--rm", "--log-driver", "syslog", *words, "busybox", "echo", "secret", check=False)


def test_syslog_by_tls_counts_its_messages_and_shows_a_certificate(
    daemon: Daemon, certificates: Certificates
) -> None:
    own = {"cert": certificates["client.crt"], "key": certificates["client.key"]}
    for asks, options in ((False, {}), (True, own), (False, {"skip_verify": "true"})):
        authority = {} if "skip_verify" in options else {"ca_cert": certificates["authority.crt"]}
        with serving(Stream(tls=certificates.server(asks=asks))) as server:
            assert _by_tls(daemon, server.port, **authority, **options).returncode == 0
            said = server.wait(b"secret")
        length, _, message = said.partition(b" ")
        assert int(length) == len(message) and message.startswith(b"<30>1 ")


@pytest.mark.parametrize("wrong", ["authority", "no TLS", "no file", "no key"])
def test_a_tls_server_that_is_not_believed_gets_nothing(
    daemon: Daemon, certificates: Certificates, wrong: str
) -> None:
    options = {"ca_cert": certificates["authority.crt"]}
    words = "syslog: tcp+tls://127.0.0.1:PORT: "
    if wrong == "authority":
        options, words = {"ca_cert": certificates["other.crt"]}, words + "its certificate is not believed: "
    elif wrong == "no TLS":
        words += "no TLS comes about: "
    elif wrong == "no file":
        options, words = {"ca_cert": certificates["none.crt"]}, f"{certificates['none.crt']}: No such file"
    else:
        options |= {"cert": certificates["client.crt"], "key": certificates["server.key"]}
        words = f"{certificates['server.key']}: it holds no certificate with its key: "
    plain = Stream(answer=lambda _: b"<30>no\n" * 20)
    with serving(plain if wrong == "no TLS" else Stream(tls=certificates.server())) as server:
        refused = _by_tls(daemon, server.port, **options)
    assert refused.returncode == 125 and words.replace("PORT", str(server.port)) in refused.stderr, refused.stderr
    assert b"secret" not in server.content


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("nowhere", [], "no log driver named 'nowhere'"),
        ("syslog", ["syslog-address=http://x"], "syslog-address"),
        ("syslog", ["syslog-facility=kitchen"], "invalid syslog facility 'kitchen'"),
        ("syslog", ["syslog-format=rfc1"], "Invalid syslog format 'rfc1'"),
        ("syslog", ["tag={{.Nothing}}"], "{{.ImageName}}"),
        ("syslog", ["max-size=10m"], "unknown log opt 'max-size' for syslog log driver"),
        ("gelf", [], "gelf-address is a required parameter"),
        ("gelf", ["gelf-address=tcp://x", "gelf-compression-type=gzip"], "only supported on UDP"),
        ("fluentd", ["fluentd-async=maybe"], "fluentd-async"),
        ("json-file", ["labels-regex=("], "labels-regex"),
    ],
)
def test_options_that_mean_nothing_are_refused(daemon: Daemon, driver: str, options: list[str], words: str) -> None:
    given = [word for option in options for word in ("--log-opt", option)]
    refused = daemon.docker("create", "--log-driver", driver, *given, "busybox", "true", check=False)
    assert refused.returncode == 1 and words in refused.stderr


def test_gelf_messages_are_compressed_and_cut_into_pieces(daemon: Daemon) -> None:
    with serving(Datagrams()) as server:
        options = ("--log-driver", "gelf", "--log-opt", f"gelf-address=udp://127.0.0.1:{server.port}")
        chosen = (
            "--log-opt",
            "labels=shade",
            "--label",
            "shade=blue",
            "--log-opt",
            "env-regex=^LO",
            "-e",
            "LOUD=yes",
        )
        daemon.docker("run", "--rm", *options, *chosen, "--name", "grey", "busybox", "echo", "short")
        told = json.loads(gzip.decompress(server.take(1)[0]))
        assert (told["version"], told["short_message"], told["level"]) == ("1.1", "short", 6)
        assert (told["_container_name"], told["_shade"], told["_LOUD"]) == ("grey", "blue", "yes")
        plain = ("--log-opt", "gelf-compression-type=none")
        daemon.docker(
            "run", "--rm", *options, *plain, "busybox", "sh", "-c", "head -c 3000 /dev/zero | tr '\\0' x; echo"
        )
        pieces = server.take(3)
        assert [each[:2] + each[10:12] for each in pieces] == [b"\x1e\x0f" + bytes((n, 3)) for n in range(3)]
        assert json.loads(b"".join(each[12:] for each in pieces))["short_message"] == "x" * 3000


def test_fluentd_gets_events_and_acknowledges_them(daemon: Daemon) -> None:
    def answer(data: bytes) -> bytes:
        return msgspec.msgpack.encode({"ack": msgspec.msgpack.decode(data)[3]["chunk"]})

    with serving(Stream(answer=answer)) as server:
        options = ("--log-driver", "fluentd", "--log-opt", f"fluentd-address=127.0.0.1:{server.port}")
        more = ("--log-opt", "fluentd-request-ack=true", "--log-opt", "tag=app.{{.Name}}")
        daemon.docker("run", "--rm", *options, *more, "--name", "river", "busybox", "sh", "-c", "echo flows >&2")
        tag, at, record, _ = msgspec.msgpack.decode(server.wait(b"flows"))
        assert tag == "app.river" and abs(at - time.time()) < 60 * PATIENCE
        assert (record["log"], record["source"], record["container_name"]) == ("flows", "stderr", "/river")


def test_journald_gets_entries_with_fields(archive: Path, own_daemon: Daemon) -> None:
    own_daemon.stop()
    place = own_daemon.root / "journal"
    place.mkdir()
    seat = f'mount -t tmpfs none /run && mkdir /run/systemd && ln -s {place} /run/systemd/journal && exec "$@"'
    own_daemon.around = ("unshare", "-m", "sh", "-c", seat, "sh")
    own_daemon.start()
    refused = own_daemon.docker("run", "--rm", "--log-driver", "journald", "busybox", "true", check=False)
    assert "journald is not enabled on this host" in refused.stderr
    with serving(Datagrams(place / "socket")) as server:
        options = ("--log-driver", "journald", "--label", "a.shade=blue", "--log-opt", "labels=a.shade")
        own_daemon.docker("run", "--rm", "--name", "noted", *options, "busybox", "sh", "-c", "echo day >&2")
        entry = server.take(1)[0].splitlines()
    assert {b"MESSAGE=day", b"PRIORITY=3", b"CONTAINER_NAME=noted", b"IMAGE_NAME=busybox", b"A_SHADE=blue"} <= set(
        entry
    )

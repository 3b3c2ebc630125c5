"""The daemon's life: from its arguments to its last log line.

    configuration ─▶ root? ─▶ locks on both roots ─▶ assemble (supervisor, engine, recovery)
      ─▶ listen ─▶ READY to systemd ─▶ … (SIGHUP: `reload`) ─▶ SIGTERM or SIGINT
      ─▶ stop listening, let requests end ─▶ engine and runtime closed; containers run on

Owns the order of beginning and end. It wires nothing itself (`assemble`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from cove import __version__
from cove.api.app import application
from cove.api.server import Server, systemd_sockets, tls_context
from cove.daemon.assemble import assembled
from cove.daemon.config import Config, Host, SystemdHost, TcpHost, UnixHost, load
from cove.daemon.locks import held
from cove.daemon.reload import reload
from cove.daemon.systemd import notify
from cove.engine.engine import Engine
from cove.errors import CoveError, InvalidArgument

_log = logging.getLogger("cove.daemon")


def run(argv: Sequence[str]) -> int:
    """Run a daemon until it is told to stop; its exit status."""
    try:
        config = load(argv)
        if os.geteuid() != 0:
            raise InvalidArgument(
                "The daemon needs root, for it makes namespaces, mounts and control groups; try sudo"
            )
        _log_to_stderr(config.log_level)
        with held(config.data, config.run):
            asyncio.run(_live(config, argv))
    except CoveError as error:
        print(f"cove daemon: {error.message}", file=sys.stderr)
        return 1
    except Exception:
        _log.exception("the daemon failed in a way that it did not foresee")
        return 1
    return 0


async def _live(config: Config, argv: Sequence[str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # until there is something that could be told anew
    async with assembled(config) as engine:
        server = Server(application(engine))
        try:
            await _listen(server, config)
            gc.collect()
            gc.freeze()  # what lives as long as the daemon need not be looked at again
            loop.add_signal_handler(signal.SIGHUP, _again(engine, config, argv))
            notify("READY=1")
            _log.info("Cove %s works on %s and %s", __version__, config.data.root, config.run.root)
            await stop.wait()
        finally:
            notify("STOPPING=1")
            _log.info("stopping; containers run on")
            await server.close()


def _again(engine: Engine, config: Config, argv: Sequence[str]) -> Callable[[], None]:
    """What SIGHUP does, each time from where the last one led."""

    def read() -> None:
        nonlocal config
        config = reload(engine, config, argv)

    return read


async def _listen(server: Server, config: Config) -> None:
    inherited = systemd_sockets(dict(os.environ))
    for sock in inherited:
        await server.listen(sock)
        _log.info("listening on a socket of systemd's, %s", sock.getsockname())
    taken = {str(sock.getsockname()) for sock in inherited}
    for host in config.hosts:
        await _listen_on(server, host, config, taken)


async def _listen_on(server: Server, host: Host, config: Config, taken: set[str]) -> None:
    match host:
        case UnixHost(path=path):
            if str(path) not in taken:
                await server.listen_unix(path)
                _log.info("listening on unix://%s", path)
        case TcpHost(host=name, port=port):
            tcp = config.file.tcp
            tls = tls_context(ca=tcp.ca, certificate=tcp.certificate, key=tcp.key) if tcp.ca else None
            bound = await server.listen_tcp(name, port, tls=tls, names=tcp.names)
            _log.info("listening on tcp://%s:%d %s", *bound, "with client certificates" if tls else "WITHOUT TLS")
        case SystemdHost():
            if not taken:
                raise InvalidArgument("fd:// needs sockets of systemd's, and it passed none to this process")


def _log_to_stderr(level: str) -> None:
    """Plain lines; what collects them adds the date if it likes."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.captureWarnings(True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

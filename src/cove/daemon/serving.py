"""What a daemon does between its first and its last request: the engine assembled, the sockets served.

Its import is the daemon's whole code, which is why `daemon.main` has begun a supervisor before it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Sequence

from cove import __version__
from cove.api.app import application
from cove.api.server import Server, systemd_sockets, tls_context
from cove.daemon.assemble import assembled
from cove.daemon.config import Config, Host, SystemdHost, TcpHost, UnixHost
from cove.daemon.reload import reload
from cove.daemon.systemd import notify
from cove.engine.engine import Engine
from cove.errors import InvalidArgument
from cove.runtime.spawning import Early

_log = logging.getLogger("cove.daemon")


def serve(config: Config, argv: Sequence[str], early: Early) -> None:
    """Until SIGTERM or SIGINT. `argv` is read again at SIGHUP; `early`: the supervisor, on its way."""
    asyncio.run(_live(config, argv, early))


async def _live(config: Config, argv: Sequence[str], early: Early) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # until there is something that could be told anew
    async with assembled(config, early) as engine:
        server = Server(application(engine))
        try:
            await _listen(server, config)
            gc.freeze()  # what lives as long as the daemon is not looked at again, and hardly any of it is garbage
            gc.enable()
            loop.add_signal_handler(signal.SIGHUP, _again(engine, config, argv))
            notify(f"READY=1\nSTATUS=Cove {__version__} on {config.data.root} and {config.run.root}")
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

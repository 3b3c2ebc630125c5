"""The registry's life: from its settings to its last log line.

    settings ─▶ lock on the root ─▶ storage, door, caches ─▶ listen ─▶ … SIGTERM or SIGINT
      ─▶ stop listening, let requests end ─▶ closed

Owns the order of beginning and end, and which parts there are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cove import __version__
from cove.errors import CoveError, Internal, InvalidArgument, describe
from cove.httpd.server import Server, bind_tcp
from cove.registry.access import Access
from cove.registry.metrics import Metrics
from cove.registry.passwords import Passwords
from cove.registry.proxy import Proxies
from cove.registry.refusals import refusal
from cove.registry.routes import application
from cove.registry.service import Registry
from cove.registry.settings import Settings
from cove.registry.storage import Storage
from cove.registry.tokens import Signer, key_at
from cove.store.locks import lock

_log = logging.getLogger("cove.registry")

_PATIENCE = 120.0
"""Seconds that a client may give and take nothing although it is its turn."""

_GRACE = 10.0


def serve(settings: Settings) -> int:
    """Serve until told to stop; the exit status."""
    logging.basicConfig(
        stream=sys.stderr,
        level="DEBUG" if settings.verbose else "INFO",
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    try:
        with assembled(settings) as make:
            asyncio.run(_live(settings, make))
    except CoveError as error:
        print(f"cove registry: {error.message}", file=sys.stderr)
        return 1
    return 0


class Maker:
    """What was opened before the loop runs."""

    def __init__(self, settings: Settings, storage: Storage, access: Access, metrics: Metrics) -> None:
        self.settings = settings
        self.storage = storage
        self.access = access
        self.metrics = metrics


@contextmanager
def assembled(settings: Settings) -> Iterator[Maker]:
    """Everything that needs no loop; closed afterwards. Raises CoveError for settings that make no sense."""
    _check(settings)
    with ExitStack() as stack:
        root = settings.root.absolute()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Internal(f"Cannot use {root} as the registry's directory: {describe(error)}") from error
        stack.callback(os.close, lock(root / "lock", root))
        metrics = Metrics()
        passwords = Passwords(Path(settings.htpasswd)) if settings.htpasswd else None
        signer = None
        if settings.tokens or settings.anonymous_pull:
            key = key_at(root / "token.key")
            signer = Signer(key, issuer="cove-registry", service="cove-registry", life=settings.token_life)
        access = Access(passwords, signer, metrics, anonymous_pull=settings.anonymous_pull, url=settings.url)
        stack.callback(access.close)
        storage = Storage(root, quota=settings.quota, repository_quota=settings.repository_quota)
        stack.callback(storage.close)
        yield Maker(settings, storage, access, metrics)


async def _live(settings: Settings, made: Maker) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    proxies = Proxies(settings, made.storage, made.metrics)
    registry = Registry(settings, made.storage, made.access, proxies, made.metrics)
    server = Server(application(registry), refusal, patience=_PATIENCE)
    tls = tls_context(settings) if settings.tls_certificate else None
    collecting = None
    try:
        for address in settings.listen:
            host, port = parse_address(address)
            sock = bind_tcp(host, port)
            await server.listen(sock, tls)
            shown = f"[{host}]" if ":" in host else host
            _log.info("listening on %s://%s:%d", "https" if tls else "http", shown, sock.getsockname()[1])
            if settings.htpasswd and tls is None and not (host.startswith("127.") or host in ("::1", "localhost")):
                _log.warning("passwords travel to %s unencrypted, unless something before it speaks TLS", shown)
        collecting = loop.create_task(registry.keep_collecting(), name="registry: garbage")
        _log.info("Cove %s serves the registry in %s", __version__, settings.root)
        await stop.wait()
    finally:
        _log.info("stopping")
        await server.close(_GRACE)
        if collecting is not None:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
        await loop.run_in_executor(None, proxies.close)
        registry.close()


def parse_address(text: str) -> tuple[str, int]:
    """ "HOST:PORT", ":PORT" or "[ADDRESS]:PORT". Raises InvalidArgument."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidArgument(f"{text!r} is no address to listen on; write HOST:PORT, as in 127.0.0.1:5000")
    return host.strip("[]") or "0.0.0.0", int(port)


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Our certificate, and which clients' certificates are believed. Raises InvalidArgument."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        if settings.tls_client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cafile=settings.tls_client_ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"The TLS files cannot be used: {error}") from error
    return context


def _check(settings: Settings) -> None:
    """Refuse what contradicts itself."""
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise InvalidArgument("--tls-cert and --tls-key go together")
    if settings.tls_client_ca and not settings.tls_certificate:
        raise InvalidArgument("--tls-client-ca needs --tls-cert and --tls-key")
    if (settings.tokens or settings.anonymous_pull) and not settings.htpasswd:
        raise InvalidArgument(
            "--token and --anonymous-pull need users: --htpasswd FILE; without it everybody may do all"
        )
    if settings.proxy_username and not settings.proxy_password_file:
        raise InvalidArgument("--proxy-username needs --proxy-password-file")
    for address in settings.listen:
        parse_address(address)

"""`cove registry`: a registry in this process, and its users' passwords. Only this imports the registry's code."""

from __future__ import annotations

import sys

from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.values import size

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def serve(call: Call) -> int:
    from pathlib import Path

    from cove.registry.main import serve as serve_registry
    from cove.registry.settings import Settings

    default = Settings()
    settings = Settings(
        listen=tuple(call.list("listen")) or default.listen,
        root=Path(call.text("root")) if call.given("root") else default.root,
        tls_certificate=call.text("tls-cert"),
        tls_key=call.text("tls-key"),
        tls_client_ca=call.text("tls-client-ca"),
        htpasswd=call.text("htpasswd"),
        tokens=call.flag("token"),
        token_life=_seconds(call, "token-life"),
        anonymous_pull=call.flag("anonymous-pull"),
        url=call.text("url"),
        read_only=call.flag("read-only"),
        quota=_bytes(call, "quota"),
        repository_quota=_bytes(call, "repository-quota"),
        proxies=tuple(call.list("proxy")),
        proxy_ttl=_seconds(call, "proxy-ttl"),
        proxy_keep=_seconds(call, "proxy-keep"),
        proxy_username=call.text("proxy-username"),
        proxy_password_file=call.text("proxy-password-file"),
        registries=call.text("registries"),
        collect_every=_seconds(call, "gc-interval"),
        grace=_seconds(call, "gc-grace"),
        untagged_after=_seconds(call, "gc-untagged"),
        verbose=call.flag("verbose"),
    )
    return serve_registry(settings)


def passwd(call: Call) -> int:
    from getpass import getpass
    from pathlib import Path

    from cove.registry.passwords import add

    file, user = call.arguments
    password = sys.stdin.readline().rstrip("\r\n") if call.flag("password-stdin") else getpass("Password: ")
    new = add(Path(file), user, password)
    print(f"{'Added' if new else 'Changed'} {user} in {file}")
    return 0


def _bytes(call: Call, name: str) -> int:
    return size(call.text(name), name) if call.text(name) not in ("", "0") else 0


def _seconds(call: Call, name: str) -> float:
    """A duration such as 90s, 15m, 12h, 30d. Raises UsageError."""
    text = call.text(name)
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number or "0") * _UNITS[unit]
    except ValueError:
        seconds = -1
    if not 0 <= seconds < 1e10:
        raise UsageError(f"the value {text!r} of --{name} is no duration: write 90s, 15m, 12h or 30d")
    return seconds


SERVE = Verb(
    serve,
    "Serve a registry of images.",
    "",
    (
        Flag("listen", "Where to listen, HOST:PORT; repeatable (default 127.0.0.1:5000)", "list", hint="address"),
        Flag("root", "Where everything is kept (default /var/lib/cove/registry)", hint="dir"),
        Flag("tls-cert", "Certificate chain, PEM", hint="file"),
        Flag("tls-key", "The certificate's key, PEM", hint="file"),
        Flag("tls-client-ca", "Only clients with a certificate of this authority", hint="file"),
        Flag("htpasswd", "Users and bcrypt passwords; without it everybody may do everything", hint="file"),
        Flag("token", "Give out bearer tokens at /token instead of asking for the password each time", "bool"),
        Flag("token-life", "How long a token holds", default="5m", hint="duration"),
        Flag("anonymous-pull", "Everybody may pull, users may do everything (implies --token)", "bool"),
        Flag("url", "How clients reach this registry, if not as they say: https://HOST[:PORT]", hint="url"),
        Flag("read-only", "Refuse pushes and deletions", "bool"),
        Flag("quota", "Most bytes that all repositories may take together: 500g", hint="size"),
        Flag("repository-quota", "Most bytes that one repository may have", hint="size"),
        Flag("proxy", "Be a cache of a registry: [PREFIX=]HOST, or * for any; repeatable", "list", hint="registry"),
        Flag(
            "proxy-ttl",
            "How long a cached tag is believed before its registry is asked",
            default="1h",
            hint="duration",
        ),
        Flag("proxy-keep", "How long what nobody asks for stays in the cache", default="7d", hint="duration"),
        Flag("proxy-username", "User at the registry behind", hint="user"),
        Flag("proxy-password-file", "File with that user's password", hint="file"),
        Flag("registries", "Credentials and CAs by host", default="/etc/cove/registries.toml", hint="file"),
        Flag(
            "gc-interval",
            "How often to collect garbage; deletions are collected at once",
            default="10m",
            hint="duration",
        ),
        Flag("gc-grace", "How long a blob without a manifest stays", default="1h", hint="duration"),
        Flag("gc-untagged", "Delete manifests without a tag that were unused so long: 30d", hint="duration"),
        Flag("verbose", "Log more", "bool"),
    ),
)
PASSWD = Verb(
    passwd,
    "Set a user's password in a registry's password file.",
    "FILE USER",
    (Flag("password-stdin", "Read the password from standard input", "bool"),),
    least=2,
    most=2,
)

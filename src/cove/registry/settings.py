"""What the administrator chose on the command line, as one frozen value. Seconds and bytes; 0 is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_ROOT = Path("/var/lib/cove/registry")
DEFAULT_LISTEN = "127.0.0.1:5000"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that this registry was told."""

    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    root: Path = DEFAULT_ROOT
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    htpasswd: str = ""
    tokens: bool = False
    token_life: float = 300.0
    anonymous_pull: bool = False
    url: str = ""
    read_only: bool = False
    quota: int = 0
    repository_quota: int = 0
    proxies: tuple[str, ...] = ()
    proxy_ttl: float = 3600.0
    proxy_keep: float = 7 * 86400.0
    proxy_username: str = ""
    proxy_password_file: str = ""
    registries: str = "/etc/cove/registries.toml"
    collect_every: float = 600.0
    grace: float = 3600.0
    untagged_after: float = 0.0
    verbose: bool = False

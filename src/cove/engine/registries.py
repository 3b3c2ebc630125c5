"""What is known of registries, as `docker info` prints it. Pure.

insecure_registries of daemon.toml ─┐
[host] tables of registries.toml ───┼─▶ IndexConfigs, by host
mirrors of docker.io in it ─────────┴─▶ Mirrors
"""

from __future__ import annotations

from collections.abc import Sequence

from cove.errors import Forbidden
from cove.image.distribution.registries import Registries, host_name
from cove.oci.reference import DEFAULT_DOMAIN, Reference
from cove.wire.system import IndexInfo, RegistryConfig

_LOOPBACK = RegistryConfig().insecure_registry_cidrs
_ANY_IMAGE = Reference(DEFAULT_DOMAIN, "library/any")


def shown(insecure: Sequence[str], said: Registries) -> RegistryConfig:
    """`insecure`: hosts and networks that need no certificate; `said`: the administrator's file."""
    networks = tuple(each for each in insecure if "/" in each)
    hosts = [each for each in insecure if "/" not in each]
    hosts += [host for host, table in said.host.items() if table.insecure or table.plain_http]
    mirrors = _mirrors(said)
    hub = IndexInfo(name=DEFAULT_DOMAIN, mirrors=mirrors, official=True)
    return RegistryConfig(
        insecure_registry_cidrs=_LOOPBACK + networks,
        index_configs={DEFAULT_DOMAIN: hub} | {host: IndexInfo(name=host, secure=False) for host in hosts},
        mirrors=mirrors or None,
    )


def _mirrors(said: Registries) -> tuple[str, ...]:
    """Addresses of what is asked before docker.io."""
    try:
        places = said.places(_ANY_IMAGE)
    except Forbidden:
        return ()
    found = []
    for place in places:
        if place.host != host_name(DEFAULT_DOMAIN):
            table = said.host.get(place.host)
            scheme = "http" if table is not None and table.plain_http else "https"
            above = place.path.removesuffix(_ANY_IMAGE.path)
            found.append(f"{scheme}://{place.host}/{above}")
    return tuple(found)

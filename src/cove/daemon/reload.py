"""SIGHUP: the configuration is read again, and what may change in a daemon that runs changes at once.

What containers that run were made with (networks, roots, users, the driver of control groups) stays until a restart,
and a file that has errors changes nothing; the log says both in a sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from cove.daemon.assemble import settings_of
from cove.daemon.config import Config, File, load
from cove.engine.engine import Engine
from cove.errors import CoveError

_log = logging.getLogger("cove.daemon")

_LIVE = frozenset({"log_level", "labels", "stop_timeout", "cdi_directories", "log"})
_LIVE_NETWORK = frozenset({"dns", "dns_search", "dns_options"})


def reload(engine: Engine, config: Config, argv: Sequence[str]) -> Config:
    """What counts from now on; `config` itself when the file cannot be used."""
    try:
        asked = load(argv).file
    except CoveError as error:
        _log.error("the configuration stays as it was: %s", error.message)
        return config
    live, later = _told_apart(config.file, asked)
    changed = Config(data=config.data, run=config.run, hosts=config.hosts, file=live)
    logging.getLogger().setLevel(live.log_level.upper())
    engine.reconfigure(settings_of(changed))
    for name in later:
        _log.warning("%s in the configuration counts from the next start of the daemon on", name)
    _log.info("the configuration was read again")
    return changed


def _told_apart(old: File, new: File) -> tuple[File, list[str]]:
    """The old file with the new one's values that count at once, and the names of those that do not."""
    later = [name for name in File.__struct_fields__ if name not in {*_LIVE, "network"} and _differ(old, new, name)]
    network = {name: getattr(new.network, name) for name in _LIVE_NETWORK}
    later += [
        f"network.{name}"
        for name in type(new.network).__struct_fields__
        if name not in _LIVE_NETWORK and _differ(old.network, new.network, name)
    ]
    values = {name: getattr(new, name) for name in File.__struct_fields__ if name in _LIVE}
    return msgspec.structs.replace(old, network=msgspec.structs.replace(old.network, **network), **values), later


def _differ(old: msgspec.Struct, new: msgspec.Struct, name: str) -> bool:
    return bool(getattr(old, name) != getattr(new, name))

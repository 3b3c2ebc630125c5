"""Which log drivers there are and what they may be told. A driver's module is loaded when it is first asked for.

Every driver's container has its own log on this host, which `logs` and `attach` read; with a driver that sends the
output away that log is what is kept back for them (`cache-…`), and what a server has not taken yet waits in it.
"""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType

from cove.engine.containers.records import Record
from cove.engine.logs import entries
from cove.errors import InvalidArgument
from cove.wire.containers import LogConfig

SENT = ("fluentd", "gelf", "journald", "syslog")
"""Drivers that send the output somewhere."""
KNOWN = (*SENT, "json-file", "local", "none")
_SIZE = re.compile(r"(\d+)([kmg]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_CHOICE = frozenset({"labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"})
_KEPT = frozenset({"max-size", "max-file", "compress"})
_CACHE = frozenset({"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"})


def check_log(config: LogConfig) -> None:
    """Refuse log drivers and options that there are not. Raises InvalidArgument."""
    if config.type not in ("", *KNOWN):
        raise InvalidArgument(
            f"logger: no log driver named '{config.type}' is registered; there are {', '.join(KNOWN)}"
        )
    module = _module(config) if config.type in SENT else None
    known = _CHOICE | (_CACHE | module.OPTIONS if module is not None else _KEPT)
    for option in config.config:
        if option not in known:
            raise InvalidArgument(f"unknown log opt '{option}' for {config.type or 'local'} log driver")
    mode = config.config.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in config.config and mode != "non-blocking":
        raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
    for kind in ("labels", "env"):
        entries.pattern_of(config.config, kind)
    entries.check_tag(config)
    log_bounds(config)
    if module is not None:
        module.check(config.config)


def log_bounds(config: LogConfig) -> tuple[int, int]:
    """(bytes of a segment, number of segments) that the user asked for; 0 for the default."""
    if config.type == "none":
        return 1 << 20, 2
    prefix = "cache-max" if config.type in SENT else "max"
    size, files = config.config.get(f"{prefix}-size", ""), config.config.get(f"{prefix}-file", "")
    segment = 0
    if size and size != "-1":
        match = _SIZE.fullmatch(size)
        if match is None:
            raise InvalidArgument(f"invalid value for {prefix}-size: {size!r}")
        segment = int(match[1]) * _UNITS[match[2].lower()]
    if files and (not files.isdecimal() or int(files) < 1):
        raise InvalidArgument(f"{prefix}-file cannot be less than 1: {files!r}")
    return max(segment, 4096) if segment else 0, int(files or 0)


def readable(config: LogConfig) -> bool:
    """Whether `logs` may read what is kept."""
    return config.type != "none" and not (config.type in SENT and config.config.get("cache-disabled") == "true")


def patient(config: LogConfig) -> bool:
    """Whether a container may start although its server cannot be reached."""
    return config.type == "fluentd" and config.config.get("fluentd-async") == "true"


def sink(record: Record) -> entries.Sink:
    """What sends a container's output where it wants it."""
    config = record.host.log_config
    made: entries.Sink = _module(config).SINK(entries.source(record), config.config)
    return made


def _module(config: LogConfig) -> ModuleType:
    return import_module(f"cove.engine.logs.{config.type}")

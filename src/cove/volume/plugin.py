"""Volume drivers of others, over Docker's plugin protocol: JSON by HTTP at a socket or an address.

    directory/NAME.sock   directory/NAME/NAME.sock     a unix socket
    directory/NAME.spec   a line: unix:///PATH or tcp://HOST:PORT
    directory/NAME.json   {"Name", "Addr", "TLSConfig": {"CAFile", "CertFile", "KeyFile", "InsecureSkipVerify"}}

    /Plugin.Activate ─▶ {"Implements": ["VolumeDriver"]}
    /VolumeDriver.{Create, Get, List, Path, Mount, Unmount, Remove, Capabilities} ─▶ {…, "Err": ""}

Owns finding, asking and the words of a refusal. It never knows which container uses a volume; `user` is any text
that is the same at Mount and Unmount. All methods block as long as the plugin takes; they belong in an executor.
Source: Docker's documentation, "Plugin API" and "Docker volume plugins".
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from cove.errors import Internal, InvalidArgument, NotFound, Unavailable, describe

_TYPE = "application/vnd.docker.plugins.v1.2+json"
_PATIENCE = 120.0
QUICK = 3.0
"""Seconds for questions that many plugins are asked at once."""
_MOST = 16 << 20


class Volume(msgspec.Struct, frozen=True):
    """A volume as its plugin tells of it; `mountpoint` "" while it is mounted nowhere."""

    name: str
    mountpoint: str = ""
    created: str = ""
    status: Mapping[str, Any] = msgspec.field(default_factory=dict)


class PluginDriver:
    """One plugin that answered to the name of a volume driver."""

    def __init__(self, name: str, address: _Address, patience: float = _PATIENCE) -> None:
        """`patience`: seconds to wait for each part of an answer."""
        self.name = name
        self._address = address
        self._patience = patience
        self._scope = ""

    def activate(self) -> None:
        """See that it is there and keeps volumes. Raises Unavailable, InvalidArgument."""
        kinds = self._call("Plugin.Activate", {}).get("Implements") or ()
        if "VolumeDriver" not in kinds:
            raise InvalidArgument(
                f"The plugin {self.name} keeps no volumes: it implements {', '.join(kinds) or 'nothing'}"
            )

    def scope(self) -> str:
        """Whether its volumes are this host's ("local") or everywhere the same ("global")."""
        if not self._scope:
            try:
                found = self._call("VolumeDriver.Capabilities", {}).get("Capabilities") or {}
            except (NotFound, Internal):
                found = {}  # it need not know this question
            scope = str(found.get("Scope", "")).lower()
            self._scope = scope if scope in ("local", "global") else "local"
        return self._scope

    def create(self, name: str, options: Mapping[str, str]) -> None:
        """Make the volume, unless it is there."""
        try:
            self.get(name)
        except NotFound:
            self._call("VolumeDriver.Create", {"Name": name, "Opts": dict(options)}, name)

    def get(self, name: str) -> Volume:
        """What the plugin knows of it; NotFound, in the plugin's words too, when that is nothing."""
        try:
            found = self._call("VolumeDriver.Get", {"Name": name}, name).get("Volume")
        except Internal as error:
            raise NotFound(f"get {name}: no such volume: {error.message}") from None
        if not found:
            raise NotFound(f"get {name}: no such volume")
        return _volume(found)

    def list(self) -> Sequence[Volume]:
        """All that it has."""
        return [_volume(each) for each in self._call("VolumeDriver.List", {}).get("Volumes") or () if each]

    def mount(self, name: str, user: str) -> str:
        """Have the data in a directory of the host until `user` unmounts it; that directory."""
        place = str(self._call("VolumeDriver.Mount", {"Name": name, "ID": user}, name).get("Mountpoint") or "")
        if not place.startswith("/"):
            self.unmount(name, user)
            raise Internal(f"The volume plugin {self.name} mounts {name} at {place!r}, which is no absolute path")
        return place

    def unmount(self, name: str, user: str) -> None:
        """`user` needs it no more."""
        self._call("VolumeDriver.Unmount", {"Name": name, "ID": user}, name)

    def remove(self, name: str) -> None:
        """Delete it with its data; nothing happens when the plugin does not know it any more."""
        try:
            self.get(name)
        except NotFound:
            return
        self._call("VolumeDriver.Remove", {"Name": name}, name)

    def _call(self, method: str, body: Mapping[str, Any], volume: str = "") -> dict[str, Any]:
        what = f"{method.rpartition('.')[2].lower()} {volume}".strip()
        try:
            status, raw = self._address.post(method, json.dumps(body).encode(), self._patience)
        except (OSError, http.client.HTTPException) as error:
            reason = describe(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            raise Unavailable(f"The volume plugin {self.name} does not answer ({what}): {reason}") from None
        try:
            answer = json.loads(raw) if raw.strip() else {}
        except ValueError:
            answer = {}
        told = str(answer.get("Err") or "") if isinstance(answer, dict) else ""
        if status >= 400 or told:
            reason = told or raw.decode(errors="replace").strip()[:500] or f"status {status}"
            kind = NotFound if status == 404 and not told else Internal
            raise kind(f"The volume plugin {self.name} refuses ({what}): {reason}")
        return answer if isinstance(answer, dict) else {}


def _volume(found: Mapping[str, Any]) -> Volume:
    status = found.get("Status")
    return Volume(
        name=str(found.get("Name") or ""),
        mountpoint=str(found.get("Mountpoint") or ""),
        created=str(found.get("CreatedAt") or ""),
        status=status if isinstance(status, dict) else {},
    )


class Plugins:
    """The plugins of this host, activated when they are asked for first; safe to use from several threads."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = [Path(directory) for directory in directories]
        self._lock = threading.Lock()
        self._known: dict[tuple[str, _Address, float], PluginDriver] = {}

    def names(self) -> Sequence[str]:
        """Those that are there to be asked."""
        found = set()
        for directory in self._directories:
            try:
                entries = os.listdir(directory)
            except OSError:
                continue
            for entry in entries:
                name, _, kind = entry.rpartition(".")
                name = name if kind in ("sock", "spec", "json") else entry
                if self._place(name) is not None:
                    found.add(name)
        return sorted(found)

    def driver(self, name: str, patience: float = _PATIENCE) -> PluginDriver:
        """The plugin of that name; NotFound when there is none, Unavailable when it does not answer."""
        address = self._address(name)
        if address is None:
            raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found')
        with self._lock:
            known = self._known.get((name, address, patience))
        if known is None:
            known = PluginDriver(name, address, patience)
            known.activate()
            with self._lock:
                self._known[name, address, patience] = known
        return known

    def _address(self, name: str) -> _Address | None:
        path = self._place(name)
        if path is None:
            return None
        return _Address(f"unix://{path}") if path.suffix == ".sock" else _read(path, name)

    def _place(self, name: str) -> Path | None:
        """The plugin's socket, or the file that describes it; None without either."""
        if not name or "/" in name or name.startswith(".") or "\0" in name:
            return None
        places = [place for directory in self._directories for place in (directory, directory / name)]
        sockets = [path for place in places if (path := place / f"{name}.sock").is_socket()]
        texts = (place / f"{name}.{kind}" for place in places for kind in ("spec", "json"))
        return next(iter(sockets), None) or next((path for path in texts if path.is_file()), None)


class _Address(msgspec.Struct, frozen=True):
    """Where a plugin listens, and how it is told from others."""

    url: str
    authority: str = ""
    certificate: str = ""
    key: str = ""
    unverified: bool = False

    def post(self, method: str, body: bytes, patience: float) -> tuple[int, bytes]:
        """(status, answer); raises OSError, HTTPException."""
        connection = self._connection(patience)
        try:
            connection.request("POST", f"/{method}", body, {"Accept": _TYPE, "Content-Type": _TYPE})
            response = connection.getresponse()
            return response.status, response.read(_MOST)
        finally:
            connection.close()

    def _connection(self, patience: float) -> http.client.HTTPConnection:
        url = urlsplit(self.url)
        if url.scheme == "unix":
            return _Unix(url.path, patience)
        host, port = url.hostname or "", url.port
        if not (self.authority or self.certificate or self.unverified or url.scheme == "https"):
            return http.client.HTTPConnection(host, port, timeout=patience)
        context = ssl.create_default_context(cafile=self.authority or None)
        if self.unverified:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key or None)
        return http.client.HTTPSConnection(host, port, timeout=patience, context=context)


def _read(path: Path, name: str) -> _Address:
    """A description in a file; raises InvalidArgument."""
    try:
        text = path.read_text()
        if path.suffix == ".spec":
            address = _Address(text.strip())
        else:
            document = json.loads(text)
            tls = document.get("TLSConfig") or {}
            address = _Address(
                str(document.get("Addr") or ""),
                authority=str(tls.get("CAFile") or ""),
                certificate=str(tls.get("CertFile") or ""),
                key=str(tls.get("KeyFile") or ""),
                unverified=bool(tls.get("InsecureSkipVerify")),
            )
        url = urlsplit(address.url)
        if url.scheme not in ("unix", "tcp", "http", "https") or not (
            url.path if url.scheme == "unix" else url.hostname
        ):
            raise ValueError(f"{address.url!r} is no address: write unix:///PATH or tcp://HOST:PORT")
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"The plugin {name} cannot be used: {path}: {error}") from None
    return address


class _Unix(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: str, patience: float) -> None:
        super().__init__("plugin", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

"""`-p` and `--expose`: [[HOST-ADDRESS:]HOST-PORT[-END]:]PORT[-END][/PROTOCOL].

80              a free port of the host      8080:80/udp    UDP
8080:80         that port, every address     [::1]:80:80    an IPv6 address in brackets
127.0.0.1::80   a free port of one address   9000-9002:80-82   as many on both sides
                                             9000-9010:80   the first free one of a range
"""

from __future__ import annotations

from cove.cli.flags import UsageError
from cove.cli.options.values import comma_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Bindings = dict[str, list[dict[str, str]]]


def published(texts: Iterable[str]) -> Bindings:
    """The PortBindings of all `-p` flags: {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}."""
    bindings: Bindings = {}
    for text in texts:
        for port, binding in _publish(_short(text) if "=" in text else text):
            bindings.setdefault(port, []).append(binding)
    return bindings


def exposed(texts: Iterable[str]) -> list[str]:
    """`--expose 80`, `--expose 7000-7005/udp` as a list of "PORT/PROTOCOL"."""
    found = []
    for text in texts:
        if ":" in text:
            raise UsageError(f"--expose takes a container's port only, not {text!r}; to publish it use -p {text}")
        ports, protocol = _protocol(text, text)
        first, last = _range(ports, text)
        found += [f"{port}/{protocol}" for port in range(first, last + 1)]
    return found


def _publish(text: str) -> Iterable[tuple[str, dict[str, str]]]:
    address, host, container = _parts(text)
    container, protocol = _protocol(container, text)
    first, last = _range(container, text)
    if not host:
        for port in range(first, last + 1):
            yield f"{port}/{protocol}", {"HostIp": address, "HostPort": ""}
        return
    host_first, host_last = _range(host, text)
    if last == first and host_last != host_first:
        yield f"{first}/{protocol}", {"HostIp": address, "HostPort": f"{host_first}-{host_last}"}
        return
    if host_last - host_first != last - first:
        raise UsageError(f"the ranges of -p {text} differ in length")
    for port in range(first, last + 1):
        yield f"{port}/{protocol}", {"HostIp": address, "HostPort": str(host_first + port - first)}


def _parts(text: str) -> tuple[str, str, str]:
    """Host address, host ports, container ports; the first two may be empty."""
    head, _, container = text.rpartition(":")
    address, colon, host = head.rpartition(":")
    if not colon:
        address, host = "", head
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise UsageError(f"in -p {text}, put the IPv6 address into brackets: [{address}]:{host}:{container}")
    if address and not _is_address(address):
        raise UsageError(f"in -p {text}, {address!r} is no IP address")
    return address, host, container


def _is_address(text: str) -> bool:
    import _socket

    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    try:
        _socket.inet_pton(family, text.partition("%")[0])
    except OSError:
        return False
    return True


def _protocol(text: str, whole: str) -> tuple[str, str]:
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in {"tcp", "udp", "sctp"}:
        raise UsageError(f"in the port {whole!r}, {protocol!r} is not tcp, udp or sctp")
    return ports, protocol


def _range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UsageError(f"in the port {whole!r}, {text!r} is neither a port nor a range of ports")
    low, high = int(first), int(last) if dash else int(first)
    if not 0 < low <= high <= 65535:
        raise UsageError(f"in the port {whole!r}, {text!r} does not lie in 1-65535 in rising order")
    return low, high


def _short(text: str) -> str:
    """The long form `target=80,published=8080,protocol=tcp` written as the short one."""
    fields = comma_fields(text, "publish")
    target = fields.get("target") or fields.get("dst") or ""
    if not target or set(fields) - {"target", "dst", "published", "src", "protocol", "mode"}:
        raise UsageError(f"in -p {text}, use target=PORT,published=PORT,protocol=PROTOCOL")
    host = fields.get("published") or fields.get("src") or ""
    protocol = fields.get("protocol") or "tcp"
    return f"{host}:{target}/{protocol}" if host else f"{target}/{protocol}"

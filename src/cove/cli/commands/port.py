"""`cove port`: where a container's ports are published."""

from __future__ import annotations

from cove.cli.flags import Call, UsageError, Verb
from cove.client import connect


def run(call: Call) -> int:
    container, *wanted = call.arguments
    found = connect(call.host).containers.inspect(container)["NetworkSettings"].get("Ports") or {}
    if not wanted:
        for port in sorted(found, key=_order):
            for binding in found[port] or ():
                print(f"{port} -> {_host(binding)}")
        return 0
    port = wanted[0] if "/" in wanted[0] else f"{wanted[0]}/tcp"
    bindings = found.get(port)
    if not bindings:
        raise UsageError(f"the container {container} has no published port {port}")
    for binding in bindings:
        print(_host(binding))
    return 0


def _order(port: str) -> tuple[int, str]:
    number, _, protocol = port.partition("/")
    return int(number), protocol


def _host(binding: dict[str, str]) -> str:
    address = binding.get("HostIp") or "0.0.0.0"
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


PORT = Verb(run, "Show where a container's ports are published.", "CONTAINER [PORT[/PROTOCOL]]", least=1, most=2)

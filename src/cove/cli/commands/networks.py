"""`cove network create|ls|rm|connect|disconnect`."""

from __future__ import annotations

from cove.cli import humanize, output
from cove.cli.each import each
from cove.cli.flags import Call, Flag, UsageError, Verb
from cove.cli.options.values import pairs
from cove.client import ApiError, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(call: Call) -> int:
    body: dict[str, Any] = {
        "Name": call.arguments[0],
        "Driver": call.text("driver"),
        "Internal": call.flag("internal"),
        "Attachable": call.flag("attachable"),
        "EnableIPv6": call.flag("ipv6"),
        "Options": pairs(call.list("opt"), "opt"),
        "Labels": pairs(call.list("label"), "label"),
        "IPAM": {
            "Driver": call.text("ipam-driver"),
            "Options": pairs(call.list("ipam-opt"), "ipam-opt"),
            "Config": _pools(call),
        },
    }
    if call.list("egress"):
        body["Options"]["cove.egress"] = ",".join(call.list("egress"))
    if call.text("net-rate"):
        body["Options"][_NET_RATE] = call.text("net-rate")
    if call.flag("config-only"):
        body["ConfigOnly"] = True
    if call.text("config-from"):
        body["ConfigFrom"] = {"Network": call.text("config-from")}
    if call.given("ipv4"):
        body["EnableIPv4"] = call.flag("ipv4")
    print(connect(call.host).networks.create(body)["Id"])
    return 0


def update(call: Call) -> int:
    client = connect(call.host)
    if not call.text("net-rate"):
        raise UsageError("cove network update needs what to change: --net-rate in=RATE,out=RATE")
    return each(call.arguments, lambda name: client.networks.update(name, {"NetRate": call.text("net-rate")}))


def _pools(call: Call) -> list[dict[str, Any]]:
    """One pool for each --subnet; gateways and ranges go to the pool whose family is theirs, in order."""
    subnets = [one for text in call.list("subnet") for one in text.split(",")]
    pools: list[dict[str, Any]] = [{"Subnet": subnet} for subnet in subnets]
    for flag, key in (("gateway", "Gateway"), ("ip-range", "IPRange")):
        for value in (one for text in call.list(flag) for one in text.split(",")):
            fitting = [pool for pool in pools if key not in pool and (":" in pool["Subnet"]) == (":" in value)]
            if not fitting:
                raise UsageError(f"--{flag} {value} belongs to no --subnet; name the subnet too")
            fitting[0][key] = value
    reserved = pairs(call.list("aux-address"), "aux-address")
    if reserved:
        if not pools:
            raise UsageError("--aux-address belongs to no --subnet; name the subnet too")
        pools[0]["AuxiliaryAddresses"] = reserved
    return pools


def networks(call: Call) -> int:
    found = connect(call.host).networks.list(output.filters(call.list("filter")))
    found.sort(key=lambda network: str(network["Name"]))
    full = call.flag("no-trunc")
    if call.flag("quiet"):
        for network in found:
            print(output.short_id(network["Id"], full=full))
        return 0
    columns = (("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE"))
    output.show((_row(network, full=full) for network in found), columns, call.text("format"))
    return 0


def _row(network: dict[str, Any], *, full: bool) -> dict[str, Any]:
    labels = network.get("Labels") or {}
    return {
        "ID": output.short_id(network["Id"], full=full),
        "Name": network["Name"],
        "Driver": network.get("Driver", ""),
        "Scope": network.get("Scope", ""),
        "IPv4": str(bool(network.get("EnableIPv4", True))).lower(),
        "IPv6": str(bool(network.get("EnableIPv6"))).lower(),
        "Internal": str(bool(network.get("Internal"))).lower(),
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels)),
        "CreatedAt": humanize.local(humanize.unix(network.get("Created", ""))),
        "Label": lambda name: labels.get(name, ""),
    }


def remove(call: Call) -> int:
    client = connect(call.host)

    def one(name: str) -> None:
        try:
            client.networks.remove(name)
        except ApiError as error:
            if error.status != 404 or not call.flag("force"):
                raise

    return each(call.arguments, one)


def connect_container(call: Call) -> int:
    network, container = call.arguments
    addresses = {"IPv4Address": call.text("ip"), "IPv6Address": call.text("ip6")}
    settings: dict[str, Any] = {
        "IPAMConfig": {key: value for key, value in addresses.items() if value},
        "Aliases": call.list("alias"),
        "Links": call.list("link"),
        "DriverOpts": pairs(call.list("driver-opt"), "driver-opt"),
    }
    if call.given("gw-priority"):
        settings["GwPriority"] = call.number("gw-priority")
    kept = {key: value for key, value in settings.items() if value}
    connect(call.host).networks.connect(network, container, kept)
    return 0


def disconnect(call: Call) -> int:
    network, container = call.arguments
    connect(call.host).networks.disconnect(network, container, force=call.flag("force"))
    return 0


_NET_RATE = "cove.net-rate"
"""The option of a network that holds its rate."""

_RATE = Flag("net-rate", "Bytes a second its members together may receive and send: in=10m,out=5m", hint="rate")
_FORCE = Flag("force", "Do it although the container is running or gone", "bool", short="f")
CREATE = Verb(
    create,
    "Create a network.",
    "NETWORK",
    (
        Flag("attachable", "Accepted; every network can be joined by hand", "bool"),
        Flag(
            "config-from", "Subnets, options and labels are those of this configuration-only network", hint="network"
        ),
        Flag("config-only", "Only hold configuration, for networks made with --config-from", "bool"),
        Flag("aux-address", "Address that is never given out: NAME=ADDRESS", "map"),
        Flag("driver", "Driver of the network", short="d", default="bridge"),
        Flag("egress", "What its containers may reach: allow:NAME|ADDRESS[:PORT], deny:…", "list", hint="rule"),
        Flag("gateway", "Gateway of a subnet", "list", hint="address"),
        Flag("internal", "No way out of the network", "bool"),
        Flag("ip-range", "Give out addresses of this part of a subnet", "list", hint="subnet"),
        Flag("ipam-driver", "Driver of addresses", default="default"),
        Flag("ipam-opt", "Option of the driver of addresses: KEY=VALUE", "map"),
        Flag("ipv4", "Give IPv4 addresses", "bool", default="true"),
        Flag("ipv6", "Give IPv6 addresses", "bool"),
        Flag("label", "Set a label: KEY=VALUE", "list"),
        _RATE,
        Flag("opt", "Option of the driver: KEY=VALUE", "map", short="o"),
        Flag("subnet", "Subnet: 172.30.0.0/16", "list"),
    ),
    least=1,
    most=1,
)
UPDATE = Verb(update, "Change the rate of networks, at once.", "NETWORK [NETWORK...]", (_RATE,), least=1, most=None)
LIST = Verb(
    networks,
    "List networks.",
    "",
    (
        Flag("filter", "Only those that fit: NAME=VALUE", "list", short="f", hint="filter"),
        Flag("format", "table, json, 'table TEMPLATE' or TEMPLATE", hint="format"),
        Flag("no-trunc", "Show everything in full", "bool"),
        Flag("quiet", "Show ids only", "bool", short="q"),
    ),
)
REMOVE = Verb(
    remove,
    "Remove networks that no container uses.",
    "NETWORK [NETWORK...]",
    (Flag("force", "Say nothing about networks that do not exist", "bool", short="f"),),
    least=1,
    most=None,
)
CONNECT = Verb(
    connect_container,
    "Connect a container to a network.",
    "NETWORK CONTAINER",
    (
        Flag("alias", "One more name on the network", "list", hint="name"),
        Flag("driver-opt", "Option of the driver: KEY=VALUE", "list"),
        Flag("gw-priority", "The network with the highest has the default gateway", "int"),
        Flag("ip", "IPv4 address", hint="address"),
        Flag("ip6", "IPv6 address", hint="address"),
        Flag("link", "Link to another container: NAME[:ALIAS]", "list"),
    ),
    least=2,
    most=2,
)
DISCONNECT = Verb(
    disconnect,
    "Disconnect a container from a network.",
    "NETWORK CONTAINER",
    (_FORCE,),
    least=2,
    most=2,
)

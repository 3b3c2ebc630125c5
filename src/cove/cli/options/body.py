"""What the flags of `run` and `create` ask for, as the body of a create request.

Pure, but for the files that flags name (--env-file, --label-file, a seccomp profile).
A setting that no flag asks for is left out: the daemon's default stands.
"""

from __future__ import annotations

from cove.cli.flags import UsageError
from cove.cli.options import mounts, ports
from cove.cli.options.resources import resources
from cove.cli.options.values import environment, lines, nanoseconds, pairs, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cove.cli.flags import Call

_STREAMS = ("stdin", "stdout", "stderr")


def create_body(call: Call, image: str, command: list[str], *, attached: bool) -> dict[str, Any]:
    """The whole request; `attached` says that this command will attach (no -d)."""
    body = _config(call, image, command, attached=attached)
    host = {
        **_files(call, body),
        **_network_host(call, body),
        **resources(call),
        **_isolation(call),
        **_life(call),
    }
    body["HostConfig"] = host
    endpoints = _endpoints(call, host)
    if endpoints:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def streams(call: Call, *, attached: bool) -> dict[str, bool]:
    """Which of stdin, stdout and stderr are to be attached."""
    named = [name.lower() for name in call.list("attach")]
    for name in named:
        if name not in _STREAMS:
            raise UsageError(f"the value {name!r} of --attach is not stdin, stdout or stderr")
    if not attached:
        return dict.fromkeys(_STREAMS, False)
    if named:
        return {name: name in named for name in _STREAMS}
    return {"stdin": call.flag("interactive"), "stdout": True, "stderr": True}


def _config(call: Call, image: str, command: list[str], *, attached: bool) -> dict[str, Any]:
    wanted = streams(call, attached=attached)
    interactive = call.flag("interactive")
    body: dict[str, Any] = {
        "Image": image,
        "Tty": call.flag("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive and wanted["stdin"],
        "AttachStdin": wanted["stdin"],
        "AttachStdout": wanted["stdout"],
        "AttachStderr": wanted["stderr"],
        "Env": environment(call.list("env"), call.list("env-file")),
        "Labels": _labels(call),
    }
    if command:
        body["Cmd"] = command
    if call.given("entrypoint"):
        body["Entrypoint"] = [call.text("entrypoint")]
    for flag, key in (
        ("hostname", "Hostname"),
        ("domainname", "Domainname"),
        ("user", "User"),
        ("workdir", "WorkingDir"),
        ("stop-signal", "StopSignal"),
    ):
        if call.text(flag):
            body[key] = call.text(flag)
    if call.given("stop-timeout"):
        body["StopTimeout"] = call.number("stop-timeout")
    health = _health(call)
    if health:
        body["Healthcheck"] = health
    return body


def _labels(call: Call) -> dict[str, str]:
    from_files = [line for path in call.list("label-file") for line in lines(path, "label-file")]
    return pairs([*from_files, *call.list("label")], "label")


def _health(call: Call) -> dict[str, Any]:
    settings = ("health-cmd", "health-interval", "health-timeout", "health-retries", "health-start-period")
    if call.flag("no-healthcheck"):
        if any(call.given(name) for name in settings):
            raise UsageError("--no-healthcheck and the --health-… flags contradict each other; use one of them")
        return {"Test": ["NONE"]}
    check: dict[str, Any] = {}
    if call.text("health-cmd"):
        check["Test"] = ["CMD-SHELL", call.text("health-cmd")]
    if call.given("health-retries"):
        check["Retries"] = call.number("health-retries")
    for flag, key in (
        ("health-interval", "Interval"),
        ("health-timeout", "Timeout"),
        ("health-start-period", "StartPeriod"),
        ("health-start-interval", "StartInterval"),
    ):
        if call.given(flag):
            check[key] = nanoseconds(call.text(flag), flag)
    return check


def _files(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    host: dict[str, Any] = {}
    binds, anonymous = mounts.binds(call.list("volume"))
    if anonymous:
        body["Volumes"] = {path: {} for path in anonymous}
    if binds:
        host["Binds"] = binds
    if call.list("mount"):
        host["Mounts"] = [mounts.mount(text) for text in call.list("mount")]
    if call.list("tmpfs"):
        host["Tmpfs"] = mounts.tmpfs(call.list("tmpfs"))
    if call.list("volumes-from"):
        host["VolumesFrom"] = call.list("volumes-from")
    if call.text("volume-driver"):
        host["VolumeDriver"] = call.text("volume-driver")
    if call.flag("read-only"):
        host["ReadonlyRootfs"] = True
    if call.list("storage-opt"):
        host["StorageOpt"] = pairs(call.list("storage-opt"), "storage-opt")
    if call.given("shm-size"):
        host["ShmSize"] = size(call.text("shm-size"), "shm-size")
    return host


def _network_host(call: Call, body: dict[str, Any]) -> dict[str, Any]:
    bindings = ports.published(call.list("publish"))
    exposed = [*bindings, *ports.exposed(call.list("expose"))]
    if exposed:
        body["ExposedPorts"] = {port: {} for port in exposed}
    host: dict[str, Any] = {}
    if bindings:
        host["PortBindings"] = bindings
    if call.flag("publish-all"):
        host["PublishAllPorts"] = True
    if call.list("egress"):
        host["Egress"] = call.list("egress")
    if call.text("expose-to"):
        host["ExposeTo"] = call.text("expose-to")
    lists = (
        ("Dns", call.list("dns")),
        ("DnsOptions", [*call.list("dns-option"), *call.list("dns-opt")]),
        ("DnsSearch", call.list("dns-search")),
        ("ExtraHosts", [_extra_host(text) for text in call.list("add-host")]),
        ("Links", call.list("link")),
    )
    return {**host, **{key: values for key, values in lists if values}}


def _extra_host(text: str) -> str:
    """`name:address`, `name=address` or `name:[v6]` as the API's `name:address`."""
    name, separator, address = text.partition("=")
    if not separator:
        name, separator, address = text.partition(":")
    if not name or not address:
        raise UsageError(f"the value {text!r} of --add-host is not of the form NAME:ADDRESS")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return f"{name}:{address}"


def _endpoints(call: Call, host: dict[str, Any]) -> dict[str, Any]:
    """The networks to join; the first one is the container's network mode."""
    networks = [*call.list("network"), *call.list("net")]
    aliases = [*call.list("network-alias"), *call.list("net-alias")]
    single: dict[str, Any] = {}
    addresses = {key: call.text(flag) for flag, key in (("ip", "IPv4Address"), ("ip6", "IPv6Address"))}
    addresses = {key: value for key, value in addresses.items() if value}
    local = call.list("link-local-ip")
    if addresses or local:
        single["IPAMConfig"] = {**addresses, **({"LinkLocalIPs": local} if local else {})}
    if aliases:
        single["Aliases"] = aliases
    if call.text("mac-address"):
        single["MacAddress"] = call.text("mac-address")
    if aliases and (not networks or _is_mode(networks[0]) or networks[0] in {"default", "bridge"}):
        raise UsageError("--network-alias needs a network of its own: --network NAME (see: cove network create)")
    endpoints: dict[str, Any] = {}
    host["NetworkMode"] = "default"
    for position, text in enumerate(networks or (["default"] if single else [])):
        name, settings = _network(text)
        if position == 0:
            host["NetworkMode"] = name
            settings = {**single, **settings}
        elif name in endpoints:
            raise UsageError(f"the network {name!r} is named twice")
        if position or settings or not _is_mode(name):
            endpoints[name] = settings
    if single and networks and _is_mode(networks[0]):
        raise UsageError(f"an address or an alias needs a network of its own, which --network {networks[0]} is not")
    return endpoints


def _is_mode(name: str) -> bool:
    return name in {"host", "none"} or name.startswith("container:")


def _network(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME`, or `name=NAME,alias=A,ip=…,ip6=…,mac-address=…,driver-opt=K=V`."""
    if "=" not in text:
        return text, {}
    settings: dict[str, Any] = {}
    name = ""
    for field in text.split(","):
        key, _, value = field.partition("=")
        if key == "name":
            name = value
        elif key == "alias":
            settings.setdefault("Aliases", []).append(value)
        elif key in {"ip", "ip6"}:
            settings.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = value
        elif key == "link-local-ip":
            settings.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
        elif key == "mac-address":
            settings["MacAddress"] = value
        elif key == "gw-priority":
            settings["GwPriority"] = int(value)
        elif key == "driver-opt":
            option, _, setting = value.partition("=")
            settings.setdefault("DriverOpts", {})[option] = setting
        else:
            raise UsageError(f"--network {text}: there is no field {key!r}")
    if not name:
        raise UsageError(f"--network {text}: name=NETWORK is missing")
    return name, settings


def _isolation(call: Call) -> dict[str, Any]:
    if call.text("isolation") not in {"", "default"}:
        raise UsageError(f"--isolation {call.text('isolation')} does not exist on Linux; leave it out")
    host: dict[str, Any] = {}
    if call.flag("privileged"):
        host["Privileged"] = True
    for flag, key in (
        ("cap-add", "CapAdd"),
        ("cap-drop", "CapDrop"),
        ("group-add", "GroupAdd"),
        ("device-cgroup-rule", "DeviceCgroupRules"),
    ):
        if call.list(flag):
            host[key] = call.list(flag)
    if call.text("security") not in {"", "default", "hardened"}:
        raise UsageError(f"the value {call.text('security')!r} of --security is not default or hardened")
    hardened = ["security=hardened"] if call.text("security") == "hardened" else []
    if hardened or call.list("security-opt"):
        host["SecurityOpt"] = hardened + [_security_option(text) for text in call.list("security-opt")]
    for flag, key in (
        ("cgroupns", "CgroupnsMode"),
        ("ipc", "IpcMode"),
        ("pid", "PidMode"),
        ("userns", "UsernsMode"),
        ("uts", "UTSMode"),
        ("cgroup-parent", "CgroupParent"),
        ("runtime", "Runtime"),
    ):
        if call.text(flag):
            host[key] = call.text(flag)
    if call.list("sysctl"):
        host["Sysctls"] = pairs(call.list("sysctl"), "sysctl")
    if call.list("annotation"):
        host["Annotations"] = pairs(call.list("annotation"), "annotation")
    return host


def _security_option(text: str) -> str:
    """A seccomp profile is read here and travels inside the request, as the API wants it."""
    name, separator, value = text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
    if name != "seccomp" or value in {"", "unconfined", "builtin", "default"}:
        return text if not separator else f"{name}={value}"
    with open(value, encoding="utf-8") as file:
        return f"seccomp={file.read()}"


def _life(call: Call) -> dict[str, Any]:
    host: dict[str, Any] = {"AutoRemove": call.flag("rm")}
    policy, colon, count = call.text("restart").partition(":")
    if policy not in {"", "no", "always", "on-failure", "unless-stopped"}:
        raise UsageError(f"the restart policy {policy!r} is not no, on-failure[:N], always or unless-stopped")
    if colon and not count.isdecimal():
        raise UsageError(f"the value {call.text('restart')!r} of --restart has no number of tries after the colon")
    if call.flag("rm") and policy not in {"", "no"}:
        raise UsageError("--rm and --restart contradict each other; use one of them")
    host["RestartPolicy"] = {"Name": policy or "no", "MaximumRetryCount": int(count or 0)}
    if call.given("init"):
        host["Init"] = call.flag("init")
    if call.text("log-driver") or call.list("log-opt"):
        options = pairs(call.list("log-opt"), "log-opt")
        host["LogConfig"] = {"Type": call.text("log-driver"), "Config": options}
    return host

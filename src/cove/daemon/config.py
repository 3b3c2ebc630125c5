"""What the administrator chose: daemon.toml, and flags over it, as one frozen value.

    # /etc/cove/daemon.toml — every key may be left out
    data_root = "/var/lib/cove"
    run_root  = "/run/cove"
    hosts     = ["unix:///run/cove/cove.sock", "tcp://0.0.0.0:2376"]
    log_level = "info"
    cgroup_driver = "cgroupfs"              # or "systemd": a scope for each container
    stop_timeout = 10                       # seconds, for containers that say nothing
    userns_remap = "default"                # or a user of /etc/subuid: root in containers is not root here
    labels = ["rack=4"]
    insecure_registries = ["registry.lan:5000"]
    cdi_directories = ["/etc/cdi", "/run/cdi"]   # where vendors describe devices; the last one wins
    plugin_directories = ["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"]  # of volumes
    registries = "/etc/cove/registries.toml"                       # mirrors and rewrites, if it is there
    policy = "/etc/cove/policy.toml"                               # which images may be used, and who signs them
    certificates = ["/etc/cove/certs.d", "/etc/docker/certs.d"]    # HOST[:PORT]/*.crt, *.cert with *.key

    image_limit = "50g"                     # what images may take on disk; no limit unless said

    [tcp]                                   # whoever reaches the API is root on this host
    ca = "/etc/cove/ca.pem"                 # clients must show a certificate of this authority
    certificate = "/etc/cove/cert.pem"
    key = "/etc/cove/key.pem"
    names = ["box.lan"]                     # names that clients may use in Host
    # without_tls = "whoever reaches this port is root"

    [log]                                   # of each container
    segment_bytes = 16777216
    files = 5
    driver = "json-file"                    # or a log server's, for containers that name none
    options = {}                            # --log-opt, for containers with that driver

    [network]
    dns = ["192.0.2.1"]
    dns_search = []
    dns_options = []
    publish_address = "0.0.0.0"
    expose_to = "public"                    # who may come to published ports: public, lan or local
    address_pools = [{base = "172.30.0.0/16", size = 24}]    # where networks' subnets come from
    bridge = "none"                         # no default network; its other wishes:
    bip = "192.168.5.1/24"                  # its bridge's address
    fixed_cidr = "192.168.5.128/25"         # the part of it that containers get
    ipv6 = true
    fixed_cidr_v6 = "fd00:5::/64"
    mtu = 1400
    icc = false                             # its containers do not reach each other
    masquerade = true

    [network.default_options.bridge]        # of new networks of that driver
    "com.docker.network.driver.mtu" = "1400"

Unknown keys are refused by name, for a misspelt limit is no limit.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cove import paths
from cove.engine.networks.default_network import DefaultNetwork
from cove.errors import InvalidArgument
from cove.network import options
from cove.network.ipam import AddressPool

CONSENT = "whoever reaches this port is root"
"""What `tcp.without_tls` has to say, word for word."""

LogLevel = Literal["debug", "info", "warning", "error"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of daemon.toml's tables."""


class Tcp(_Table, frozen=True, kw_only=True):
    ca: str = ""
    certificate: str = ""
    key: str = ""
    names: tuple[str, ...] = ()
    without_tls: str = ""


class Log(_Table, frozen=True, kw_only=True):
    segment_bytes: int = 16 << 20
    files: int = 5
    driver: str = "json-file"
    options: dict[str, str] = msgspec.field(default_factory=dict)


class Network(DefaultNetwork, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The default network's wishes, and what holds for all."""

    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    publish_address: str = "0.0.0.0"
    expose_to: Literal["public", "lan", "local"] = "public"
    address_pools: tuple[AddressPool, ...] = ()
    default_options: dict[str, dict[str, str]] = {}


class File(_Table, frozen=True, kw_only=True):
    """The whole of daemon.toml."""

    data_root: str = str(paths.DEFAULT_DATA_ROOT)
    run_root: str = str(paths.DEFAULT_RUN_ROOT)
    hosts: tuple[str, ...] = ()
    log_level: LogLevel = "info"
    cgroup_driver: Literal["cgroupfs", "systemd"] = "cgroupfs"
    stop_timeout: int = 10
    userns_remap: str = ""
    image_limit: str = ""
    labels: tuple[str, ...] = ()
    cdi_directories: tuple[str, ...] = ("/etc/cdi", "/run/cdi")
    plugin_directories: tuple[str, ...] = ("/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins")
    insecure_registries: tuple[str, ...] = ()
    registries: str = "/etc/cove/registries.toml"
    policy: str = "/etc/cove/policy.toml"
    certificates: tuple[str, ...] = ("/etc/cove/certs.d", "/etc/docker/certs.d")
    tcp: Tcp = Tcp()
    log: Log = Log()
    network: Network = Network()


class UnixHost(msgspec.Struct, frozen=True):
    path: Path


class TcpHost(msgspec.Struct, frozen=True):
    host: str
    port: int


class SystemdHost(msgspec.Struct, frozen=True):
    """The sockets that systemd opened for this process."""


Host = UnixHost | TcpHost | SystemdHost


class Config(msgspec.Struct, frozen=True):
    """Everything that this daemon was told."""

    data: paths.DataRoot
    run: paths.RunRoot
    hosts: tuple[Host, ...]
    file: File = msgspec.field(default_factory=File)
    only_validate: bool = False

    def check(self) -> None:
        """What is read only when it is wanted, read now. Raises InvalidArgument."""
        _ = self.image_limit, self.default_network

    @property
    def log_level(self) -> LogLevel:
        return self.file.log_level

    @property
    def image_limit(self) -> int:
        """Bytes that images may take on disk; 0 is no limit. Raises InvalidArgument."""
        return parse_size(self.file.image_limit)

    @property
    def default_network(self) -> DefaultNetwork:
        """The default network's wishes. Raises InvalidArgument."""
        asked = self.file.network
        wishes = DefaultNetwork(**{name: getattr(asked, name) for name in DefaultNetwork.__struct_fields__})
        options.bridge(wishes.network("").options, internal=False)
        return wishes


def parse_size(text: str) -> int:
    """Bytes of "50g", "512m", "1.5t": powers of 1024; "" is 0. Raises InvalidArgument."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,3})?)([kmgt]?)(?:i?b)?", text.strip().lower())
    if text and found is None:
        raise InvalidArgument(f"{text!r} is no size; write 512m, 50g or 1.5t")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " ")) if found else 0


def parse_host(text: str) -> Host:
    """One -H: "unix://PATH", "tcp://HOST:PORT" or "fd://". Raises InvalidArgument."""
    scheme, _, rest = text.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return UnixHost(Path(rest))
    if scheme == "fd":
        return SystemdHost()
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and host and port.isdecimal() and int(port) < 65536:
        return TcpHost(host.strip("[]"), int(port))
    raise InvalidArgument(f"{text!r} is no address to listen on; write unix:///PATH, tcp://HOST:PORT or fd://")


def read_file(path: Path, *, required: bool) -> File:
    """Read daemon.toml; one that is not `required` may be missing. Raises InvalidArgument."""
    try:
        text = path.read_text()
        import tomllib  # only for who has such a file

        return msgspec.convert(tomllib.loads(text), File)
    except FileNotFoundError:
        if required:
            raise InvalidArgument(f"The configuration file {path} does not exist") from None
        return File()
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"The configuration file {path} is refused: {_plain(error)}") from error
    except (OSError, ValueError) as error:  # what is no text, or no TOML, is a ValueError
        raise InvalidArgument(f"The configuration file {path} cannot be read: {error}") from error


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's sentence in the words of a configuration file."""
    text = str(error).replace("Object contains unknown field", "there is no key")
    return text.replace(" - at `$.", ", in table `").replace(" - at `$`", "")


class _Parser(argparse.ArgumentParser):
    """Complains with our own errors, in one sentence."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InvalidArgument(f"{message}; see `cove daemon --help`")


def _parser() -> _Parser:
    parser = _Parser(prog="cove daemon", description="Run the Cove daemon in the foreground.", allow_abbrev=False)
    parser.add_argument("--data-root", metavar="DIR", help=f"what outlives a reboot ({paths.DEFAULT_DATA_ROOT})")
    parser.add_argument("--run-root", metavar="DIR", help=f"what dies with the boot ({paths.DEFAULT_RUN_ROOT})")
    parser.add_argument(
        "-H", "--host", metavar="ADDRESS", action="append", help="unix://PATH, tcp://HOST:PORT or fd://; repeatable"
    )
    parser.add_argument("--config", metavar="FILE", help=f"configuration file ({paths.DEFAULT_CONFIG})")
    parser.add_argument(
        "--userns-remap", metavar="USER", help='"default", or a user of /etc/subuid whose ids containers get'
    )
    parser.add_argument(
        "--exec-opt", metavar="KEY=VALUE", action="append", default=[], help="native.cgroupdriver=cgroupfs or systemd"
    )
    parser.add_argument(
        "--log-driver", metavar="NAME", help="of containers that name none, as log.driver in the file"
    )
    parser.add_argument("--log-opt", metavar="KEY=VALUE", action="append", default=[], help="for that driver")
    _add_network_flags(parser)
    parser.add_argument("--validate", action="store_true", help="only say whether flags and file can be used")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    return parser


_NETWORK_FLAGS = (
    "bip", "fixed_cidr", "fixed_cidr_v6", "mtu", "bridge", "publish_address", "icc", "masquerade", "ipv6",
)  # fmt: skip
"""Those that say the same as a key under [network]."""


def _add_network_flags(parser: _Parser) -> None:
    """dockerd's names."""
    network = parser.add_argument_group("network", "the same as keys under [network] in the configuration file")
    network.add_argument("-b", "--bridge", metavar="none", help="no default network")
    network.add_argument("--bip", metavar="ADDRESS/PREFIX", help="of the default network's bridge")
    network.add_argument("--fixed-cidr", metavar="SUBNET", help="what containers on the default network get of it")
    network.add_argument("--fixed-cidr-v6", metavar="SUBNET", help="the default network's IPv6 subnet")
    network.add_argument("--mtu", type=int, metavar="BYTES", help="of the default network")
    network.add_argument("--ip", dest="publish_address", metavar="ADDRESS", help="where ports are published")
    for flag, name in (("--icc", "icc"), ("--ip-masq", "masquerade"), ("--ipv6", "ipv6")):
        network.add_argument(flag, dest=name, nargs="?", const=True, type=_truth, metavar="false")
    network.add_argument(
        "--default-address-pool", metavar="base=SUBNET,size=N", action="append", default=[], type=_pool
    )
    network.add_argument("--dns", metavar="ADDRESS", action="append", default=[])
    network.add_argument("--dns-search", metavar="DOMAIN", action="append", default=[])
    network.add_argument("--dns-opt", metavar="OPTION", action="append", default=[])


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def _pool(text: str) -> AddressPool:
    words = dict(word.partition("=")[::2] for word in text.split(","))
    if words.keys() != {"base", "size"} or not words["size"].isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no pool: write base=172.30.0.0/16,size=24")
    try:
        return AddressPool(base=words["base"], size=int(words["size"]))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _network(flags: argparse.Namespace, file: Network) -> Network:
    """The file's table with the flags over it."""
    given = {name: value for name in _NETWORK_FLAGS if (value := getattr(flags, name)) is not None}
    if given.get("bridge", "none") not in ("none", ""):
        raise InvalidArgument(
            f"--bridge {given['bridge']}: the default network has a bridge of its own; only none is possible"
        )
    several = {
        "address_pools": flags.default_address_pool,
        "dns": flags.dns,
        "dns_search": flags.dns_search,
        "dns_options": flags.dns_opt,
    }
    given |= {name: tuple(values) for name, values in several.items() if values}
    return msgspec.structs.replace(file, **given)


def _log(flags: argparse.Namespace, file: Log) -> Log:
    """The file's table with the flags over it. Raises InvalidArgument for a driver that there is not."""
    log = msgspec.structs.replace(
        file,
        driver=flags.log_driver or file.driver,
        options=file.options | dict(text.partition("=")[::2] for text in flags.log_opt),
    )
    if log.driver != "json-file" or log.options:
        from cove.engine.logs.options import check_log
        from cove.wire.containers import LogConfig

        check_log(LogConfig(type=log.driver, config=log.options))
    return log


def load(argv: Sequence[str]) -> Config:
    """Flags win over the file, the file over the defaults. Raises InvalidArgument."""
    flags = _parser().parse_args(argv)
    file = read_file(Path(flags.config or paths.DEFAULT_CONFIG), required=flags.config is not None)
    given = {
        "data_root": flags.data_root,
        "run_root": flags.run_root,
        "hosts": tuple(flags.host) if flags.host else None,
        "log_level": flags.log_level,
        "userns_remap": flags.userns_remap,
        "cgroup_driver": _cgroup_driver(flags.exec_opt),
        "network": _network(flags, file.network),
        "log": _log(flags, file.log),
    }
    file = msgspec.structs.replace(file, **{key: value for key, value in given.items() if value is not None})
    run = paths.RunRoot(Path(file.run_root).absolute())
    hosts = tuple(parse_host(text) for text in file.hosts) or (UnixHost(run.socket),)
    _check_tcp(file.tcp, hosts)
    return Config(
        data=paths.DataRoot(Path(file.data_root).absolute()),
        run=run,
        hosts=hosts,
        file=file,
        only_validate=flags.validate,
    )


def _cgroup_driver(options: Sequence[str]) -> str | None:
    """The last --exec-opt's word, None without one. Raises InvalidArgument."""
    driver = None
    for option in options:
        key, _, driver = option.partition("=")
        if key != "native.cgroupdriver" or driver not in ("cgroupfs", "systemd"):
            raise InvalidArgument(f"unknown --exec-opt {option!r}; it is native.cgroupdriver=cgroupfs or =systemd")
    return driver


def _check_tcp(tcp: Tcp, hosts: Sequence[Host]) -> None:
    if not any(isinstance(host, TcpHost) for host in hosts):
        return
    if all((tcp.ca, tcp.certificate, tcp.key)) or tcp.without_tls == CONSENT:
        return
    raise InvalidArgument(
        "Listening on TCP needs tcp.ca, tcp.certificate and tcp.key in daemon.toml, for whoever reaches the API is "
        f'root on this host; to do without, set tcp.without_tls = "{CONSENT}"'
    )

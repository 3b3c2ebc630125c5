"""Limits: the flags that become the Resources of a HostConfig or of an update."""

from __future__ import annotations

from cove.cli.flags import UsageError
from cove.cli.options.values import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cove.cli.flags import Call

_SIZES = (
    ("memory", "Memory"),
    ("memory-reservation", "MemoryReservation"),
    ("memory-swap", "MemorySwap"),
    ("kernel-memory", "KernelMemory"),
)
_NUMBERS = (
    ("cpu-shares", "CpuShares"),
    ("cpu-period", "CpuPeriod"),
    ("cpu-quota", "CpuQuota"),
    ("cpu-rt-period", "CpuRealtimePeriod"),
    ("cpu-rt-runtime", "CpuRealtimeRuntime"),
    ("pids-limit", "PidsLimit"),
    ("blkio-weight", "BlkioWeight"),
)


def shared_resources(call: Call) -> dict[str, Any]:
    """What both `run` and `update` can limit."""
    found: dict[str, Any] = {key: size(call.text(flag), flag) for flag, key in _SIZES if _has(call, flag)}
    found |= {key: call.number(flag) for flag, key in _NUMBERS if call.given(flag)}
    if call.text("net-rate"):
        found["NetRate"] = call.text("net-rate")
    if call.given("cpus"):
        if call.decimal("cpus") < 0:
            raise UsageError(f"the value {call.text('cpus')!r} of --cpus is negative")
        found["NanoCpus"] = round(call.decimal("cpus") * 1e9)
    for flag, key in (("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")):
        if call.text(flag):
            found[key] = call.text(flag)
    return found


def _has(call: Call, flag: str) -> bool:
    return call.given(flag) and bool(call.text(flag))


def resources(call: Call) -> dict[str, Any]:
    """All that `run` can limit."""
    found = shared_resources(call)
    if call.given("memory-swappiness"):
        found["MemorySwappiness"] = call.number("memory-swappiness")
    if call.given("oom-score-adj"):
        found["OomScoreAdj"] = call.number("oom-score-adj")
    if call.flag("oom-kill-disable"):
        found["OomKillDisable"] = True
    if call.list("ulimit"):
        found["Ulimits"] = [ulimit(text) for text in call.list("ulimit")]
    named = [text for text in call.list("device") if not text.startswith("/") and "/" in text and "=" in text]
    paths = [_device(text) for text in call.list("device") if text not in named]
    if paths:
        found["Devices"] = paths
    requests = [{"Driver": "cdi", "DeviceIDs": named}] if named else []
    requests += [_gpus(text) for text in call.list("gpus")]
    if requests:
        found["DeviceRequests"] = requests
    for flag, key in (
        ("device-read-bps", "BlkioDeviceReadBps"),
        ("device-write-bps", "BlkioDeviceWriteBps"),
        ("device-read-iops", "BlkioDeviceReadIOps"),
        ("device-write-iops", "BlkioDeviceWriteIOps"),
    ):
        if call.list(flag):
            found[key] = [_throttle(text, flag) for text in call.list(flag)]
    if call.list("blkio-weight-device"):
        weights = (_throttle(text, "blkio-weight-device") for text in call.list("blkio-weight-device"))
        found["BlkioWeightDevice"] = [{"Path": one["Path"], "Weight": one["Rate"]} for one in weights]
    return found


def _gpus(text: str) -> dict[str, Any]:
    """`all`, `2`, `device=0,1` (in quotes of their own as docker wants it, or not), `driver=nvidia,count=2`."""
    request: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": [], "Capabilities": [["gpu"]]}
    key = ""
    for part in text.replace('"', "").split(","):
        name, equals, value = part.partition("=")
        if not equals and key != "device":
            name, value = "count", name
        elif not equals:
            name, value = "device", name
        key = name
        if name == "count" and (value == "all" or value.isdecimal()):
            request["Count"] = -1 if value == "all" else int(value)
        elif name == "device" and value:
            request["DeviceIDs"].append(value)
        elif name == "driver":
            request["Driver"] = value
        elif name == "capabilities":
            request["Capabilities"] = [sorted({"gpu", value})]
        else:
            raise UsageError(
                f"the value {text!r} of --gpus is not all, a number, device=NAME,… or driver=NAME,count=N"
            )
    if not request["Count"] and not request["DeviceIDs"]:
        request["Count"] = -1
    return request


def ulimit(text: str) -> dict[str, Any]:
    """`nofile=1024:2048`, `nproc=64`: name, soft, hard."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError:
        raise UsageError(f"the value {text!r} of --ulimit is not of the form NAME=SOFT[:HARD]") from None
    if high != -1 and (low > high or low == -1):
        raise UsageError(f"in --ulimit {text}, the soft limit is above the hard one")
    return {"Name": name, "Soft": low, "Hard": high}


def _device(text: str) -> dict[str, str]:
    """`/dev/fuse`, `/dev/sda:/dev/xvda:r`, `/dev/sda:rwm`."""
    source, _, rest = text.partition(":")
    target, _, access = rest.partition(":")
    if target and set(target) <= set("rwm"):
        target, access = "", target
    if not source or set(access) - set("rwm"):
        raise UsageError(f"the value {text!r} of --device is not of the form PATH[:PATH-IN-CONTAINER[:rwm]]")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": access or "rwm"}


def _throttle(text: str, flag: str) -> dict[str, Any]:
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/"):
        raise UsageError(f"the value {text!r} of --{flag} is not of the form /dev/NAME:RATE")
    return {"Path": path, "Rate": size(rate, flag)}
